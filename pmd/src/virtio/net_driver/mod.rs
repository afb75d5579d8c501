//! A network driver's queues over burst rings: frames in, frames out, offloads as negotiated.
//!
//! Whose device it is, where the ring's memory lies and how the device is kicked is the user's business: a back-end behind
//! vhost-user (`virtio-user`), or a function on a bus. Header of twelve bytes (VERSION_1) before every frame; a received frame may
//! fill several buffers (MRG_RXBUF), a sent one has one.
//!
//! # Telling the device
//!
//! Whether the device wants to be told of what it was given is asked apart from giving it, a little later: the full fence before the question then finds
//! the stores of the burst done. Of received buffers it is asked in the next round ([`NetRxRing::wants_kick`]), of frames sent at the end of this one
//! ([`NetTxRing::wants_kick`]), and at once where the ring is full.
//!
//! # A device that lies
//!
//! Lengths and the number of a frame's buffers are bounded: a frame of which they make no sense is dropped as
//! [`RxBadDescriptor`](crate::port::DropReason::RxBadDescriptor). What the ring itself finds wrong
//! ([`BadDevice`](super::burst_driver::BadDevice)) ends the ring: its user starts it anew.

mod rx;
mod tx;

pub use rx::NetRxRing;
pub use tx::NetTxRing;

use super::burst_driver::Buffers;
use super::features::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_UFO, VIRTIO_NET_F_HOST_USO,
};
use super::{NetHeader, SharedPtr};
use crate::packet::OffloadCaps;
use crate::prefetch::LINE;

/// Bytes of memory for each buffer of `capacity` bytes, header included: an odd number of lines, so that the same part of many buffers spreads over a
/// cache.
pub const fn stride(capacity: u32) -> u32 {
    ((HEADROOM + capacity).div_ceil(LINE as u32) | 1) * LINE as u32
}

/// Bytes before a buffer in its slot, so that the frame behind the header starts a line.
pub const HEADROOM: u32 = (LINE - NetHeader::LEN) as u32;

/// `count` buffers of `capacity` bytes in memory of so many times [`stride`], which the device finds at `guest`.
pub const fn buffers(start: SharedPtr, guest: u64, capacity: u32, count: u16) -> Buffers {
    Buffers { start, guest, stride: stride(capacity), headroom: HEADROOM, capacity, count }
}

/// What a device with these features does for frames sent to it.
pub fn device_offloads(features: u64) -> OffloadCaps {
    let has = |feature| features & feature != 0;
    OffloadCaps {
        csum: has(VIRTIO_NET_F_CSUM),
        tso4: has(VIRTIO_NET_F_HOST_TSO4),
        tso6: has(VIRTIO_NET_F_HOST_TSO6),
        ecn: has(VIRTIO_NET_F_HOST_ECN),
        ufo: has(VIRTIO_NET_F_HOST_UFO),
        uso: has(VIRTIO_NET_F_HOST_USO),
    }
}

#[cfg(test)]
mod tests;

//! A network driver's queues over burst rings: frames in, frames out, offloads as negotiated.
//!
//! Whose device it is, where the ring's memory lies and how the device is kicked is the user's business: a back-end behind
//! vhost-user (`virtio-user`), or a function on a bus. Header of twelve bytes (VERSION_1) before every frame; a received frame may
//! fill several buffers (MRG_RXBUF), a sent one has one.
//!
//! The device may lie. Lengths are cut to the buffer, a frame's buffers are bounded, and what the ring finds wrong
//! ([`BadDevice`](super::burst_driver::BadDevice)) ends the ring: its user starts it anew.

mod rx;
mod tx;

pub use rx::NetRxRing;
pub use tx::NetTxRing;

use super::features::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_UFO, VIRTIO_NET_F_HOST_USO,
};
use crate::packet::OffloadCaps;

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

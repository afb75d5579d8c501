//! The memory shared with a back-end: rings and buffers of all queues in one arena.
//!
//! ```text
//!   pair 0: receive ring | transmit ring | receive buffers | transmit buffers | pair 1: …      each on a page of its own
//! ```
//!
//! Transmit buffers are as long as the longest frame the back-end takes, since a frame goes out in one buffer. Their pages are taken
//! only as far as frames are long.
#![expect(unsafe_code, reason = "rings are started in the memory laid out here")]

use std::os::fd::AsFd as _;
use std::sync::Arc;

use pmd::memory::Arena;
use pmd::packet::MAX_FRAME;
use pmd::port::PmdError;
use pmd::virtio::burst_driver::{Direction, EitherRing};
use pmd::virtio::driver_ring::RingMemory;
use pmd::virtio::features::*;
use pmd::virtio::{NetHeader, SharedPtr, net_driver};

use super::session::{Region, RingPlace};

/// Guest address of the first byte.
const GUEST: u64 = 1 << 30;
/// Where the back-end is told that we have it mapped: only a name.
const USER: u64 = 0x7000_0000_0000;
const PAGE: usize = 4096;
/// Longest frame where segments are left to the other side, and otherwise.
const LARGE: u32 = MAX_FRAME as u32;
/// See [`LARGE`].
const JUMBO: u32 = 9_000 + 22;

/// Features with one of which frames are large.
const LARGE_IN: u64 = VIRTIO_NET_F_GUEST_TSO4
    | VIRTIO_NET_F_GUEST_TSO6
    | VIRTIO_NET_F_GUEST_UFO
    | VIRTIO_NET_F_GUEST_USO4
    | VIRTIO_NET_F_GUEST_USO6;
const LARGE_OUT: u64 =
    VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_HOST_TSO6 | VIRTIO_NET_F_HOST_UFO | VIRTIO_NET_F_HOST_USO;

/// Entries of a ring.
pub(super) const RING_SIZE: u16 = 256;

/// Where in the file a ring and its buffers lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Places {
    /// Descriptors, avail ring, used ring; or descriptors and event areas of driver and device.
    pub parts: [usize; 3],
    /// First byte after the last part.
    pub end: usize,
    /// First byte of buffer 0, bytes from buffer to buffer, and bytes of one.
    pub buffers: usize,
    /// See [`Places::buffers`].
    pub stride: usize,
    /// See [`Places::buffers`].
    pub capacity: usize,
}

/// Memory laid out for a number of queue pairs and the features agreed to.
pub(super) struct Memory {
    arena: Arc<Arena>,
    packed: bool,
    /// Bytes of a receive and of a transmit buffer.
    capacity: [u32; 2],
    /// Offsets, by ring: the ring, its buffers.
    offsets: Vec<(usize, usize)>,
}

impl Memory {
    /// Makes the memory.
    pub(super) fn create(name: &str, pairs: u16, features: u64) -> Result<Memory, PmdError> {
        let has = |feature| features & feature != 0;
        let large = |yes| NetHeader::LEN as u32 + if yes { LARGE } else { JUMBO };
        let receive = match (has(VIRTIO_NET_F_MRG_RXBUF), has(LARGE_IN)) {
            (true, false) => 2048 + NetHeader::LEN as u32,
            (true, true) => 4096,
            (false, tso) => large(tso),
        };
        let capacity = [receive, large(has(LARGE_OUT))];
        let packed = has(VIRTIO_F_RING_PACKED);
        let mut end = 0;
        let mut reserve = |bytes: usize| {
            let at = end;
            end = (at + bytes).next_multiple_of(PAGE);
            at
        };
        let ring = EitherRing::layout(packed, RING_SIZE).0;
        let offsets = (0..2 * usize::from(pairs)).map(|index| {
            let at = reserve(ring);
            (at, reserve(net_driver::stride(capacity[index % 2]) as usize * usize::from(RING_SIZE)))
        });
        let offsets = offsets.collect();
        let arena = Arc::new(Arena::create(&format!("virtio-user-{name}"), end)?);
        Ok(Memory { arena, packed, capacity, offsets })
    }

    /// What keeps the memory mapped; rings started in it must not outlive it.
    pub(super) fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// The memory, for the back-end.
    pub(super) fn region(&self) -> Region<'_> {
        Region { fd: self.arena.as_fd(), len: self.arena.len(), guest: GUEST, user: USER }
    }

    /// Where a ring is, for the back-end.
    pub(super) fn place(&self, index: usize) -> RingPlace {
        let (_, second, third) = EitherRing::layout(self.packed, RING_SIZE);
        let start = USER + self.offsets.get(index).map_or(0, |(ring, _)| *ring) as u64;
        RingPlace { size: RING_SIZE, parts: [start, start + second as u64, start + third as u64] }
    }

    /// Starts the driver side of a ring. To be done once for each, before the back-end knows of it; whoever has it keeps
    /// [`Memory::arena`]. `None` when there is no such ring.
    pub(super) fn ring(&self, index: usize) -> Option<EitherRing> {
        let (ring, buffers) = *self.offsets.get(index)?;
        let (_, second, third) = EitherRing::layout(self.packed, RING_SIZE);
        let memory = RingMemory {
            descriptors: self.at(ring),
            avail: self.at(ring + second),
            used: self.at(ring + third),
        };
        let capacity = self.capacity[index % 2];
        let buffers = net_driver::buffers(self.at(buffers), GUEST + buffers as u64, capacity, RING_SIZE);
        let direction = if index.is_multiple_of(2) { Direction::FromDevice } else { Direction::ToDevice };
        // SAFETY: `create` reserved room for all of it, zero, ring parts page-aligned; the caller keeps the arena.
        unsafe { EitherRing::new(self.packed, memory, RING_SIZE, direction, buffers, false) }
    }

    /// Where ring `index` lies in the file. `None` when there is no such ring.
    pub(super) fn places(&self, index: usize) -> Option<Places> {
        let (ring, buffers) = *self.offsets.get(index)?;
        let (len, second, third) = EitherRing::layout(self.packed, RING_SIZE);
        let capacity = self.capacity[index % 2];
        Some(Places {
            parts: [ring, ring + second, ring + third],
            end: ring + len,
            buffers: buffers + net_driver::HEADROOM as usize,
            stride: net_driver::stride(capacity) as usize,
            capacity: capacity as usize,
        })
    }

    fn at(&self, offset: usize) -> SharedPtr {
        debug_assert!(offset < self.arena.len());
        // SAFETY: offsets come from `create`, which made the arena long enough.
        unsafe { SharedPtr::new(self.arena.start()).add(offset) }
    }
}

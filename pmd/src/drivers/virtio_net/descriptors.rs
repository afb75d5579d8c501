//! Rings of either kind, with their memory and doorbell.
#![expect(unsafe_code, reason = "rings lie in memory shared with the device")]

use std::sync::Arc;

use crate::memory::DmaArena;
use crate::virtio::burst_driver::{Direction, EitherRing};
use crate::virtio::driver_ring::RingMemory;
use crate::virtio::net_driver;
use crate::virtio::pci::Window;

/// How a ring is to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Descriptors, a power of two.
    pub(super) size: u16,
    /// Buffers, a power of two, at most `size`.
    pub(super) count: u16,
    /// Bytes of a buffer, header included.
    pub(super) capacity: u32,
    pub(super) direction: Direction,
    pub(super) packed: bool,
    pub(super) event_idx: bool,
}

impl Shape {
    /// Bytes of the ring itself, and the offsets of its second and third part.
    const fn layout(&self) -> (usize, usize, usize) {
        EitherRing::layout(self.packed, self.size)
    }

    const fn buffers_at(&self) -> usize {
        self.layout().0.next_multiple_of(4096)
    }

    /// Bytes of memory it needs.
    pub(super) const fn bytes(&self) -> usize {
        self.buffers_at() + self.count as usize * net_driver::stride(self.capacity) as usize
    }

    /// Where the device finds the three parts.
    pub(super) fn addresses(&self, arena: &DmaArena) -> [u64; 3] {
        let (_, second, third) = self.layout();
        [arena.iova(0), arena.iova(second), arena.iova(third)]
    }
}

/// A queue's register that tells the device to look.
pub(super) struct Doorbell {
    pub(super) register: Window,
    pub(super) queue: u16,
}

impl Doorbell {
    pub(super) fn ring(&self) {
        self.register.write16(0, self.queue);
    }
}

/// A ring, what it lies in, and how the device is told.
pub(super) struct Ring {
    // Before the memory it lies in.
    pub(super) ring: EitherRing,
    pub(super) arena: Arc<DmaArena>,
    pub(super) doorbell: Doorbell,
}

impl Ring {
    /// Starts a ring in zeroed memory of [`Shape::bytes`]. `None` when the shape is none.
    pub(super) fn new(shape: Shape, arena: DmaArena, doorbell: Doorbell) -> Option<Ring> {
        if arena.len() < shape.bytes() {
            return None;
        }
        let (_, second, third) = shape.layout();
        let memory = RingMemory {
            descriptors: arena.shared(0),
            avail: arena.shared(second),
            used: arena.shared(third),
        };
        let Shape { size, count, capacity, direction, packed, event_idx } = shape;
        let at = shape.buffers_at();
        let buffers = net_driver::buffers(arena.shared(at), arena.iova(at), capacity, count);
        // SAFETY: all parts lie inside the arena, which is long enough (looked at above), begins on a page, and is kept beside the ring.
        let ring = unsafe { EitherRing::new(packed, memory, size, direction, buffers, event_idx)? };
        Some(Ring { ring, arena: Arc::new(arena), doorbell })
    }
}

//! Rings of either kind, with their memory and doorbell.
#![expect(unsafe_code, reason = "rings lie in memory shared with the device")]

use std::sync::Arc;

use crate::memory::DmaArena;
use crate::packet::Frame;
use crate::virtio::burst_driver::{BadDevice, BufferView, Buffers, BurstRing, Direction, PackedBurstRing};
use crate::virtio::driver_ring::RingMemory;
use crate::virtio::pci::Window;

/// Bytes of a buffer before the virtio-net header: header and frame then meet at a cache line.
const HEADROOM: usize = 52;

/// How a ring is to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Descriptors, a power of two.
    pub(super) size: u16,
    /// Buffers, a power of two, at most `size`.
    pub(super) count: u16,
    /// Bytes of a buffer, header included.
    pub(super) capacity: usize,
    pub(super) direction: Direction,
    pub(super) packed: bool,
    pub(super) event_idx: bool,
}

impl Shape {
    const fn stride(&self) -> usize {
        (HEADROOM + self.capacity).next_multiple_of(64)
    }

    /// Bytes of the ring itself, and the offsets of its second and third part.
    const fn layout(&self) -> (usize, usize, usize) {
        if self.packed { PackedBurstRing::layout(self.size) } else { BurstRing::layout(self.size) }
    }

    const fn buffers_at(&self) -> usize {
        self.layout().0.next_multiple_of(4096)
    }

    /// Bytes of memory it needs.
    pub(super) const fn bytes(&self) -> usize {
        self.buffers_at() + self.count as usize * self.stride()
    }

    /// Where the device finds the three parts.
    pub(super) fn addresses(&self, arena: &DmaArena) -> [u64; 3] {
        let (_, second, third) = self.layout();
        [arena.iova(0), arena.iova(second), arena.iova(third)]
    }
}

enum Kind {
    Split(BurstRing),
    Packed(PackedBurstRing),
}

/// A ring, told apart once per burst.
pub(super) struct Ring {
    kind: Kind,
    arena: Arc<DmaArena>,
    start: usize,
    doorbell: Window,
    queue: u16,
}

macro_rules! both {
    ($self:expr, $ring:ident => $call:expr) => {
        match &mut $self.kind {
            Kind::Split($ring) => $call,
            Kind::Packed($ring) => $call,
        }
    };
}

impl Ring {
    /// Starts a ring in zeroed memory of [`Shape::bytes`]. `None` when the shape is none.
    pub(super) fn new(shape: Shape, arena: DmaArena, doorbell: Window, queue: u16) -> Option<Ring> {
        if arena.len() < shape.bytes() {
            return None;
        }
        let (_, second, third) = shape.layout();
        let memory = RingMemory {
            descriptors: arena.shared(0),
            avail: arena.shared(second),
            used: arena.shared(third),
        };
        let buffers = Buffers {
            start: arena.shared(shape.buffers_at()),
            guest: arena.iova(shape.buffers_at()),
            stride: shape.stride() as u32,
            headroom: HEADROOM as u32,
            capacity: shape.capacity as u32,
            count: shape.count,
        };
        let (size, direction, events) = (shape.size, shape.direction, shape.event_idx);
        // SAFETY: all parts lie inside the arena, which is long enough (looked at above), begins on a page, and is kept by the ring.
        let kind = unsafe {
            if shape.packed {
                Kind::Packed(PackedBurstRing::new(memory, size, direction, buffers, events)?)
            } else {
                Kind::Split(BurstRing::new(memory, size, direction, buffers, events)?)
            }
        };
        let start = arena.shared(0).addr();
        Some(Ring { kind, arena: Arc::new(arena), start, doorbell, queue })
    }

    pub(super) fn arena(&self) -> &Arc<DmaArena> {
        &self.arena
    }

    pub(super) fn free(&mut self) -> u16 {
        both!(self, ring => ring.free())
    }

    pub(super) fn outstanding(&mut self) -> u16 {
        both!(self, ring => ring.outstanding())
    }

    pub(super) fn stage_unchanged(&mut self, n: u16) -> u16 {
        both!(self, ring => ring.stage_unchanged(n))
    }

    /// Shows the device what was staged. Returns whether it had to be told.
    pub(super) fn publish(&mut self) -> bool {
        let wanted = both!(self, ring => ring.publish());
        if wanted {
            self.doorbell.write16(0, self.queue);
        }
        wanted
    }

    /// Takes used buffers and shows each as its offset in the arena, the bytes the device says it wrote, and a view.
    #[inline]
    pub(super) fn take_used(
        &mut self,
        max: u16,
        mut each: impl FnMut(usize, u32, &BufferView<'_>),
    ) -> Result<u16, BadDevice> {
        let start = self.start;
        both!(self, ring => ring.take_used::<2>(max, |view, len| each(view.addr() - start, len, &view)))
    }

    pub(super) fn reclaim(&mut self) -> Result<u16, BadDevice> {
        both!(self, ring => ring.reclaim(u16::MAX))
    }

    /// Stages one buffer with a header and a frame, which fit.
    #[inline]
    pub(super) fn stage_frame(&mut self, header: [u8; 12], frame: &Frame<'_>) {
        let (start, arena) = (self.start, &self.arena);
        let mut fill = |view: BufferView<'_>| {
            view.write(0, header);
            view.copy_in(header.len(), frame.head);
            let mut at = view.addr() - start + header.len() + frame.head.len();
            frame.for_each_payload(|piece| {
                arena.copy_span(at, piece, piece.len());
                at += piece.len();
            });
            view.set_len((header.len() + frame.len()) as u32);
        };
        both!(self, ring => ring.stage(1, &mut fill));
    }

    pub(super) fn enable_interrupts(&mut self) -> bool {
        both!(self, ring => ring.enable_interrupts())
    }

    pub(super) fn disable_interrupts(&mut self) {
        both!(self, ring => ring.disable_interrupts());
    }
}

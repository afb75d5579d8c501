//! Where a ring's own writes are noted during a migration: used elements and index, descriptors, event suppression.
//!
//! Frames are noted apart from that, by [`crate::memory::PageLog`]. A ring notes once per burst what it showed the guest, and when it
//! says how it wants to be notified. Always after the write, see [`crate::memory::DirtyLog`].

use std::sync::Arc;

use pmd::virtio::packed::Position;
use pmd::virtio::split::RING;

use super::split::RingParts;
use crate::memory::{DirtyLog, MemTable, Pages};

/// Bytes of a used element.
const ELEMENT: usize = 8;
/// Bytes of a packed ring's descriptor.
const DESCRIPTOR: usize = 16;
/// Flags and index of a used ring, or the device's event area of a packed one.
const WORDS: usize = 4;

/// The log, and where in it a ring lies.
pub(crate) struct RingLog {
    log: Arc<DirtyLog>,
    /// Guest address of the descriptors.
    descriptors: u64,
    /// Guest address of the used ring, or of a packed ring's device event area.
    used: u64,
}

impl RingLog {
    /// For a ring at `parts` of `memory`. The front-end may have said at which guest address it wants to see the used ring logged.
    pub(super) fn new(
        log: &Arc<DirtyLog>,
        memory: &MemTable,
        parts: RingParts,
        used_at: Option<u64>,
    ) -> RingLog {
        // The parts were found in this memory, so they are in it.
        let gpa = |addr: usize| memory.by_host(addr).and_then(|range| range.gpa(addr)).unwrap_or(u64::MAX);
        RingLog {
            log: Arc::clone(log), // tidy: once per ring
            descriptors: gpa(parts.descriptors.addr()),
            used: used_at.unwrap_or_else(|| gpa(parts.used.addr())),
        }
    }

    fn in_used(&self, offset: usize, len: usize) -> Pages {
        Pages::of(self.used.saturating_add(offset as u64), len as u64)
    }

    fn in_descriptors(&self, first: usize, count: usize) -> Pages {
        let offset = (first * DESCRIPTOR) as u64;
        Pages::of(self.descriptors.saturating_add(offset), (count * DESCRIPTOR) as u64)
    }

    /// Notes that the device has said something of notifications at its usual place.
    #[cold]
    pub(super) fn said(&self) {
        self.log.mark([self.in_used(0, WORDS)]);
    }

    /// The same for the event index of a split ring of `size`, behind its elements.
    #[cold]
    pub(super) fn said_behind(&self, size: usize) {
        self.log.mark([self.in_used(RING + size * ELEMENT, 2)]);
    }

    /// Notes the used elements from index `from` to `to`, and the index.
    #[cold]
    pub(super) fn used_elements(&self, from: u16, to: u16, mask: u16) {
        let size = usize::from(mask) + 1;
        let (first, count) = (usize::from(from & mask), usize::from(to.wrapping_sub(from)));
        let [a, b] = halves(first, count, size);
        let elements = |(first, count)| self.in_used(RING + first * ELEMENT, count * ELEMENT);
        self.log.mark([self.in_used(0, WORDS)].into_iter().chain([a, b].into_iter().flatten().map(elements)));
    }

    /// Notes the descriptors of a packed ring from one position to another.
    #[cold]
    pub(super) fn used_descriptors(&self, from: Position, to: Position, size: u16) {
        let count = usize::from(to.since(from, size));
        let [a, b] = halves(usize::from(from.slot()), count, usize::from(size));
        let descriptors = |(first, count)| self.in_descriptors(first, count);
        self.log.mark([a, b].into_iter().flatten().map(descriptors));
    }
}

/// `count` places of a ring from `first`, up to its end and from its beginning.
fn halves(first: usize, count: usize, size: usize) -> [Option<(usize, usize)>; 2] {
    let count = count.min(size);
    let until_end = count.min(size - first);
    [(first, until_end), (0, count - until_end)].map(|half| (half.1 > 0).then_some(half))
}

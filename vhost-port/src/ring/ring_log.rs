//! Where a ring's own writes are noted during a migration: used elements and index, descriptors, event suppression.
//!
//! Frames are noted apart from that, by [`crate::memory::PageLog`]. A ring notes once per burst what it showed the guest, and when it
//! says how it wants to be notified. Always after the write, see [`crate::memory::DirtyLog`].

use std::sync::Arc;

use pmd::virtio::SharedPtr;
use pmd::virtio::packed::Position;
use pmd::virtio::split::RING;

use super::split::RingParts;
use crate::memory::{DirtyLog, MemTable, Pages, Piece, Window};

/// Bytes of a used element.
const ELEMENT: usize = 8;
/// Bytes of a packed ring's descriptor.
const DESCRIPTOR: usize = 16;
/// Flags and index of a used ring, or the device's event area of a packed one.
const WORDS: usize = 4;

/// Where a part of a ring is in the guest.
struct Place {
    /// Offset in the part, length and guest address of each piece it lies in, in order. The last one has no end.
    pieces: Vec<(u64, u64, u64)>,
}

impl Place {
    /// In one piece.
    fn at(gpa: u64) -> Place {
        Place { pieces: vec![(0, u64::MAX, gpa)] }
    }

    /// Of a part that is seen from `start` on, perhaps through one of the windows.
    fn of(start: SharedPtr, memory: &MemTable, windows: &[Arc<Window>]) -> Place {
        // The parts were found in this memory, so they are in it.
        let gpa = |addr: usize| memory.by_host(addr).and_then(|range| range.gpa(addr)).unwrap_or(u64::MAX);
        let Some(window) = windows.iter().find(|window| window.start() == start) else {
            return Place::at(gpa(start.addr()));
        };
        let mut offset = 0;
        let piece = |&(start, len): &Piece| {
            let piece = (offset, len, gpa(start.addr()));
            offset += len;
            piece
        };
        Place { pieces: window.pieces().iter().map(piece).collect() }
    }

    /// The pages of `len` bytes at `offset`.
    fn pages(&self, offset: usize, len: usize) -> impl Iterator<Item = Pages> + '_ {
        let (start, end) = (offset as u64, (offset + len) as u64);
        self.pieces.iter().filter_map(move |&(at, length, gpa)| {
            let (from, to) = (start.max(at), end.min(at.saturating_add(length)));
            (from < to).then(|| Pages::of(gpa.saturating_add(from - at), to - from))
        })
    }
}

/// The log, and where in it a ring lies.
pub(crate) struct RingLog {
    log: Arc<DirtyLog>,
    descriptors: Place,
    /// The used ring, or a packed ring's device event area.
    used: Place,
}

impl RingLog {
    /// For a ring at `parts` of `memory`. The front-end may have said at which guest address it wants to see the used ring logged.
    pub(super) fn new(
        log: &Arc<DirtyLog>,
        memory: &MemTable,
        parts: RingParts,
        windows: &[Arc<Window>],
        used_at: Option<u64>,
    ) -> RingLog {
        RingLog {
            log: Arc::clone(log), // tidy: once per ring
            descriptors: Place::of(parts.descriptors, memory, windows),
            used: used_at.map_or_else(|| Place::of(parts.used, memory, windows), Place::at),
        }
    }

    /// Notes that the device has said something of notifications at its usual place.
    #[cold]
    pub(super) fn said(&self) {
        self.log.mark(self.used.pages(0, WORDS));
    }

    /// The same for the event index of a split ring of `size`, behind its elements.
    #[cold]
    pub(super) fn said_behind(&self, size: usize) {
        self.log.mark(self.used.pages(RING + size * ELEMENT, 2));
    }

    /// Notes the used elements from index `from` to `to`, and the index.
    #[cold]
    pub(super) fn used_elements(&self, from: u16, to: u16, mask: u16) {
        let size = usize::from(mask) + 1;
        let (first, count) = (usize::from(from & mask), usize::from(to.wrapping_sub(from)));
        let [a, b] = halves(first, count, size);
        let elements = |(first, count)| self.used.pages(RING + first * ELEMENT, count * ELEMENT);
        let halves = [a, b].into_iter().flatten().flat_map(elements);
        self.log.mark(self.used.pages(0, WORDS).chain(halves));
    }

    /// Notes the descriptors of a packed ring from one position to another.
    #[cold]
    pub(super) fn used_descriptors(&self, from: Position, to: Position, size: u16) {
        let count = usize::from(to.since(from, size));
        let [a, b] = halves(usize::from(from.slot()), count, usize::from(size));
        let descriptors = |(first, count)| self.descriptors.pages(first * DESCRIPTOR, count * DESCRIPTOR);
        self.log.mark([a, b].into_iter().flatten().flat_map(descriptors));
    }
}

/// `count` places of a ring from `first`, up to its end and from its beginning.
fn halves(first: usize, count: usize, size: usize) -> [Option<(usize, usize)>; 2] {
    let count = count.min(size);
    let until_end = count.min(size - first);
    [(first, until_end), (0, count - until_end)].map(|half| (half.1 > 0).then_some(half))
}

//! What outlives the switch of a packed ring: where it stands, and the used descriptors of the burst under way.
//!
//! Nothing in a packed ring's memory says where the device stands. When a back-end dies, the front-end does not know it either, and
//! makes something up. So each ring has a [`Record`] in memory that stays when the process goes ([`super::ring_file`]). A killed
//! process loses none of the stores it has executed: what counts is their order in the program, and that is what is said
//! here of every store. Each store that another one relies on is a Release, which the compiler does not move either.
//!
//! # A burst happens or does not
//!
//! ```text
//!   note     used descriptors, and where they go: into the record only, the ring is untouched
//!   commit   progress = (from, count, to): from now on the burst has happened
//!            then they go into the ring, the first one last, which is when the guest sees them (packed.rs)
//!   done     progress = (to, 0, to)
//! ```
//!
//! A death before the commit leaves the ring as it was: the chains are taken again. After it, [`Record::recover`] writes the same
//! descriptors again, unless the first one stands there already: then all do, and the guest may have offered others in
//! their places since. Both ends of the burst and the number of its descriptors are in one word, so there is no third case.
//!
//! # Which ring it is
//!
//! A record speaks of the ring with the same [`Identity`]: memory file, places in it, size, rules. But a guest's driver may have started
//! anew in the same place while no switch was there. It then has zeroed the ring's memory, and with it the area in which the
//! device says when it wants kicks. That area is never zero once a device has run ([`PackedRing::disarm`](super::packed::PackedRing::disarm)),
//! so zero there means that the record is of a ring that is gone, and that the new one is at its start. A front-end that was told
//! the base (GET_VRING_BASE) knows better than the record, which is forgotten then.
//!
//! Starting a ring changes the record at one instant too: what is new is written beside the old, and then chosen by one store.
//!
//! Cost: per chain two stores and two loads of lines that no one else touches; per burst two stores more.
#![expect(unsafe_code, reason = "ring memory is shared with a guest; the record lies in a mapping")]

#[cfg(test)]
mod tests;

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, compiler_fence};

use pmd::virtio::packed::{EVENT_FLAGS, EVENT_OFF_WRAP, Element, Position};
use pmd::virtio::split::DESC_F_WRITE;

use super::kill;
use super::ring_file::RingFile;
use super::split::{RingParts, RingRules};

/// Used descriptors of a burst. A power of two, and no less than what one frame needs.
pub(crate) const MOST_NOTES: usize = 512;

/// Numbers in an identity.
const WORDS: usize = 6;

/// What tells a ring from others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Identity([u64; WORDS]);

impl Identity {
    /// Of the ring whose parts lie at these offsets of a file that has this device and inode number.
    pub(super) fn new(file: (u64, u64), offsets: [u64; 3], size: u16, rules: RingRules) -> Identity {
        let RingRules { event_idx, indirect, packed, in_order } = rules;
        let rules = [event_idx, indirect, packed, in_order]
            .into_iter()
            .fold(0, |bits, rule| bits << 1 | u64::from(rule));
        let [descriptors, avail, used] = offsets;
        Identity([file.0, file.1, descriptors, avail, used, u64::from(size) | rules << 16])
    }
}

/// A ring that was started, and how far it has come.
#[repr(C, align(64))]
struct Start {
    /// See [`Progress`].
    progress: AtomicU64,
    identity: [AtomicU64; WORDS],
}

/// What is kept of one ring. Any bits are valid; only what [`Record::recover`] has checked is believed.
///
/// Whoever holds the ring's lock reads and writes it, so the atomics are only there to name the order of stores.
#[repr(C, align(64))]
pub(super) struct Record {
    /// Which of the two starts counts: its number plus one. Zero when none does.
    current: AtomicU32,
    starts: [Start; 2],
    /// Used descriptors of the burst ([`Element::to_word`]), and their positions.
    elements: [AtomicU64; MOST_NOTES],
    positions: [AtomicU16; MOST_NOTES],
}

/// How far a ring has come: all before `from` is done, and a burst of `count` used descriptors that ends at `to` has happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Progress {
    from: Position,
    count: u16,
    to: Position,
}

impl Progress {
    /// No burst is under way.
    const fn at(at: Position) -> Progress {
        Progress { from: at, count: 0, to: at }
    }

    #[inline(always)]
    fn to_word(self) -> u64 {
        u64::from(self.from.bits()) | u64::from(self.count) << 16 | u64::from(self.to.bits()) << 32
    }

    fn from_word(word: u64) -> Progress {
        let position = |shift: u32| Position::from_bits((word >> shift) as u16);
        Progress { from: position(0), count: (word >> 16) as u16, to: position(32) }
    }
}

/// Why a record of this very ring is not believed.
#[derive(thiserror::Error, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BadRecord {
    #[error("it names start {0}, of which there are two")]
    Start(u32),
    #[error("it does not fit a ring of {0}")]
    Progress(u16),
    #[error("somebody else has used descriptors beyond it")]
    Overtaken,
    #[error("the front-end's in-flight buffer makes no sense: {0}")]
    Inflight(&'static str),
}

impl Record {
    /// Where the ring of this identity stands, after completing the burst that was under way when its device died. `None`
    /// when the record is not of this ring.
    ///
    /// `parts` are those of a checked packed ring of `size`.
    pub(super) fn recover(
        &self,
        identity: &Identity,
        parts: RingParts,
        size: u16,
    ) -> Result<Option<Position>, BadRecord> {
        let number = self.current.load(Ordering::Acquire);
        let start = match number {
            0 => return Ok(None),
            1 | 2 => &self.starts[number as usize - 1],
            other => return Err(BadRecord::Start(other)),
        };
        let known = start.identity.each_ref().map(|word| word.load(Ordering::Relaxed));
        if known != identity.0 {
            return Ok(None);
        }
        if untouched(parts) {
            return Ok(Some(Position::START));
        }
        let progress = Progress::from_word(start.progress.load(Ordering::Acquire));
        let notes = self.checked_notes(progress, size).ok_or(BadRecord::Progress(size))?;
        // SAFETY: both positions were checked against the ring's size.
        let flags = |at: Position| unsafe { parts.descriptors.load_packed_flags(usize::from(at.slot())) };
        if progress.to.is_used(flags(progress.to)) {
            return Err(BadRecord::Overtaken);
        }
        if progress.from.is_available(flags(progress.from)) {
            show(parts, notes.into_iter());
        }
        Ok(Some(progress.to))
    }

    /// The used descriptors of the burst under way, if they make sense.
    fn checked_notes(&self, progress: Progress, size: u16) -> Option<Vec<(Position, Element)>> {
        let Progress { from, count, to } = progress;
        let inside = |at: Position| at.slot() < size;
        let (count, distance) = (usize::from(count), to.since(from, size));
        if !inside(from)
            || !inside(to)
            || count > MOST_NOTES
            || distance > size
            || (count == 0) != (from == to)
        {
            return None;
        }
        let notes: Vec<_> = (0..count).map(|index| self.note_at(index)).collect();
        // The first at the beginning, each beyond the one before, all before the end, and all used.
        let mut least = 0;
        for (index, &(at, element)) in notes.iter().enumerate() {
            let after = at.since(from, size);
            let in_place = if index == 0 { at == from } else { inside(at) && after >= least };
            if !in_place || after >= distance || element.flags & !DESC_F_WRITE != at.used_flags() {
                return None;
            }
            least = after + 1;
        }
        Some(notes)
    }

    #[inline(always)]
    fn note_at(&self, index: usize) -> (Position, Element) {
        let index = index % MOST_NOTES;
        let at = Position::from_bits(self.positions[index].load(Ordering::Relaxed));
        (at, Element::from_word(self.elements[index].load(Ordering::Relaxed)))
    }

    /// Makes the record speak of this ring, which stands at `at`; at one instant.
    fn begin(&self, identity: &Identity, at: Position) -> &AtomicU64 {
        let number = if self.current.load(Ordering::Relaxed) == 1 { 2 } else { 1 };
        let start = &self.starts[number as usize - 1];
        for (word, value) in start.identity.iter().zip(identity.0) {
            kill::point();
            word.store(value, Ordering::Relaxed);
        }
        kill::point();
        start.progress.store(Progress::at(at).to_word(), Ordering::Relaxed);
        kill::point();
        self.current.store(number, Ordering::Release);
        &start.progress
    }

    /// Makes it speak of no ring.
    pub(super) fn forget(&self) {
        self.current.store(0, Ordering::Release);
    }
}

/// Whether no device has run on a ring since its driver zeroed it.
pub(super) fn untouched(parts: RingParts) -> bool {
    // SAFETY: both words lie inside the checked event area.
    unsafe {
        parts.used.load_u16(EVENT_FLAGS, Ordering::Acquire) == 0
            && parts.used.load_u16(EVENT_OFF_WRAP, Ordering::Relaxed) == 0
    }
}

/// Writes the used descriptors of a burst into the ring; the guest sees none before the first, which is written last. All
/// positions must lie inside the ring.
fn show(parts: RingParts, mut notes: impl Iterator<Item = (Position, Element)>) {
    let Some((first_at, first)) = notes.next() else { return };
    for (at, element) in notes {
        put(parts, at.slot().into(), element, Ordering::Relaxed);
    }
    // Release: payload and the other descriptors before this one.
    put(parts, first_at.slot().into(), first, Ordering::Release);
}

/// Writes a used descriptor; its slot must lie inside the ring.
#[inline(always)]
fn put(parts: RingParts, slot: usize, element: Element, order: Ordering) {
    kill::point();
    // SAFETY: the caller's slots lie inside the checked ring.
    unsafe { parts.descriptors.store_packed_element(slot, element, order) };
}

/// The record of a running ring, as its device writes it.
pub(super) struct Journal {
    record: NonNull<Record>,
    progress: NonNull<AtomicU64>,
    /// Used descriptors noted since the last commit; at most [`MOST_NOTES`].
    noted: usize,
    /// Keeps the record mapped.
    _file: Arc<RingFile>,
}

// SAFETY: the record is all atomics, in a mapping that lives as long as the file, which may be used from any thread.
unsafe impl Send for Journal {}

impl Journal {
    /// Begins the journal of a ring, number `index` of its port, that stands at `at`.
    pub(super) fn begin(file: &Arc<RingFile>, index: usize, identity: &Identity, at: Position) -> Journal {
        let record = file.record(index);
        let progress = NonNull::from(record.begin(identity, at));
        let file = Arc::clone(file); // tidy: once per ring
        Journal { record: NonNull::from(record), progress, noted: 0, _file: file }
    }

    #[inline(always)]
    fn record(&self) -> &Record {
        // SAFETY: mapped as long as `_file`; all atomics.
        unsafe { self.record.as_ref() }
    }

    #[inline(always)]
    fn set_progress(&self, progress: Progress) {
        kill::point();
        // SAFETY: a part of the record.
        unsafe { self.progress.as_ref() }.store(progress.to_word(), Ordering::Release);
    }

    /// [`show`] for as many notes as there are descriptors: then each is of the next one, and nobody need look where.
    #[inline(always)]
    fn show_neighbours(&self, parts: RingParts, size: usize, from: Position, count: usize) {
        let notes = self.record().elements.get(..count).unwrap_or_default();
        let Some((first, others)) = notes.split_first() else { return };
        let first_at = usize::from(from.slot());
        let (here, beyond) = others.split_at(others.len().min(size - 1 - first_at));
        for (slots, notes) in [(first_at + 1, here), (0, beyond)] {
            for (index, note) in notes.iter().enumerate() {
                let element = Element::from_word(note.load(Ordering::Relaxed));
                put(parts, slots + index, element, Ordering::Relaxed);
            }
        }
        // Release: payload and the other descriptors before this one.
        put(parts, first_at, Element::from_word(first.load(Ordering::Relaxed)), Ordering::Release);
    }

    /// Whether this many used descriptors can still be noted.
    #[inline(always)]
    pub(super) fn has_room(&self, notes: u16) -> bool {
        self.noted + usize::from(notes) <= MOST_NOTES
    }

    /// Whether nothing has been noted since the last commit.
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.noted == 0
    }

    /// Notes a used descriptor, which is `ahead` of the next one. It counts after [`Journal::pass`].
    #[inline(always)]
    pub(super) fn note(&self, ahead: u16, at: Position, element: Element) {
        // Who asked for room finds it; who did not must not write elsewhere.
        let index = (self.noted + usize::from(ahead)) % MOST_NOTES;
        kill::point();
        self.record().positions[index].store(at.bits(), Ordering::Relaxed);
        self.record().elements[index].store(element.to_word(), Ordering::Relaxed);
    }

    /// Notes used descriptors, for which there must be room. They count.
    #[inline(always)]
    pub(super) fn note_all(&mut self, notes: impl ExactSizeIterator<Item = (Position, Element)>) {
        let Record { positions, elements, .. } = self.record();
        let (first, count) = (self.noted, notes.len());
        let places = (positions.get(first..first + count), elements.get(first..first + count));
        let (Some(positions), Some(elements)) = places else { return };
        for ((position, word), (at, element)) in positions.iter().zip(elements).zip(notes) {
            kill::point();
            position.store(at.bits(), Ordering::Relaxed);
            word.store(element.to_word(), Ordering::Relaxed);
        }
        self.noted += count;
    }

    /// The next `notes` used descriptors count.
    #[inline(always)]
    pub(super) fn pass(&mut self, notes: u16) {
        self.noted = (self.noted + usize::from(notes)).min(MOST_NOTES);
    }

    /// Makes what was noted happen: the chains from `from` to `to`. `parts` are those of the ring, which has `size` descriptors.
    #[inline(always)]
    pub(super) fn carry_out(&mut self, parts: RingParts, size: u16, from: Position, to: Position) {
        let count = std::mem::take(&mut self.noted);
        self.set_progress(Progress { from, count: count as u16, to });
        if usize::from(to.since(from, size)) == count {
            self.show_neighbours(parts, usize::from(size), from, count);
        } else {
            show(parts, (0..count).map(|index| self.record().note_at(index)));
        }
        self.set_progress(Progress::at(to));
        // What is noted next must not come before.
        compiler_fence(Ordering::Release);
    }
}

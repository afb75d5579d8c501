//! A front-end's buffer for what is in flight (vhost-user, "Inflight I/O tracking"): a region per ring, in a file that outlives us.
//!
//! QEMU hands none over for network cards; other front-ends do. What the specification wants kept is what a back-end needs that completes
//! out of order. We complete in order and a burst at a time, so between bursts nothing is in flight, and most of a region stays zero:
//!
//! ```text
//!   split    16: features 8, version 2, entries 2, last batch 2, used index 2      entry 16: inflight 1, -5, next 2, counter 8
//!   packed   32: features 8, version 2, entries 2, free head 2, old free head 2,   entry 32: inflight 1, -1, next 2, last 2, num 2, counter 8,
//!                used index 2, old 2, wrap counter 1, old 1, -10                       id 2, flags 2, len 4, addr 8
//! ```
//!
//! - **Split**: a burst happens when the used index moves. Until then the next device takes the same chains again, so they are not in flight.
//!   The region's used index follows.
//! - **Packed**: showing a burst writes over descriptors, so before that they are copied into entries, in flight, and `old free head` moves
//!   beyond them: from that store on they are taken. Which side of the burst a successor is on, the ring's first descriptor says.
//!
//! # Going on from a region
//!
//! What is in flight is put back into the ring, in the order in which it was taken, as if the driver had just made it available:
//! into the avail ring from the used index on, or into the packed ring's own slots. Both belong to the device there until it
//! completes them. Then the ring goes on from what is used, by the path that every ring takes. So a back-end of another kind, which may leave chains
//! in flight anywhere, can be followed, and nothing is special about our own.
//!
//! # One store decides
//!
//! The specification names the stores and their order; those of one step that lie in the same aligned word are one store here, because a death
//! between the used index and its wrap counter could not be told from other states. A burst of all of a ring moves no index but the wrap counter, and
//! is told by that.
//!
//! # Trust
//!
//! The buffer is the front-end's: its size is checked against the file, every number in it before use. A file that shrinks
//! is caught like guest memory's. A region that makes no sense is reported, and the front-end's base counts.
//!
//! Cost: a test per burst without a buffer; with one, a copy of each descriptor of a packed ring.
#![expect(unsafe_code, reason = "a mapping shared with the front-end; ring memory is shared with a guest")]

#[cfg(test)]
pub(super) mod tests;

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pmd::sys::sigbus::Alarm;
use pmd::virtio::SharedPtr;
use pmd::virtio::packed::{DESC_F_AVAIL, DESC_F_USED, Element, Position};
use pmd::virtio::split::{DESC_F_NEXT, IDX, RING};

use super::journal::{BadRecord, untouched};
use super::kill;
use super::split::RingParts;
use crate::memory::{MapError, Mapping};

/// Regions begin at multiples of this, as other back-ends lay them out.
const ALIGN: u64 = 64;
/// The version of a region that is in use; zero is that of an empty one.
const VERSION: u16 = 1;

/// Words of a region's head: version, entries and two numbers; a packed region's used indexes and wrap counters.
const STATE: usize = 8;
const USED: usize = 16;

/// Words of an entry: flag and links; counter; a packed descriptor's element and address.
const LINKS: usize = 0;
const COUNTER: usize = 8;
const ELEMENT: usize = 16;
const ADDRESS: usize = 24;
/// The flag in [`LINKS`].
const IN_FLIGHT: u64 = 1;

/// Bytes of a region's head, and of each entry after it.
const fn shape(packed: bool) -> (u64, u64) {
    if packed { (32, 32) } else { (16, 16) }
}

/// Bytes from one region to the next.
const fn stride(packed: bool, entries: u16) -> u64 {
    let (head, entry) = shape(packed);
    (head + entry * entries as u64).next_multiple_of(ALIGN)
}

/// Four numbers of sixteen bits in a word, the first lowest.
const fn pack(numbers: [u16; 4]) -> u64 {
    let [a, b, c, d] = numbers;
    a as u64 | (b as u64) << 16 | (c as u64) << 32 | (d as u64) << 48
}

const fn unpack(word: u64) -> [u16; 4] {
    [word as u16, (word >> 16) as u16, (word >> 32) as u16, (word >> 48) as u16]
}

/// Why a buffer was refused.
#[derive(thiserror::Error, Debug)]
pub(crate) enum InflightError {
    #[error("the in-flight buffer {0}")]
    Refused(#[from] MapError),
    #[error("the in-flight buffer is to hold {rings} rings of {entries}; rings have 1 to 32768 entries")]
    Shape { rings: u16, entries: u16 },
    #[error("the in-flight buffer at offset {0:#x} is not aligned to 64 bytes")]
    Unaligned(u64),
}

/// A mapped buffer.
pub(crate) struct InflightBuffer {
    map: Mapping,
    len: u64,
    rings: u16,
    entries: u16,
}

impl InflightBuffer {
    /// Bytes that so many rings need, of either kind.
    pub(crate) fn len_for(rings: u16, entries: u16) -> Result<u64, InflightError> {
        if rings == 0 || entries == 0 || entries > 1 << 15 {
            return Err(InflightError::Shape { rings, entries });
        }
        Ok(u64::from(rings) * stride(true, entries))
    }

    /// Maps `len` bytes from `offset` of the front-end's file, for so many rings of so many entries. `alarm` goes off when the file shrinks.
    pub(crate) fn map(
        file: &File,
        (offset, len): (u64, u64),
        (rings, entries): (u16, u16),
        alarm: &Arc<Alarm>,
    ) -> Result<InflightBuffer, InflightError> {
        InflightBuffer::len_for(rings, entries)?;
        if !offset.is_multiple_of(ALIGN) {
            return Err(InflightError::Unaligned(offset));
        }
        Ok(InflightBuffer { map: Mapping::new(file, offset, len, alarm)?, len, rings, entries })
    }

    /// The region of a ring. `None` when the buffer has no room for it.
    pub(super) fn region(self: &Arc<Self>, index: usize, packed: bool, size: u16) -> Option<InflightRegion> {
        let index = u16::try_from(index).ok().filter(|&index| index < self.rings)?;
        let stride = stride(packed, self.entries);
        let start = u64::from(index) * stride;
        if size > self.entries || start + stride > self.len {
            return None;
        }
        let start = self.map.at(start, stride)?;
        let buffer = Arc::clone(self); // tidy: once per ring
        Some(InflightRegion { start, entries: self.entries, size, packed, counter: 0, _buffer: buffer })
    }
}

impl std::fmt::Debug for InflightBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} regions of {} entries", self.rings, self.entries)
    }
}

/// The region of one ring. Whoever holds the ring's lock reads and writes it; the atomics are there to name the order of stores.
#[derive(Clone, Debug)]
pub(crate) struct InflightRegion {
    start: SharedPtr,
    /// Entries it has room for, no fewer than the ring has descriptors.
    entries: u16,
    size: u16,
    packed: bool,
    /// Chains taken so far.
    counter: u64,
    /// Keeps it mapped.
    _buffer: Arc<InflightBuffer>,
}

/// A chain in flight: its number in the order of taking, the first entry, and how many it has.
type Taken = (u64, u16, u16);

impl InflightRegion {
    /// A word of the head.
    fn word(&self, at: usize) -> &AtomicU64 {
        // SAFETY: `at` is one of the constants above, inside the head, which is mapped as long as the buffer and aligned to 64 bytes.
        unsafe { AtomicU64::from_ptr(self.start.add(at).as_non_null().as_ptr().cast()) }
    }

    /// A word of an entry, which must be below [`InflightRegion::entries`].
    fn entry(&self, index: u16, at: usize) -> &AtomicU64 {
        let (head, entry) = shape(self.packed);
        let index = u64::from(index.min(self.entries - 1));
        let at = (head + index * entry) as usize + at;
        // SAFETY: inside the region, which was checked to be mapped for all its entries; entries are multiples of 16 bytes.
        unsafe { AtomicU64::from_ptr(self.start.add(at).as_non_null().as_ptr().cast()) }
    }

    fn state(&self) -> [u16; 4] {
        unpack(u64::from_le(self.word(STATE).load(Ordering::Acquire)))
    }

    fn set_state(&self, first: u16, second: u16) {
        kill::point();
        let word = pack([VERSION, self.entries, first, second]);
        self.word(STATE).store(word.to_le(), Ordering::Release);
    }

    /// Positions that a packed region keeps: where used descriptors go, and where they went before the burst under way.
    fn used(&self) -> [Position; 2] {
        let [now, old, wraps, _] = unpack(u64::from_le(self.word(USED).load(Ordering::Acquire)));
        let position = |slot: u16, wrap: u16| Position::from_bits(slot & 0x7fff | (wrap & 1) << 15);
        [position(now, wraps), position(old, wraps >> 8)]
    }

    fn set_used(&self, now: Position, old: Position) {
        let wraps = u16::from(now.wrap()) | u16::from(old.wrap()) << 8;
        kill::point();
        self.word(USED).store(pack([now.slot(), old.slot(), wraps, 0]).to_le(), Ordering::Release);
    }

    fn links(&self, index: u16) -> u64 {
        u64::from_le(self.entry(index, LINKS).load(Ordering::Relaxed))
    }

    fn set_links(&self, index: u16, links: u64) {
        kill::point();
        self.entry(index, LINKS).store(links.to_le(), Ordering::Release);
    }

    /// Makes it the region of nothing: whoever starts the ring next says where it stands.
    pub(crate) fn forget(&self) {
        kill::point();
        self.word(STATE).store(0, Ordering::Release);
    }

    /// Whether somebody has kept it.
    fn is_kept(&self) -> Result<bool, BadRecord> {
        match self.state() {
            [0, ..] => Ok(false),
            [VERSION, entries, ..] if entries == self.entries => Ok(true),
            _ => Err(BadRecord::Inflight("its version or number of entries")),
        }
    }

    /// Puts what is in flight back into the avail ring of a split ring, whose parts these are, from the used index on.
    pub(super) fn resubmit_split(&self, parts: RingParts) -> Result<(), BadRecord> {
        if !self.is_kept()? {
            return Ok(());
        }
        // SAFETY: idx lies inside the checked used ring.
        let used = unsafe { parts.used.load_u16(IDX, Ordering::Acquire) };
        let [_, _, mut head, before] = self.state();
        // The last batch has happened, whether or not its entries say so yet.
        let batch = used.wrapping_sub(before);
        if batch > self.size {
            return Err(BadRecord::Inflight("its used index"));
        }
        let mut done = Vec::with_capacity(batch.into()); // tidy: once per ring
        for _ in 0..batch {
            if head >= self.size {
                return Err(BadRecord::Inflight("its last batch"));
            }
            done.push(head);
            head = (self.links(head) >> 48) as u16;
        }
        let mut taken = self.in_flight(|index| !done.contains(&index));
        taken.sort_unstable();
        for (ahead, &(_, head, _)) in taken.iter().enumerate() {
            let slot = usize::from(used.wrapping_add(ahead as u16) & (self.size - 1));
            kill::point();
            // SAFETY: the masked index lies inside the checked avail ring; of what was not completed it is the device's to write.
            unsafe { parts.avail.store_u16(RING + slot * 2, head, Ordering::Release) };
        }
        Ok(())
    }

    /// Entries in flight, of those that `counts`, as chains of no length.
    fn in_flight(&self, counts: impl Fn(u16) -> bool) -> Vec<Taken> {
        let taken = (0..self.size).filter(|&index| self.links(index) & 0xff == IN_FLIGHT && counts(index));
        let counter = |index| u64::from_le(self.entry(index, COUNTER).load(Ordering::Relaxed));
        taken.map(|index| (counter(index), index, 0)).collect()
    }

    /// Puts what is in flight back into a packed ring, whose parts these are. Returns where the ring goes on, if that is known.
    pub(super) fn resubmit_packed(&self, parts: RingParts) -> Result<Option<Position>, BadRecord> {
        if !self.is_kept()? {
            return Ok(None);
        }
        if untouched(parts) {
            return Ok(Some(Position::START));
        }
        let [_, _, free, old_free] = self.state();
        let [now, old] = self.used();
        if now.slot() >= self.size || old.slot() >= self.size {
            return Err(BadRecord::Inflight("its used indexes"));
        }
        // SAFETY: both positions were checked against the ring's size.
        let flags = |at: Position| unsafe { parts.descriptors.load_packed_flags(usize::from(at.slot())) };
        let happened = now != old && !old.is_available(flags(old));
        let (at, free) = if happened { (now, free) } else { (old, old_free) };
        if at.is_used(flags(at)) {
            return Err(BadRecord::Overtaken);
        }
        let taken = self.taken_packed(free)?;
        let mut next = at;
        for (_, first, count) in taken {
            let mut index = first;
            for _ in 0..count {
                self.put_back(parts, index, next);
                next = next.advanced(1, self.size);
                index = (self.links(index) >> 16) as u16;
            }
        }
        Ok(Some(at))
    }

    /// Chains in flight in their order: those with the flag that are not in the list of free entries, which begins at `free`.
    fn taken_packed(&self, mut free: u16) -> Result<Vec<Taken>, BadRecord> {
        let mut is_free = vec![false; usize::from(self.size)]; // tidy: once per ring
        while let Some(seen) = is_free.get_mut(usize::from(free)) {
            if std::mem::replace(seen, true) {
                return Err(BadRecord::Inflight("its list of free entries"));
            }
            free = (self.links(free) >> 16) as u16;
        }
        let mut taken = self.in_flight(|index| !is_free[usize::from(index)]);
        taken.sort_unstable();
        let mut descriptors = 0;
        for (_, first, count) in &mut taken {
            *count = (self.links(*first) >> 48) as u16;
            descriptors += u32::from(*count);
            let mut index = *first;
            for _ in 0..*count {
                if index >= self.size || *count > self.size {
                    return Err(BadRecord::Inflight("a chain"));
                }
                index = (self.links(index) >> 16) as u16;
            }
        }
        if descriptors > u32::from(self.size) { Err(BadRecord::Inflight("its chains")) } else { Ok(taken) }
    }

    /// Makes a descriptor of an entry available again, at a position inside the ring.
    fn put_back(&self, parts: RingParts, index: u16, at: Position) {
        let addr = u64::from_le(self.entry(index, ADDRESS).load(Ordering::Relaxed));
        let [id, flags, len_low, len_high] =
            unpack(u64::from_le(self.entry(index, ELEMENT).load(Ordering::Relaxed)));
        let flags = flags & !(DESC_F_AVAIL | DESC_F_USED) | at.avail_flags();
        let element = Element { len: u32::from(len_low) | u32::from(len_high) << 16, id, flags };
        let slot = usize::from(at.slot());
        kill::point();
        // SAFETY: the slot is inside the checked ring; of what was taken and not given back it is the device's to write.
        unsafe {
            parts.descriptors.store_packed_addr(slot, addr);
            parts.descriptors.store_packed_element(slot, element, Ordering::Release);
        }
    }

    /// A split ring starts, or goes on, at this used index, with nothing in flight.
    pub(super) fn begin_split(&self, used: u16) {
        // Nothing but the ring counts until all entries are clear.
        self.forget();
        (0..self.size).for_each(|index| self.set_links(index, 0));
        self.set_state(0, used);
    }

    /// A packed ring starts, or goes on, at this position, with nothing in flight.
    pub(super) fn begin_packed(&self, at: Position) {
        let known = self.is_kept() == Ok(true);
        if known {
            // All entries are free, and what is free is not in flight, whatever its flag says. Both ends of the last burst are still there and
            // tell on which side of it the ring is.
            self.set_state(0, 0);
        }
        (0..self.size).for_each(|index| self.set_links(index, free_links(index)));
        self.set_used(at, at);
        if !known {
            self.set_state(0, 0);
        }
    }

    /// The guest of a split ring has been shown all before this used index.
    pub(super) fn shown_split(&self, used: u16) {
        self.set_state(0, used);
    }

    /// The chains of a packed ring from one position to another have been taken, and are about to be shown as used.
    #[cold]
    pub(super) fn take_packed(&mut self, parts: RingParts, from: Position, to: Position) {
        let count = to.since(from, self.size);
        let (mut at, mut first) = (from, 0);
        for index in 0..count {
            // SAFETY: positions stay inside the checked ring.
            let packed = unsafe { parts.descriptors.load_packed(usize::from(at.slot())) };
            let Element { len, id, flags } = packed.element;
            self.entry(index, ADDRESS).store(packed.addr.to_le(), Ordering::Relaxed);
            let element = pack([id, flags, len as u16, (len >> 16) as u16]);
            self.entry(index, ELEMENT).store(element.to_le(), Ordering::Relaxed);
            at = at.advanced(1, self.size);
            if flags & DESC_F_NEXT == 0 || index + 1 == count {
                self.entry(first, COUNTER).store(self.counter.to_le(), Ordering::Relaxed);
                self.counter = self.counter.wrapping_add(1);
                let (last, chain) = (u64::from(index) << 32, u64::from(index - first + 1) << 48);
                self.set_links(first, free_links(first) | IN_FLIGHT | last | chain);
                first = index + 1;
            }
        }
        // Taken: what `old free head` is beyond. That all entries are free again counts when the ring has been written.
        self.set_state(0, count);
        self.set_used(to, from);
    }

    /// The guest has been shown what [`InflightRegion::take_packed`] was about.
    #[cold]
    pub(super) fn shown_packed(&self, from: Position, to: Position) {
        for index in 0..to.since(from, self.size) {
            self.set_links(index, free_links(index));
        }
        self.set_state(0, 0);
        self.set_used(to, to);
    }
}

/// Links of an entry that is free: the next one is the one after it.
fn free_links(index: u16) -> u64 {
    u64::from(index + 1) << 16
}

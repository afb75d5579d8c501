//! What a guest's IOMMU maps, as far as the front-end has told (vhost-user, "IOMMU support").
//!
//! ```text
//!   UPDATE, INVALIDATE ──▶ Iotlb (control thread) ──copy──▶ MemTable::translated ──▶ rings
//!                                ▲                                  │ no translation
//!                                └── UPDATE ◀── front-end ◀── MISS ─┴─ MissQueue
//! ```
//!
//! A sorted list of mappings that do not overlap. Mappings that continue one another, in the guest's addresses and in ours, are one: a
//! guest whose IOMMU passes addresses through has a handful, however many pages it was told of one by one. A guest that maps page
//! by page has many, so their number is bounded; beyond it one is forgotten for each that comes, and asked for again when it is needed.
//!
//! Cost: an update or invalidation copies the list once for the rings, 40 bytes a mapping; a look-up that a ring's cache
//! does not answer is a binary search.

use std::ops::Range;
use std::sync::atomic::AtomicU64;

use pmd::virtio::SharedPtr;

use super::MemTable;

/// Most mappings kept. DPDK keeps 2048.
pub(crate) const MAX_ENTRIES: usize = 4096;

/// What a device may do with memory, or wants to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Access(u8);

impl Access {
    pub(crate) const READ: Access = Access(1);
    pub(crate) const WRITE: Access = Access(2);
    pub(crate) const BOTH: Access = Access(3);

    /// The protocol's `perm`; none when nothing, or something unknown, is allowed.
    pub(crate) fn from_bits(bits: u8) -> Option<Access> {
        (1..=3).contains(&bits).then_some(Access(bits))
    }

    /// As in the protocol.
    pub(crate) fn bits(self) -> u8 {
        self.0
    }

    /// Whether who has this may do `wanted`.
    #[inline]
    pub(crate) fn allows(self, wanted: Access) -> bool {
        self.0 & wanted.0 == wanted.0
    }
}

/// A translation as the front-end tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Translation {
    /// First address of the guest's device.
    pub(crate) iova: u64,
    pub(crate) len: u64,
    /// Where it is in the front-end's process.
    pub(crate) uva: u64,
    pub(crate) access: Access,
}

/// Why a translation was refused.
#[derive(thiserror::Error, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TranslationError {
    #[error("IOTLB update of I/O address {iova:#x} is empty")]
    Empty { iova: u64 },
    #[error("IOTLB update of I/O address {iova:#x} (length {len:#x}) wraps around")]
    Wraps { iova: u64, len: u64 },
    #[error(
        "IOTLB update of I/O address {iova:#x}: front-end address {uva:#x}, length {len:#x}, is not inside one memory region"
    )]
    Outside { iova: u64, uva: u64, len: u64 },
}

/// A translation with where the memory is mapped here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) told: Translation,
    pub(super) host: SharedPtr,
}

impl Entry {
    pub(super) fn end(&self) -> u64 {
        // Checked when it came.
        self.told.iova.wrapping_add(self.told.len)
    }

    /// The part from `iova` on, for `len` bytes, which lie inside.
    #[expect(unsafe_code, reason = "a part of what is mapped")]
    pub(super) fn part(&self, iova: u64, len: u64) -> Entry {
        let offset = iova.wrapping_sub(self.told.iova);
        // SAFETY: offset < told.len, all of which is mapped.
        let host = unsafe { self.host.add(offset as usize) };
        Entry { told: Translation { iova, len, uva: self.told.uva.wrapping_add(offset), ..self.told }, host }
    }

    /// Whether `next` begins where this ends, here and there.
    pub(super) fn continues(&self, next: &Entry) -> bool {
        self.end() == next.told.iova
            && self.told.uva.wrapping_add(self.told.len) == next.told.uva
            && (self.host.addr() as u64).wrapping_add(self.told.len) == next.host.addr() as u64
            && self.told.access == next.told.access
    }
}

/// See the module.
#[derive(Default, Debug)]
pub(crate) struct Iotlb {
    /// Sorted by address, without overlap.
    entries: Vec<Entry>,
    /// Which one goes next when there are too many: round and round.
    hand: usize,
    /// How many went so.
    evicted: u64,
}

impl Iotlb {
    /// All mappings, sorted.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether `iova` is translated for this access.
    pub(crate) fn has(&self, iova: u64, access: Access) -> bool {
        self.find(iova).is_some_and(|m| m.told.access.allows(access))
    }

    /// Mappings given up for lack of room.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Adds a translation; where there was one, the new one counts. False when that changes nothing.
    pub(crate) fn update(&mut self, told: Translation, memory: &MemTable) -> Result<bool, TranslationError> {
        let Translation { iova, len, uva, .. } = told;
        if len == 0 {
            return Err(TranslationError::Empty { iova });
        }
        let end = iova.checked_add(len).ok_or(TranslationError::Wraps { iova, len })?;
        let host = memory.by_uva(uva, len).ok_or(TranslationError::Outside { iova, uva, len })?;
        let new = Entry { told, host };
        let covering = self.find(iova).filter(|old| end <= old.end());
        if covering.is_some_and(|old| old.part(iova, len) == new) {
            return Ok(false);
        }
        self.carve(iova, end);
        let at = self.entries.partition_point(|m| m.told.iova < iova);
        self.entries.insert(at, new);
        self.merge_with_next(at, memory);
        if let Some(before) = at.checked_sub(1) {
            self.merge_with_next(before, memory);
        }
        self.keep_bound(iova..end);
        Ok(true)
    }

    /// Forgets what is known of `len` bytes from `iova` on. An impossible range is taken for all from `iova` on: to forget too
    /// much is only slow. False when nothing was known.
    pub(crate) fn invalidate(&mut self, iova: u64, len: u64) -> bool {
        let end = iova.checked_add(len).filter(|&end| end > iova).unwrap_or(u64::MAX);
        let known = self.carve(iova, end);
        // A mapping cut in the middle is two.
        self.keep_bound(0..0);
        known
    }

    /// Finds everything again in another memory table; what is not in it is forgotten.
    pub(crate) fn rebase(&mut self, memory: &MemTable) {
        self.entries.retain_mut(|m| match memory.by_uva(m.told.uva, m.told.len) {
            Some(host) => {
                m.host = host;
                true
            }
            None => false,
        });
    }

    /// The mapping that has `iova`.
    fn find(&self, iova: u64) -> Option<&Entry> {
        find(&self.entries, iova)
    }

    /// Cuts a range out. False when nothing was there.
    fn carve(&mut self, start: u64, end: u64) -> bool {
        let first = self.entries.partition_point(|m| m.end() <= start);
        let after = self.entries.partition_point(|m| m.told.iova < end);
        if first >= after {
            return false;
        }
        // Of the first and the last a part may stay.
        let left = self.entries.get(first).filter(|m| m.told.iova < start);
        let left = left.map(|m| m.part(m.told.iova, start - m.told.iova));
        let right = self.entries.get(after - 1).filter(|m| m.end() > end);
        let right = right.map(|m| m.part(end, m.end() - end));
        self.entries.splice(first..after, left.into_iter().chain(right));
        true
    }

    /// Makes two entries one that continue one another, inside one region: what is found is taken to lie in one.
    fn merge_with_next(&mut self, at: usize, memory: &MemTable) {
        if let Some([this, next]) = self.entries.get_mut(at..at + 2)
            && this.continues(next)
            && memory.by_uva(this.told.uva, this.told.len + next.told.len) == Some(this.host)
        {
            this.told.len += next.told.len;
            self.entries.remove(at + 1);
        }
    }

    /// Forgets mappings beyond the bound, but none that has `newest`.
    fn keep_bound(&mut self, newest: Range<u64>) {
        while self.entries.len() > MAX_ENTRIES {
            let mut victim = self.hand % self.entries.len();
            let has_newest = |m: &Entry| m.told.iova < newest.end && newest.start < m.end();
            if self.entries.get(victim).is_some_and(has_newest) {
                victim = (victim + 1) % self.entries.len();
            }
            self.entries.remove(victim);
            // What followed has moved into its place.
            self.hand = victim + 1;
            self.evicted += 1;
        }
    }
}

/// The mapping of a sorted list that has `iova`.
pub(super) fn find(entries: &[Entry], iova: u64) -> Option<&Entry> {
    let after = entries.partition_point(|m| m.told.iova <= iova);
    entries.get(after.checked_sub(1)?).filter(|m| iova < m.end())
}

/// What the operator may want to know.
#[derive(Default, Debug)]
pub(crate) struct IotlbCounters {
    /// Mappings known now.
    pub(crate) entries: AtomicU64,
    /// Misses sent to the front-end.
    pub(crate) misses: AtomicU64,
    /// Updates and invalidations that came.
    pub(crate) updates: AtomicU64,
    pub(crate) invalidations: AtomicU64,
    /// Mappings given up for lack of room.
    pub(crate) evicted: AtomicU64,
}

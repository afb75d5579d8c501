//! One cache line of a subtable: eight ways of tag and slot number.
//!
//! All eight tags are compared at once: by one instruction on x86-64, whose baseline has it.

use crate::simd::lanes_with;

/// Ways of a bucket.
pub(super) const WAYS: usize = 8;

/// A bitmap of ways: way `w` is bit `2 w`.
pub(super) type Ways = u32;

/// Eight entries' tags and where their keys and values lie.
#[repr(C, align(64))]
#[derive(Clone, Copy, Default)]
pub(super) struct Bucket {
    /// Sixteen bits of each entry's hash; zero for an empty way.
    tags: [u16; WAYS],
    /// Place of each entry in the subtable's dense arrays. Says nothing where the tag is zero.
    slots: [u32; WAYS],
    /// Entries that belong here and had to go on to a later bucket: zero ends a search. At its maximum it has
    /// lost count and stays.
    pub(super) overflow: u16,
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    /// The tag that stands for a hash: its high half, never zero.
    #[inline(always)]
    pub(super) fn tag(hash: u32) -> u16 {
        ((hash >> 16) as u16).max(1)
    }

    /// Slots of the ways with that tag.
    #[inline(always)]
    pub(super) fn candidates(&self, tag: u16) -> impl Iterator<Item = usize> + '_ {
        self.slots_of(self.ways_with(tag))
    }

    /// Slots of some ways, given as [`Bucket::ways_with`] gives them.
    #[inline(always)]
    pub(super) fn slots_of(&self, mut ways: Ways) -> impl Iterator<Item = usize> + '_ {
        core::iter::from_fn(move || {
            if ways == 0 {
                return None;
            }
            let slot = self.first_slot_of(ways);
            ways &= ways - 1;
            Some(slot)
        })
    }

    /// The slot of the first of some ways, or of any way when there is none: to be asked for, not believed.
    #[inline(always)]
    pub(super) fn first_slot_of(&self, ways: Ways) -> usize {
        self.slots[first_way(ways)] as usize
    }

    /// Puts an entry into an empty way. False if there is none.
    pub(super) fn put(&mut self, tag: u16, slot: u32) -> bool {
        let empty = self.ways_with(0);
        if empty == 0 {
            return false;
        }
        let way = first_way(empty);
        (self.tags[way], self.slots[way]) = (tag, slot);
        true
    }

    /// Empties the way of an entry. False if the entry is not here.
    pub(super) fn take(&mut self, slot: u32) -> bool {
        self.way_of(slot).map(|way| self.tags[way] = 0).is_some()
    }

    /// Tells the way of an entry that its key and value have moved. False if the entry is not here.
    pub(super) fn renumber(&mut self, from: u32, to: u32) -> bool {
        self.way_of(from).map(|way| self.slots[way] = to).is_some()
    }

    fn way_of(&self, slot: u32) -> Option<usize> {
        (0..WAYS).find(|way| self.slots[*way] == slot && self.tags[*way] != 0)
    }

    /// The ways with that tag.
    #[inline(always)]
    pub(super) fn ways_with(&self, tag: u16) -> Ways {
        lanes_with(self.tags, tag)
    }
}

/// The lowest of some ways; some way when there is none.
#[inline(always)]
fn first_way(ways: Ways) -> usize {
    ways.trailing_zeros() as usize / 2 % WAYS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_exactly_the_ways_with_a_tag() {
        // Neighbours that differ in the lowest or highest bit are where a carry would show.
        let tags = [1, 2, 0x8001, 0xffff, 0x7fff, 0x8000, 1, 3];
        let mut bucket = Bucket::default();
        for (slot, tag) in tags.iter().enumerate() {
            assert!(bucket.put(*tag, slot as u32));
        }
        assert!(!bucket.put(1, 99));
        for tag in 1..=u16::MAX {
            let found: Vec<usize> = bucket.candidates(tag).collect();
            let expected: Vec<usize> = (0..WAYS).filter(|way| tags[*way] == tag).collect();
            assert_eq!(found, expected, "{tag:04x}");
        }
    }

    #[test]
    fn ways_are_freed_renumbered_and_taken_again() {
        let mut bucket = Bucket::default();
        assert!(!bucket.take(0), "an empty way has no slot");
        for slot in 0..8 {
            assert!(bucket.put(7, slot));
        }
        assert!(bucket.take(3));
        assert!(!bucket.take(3));
        assert!(bucket.renumber(7, 3));
        assert!(!bucket.renumber(7, 3));
        assert!(bucket.put(9, 8));
        assert_eq!(bucket.candidates(9).collect::<Vec<_>>(), [8]);
        assert_eq!(bucket.candidates(7).collect::<Vec<_>>(), [0, 1, 2, 4, 5, 6, 3]);
        assert_eq!(bucket.candidates(0).count(), 0);
    }
}

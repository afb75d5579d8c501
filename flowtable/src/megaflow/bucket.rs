//! One cache line of a subtable: eight ways of tag and slot number.

/// Ways of a bucket.
pub(super) const WAYS: usize = 8;

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
        let mut ways = self.ways_with(tag);
        core::iter::from_fn(move || {
            let slot = *self.slots.get(ways.trailing_zeros() as usize)?;
            ways &= ways - 1;
            Some(slot as usize)
        })
    }

    /// Puts an entry into an empty way. False if there is none.
    pub(super) fn put(&mut self, tag: u16, slot: u32) -> bool {
        let way = self.ways_with(0).trailing_zeros() as usize;
        match (self.tags.get_mut(way), self.slots.get_mut(way)) {
            (Some(tag_place), Some(slot_place)) => {
                *tag_place = tag;
                *slot_place = slot;
                true
            }
            _ => false,
        }
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
        (0..WAYS).find(|way| self.tags[*way] != 0 && self.slots[*way] == slot)
    }

    /// Bitmap of the ways with that tag; eight compares that the compiler makes one.
    #[inline(always)]
    fn ways_with(&self, tag: u16) -> u32 {
        let mut ways = 0;
        for (way, have) in self.tags.iter().enumerate() {
            ways |= u32::from(*have == tag) << way;
        }
        ways
    }
}

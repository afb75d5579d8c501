//! The signature cache: where in the megaflow table was a packet with this hash found?
//!
//! A table with many masks tries one subtable after the other. The cache names the right one at once: from the hash of
//! the whole key to the [`Place`] where such a key was found the last time. It keeps neither keys nor values. What
//! stands in the place must match the packet, and then it is right, however it came there: entries that match the same
//! packet agree. So nobody tells the cache of changes, and eight bytes are all that a flow costs.
//!
//! Sets of four hints, two to a cache line. For a table of one or two masks the cache is a detour.

use crate::megaflow::Place;
use crate::simd::prefetch;

/// Hints of a cache made by [`SignatureCache::new`]: 256 KiB.
pub const DEFAULT_HINTS: usize = 1 << 15;

const WAYS: usize = 4;

/// One remembered place.
#[derive(Clone, Copy, Default)]
struct Hint {
    /// The high half of the hash, never zero; zero for an empty way.
    tag: u16,
    subtable: u16,
    slot: u32,
}

#[derive(Clone, Copy, Default)]
#[repr(align(32))]
struct Set([Hint; WAYS]);

/// A fixed-size map from hashes to places, which forgets when it must. One thread's own.
pub struct SignatureCache {
    /// Length a power of two.
    sets: Vec<Set>,
    /// Which way the next full set gives up.
    victim: usize,
}

impl Default for SignatureCache {
    fn default() -> SignatureCache {
        SignatureCache::new()
    }
}

impl SignatureCache {
    /// A cache of [`DEFAULT_HINTS`].
    pub fn new() -> SignatureCache {
        SignatureCache::with_hints(DEFAULT_HINTS)
    }

    /// A cache of so many hints, rounded up to a power of two between 4 and 262144: more sets than the low half of a hash
    /// tells apart would never be used.
    pub fn with_hints(hints: usize) -> SignatureCache {
        let sets = (hints.min(WAYS << 16) / WAYS).next_power_of_two();
        SignatureCache { sets: vec![Set::default(); sets], victim: 0 }
    }

    /// Number of hints it can hold.
    pub fn capacity(&self) -> usize {
        self.sets.len() * WAYS
    }

    /// Asks for the line that [`SignatureCache::get`] will read.
    #[inline(always)]
    pub fn prefetch(&self, hash: u32) {
        if let Some(set) = self.sets.get(self.set(hash)) {
            prefetch(set);
        }
    }

    /// The place last stored for a key of that hash ([`hash_key`](crate::key::hash_key)), or for one that looks like it.
    #[inline]
    pub fn get(&self, hash: u32) -> Option<Place> {
        let hint = self.sets.get(self.set(hash))?.0.iter().find(|hint| hint.tag == tag(hash))?;
        Some(Place { subtable: hint.subtable, slot: hint.slot })
    }

    /// Stores a place, over the one that keys of the same look had, or in an empty way, or over another.
    pub fn put(&mut self, hash: u32, place: Place) {
        let (set, tag) = (self.set(hash), tag(hash));
        let ways = &mut self.sets[set].0;
        let way =
            ways.iter().position(|hint| hint.tag == tag).or_else(|| ways.iter().position(|h| h.tag == 0));
        let way = way.unwrap_or_else(|| {
            self.victim = (self.victim + 1) % WAYS;
            self.victim
        });
        ways[way] = Hint { tag, subtable: place.subtable, slot: place.slot };
    }

    #[inline(always)]
    fn set(&self, hash: u32) -> usize {
        hash as u16 as usize & (self.sets.len() - 1)
    }
}

#[inline(always)]
fn tag(hash: u32) -> u16 {
    ((hash >> 16) as u16).max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn place(n: u32) -> Place {
        Place { subtable: n as u16 % 7, slot: n }
    }

    #[test]
    fn a_set_is_half_a_line() {
        assert_eq!((size_of::<Set>(), align_of::<Set>()), (32, 32));
    }

    #[test]
    fn sizes_are_rounded_up() {
        assert_eq!(SignatureCache::new().capacity(), DEFAULT_HINTS);
        assert_eq!(SignatureCache::with_hints(0).capacity(), 4);
        assert_eq!(SignatureCache::with_hints(100).capacity(), 128);
        assert_eq!(SignatureCache::with_hints(usize::MAX).capacity(), 1 << 18);
    }

    #[test]
    fn a_set_holds_four_and_then_forgets_one() {
        let mut cache = SignatureCache::new();
        for n in 1..=5u32 {
            cache.put(n << 16, place(n));
            assert_eq!(cache.get(n << 16), Some(place(n)));
        }
        assert_eq!((1..=5u32).filter(|n| cache.get(n << 16).is_some()).count(), 4);
    }

    proptest! {
        /// It may forget, but what it remembers is what was stored last under that set and tag.
        #[test]
        fn remembers_the_last(
            hints in 0usize..40,
            puts in prop::collection::vec((0u32..8, 0u32..6, any::<u32>()), 1..200),
        ) {
            let mut cache = SignatureCache::with_hints(hints);
            let mut last = HashMap::new();
            let sets = (cache.capacity() / WAYS) as u32;
            for (high, low, n) in puts {
                let hash = high << 16 | low;
                cache.put(hash, place(n));
                last.insert((low % sets, high.max(1)), place(n));
                prop_assert_eq!(cache.get(hash), Some(place(n)));
            }
            for (high, low) in (0..8).flat_map(|high| (0..6).map(move |low| (high, low))) {
                if let Some(found) = cache.get(high << 16 | low) {
                    prop_assert_eq!(Some(&found), last.get(&(low % sets, high.max(1))));
                }
            }
        }
    }
}

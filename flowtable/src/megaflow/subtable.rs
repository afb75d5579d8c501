//! The megaflows of one mask: a hash table over the words that mask touches.
//!
//! ```text
//!  hash ──▶ bucket (one line: 8 tags, 8 slots) ──▶ keys[slot · words ..]   only the masked words, compact
//!                                             └──▶ values[slot]
//! ```
//!
//! Keys and values lie dense, in no order, so that walking all entries is a walk over arrays and an entry of a
//! typical mask (four words) takes half a line. A full bucket passes entries on to the next one and counts them;
//! a search goes on only from a bucket that has passed some on. The table grows at seven eighths and shrinks at
//! one eighth.
//!
//! Growth depends on the number of entries alone. Flows whose hashes a peer made collide cost longer searches,
//! never memory.

use super::bucket::{Bucket, WAYS};
use crate::key::{FlowKey, FlowMask, SparseMask, hash_masked};

/// Packets that a burst lookup handles at a time: the bits of its bitmaps.
pub(super) const BURST: usize = 32;

/// One mask's entries. Never empty inside a table.
pub(super) struct Subtable<V> {
    mask: SparseMask,
    /// Length a power of two.
    buckets: Vec<Bucket>,
    /// `mask.stride()` words for each slot.
    keys: Vec<u64>,
    hashes: Vec<u32>,
    values: Vec<V>,
    pub(super) hits: u64,
}

impl<V: Copy> Subtable<V> {
    pub(super) fn new(mask: &FlowMask, seed: u64) -> Subtable<V> {
        Subtable {
            mask: SparseMask::new(mask, seed),
            buckets: vec![Bucket::default()],
            keys: Vec::new(),
            hashes: Vec::new(),
            values: Vec::new(),
            hits: 0,
        }
    }

    pub(super) fn mask(&self) -> FlowMask {
        self.mask.to_mask()
    }

    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    /// Every entry's masked key and value.
    pub(super) fn iter(&self) -> impl Iterator<Item = (FlowKey, V)> + '_ {
        self.values.iter().enumerate().map(|(slot, value)| (self.mask.expand(self.key(slot)), *value))
    }

    #[inline]
    pub(super) fn lookup(&self, key: &FlowKey) -> Option<V> {
        let slot = self.find(key, self.hash(key))?;
        self.values.get(slot).copied()
    }

    /// Looks up the packets in `wanted` and returns those it found, in three passes over the burst.
    ///
    /// Hashes come first, so that the multiplies of one packet fill the waits of another. Then each packet's bucket
    /// is asked for the tag, without a branch, so that the cache misses of the burst overlap and a packet that is
    /// not here, as is most often so, has no more to pay. Keys are compared last.
    #[inline]
    pub(super) fn lookup_burst(&self, keys: &[FlowKey], wanted: u32, out: &mut [Option<V>]) -> u32 {
        let mut hashes = [0; BURST];
        for i in bits(wanted) {
            hashes[i] = self.hash(&keys[i]);
        }
        let (mut likely, mut ways) = (0, [0; BURST]);
        for i in bits(wanted) {
            let bucket = self.first_bucket(hashes[i]);
            ways[i] = bucket.ways_with(Bucket::tag(hashes[i]));
            likely |= u32::from((ways[i] | u64::from(bucket.overflow)) != 0) << i;
        }
        let mut found = 0;
        for i in bits(likely) {
            let bucket = self.first_bucket(hashes[i]);
            let here = bucket.slots_of(ways[i]).find(|slot| self.mask.equals(&keys[i], self.key(*slot)));
            if let Some(slot) = here.or_else(|| self.find_further(&keys[i], hashes[i])) {
                out[i] = Some(self.values[slot]);
                found |= 1 << i;
            }
        }
        found
    }

    pub(super) fn insert(&mut self, key: &FlowKey, value: V) -> Option<V> {
        let hash = self.hash(key);
        if let Some(slot) = self.find(key, hash) {
            return Some(core::mem::replace(&mut self.values[slot], value));
        }
        if (self.len() + 1) * 8 > self.buckets.len() * WAYS * 7 {
            self.rebuild(self.buckets.len() * 2);
        }
        self.place(hash, self.len() as u32);
        self.keys.extend(self.mask.masked(key).flatten());
        self.hashes.push(hash);
        self.values.push(value);
        None
    }

    pub(super) fn remove(&mut self, key: &FlowKey) -> Option<V> {
        let slot = self.find(key, self.hash(key))?;
        let value = self.remove_slot(slot);
        self.shrink();
        Some(value)
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&V) -> bool) {
        // Backwards: the entry that moves into a freed slot has been asked already.
        for slot in (0..self.len()).rev() {
            if !keep(&self.values[slot]) {
                self.remove_slot(slot);
            }
        }
        self.shrink();
    }

    #[inline(always)]
    fn hash(&self, key: &FlowKey) -> u32 {
        hash_masked(key, &self.mask)
    }

    #[inline(always)]
    fn key(&self, slot: usize) -> &[u64] {
        let words = self.mask.stride();
        &self.keys[slot * words..(slot + 1) * words]
    }

    /// Slot of the entry that matches a packet.
    #[inline(always)]
    fn find(&self, key: &FlowKey, hash: u32) -> Option<usize> {
        let found = self.find_in(self.first_bucket(hash), key, hash);
        if found.is_some() { found } else { self.find_further(key, hash) }
    }

    #[inline(always)]
    fn first_bucket(&self, hash: u32) -> &Bucket {
        &self.buckets[hash as usize & (self.buckets.len() - 1)]
    }

    /// Goes on behind the first bucket, if that has passed any entry on.
    #[inline]
    fn find_further(&self, key: &FlowKey, hash: u32) -> Option<usize> {
        if self.first_bucket(hash).overflow == 0 { None } else { self.find_on_path(key, hash) }
    }

    /// Rare, so it stays out of the loops that look up bursts.
    #[cold]
    fn find_on_path(&self, key: &FlowKey, hash: u32) -> Option<usize> {
        for bucket in self.path(hash).skip(1) {
            let bucket = &self.buckets[bucket];
            let found = self.find_in(bucket, key, hash);
            if found.is_some() || bucket.overflow == 0 {
                return found;
            }
        }
        None
    }

    #[inline(always)]
    fn find_in(&self, bucket: &Bucket, key: &FlowKey, hash: u32) -> Option<usize> {
        bucket.candidates(Bucket::tag(hash)).find(|slot| self.mask.equals(key, self.key(*slot)))
    }

    /// Indexes of the buckets in the order a search visits them, each once.
    #[inline(always)]
    fn path(&self, hash: u32) -> impl Iterator<Item = usize> + use<V> {
        let last = self.buckets.len() - 1;
        (0..=last).map(move |step| (hash as usize).wrapping_add(step) & last)
    }

    /// Enters a slot into the buckets; there is room.
    fn place(&mut self, hash: u32, slot: u32) {
        for bucket in self.path(hash) {
            let bucket = &mut self.buckets[bucket];
            if bucket.put(Bucket::tag(hash), slot) {
                return;
            }
            bucket.overflow = bucket.overflow.saturating_add(1);
        }
    }

    fn remove_slot(&mut self, slot: usize) -> V {
        for bucket in self.path(self.hashes[slot]) {
            let bucket = &mut self.buckets[bucket];
            if bucket.take(slot as u32) {
                break;
            }
            if bucket.overflow != u16::MAX {
                bucket.overflow -= 1;
            }
        }
        let (last, words) = (self.len() - 1, self.mask.stride());
        if slot != last {
            for bucket in self.path(self.hashes[last]) {
                if self.buckets[bucket].renumber(last as u32, slot as u32) {
                    break;
                }
            }
            self.keys.copy_within(last * words.., slot * words);
        }
        self.keys.truncate(last * words);
        self.hashes.swap_remove(slot);
        self.values.swap_remove(slot)
    }

    fn shrink(&mut self) {
        let fit = (self.len() * 4).div_ceil(WAYS).next_power_of_two();
        if self.len() < self.buckets.len() * WAYS / 8 && fit < self.buckets.len() {
            self.rebuild(fit);
            self.keys.shrink_to(self.len() * 2 * self.mask.stride());
            self.hashes.shrink_to(self.len() * 2);
            self.values.shrink_to(self.len() * 2);
        }
    }

    fn rebuild(&mut self, buckets: usize) {
        self.buckets = vec![Bucket::default(); buckets];
        for slot in 0..self.len() {
            self.place(self.hashes[slot], slot as u32);
        }
    }
}

/// Indexes of the set bits.
#[inline(always)]
pub(super) fn bits(mut bitmap: u32) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        if bitmap == 0 {
            return None;
        }
        let bit = bitmap.trailing_zeros() as usize;
        bitmap &= bitmap - 1;
        Some(bit)
    })
}

#[cfg(test)]
mod tests;

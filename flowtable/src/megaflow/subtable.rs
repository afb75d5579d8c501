//! The megaflows of one mask: a hash table over the words that mask touches.
//!
//! ```text
//!  hash ──▶ bucket (one line: 8 tags, 8 slots) ──▶ entries[slot]: masked words and value, one line
//! ```
//!
//! Entries lie dense, in no order, so that walking them is a walk over an array. Up to seven words and the first eight bytes of a
//! value are one cache line: that is every mask of a bridge and the five-tuple of either IP. A full bucket passes entries
//! on to the next one and counts them; a search goes on only from a bucket that has passed some on. The table grows at
//! seven eighths and shrinks at one eighth.
//!
//! The number of words is a constant of the type, so a mask is applied, hashed and compared without a loop. The table of
//! tables sees all of them as one [`Subtable`], asked once per burst.
//!
//! Growth depends on the number of entries alone. Flows whose hashes a peer made collide cost longer searches,
//! never memory.

use core::cell::Cell;
use core::num::NonZeroU32;

use super::bucket::{Bucket, WAYS, Ways};
use super::tuples::Place;
use crate::key::{FlowKey, FlowMask, KEY_WORDS, SparseMask};
use crate::simd::prefetch;

/// Packets that a burst lookup handles at a time: the bits of its bitmaps.
pub(super) const BURST: usize = 32;

/// One mask's entries, whatever the number of its words.
pub(super) trait Subtable<V> {
    /// The mask all entries share.
    fn mask(&self) -> FlowMask;

    /// Number of entries. Never zero inside a table.
    fn len(&self) -> usize;

    /// Masked key and value of the entry in a slot below [`Subtable::len`].
    fn entry(&self, slot: usize) -> (FlowKey, &V);

    /// Packets found here of late.
    fn hits(&self) -> &Cell<u64>;

    /// The value of the entry that matches a packet.
    fn get(&self, key: &FlowKey) -> Option<&V>;

    /// The value of the entry in a slot, if there is one and it matches a packet.
    fn get_at(&self, slot: u32, key: &FlowKey) -> Option<&V>;

    /// Looks up the packets in `wanted` and returns those it found; writes their values and places.
    fn lookup_burst<'t>(&'t self, keys: &[FlowKey], wanted: u32, found: &mut Found<'_, 't, V>) -> u32;

    /// Stores a value; returns the one that was there.
    fn insert(&mut self, key: &FlowKey, value: V) -> Option<V>;

    /// Removes an entry; returns its value.
    fn remove(&mut self, key: &FlowKey) -> Option<V>;
}

/// Where a burst lookup writes what it finds, by packet.
pub(super) struct Found<'o, 't, V> {
    pub(super) values: &'o mut [Option<&'t V>; BURST],
    pub(super) places: &'o mut [Place; BURST],
    /// The number of the subtable asked, for the places.
    pub(super) number: u16,
}

impl<'t, V> Found<'_, 't, V> {
    #[inline(always)]
    fn put(&mut self, packet: usize, value: &'t V, slot: usize) {
        self.values[packet] = Some(value);
        self.places[packet] = Place { subtable: self.number, slot: slot as u32 };
    }
}

/// An empty subtable for a mask.
pub(super) fn subtable<V: Send + 'static>(mask: &FlowMask, seed: u64) -> Box<dyn Subtable<V> + Send> {
    fn fit<const N: usize, V: Send + 'static>(
        mask: &FlowMask,
        seed: u64,
    ) -> Option<Box<dyn Subtable<V> + Send>> {
        SparseMask::<N>::new(mask, seed).map(|mask| Box::new(Words::new(mask)) as _)
    }
    None.or_else(|| fit::<1, V>(mask, seed))
        .or_else(|| fit::<2, V>(mask, seed))
        .or_else(|| fit::<3, V>(mask, seed))
        .or_else(|| fit::<4, V>(mask, seed))
        .or_else(|| fit::<5, V>(mask, seed))
        .or_else(|| fit::<6, V>(mask, seed))
        .or_else(|| fit::<7, V>(mask, seed))
        .or_else(|| fit::<8, V>(mask, seed))
        .or_else(|| fit::<10, V>(mask, seed))
        .or_else(|| fit::<15, V>(mask, seed))
        .or_else(|| fit::<KEY_WORDS, V>(mask, seed))
        .unwrap_or_else(|| unreachable!("a mask has no more words than a key"))
}

/// A masked key and its value, from a cache line on.
#[repr(C, align(64))]
struct Entry<const N: usize, V> {
    key: [u64; N],
    value: V,
}

impl<const N: usize, V> Entry<N, V> {
    /// Whether the entry has that masked key. In line, where `==` of arrays is a call.
    #[inline(always)]
    fn has(&self, masked: &[u64; N]) -> bool {
        self.key.iter().zip(masked).fold(0, |differ, (have, want)| differ | (have ^ want)) == 0
    }
}

/// What a burst lookup knows of its packets so far.
struct Sought<const N: usize> {
    masked: [[u64; N]; BURST],
    hashes: [u32; BURST],
    /// Ways of the bucket that may hold the packet's entry.
    ways: [Ways; BURST],
}

/// A subtable of `N` words.
struct Words<const N: usize, V> {
    mask: SparseMask<N>,
    /// Length a power of two.
    buckets: Vec<Bucket>,
    entries: Vec<Entry<N, V>>,
    /// Apart from the entries: only changes need them.
    hashes: Vec<u32>,
    hits: Cell<u64>,
}

impl<const N: usize, V> Subtable<V> for Words<N, V> {
    fn mask(&self) -> FlowMask {
        self.mask.to_mask()
    }

    fn len(&self) -> usize {
        self.entries.len()
    }

    fn entry(&self, slot: usize) -> (FlowKey, &V) {
        let entry = &self.entries[slot];
        (self.mask.expand(&entry.key), &entry.value)
    }

    fn hits(&self) -> &Cell<u64> {
        &self.hits
    }

    fn get(&self, key: &FlowKey) -> Option<&V> {
        let masked = self.mask.masked(key);
        let slot = self.find(&masked, self.mask.hash(&masked))?;
        self.entries.get(slot).map(|entry| &entry.value)
    }

    fn get_at(&self, slot: u32, key: &FlowKey) -> Option<&V> {
        let entry = self.entries.get(slot as usize)?;
        entry.has(&self.mask.masked(key)).then_some(&entry.value)
    }

    fn lookup_burst<'t>(&'t self, keys: &[FlowKey], wanted: u32, found: &mut Found<'_, 't, V>) -> u32 {
        if wanted.is_power_of_two() {
            self.lookup_one(keys, wanted, found)
        } else if wanted == low_bits(keys.len()) {
            // Nearly always. A loop over numbers is shorter than one over bits, and needs no check of an index.
            self.lookup_these(keys, 0..keys.len().min(BURST), wanted, found)
        } else {
            self.lookup_these(keys, bits(wanted), wanted, found)
        }
    }

    fn insert(&mut self, key: &FlowKey, value: V) -> Option<V> {
        let masked = self.mask.masked(key);
        let hash = self.mask.hash(&masked);
        if let Some(slot) = self.find(&masked, hash) {
            return Some(core::mem::replace(&mut self.entries[slot].value, value));
        }
        self.add(Entry { key: masked, value }, hash);
        None
    }

    fn remove(&mut self, key: &FlowKey) -> Option<V> {
        let masked = self.mask.masked(key);
        let slot = self.find(&masked, self.mask.hash(&masked))?;
        let value = self.remove_slot(slot);
        self.shrink();
        Some(value)
    }
}

impl<const N: usize, V> Words<N, V> {
    fn new(mask: SparseMask<N>) -> Words<N, V> {
        Words {
            mask,
            buckets: vec![Bucket::default()],
            entries: Vec::new(),
            hashes: Vec::new(),
            hits: Cell::new(0),
        }
    }

    /// In three passes over the burst, so that the cache misses of its packets overlap: hashes, and the buckets are
    /// asked for; tags, without a branch, and the entries are asked for; keys. A packet that is not here, as is most
    /// often so, pays for the first two. `packets` are the numbers of the bits in `wanted`.
    #[inline(always)]
    fn lookup_these<'t>(
        &'t self,
        keys: &[FlowKey],
        packets: impl Iterator<Item = usize> + Clone,
        wanted: u32,
        found: &mut Found<'_, 't, V>,
    ) -> u32 {
        let mut sought = Sought { masked: [[0; N]; BURST], hashes: [0; BURST], ways: [0; BURST] };
        let mut buckets = [self.first_bucket(0); BURST];
        for i in packets.clone() {
            let Some(key) = keys.get(i) else { break };
            sought.masked[i] = self.mask.masked(key);
            sought.hashes[i] = self.mask.hash(&sought.masked[i]);
            buckets[i] = self.first_bucket(sought.hashes[i]);
            prefetch(buckets[i]);
        }
        let mut likely = 0;
        for i in packets.clone() {
            let bucket = buckets[i];
            let ways = bucket.ways_with(Bucket::tag(sought.hashes[i]));
            sought.ways[i] = ways;
            likely |= u32::from((ways | u32::from(bucket.overflow)) != 0) << i;
            // Whatever stands in a way is a slot, so of a packet that is not here some entry is asked for in vain.
            if let Some(entry) = self.entries.get(bucket.first_slot_of(ways)) {
                prefetch(entry);
            }
        }
        if likely == wanted {
            self.compare(packets, &sought, &buckets, found)
        } else {
            self.compare(bits(likely), &sought, &buckets, found)
        }
    }

    /// The last pass: which of some packets have the key that they seem to have.
    #[inline(always)]
    fn compare<'t>(
        &'t self,
        packets: impl Iterator<Item = usize>,
        sought: &Sought<N>,
        buckets: &[&Bucket; BURST],
        found: &mut Found<'_, 't, V>,
    ) -> u32 {
        let mut hits = 0;
        for i in packets {
            let (masked, bucket) = (&sought.masked[i], buckets[i]);
            let here = bucket.slots_of(sought.ways[i]).find_map(|slot| self.entry_of(slot, masked));
            let here = if here.is_none() && bucket.overflow != 0 {
                self.find_on_path(masked, sought.hashes[i]).map(|slot| (slot, &self.entries[slot]))
            } else {
                here
            };
            if let Some((slot, entry)) = here {
                found.put(i, &entry.value, slot);
                hits |= 1 << i;
            }
        }
        hits
    }

    /// A burst of one flow, as bulk traffic makes them: nothing to overlap, and no arrays to clear.
    fn lookup_one<'t>(&'t self, keys: &[FlowKey], wanted: u32, found: &mut Found<'_, 't, V>) -> u32 {
        let i = wanted.trailing_zeros() as usize;
        let masked = self.mask.masked(&keys[i]);
        let Some(slot) = self.find(&masked, self.mask.hash(&masked)) else { return 0 };
        found.put(i, &self.entries[slot].value, slot);
        wanted
    }

    /// Slot of the entry that has this masked key.
    #[inline(always)]
    fn find(&self, masked: &[u64; N], hash: u32) -> Option<usize> {
        let found = self.find_in(self.first_bucket(hash), masked, hash);
        if found.is_some() { found } else { self.find_further(masked, hash) }
    }

    #[inline(always)]
    fn first_bucket(&self, hash: u32) -> &Bucket {
        &self.buckets[hash as usize & (self.buckets.len() - 1)]
    }

    /// Goes on behind the first bucket, if that has passed any entry on.
    #[inline]
    fn find_further(&self, masked: &[u64; N], hash: u32) -> Option<usize> {
        if self.first_bucket(hash).overflow == 0 { None } else { self.find_on_path(masked, hash) }
    }

    /// Rare, so it stays out of the loops that look up bursts.
    #[cold]
    fn find_on_path(&self, masked: &[u64; N], hash: u32) -> Option<usize> {
        for bucket in self.path(hash).skip(1) {
            let bucket = &self.buckets[bucket];
            let found = self.find_in(bucket, masked, hash);
            if found.is_some() || bucket.overflow == 0 {
                return found;
            }
        }
        None
    }

    #[inline(always)]
    fn find_in(&self, bucket: &Bucket, masked: &[u64; N], hash: u32) -> Option<usize> {
        bucket
            .candidates(Bucket::tag(hash))
            .find_map(|slot| self.entry_of(slot, masked))
            .map(|(slot, _)| slot)
    }

    /// The entry in a slot and the slot, if it has that masked key.
    #[inline(always)]
    fn entry_of(&self, slot: usize, masked: &[u64; N]) -> Option<(usize, &Entry<N, V>)> {
        self.entries.get(slot).filter(|entry| entry.has(masked)).map(|entry| (slot, entry))
    }

    /// Indexes of the buckets in the order a search visits them, each once.
    #[inline(always)]
    fn path(&self, hash: u32) -> impl Iterator<Item = usize> + use<N, V> {
        let last = self.buckets.len() - 1;
        (0..=last).map(move |step| (hash as usize).wrapping_add(step) & last)
    }

    /// Appends an entry that is not there yet.
    fn add(&mut self, entry: Entry<N, V>, hash: u32) {
        if (self.entries.len() + 1) * 8 > self.buckets.len() * WAYS * 7 {
            self.rebuild(self.buckets.len() * 2);
        }
        self.place(hash, self.entries.len() as u32);
        self.entries.push(entry);
        self.hashes.push(hash);
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
        let last = self.entries.len() - 1;
        if slot != last {
            for bucket in self.path(self.hashes[last]) {
                if self.buckets[bucket].renumber(last as u32, slot as u32) {
                    break;
                }
            }
        }
        self.hashes.swap_remove(slot);
        self.entries.swap_remove(slot).value
    }

    fn shrink(&mut self) {
        let len = self.entries.len();
        let fit = (len * 4).div_ceil(WAYS).next_power_of_two();
        if len < self.buckets.len() * WAYS / 8 && fit < self.buckets.len() {
            self.rebuild(fit);
            self.hashes.shrink_to(len * 2);
            self.entries.shrink_to(len * 2);
        }
    }

    /// Enters all slots into so many new buckets. A worker waits for it, so the buckets are asked for some slots ahead.
    fn rebuild(&mut self, buckets: usize) {
        const AHEAD: usize = 16;
        self.buckets = vec![Bucket::default(); buckets];
        for slot in 0..self.hashes.len() {
            if let Some(hash) = self.hashes.get(slot + AHEAD) {
                prefetch(self.first_bucket(*hash));
            }
            self.place(self.hashes[slot], slot as u32);
        }
    }
}

/// A bitmap of the first so many packets.
#[inline(always)]
fn low_bits(packets: usize) -> u32 {
    ((1u64 << packets.min(BURST)) - 1) as u32
}

/// Indexes of the set bits.
#[inline(always)]
pub(super) fn bits(mut bitmap: u32) -> impl Iterator<Item = usize> + Clone {
    core::iter::from_fn(move || {
        // Of a number that is not zero the compiler knows that this is below 32, and checks no index.
        let bit = NonZeroU32::new(bitmap)?.trailing_zeros() as usize;
        bitmap &= bitmap - 1;
        Some(bit)
    })
}

#[cfg(test)]
mod tests;

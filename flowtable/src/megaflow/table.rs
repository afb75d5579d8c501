//! Tuple-space search: one hash table per mask, tried in the order of recent hits.

use super::subtable::{BURST, Subtable};
use crate::key::{FlowKey, FlowMask};

/// What one subtable holds and how it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubtableStats {
    /// The mask all its entries share.
    pub mask: FlowMask,
    /// Number of entries.
    pub entries: usize,
    /// Packets found in it, the older ones counting less: halved at each [`MegaflowTable::rank`].
    pub hits: u64,
}

/// A map from masked keys to values. One thread's own.
///
/// The values are handles to whatever a megaflow is (actions, counters): small and `Copy`.
pub struct MegaflowTable<V> {
    /// In the order they are tried; none is empty.
    subtables: Vec<Subtable<V>>,
    len: usize,
    seed: u64,
}

impl<V: Copy> Default for MegaflowTable<V> {
    fn default() -> MegaflowTable<V> {
        MegaflowTable::new()
    }
}

impl<V: Copy> MegaflowTable<V> {
    /// An empty table with a fixed seed: for tests and tools. A switch uses [`MegaflowTable::with_seed`].
    pub fn new() -> MegaflowTable<V> {
        MegaflowTable::with_seed(0)
    }

    /// An empty table whose hashes start from `seed`, a random number that no peer can know, so that none can
    /// choose flows that collide.
    pub fn with_seed(seed: u64) -> MegaflowTable<V> {
        MegaflowTable { subtables: Vec::new(), len: 0, seed }
    }

    /// Stores a value under `mask` applied to `key`; returns the value that was there.
    ///
    /// The caller sees to it that two entries that can match the same packet give it the same fate.
    pub fn insert(&mut self, key: &FlowKey, mask: &FlowMask, value: V) -> Option<V> {
        let at = self.position(mask).unwrap_or_else(|| {
            self.subtables.push(Subtable::new(mask, self.seed));
            self.subtables.len() - 1
        });
        let old = self.subtables[at].insert(key, value);
        self.len += usize::from(old.is_none());
        old
    }

    /// The value of the entry with exactly this mask and masked key, whether or not another one would be found
    /// first by a packet. Counts no hit.
    pub fn get(&self, key: &FlowKey, mask: &FlowMask) -> Option<V> {
        self.subtables[self.position(mask)?].lookup(key)
    }

    /// The value of the first entry found that matches a packet.
    #[inline]
    pub fn lookup(&mut self, key: &FlowKey) -> Option<V> {
        for subtable in &mut self.subtables {
            if let Some(value) = subtable.lookup(key) {
                subtable.hits += 1;
                return Some(value);
            }
        }
        None
    }

    /// Looks up those of the first 32 `keys` whose bit is set in `wanted`; writes each value found to the same
    /// place in `out` and returns the bitmap of hits. Other places of `out` stay as they are, and bits beyond the
    /// shorter of the two slices count as not set.
    pub fn lookup_burst(&mut self, keys: &[FlowKey], wanted: u32, out: &mut [Option<V>]) -> u32 {
        let count = keys.len().min(out.len()).min(BURST);
        let wanted = wanted & ((1u64 << count) - 1) as u32;
        let mut left = wanted;
        for subtable in &mut self.subtables {
            if left == 0 {
                break;
            }
            let found = subtable.lookup_burst(keys, left, out);
            subtable.hits += u64::from(found.count_ones());
            left &= !found;
        }
        wanted & !left
    }

    /// Removes an entry; returns its value.
    pub fn remove(&mut self, key: &FlowKey, mask: &FlowMask) -> Option<V> {
        let at = self.position(mask)?;
        let value = self.subtables[at].remove(key)?;
        self.len -= 1;
        if self.subtables[at].len() == 0 {
            self.subtables.remove(at);
        }
        Some(value)
    }

    /// Keeps the entries whose value `keep` says so of; returns how many went.
    pub fn retain(&mut self, mut keep: impl FnMut(&V) -> bool) -> usize {
        let before = self.len;
        for subtable in &mut self.subtables {
            subtable.retain(&mut keep);
        }
        self.subtables.retain(|subtable| subtable.len() != 0);
        self.len = self.subtables.iter().map(Subtable::len).sum();
        before - self.len
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.subtables.clear();
        self.len = 0;
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries: masked key, mask, value.
    pub fn iter(&self) -> impl Iterator<Item = (FlowKey, FlowMask, V)> + '_ {
        self.subtables.iter().flat_map(|subtable| {
            let mask = subtable.mask();
            subtable.iter().map(move |(key, value)| (key, mask, value))
        })
    }

    /// The subtables in the order they are tried.
    pub fn subtables(&self) -> impl Iterator<Item = SubtableStats> + '_ {
        self.subtables.iter().map(|s| SubtableStats { mask: s.mask(), entries: s.len(), hits: s.hits })
    }

    /// Puts the subtables with the most hits first, then halves the counts, so that old hits fade. Called about
    /// once a second by the table's owner.
    pub fn rank(&mut self) {
        self.subtables.sort_by_key(|subtable| core::cmp::Reverse(subtable.hits));
        for subtable in &mut self.subtables {
            subtable.hits /= 2;
        }
    }

    fn position(&self, mask: &FlowMask) -> Option<usize> {
        self.subtables.iter().position(|subtable| subtable.mask() == *mask)
    }
}

#[cfg(test)]
mod tests;

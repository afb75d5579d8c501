//! Tuple-space search: one hash table per mask, tried in the order of recent hits.

use crate::key::{FlowKey, FlowMask};

/// What one subtable holds and how it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubtableStats {
    /// The mask all its entries share.
    pub mask: FlowMask,
    /// Number of entries.
    pub entries: usize,
    /// Hits since it was made, halved at each [`MegaflowTable::rank`].
    pub hits: u64,
}

struct Subtable<V> {
    mask: FlowMask,
    entries: Vec<(FlowKey, V)>,
    hits: u64,
}

/// A map from masked keys to values. One thread's own.
pub struct MegaflowTable<V> {
    subtables: Vec<Subtable<V>>,
}

impl<V: Copy> Default for MegaflowTable<V> {
    fn default() -> MegaflowTable<V> {
        MegaflowTable::new()
    }
}

impl<V: Copy> MegaflowTable<V> {
    /// An empty table.
    pub fn new() -> MegaflowTable<V> {
        MegaflowTable { subtables: Vec::new() }
    }

    /// An empty table whose hashes are `seed`ed, so that a peer cannot choose flows that collide.
    pub fn with_seed(_seed: u64) -> MegaflowTable<V> {
        MegaflowTable::new()
    }

    /// Stores a value under `mask` applied to `key`; returns the one that was there.
    pub fn insert(&mut self, key: &FlowKey, mask: &FlowMask, value: V) -> Option<V> {
        let masked = mask.apply(key);
        let at = self.subtables.iter().position(|s| s.mask == *mask).unwrap_or_else(|| {
            self.subtables.push(Subtable { mask: *mask, entries: Vec::new(), hits: 0 });
            self.subtables.len() - 1
        });
        let entries = &mut self.subtables[at].entries;
        if let Some((_, old)) = entries.iter_mut().find(|(k, _)| *k == masked) {
            return Some(core::mem::replace(old, value));
        }
        entries.push((masked, value));
        None
    }

    /// The value of the first entry that matches a packet.
    pub fn lookup(&mut self, key: &FlowKey) -> Option<V> {
        for subtable in &mut self.subtables {
            let found = subtable.entries.iter().find(|(masked, _)| subtable.mask.matches(key, masked));
            if let Some((_, value)) = found {
                subtable.hits += 1;
                return Some(*value);
            }
        }
        None
    }

    /// Looks up those of up to 32 `keys` whose bit is set in `wanted`; writes each value found to the same place
    /// in `out` and returns the bitmap of hits. Other places of `out` stay as they are.
    pub fn lookup_burst(&mut self, keys: &[FlowKey], wanted: u32, out: &mut [Option<V>]) -> u32 {
        let mut hits = 0;
        for (i, (key, out)) in keys.iter().zip(out).enumerate().take(32) {
            if wanted & (1 << i) != 0
                && let Some(value) = self.lookup(key)
            {
                *out = Some(value);
                hits |= 1 << i;
            }
        }
        hits
    }

    /// Removes an entry; returns its value. A mask without entries costs lookups nothing.
    pub fn remove(&mut self, key: &FlowKey, mask: &FlowMask) -> Option<V> {
        let masked = mask.apply(key);
        let at = self.subtables.iter().position(|s| s.mask == *mask)?;
        let subtable = &mut self.subtables[at];
        let entry = subtable.entries.iter().position(|(k, _)| *k == masked)?;
        let (_, value) = subtable.entries.swap_remove(entry);
        if subtable.entries.is_empty() {
            self.subtables.remove(at);
        }
        Some(value)
    }

    /// Keeps the entries `keep` says so of.
    pub fn retain(&mut self, mut keep: impl FnMut(&V) -> bool) {
        for subtable in &mut self.subtables {
            subtable.entries.retain(|(_, value)| keep(value));
        }
        self.subtables.retain(|subtable| !subtable.entries.is_empty());
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.subtables.clear();
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.subtables.iter().map(|s| s.entries.len()).sum()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.subtables.is_empty()
    }

    /// All entries: masked key, mask, value.
    pub fn iter(&self) -> impl Iterator<Item = (FlowKey, FlowMask, V)> + '_ {
        self.subtables.iter().flat_map(|s| s.entries.iter().map(|(key, value)| (*key, s.mask, *value)))
    }

    /// The subtables in the order they are tried.
    pub fn subtables(&self) -> impl Iterator<Item = SubtableStats> + '_ {
        self.subtables.iter().map(|s| SubtableStats { mask: s.mask, entries: s.entries.len(), hits: s.hits })
    }

    /// Puts the subtables with most recent hits first and halves the counts.
    pub fn rank(&mut self) {
        self.subtables.sort_by_key(|s| core::cmp::Reverse(s.hits));
        for subtable in &mut self.subtables {
            subtable.hits /= 2;
        }
    }
}

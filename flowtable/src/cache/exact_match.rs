//! The exact-match cache: the whole key, one probe, no mask.
//!
//! 8192 entries in sets of two ways. A set's two 16-bit tags lie apart from the keys (16 KiB in all), so a miss
//! reads one line that is nearly always in the first-level cache and no key. An entry is two adjacent lines: the
//! ten key words that a plain packet has, and the value. The words beyond (ARP, ND, tunnel, conntrack) lie in an
//! array of their own that is only read for a packet that has any: a bit of the tag says so.
//!
//! The cache knows nothing of validity: whoever changes the flow table clears the cache, or removes what it made
//! stale, or keeps an epoch in the value.

use crate::key::{FlowKey, KEY_WORDS, NOT_PLAIN, PLAIN_WORDS};

/// Entries of a cache made by [`ExactMatchCache::new`].
pub const DEFAULT_ENTRIES: usize = 8192;

const WAYS: usize = 2;
/// The bit of a tag that says that the key has words beyond the front: [`NOT_PLAIN`] in the tag's place.
const HAS_REST: u16 = (NOT_PLAIN >> 16) as u16;
const REST_WORDS: usize = KEY_WORDS - PLAIN_WORDS;

/// The part of an entry that every hit reads.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Entry<V> {
    front: [u64; PLAIN_WORDS],
    value: Option<V>,
}

/// A fixed-size map from whole keys to values, which forgets when it must. One thread's own.
pub struct ExactMatchCache<V> {
    /// Tags of each set, zero for an empty way.
    tags: Vec<[u16; WAYS]>,
    entries: Vec<[Entry<V>; WAYS]>,
    rests: Vec<[[u64; REST_WORDS]; WAYS]>,
    /// Which way the next full set gives up; flips with each eviction.
    victim: usize,
}

impl<V: Copy> Default for ExactMatchCache<V> {
    fn default() -> ExactMatchCache<V> {
        ExactMatchCache::new()
    }
}

impl<V: Copy> ExactMatchCache<V> {
    /// A cache of [`DEFAULT_ENTRIES`].
    pub fn new() -> ExactMatchCache<V> {
        ExactMatchCache::with_entries(DEFAULT_ENTRIES)
    }

    /// A cache of `entries`, rounded up to a power of two between 2 and 131072.
    pub fn with_entries(entries: usize) -> ExactMatchCache<V> {
        // More sets than the low half of a hash tells apart would never be used.
        let sets = (entries.min(WAYS << 16) / WAYS).next_power_of_two();
        let empty = Entry { front: [0; PLAIN_WORDS], value: None };
        ExactMatchCache {
            tags: vec![[0; WAYS]; sets],
            entries: vec![[empty; WAYS]; sets],
            rests: vec![[[0; REST_WORDS]; WAYS]; sets],
            victim: 0,
        }
    }

    /// Number of entries it can hold.
    pub fn capacity(&self) -> usize {
        self.tags.len() * WAYS
    }

    /// Number of entries it holds.
    pub fn len(&self) -> usize {
        self.tags.iter().flatten().filter(|tag| **tag != 0).count()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value stored for `key`. `hash` is [`hash_key`](crate::key::hash_key) of it, which the cache believes.
    #[inline]
    pub fn lookup(&mut self, key: &FlowKey, hash: u32) -> Option<V> {
        let (set, tag) = self.place(hash);
        let (tags, entries) = (self.tags.get(set)?, self.entries.get(set)?);
        for (way, (have, entry)) in tags.iter().zip(entries).enumerate() {
            if *have == tag && entry.has_front(key) && (tag & HAS_REST == 0 || self.has_rest(set, way, key)) {
                return entry.value;
            }
        }
        None
    }

    /// Stores a value, in place of the one the same key had, or in an empty way, or in place of another key.
    pub fn insert(&mut self, key: &FlowKey, hash: u32, value: V) {
        let (set, tag) = self.place(hash);
        let tags = self.tags[set];
        let same = (0..WAYS).find(|way| {
            tags[*way] == tag
                && self.entries[set][*way].has_front(key)
                && (tag & HAS_REST == 0 || self.has_rest(set, *way, key))
        });
        let way = same.or_else(|| tags.iter().position(|tag| *tag == 0)).unwrap_or_else(|| {
            self.victim = (self.victim + 1) % WAYS;
            self.victim
        });
        let (mut front, mut rest) = ([0; PLAIN_WORDS], [0; REST_WORDS]);
        let (key_front, key_rest) = key.words().split_at(PLAIN_WORDS);
        front.copy_from_slice(key_front);
        rest.copy_from_slice(key_rest);
        if tag & HAS_REST != 0 {
            self.rests[set][way] = rest;
        }
        self.entries[set][way] = Entry { front, value: Some(value) };
        self.tags[set][way] = tag;
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.tags.fill([0; WAYS]);
    }

    /// Forgets every entry whose value `stale` says so of, and returns how many.
    pub fn remove_if(&mut self, mut stale: impl FnMut(&V) -> bool) -> usize {
        let mut removed = 0;
        for (tags, entries) in self.tags.iter_mut().zip(&self.entries) {
            for (tag, entry) in tags.iter_mut().zip(entries) {
                if *tag != 0 && entry.value.as_ref().is_some_and(&mut stale) {
                    *tag = 0;
                    removed += 1;
                }
            }
        }
        removed
    }

    /// Set index and tag: the low and the high half of the hash. No tag is zero.
    #[inline(always)]
    fn place(&self, hash: u32) -> (usize, u16) {
        let set = (hash as u16 as usize) & (self.tags.len() - 1);
        (set, ((hash >> 16) as u16).max(1))
    }

    /// Compares the words that a plain packet does not have.
    #[inline(never)]
    fn has_rest(&self, set: usize, way: usize, key: &FlowKey) -> bool {
        self.rests[set][way] == key.words()[PLAIN_WORDS..]
    }
}

impl<V> Entry<V> {
    /// Compares the words that every packet has.
    #[inline(always)]
    fn has_front(&self, key: &FlowKey) -> bool {
        self.front.iter().zip(key.words()).fold(0, |differ, (have, want)| differ | (have ^ want)) == 0
    }
}

#[cfg(test)]
mod tests;

//! Fixed-size chunks for packets that wait.
//!
//! ```text
//!   data:    | chunk 0, 2048 B | chunk 1 | …        in one arena, chunks on cache-line boundaries
//!   links:   | u32 | u32 | …                        apart, so walking a chain does not touch data
//!   free:    one shared stack of chunk numbers; every worker has a stash in front of it
//! ```
//!
//! A pool is made at start, never grows, and is never freed: it lives as long as the process, so packets hold a plain
//! reference and not a count. Running out is a typed drop, not an error.

use core::ptr::NonNull;

use super::free_stack::FreeStack;
use crate::memory::Arena;
use crate::port::PmdError;

/// Bytes in a chunk.
pub const CHUNK: usize = 2048;

/// Most chunks a stash keeps; it takes and returns half of that at once. In a small pool it is less, so that a few stashes
/// do not hold everything while others find the pool empty.
const STASH: usize = 128;

/// Stashes that must fit into a pool together.
const STASHES: usize = 16;

/// A pool. See the module's text.
pub struct Pool {
    arena: Arena,
    free: FreeStack,
    /// Chunks a stash of this pool keeps, even and at least 2.
    stash: usize,
}

impl Pool {
    /// Makes a pool of `chunks` chunks, for the rest of the process's life.
    pub fn create(chunks: u32) -> Result<&'static Pool, PmdError> {
        let arena = Arena::create("packet-pool", chunks as usize * CHUNK)?;
        let stash = (chunks as usize / STASHES).clamp(2, STASH) & !1;
        Ok(Box::leak(Box::new(Pool { arena, free: FreeStack::full(chunks), stash })))
    }

    /// A stash for one thread.
    pub fn cache(&'static self) -> PoolCache {
        PoolCache { pool: self, stash: Vec::with_capacity(self.stash) }
    }

    /// Chunks in the shared stack: what is left but for the stashes.
    pub fn free_chunks(&self) -> usize {
        self.free.len()
    }

    /// First byte of a chunk of this pool.
    pub(super) fn chunk(&self, chunk: u32) -> NonNull<u8> {
        let offset = chunk as usize * CHUNK;
        assert!(offset + CHUNK <= self.arena.len(), "chunk {chunk} is not of this pool");
        chunk_at(self.arena.start(), offset)
    }

    pub(super) fn next(&self, chunk: u32) -> u32 {
        self.free.link(chunk)
    }

    pub(super) fn set_next(&self, chunk: u32, next: u32) {
        self.free.set_link(chunk, next);
    }

    pub(super) fn give_back(&self, chunk: u32) {
        self.free.give(&[chunk]);
    }
}

#[expect(unsafe_code, reason = "address of a chunk in the arena")]
fn chunk_at(start: NonNull<u8>, offset: usize) -> NonNull<u8> {
    // SAFETY: the caller has checked that the offset lies in the mapping `start` begins.
    unsafe { start.add(offset) }
}

/// A thread's stash of free chunks: most packets take and return chunks without touching shared memory.
pub struct PoolCache {
    pool: &'static Pool,
    stash: Vec<u32>,
}

impl PoolCache {
    /// The pool behind it.
    pub fn pool(&self) -> &'static Pool {
        self.pool
    }

    /// Takes a chunk; `None` when stash and pool are empty.
    pub(super) fn take(&mut self) -> Option<u32> {
        if self.stash.is_empty() {
            self.pool.free.take(self.pool.stash / 2, &mut self.stash);
            // The stack's top, last returned, is to be used first.
            self.stash.reverse();
        }
        self.stash.pop()
    }

    /// Returns a chunk.
    pub(super) fn put(&mut self, chunk: u32) {
        if self.stash.len() >= self.pool.stash {
            // The half that has lain here longest; what came last stays for the next packet.
            let half = self.pool.stash / 2;
            self.pool.free.give(&self.stash[..half]);
            self.stash.drain(..half);
        }
        self.stash.push(chunk);
    }
}

impl Drop for PoolCache {
    fn drop(&mut self) {
        self.pool.free.give(&self.stash);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Mutex;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_pools_are_shared_by_many_stashes() {
        let pool = Pool::create(32).unwrap();
        let mut caches: Vec<_> = (0..16).map(|_| pool.cache()).collect();
        let taken: Vec<_> = caches.iter_mut().map(|cache| cache.take().unwrap()).collect();
        assert_eq!(taken.iter().collect::<HashSet<_>>().len(), 16);
    }

    #[test]
    fn no_chunk_is_lost_or_given_twice_between_threads() {
        const CHUNKS: u32 = 512;
        let pool = Pool::create(CHUNKS).unwrap();
        // Chunks that are held, wherever: a chunk given out twice is found here.
        let held = Mutex::new(HashSet::new());
        thread::scope(|scope| {
            for thread in 0..4u32 {
                let held = &held;
                scope.spawn(move || {
                    let mut cache = pool.cache();
                    let mut own = Vec::new();
                    for round in 0..5000u32 {
                        // Each thread mostly takes for a while, then mostly returns.
                        if (round / 300 + thread) % 2 == 0 {
                            if let Some(chunk) = cache.take() {
                                assert!(held.lock().unwrap().insert(chunk), "chunk {chunk} was given twice");
                                own.push(chunk);
                            }
                        } else if let Some(chunk) = own.pop() {
                            held.lock().unwrap().remove(&chunk);
                            if round % 3 == 0 { pool.give_back(chunk) } else { cache.put(chunk) }
                        }
                    }
                    for chunk in own {
                        held.lock().unwrap().remove(&chunk);
                        cache.put(chunk);
                    }
                });
            }
        });
        assert_eq!(pool.free_chunks(), CHUNKS as usize);
    }

    proptest! {
        #[test]
        fn every_chunk_is_free_or_held(chunks in 1u32..100, steps in prop::collection::vec(any::<(bool, bool)>(), 0..300)) {
            let pool = Pool::create(chunks).unwrap();
            let mut caches = [pool.cache(), pool.cache()];
            let mut held = Vec::new();
            for (take, which) in steps {
                let cache = &mut caches[usize::from(which)];
                if take {
                    if let Some(chunk) = cache.take() {
                        prop_assert!(chunk < chunks && !held.contains(&chunk));
                        held.push(chunk);
                    } else {
                        prop_assert_eq!(pool.free_chunks(), 0);
                    }
                } else if let Some(chunk) = held.pop() {
                    cache.put(chunk);
                }
                let stashed: usize = caches.iter().map(|cache| cache.stash.len()).sum();
                prop_assert_eq!(pool.free_chunks() + stashed + held.len(), chunks as usize);
            }
        }
    }
}

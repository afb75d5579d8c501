//! Fixed-size chunks for packets that wait.
//!
//! ```text
//!   data:    | chunk 0, 2048 B | chunk 1 | …        in one arena, chunks on cache-line boundaries
//!   next:    | u32 | u32 | …                        apart, so walking a chain does not touch data
//!   free:    one shared ring of chunk numbers; every worker has a stash in front of it
//! ```
//!
//! A pool is made at start, never grows, and is never freed: it lives as long as the process, so packets hold a plain
//! reference and not a count. Running out is a typed drop, not an error.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crossbeam_queue::ArrayQueue;

use crate::memory::Arena;
use crate::port::PmdError;

/// Bytes in a chunk.
pub const CHUNK: usize = 2048;

/// Chunks a stash keeps; it takes and returns half of that at once.
const STASH: usize = 128;

/// A pool. See the module's text.
pub struct Pool {
    arena: Arena,
    next: Box<[AtomicU32]>,
    free: ArrayQueue<u32>,
}

impl Pool {
    /// Makes a pool of `chunks` chunks, for the rest of the process's life.
    pub fn create(chunks: u32) -> Result<&'static Pool, PmdError> {
        let arena = Arena::create("packet-pool", chunks as usize * CHUNK)?;
        let free = ArrayQueue::new((chunks as usize).max(1));
        for chunk in 0..chunks {
            // The ring has room for every chunk.
            let _ = free.push(chunk);
        }
        let next = (0..chunks).map(|_| AtomicU32::new(0)).collect();
        Ok(Box::leak(Box::new(Pool { arena, next, free })))
    }

    /// A stash for one thread.
    pub fn cache(&'static self) -> PoolCache {
        PoolCache { pool: self, stash: Vec::with_capacity(STASH) }
    }

    /// Chunks in the shared ring: what is left but for the stashes.
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
        self.next[chunk as usize].load(Relaxed)
    }

    pub(super) fn set_next(&self, chunk: u32, next: u32) {
        self.next[chunk as usize].store(next, Relaxed);
    }

    pub(super) fn give_back(&self, chunk: u32) {
        let full = self.free.push(chunk).is_err();
        debug_assert!(!full, "a chunk was returned twice");
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
            self.stash.extend(std::iter::from_fn(|| self.pool.free.pop()).take(STASH / 2));
        }
        self.stash.pop()
    }

    /// Returns a chunk.
    pub(super) fn put(&mut self, chunk: u32) {
        if self.stash.len() == STASH {
            for chunk in self.stash.drain(STASH / 2..) {
                self.pool.give_back(chunk);
            }
        }
        self.stash.push(chunk);
    }
}

impl Drop for PoolCache {
    fn drop(&mut self) {
        for chunk in self.stash.drain(..) {
            self.pool.give_back(chunk);
        }
    }
}

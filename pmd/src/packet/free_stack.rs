//! Free chunks that all threads share: a lock-free stack.
//!
//! A stack and not a queue, because the chunk returned last is the one most likely in a cache, and because chunks that
//! were never needed are never touched: memory in use follows the most packets that ever waited, not the size of the pool.
//!
//! The links between free chunks lie in an array apart from the data. The same array serves the owner of a chunk to chain
//! chunks of one packet, since a chunk is either free or owned.
//!
//! Cost: one compare-and-swap for a run of chunks, however long.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Link of the last chunk.
const NONE: u32 = u32::MAX;

pub(super) struct FreeStack {
    /// Low half: the top chunk or [`NONE`]. High half: a count of changes, so that a thread that looked, was delayed for
    /// less than 2^32 changes, and finds the same top again does not take it for an unchanged stack.
    head: AtomicU64,
    links: Box<[AtomicU32]>,
    free: AtomicUsize,
}

impl FreeStack {
    /// All of `chunks` chunks free, 0 on top.
    pub(super) fn full(chunks: u32) -> FreeStack {
        let links =
            (1..=chunks).map(|next| AtomicU32::new(if next == chunks { NONE } else { next })).collect();
        let top = if chunks == 0 { NONE } else { 0 };
        FreeStack { head: AtomicU64::new(u64::from(top)), links, free: AtomicUsize::new(chunks as usize) }
    }

    /// Free chunks; exact when no thread is just taking or returning one.
    pub(super) fn len(&self) -> usize {
        self.free.load(Ordering::Relaxed)
    }

    /// What follows a chunk. For its owner: what the owner has set.
    pub(super) fn link(&self, chunk: u32) -> u32 {
        self.links[chunk as usize].load(Ordering::Relaxed)
    }

    /// Sets what follows a chunk. For its owner only.
    pub(super) fn set_link(&self, chunk: u32, next: u32) {
        self.links[chunk as usize].store(next, Ordering::Relaxed);
    }

    /// Moves up to `most` chunks to the end of `to`. Fewer only when the stack ran out.
    pub(super) fn take(&self, most: usize, to: &mut Vec<u32>) {
        let kept = to.len();
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            // Other threads may change links while we follow them: then the head has changed too, and we begin again.
            let mut top = head as u32;
            while top != NONE && to.len() - kept < most {
                to.push(top);
                top = self.link(top);
            }
            match self.head.compare_exchange_weak(
                head,
                changed(head, top),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => break,
                Err(now) => {
                    head = now;
                    to.truncate(kept);
                }
            }
        }
        self.free.fetch_sub(to.len() - kept, Ordering::Relaxed);
    }

    /// Returns chunks that the caller owns; the last of them comes to lie on top.
    pub(super) fn give(&self, chunks: &[u32]) {
        let (Some(&bottom), Some(&top)) = (chunks.first(), chunks.last()) else { return };
        for pair in chunks.windows(2) {
            self.set_link(pair[1], pair[0]);
        }
        // Before the chunks can be taken, so that the count never falls below zero.
        self.free.fetch_add(chunks.len(), Ordering::Relaxed);
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            self.set_link(bottom, head as u32);
            match self.head.compare_exchange_weak(
                head,
                changed(head, top),
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }
}

/// The head with another top, counted.
fn changed(head: u64, top: u32) -> u64 {
    ((head >> 32).wrapping_add(1) << 32) | u64::from(top)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_returned_is_first_taken() {
        let stack = FreeStack::full(5);
        let mut taken = Vec::new();
        stack.take(3, &mut taken);
        assert_eq!((&taken[..], stack.len()), (&[0, 1, 2][..], 2));
        stack.give(&[1, 2]);
        stack.give(&[]);
        let mut again = vec![9];
        stack.take(10, &mut again);
        assert_eq!((&again[..], stack.len()), (&[9, 2, 1, 3, 4][..], 0));
        stack.take(1, &mut again);
        assert_eq!(again.len(), 5);
    }

    #[test]
    fn none_is_none() {
        let stack = FreeStack::full(0);
        let mut taken = Vec::new();
        stack.take(1, &mut taken);
        assert!(taken.is_empty());
    }
}

//! A received frame that lies in several buffers.

use crate::memory::DmaArena;
use crate::packet::{Batch, MAX_FRAME, MIN_FRAME, Offload, SlotId};
use crate::port::{DropCounters, DropReason};

/// Pieces of a frame, in order, until it is whole. Reused for every frame; allocates only when made.
#[derive(Debug)]
pub struct Parts {
    /// Offset in the arena and length.
    pieces: Vec<(usize, usize)>,
    total: usize,
}

impl Parts {
    /// Room for a frame of `most` pieces.
    pub fn new(most: usize) -> Parts {
        Parts { pieces: Vec::with_capacity(most), total: 0 }
    }

    /// Begins another frame.
    #[inline]
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.total = 0;
    }

    /// Adds a piece. False, and nothing added, when there is no room for it.
    #[inline]
    pub fn push(&mut self, offset: usize, len: usize) -> bool {
        if self.pieces.len() == self.pieces.capacity() {
            return false;
        }
        self.pieces.push((offset, len));
        self.total += len;
        true
    }

    /// Pieces there are.
    pub fn count(&self) -> usize {
        self.pieces.len()
    }

    /// Bytes of all.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Cuts `n` bytes off the end, for example a check sequence that lies alone in the last piece.
    pub fn trim(&mut self, mut n: usize) {
        while n > 0
            && let Some(last) = self.pieces.last_mut()
        {
            let cut = n.min(last.1);
            last.1 -= cut;
            self.total -= cut;
            n -= cut;
            if last.1 == 0 {
                self.pieces.pop();
            }
        }
    }

    /// Makes a packet of the frame.
    ///
    /// # Errors
    /// Why it is dropped.
    #[inline]
    fn deliver<'q>(
        &self,
        arena: &'q DmaArena,
        batch: &mut Batch<'q>,
        offload: Offload,
    ) -> Result<(), DropReason> {
        match self.total {
            0..MIN_FRAME => return Err(DropReason::RxTooShort),
            MIN_FRAME..=MAX_FRAME => {}
            _ => return Err(DropReason::RxTooLong),
        }
        let received = match *self.pieces {
            [(offset, len)] => batch.receive(arena.span(offset, len)),
            _ => batch.receive_pieces(self.pieces.iter().map(|&(offset, len)| arena.span(offset, len))),
        };
        if !received {
            return Err(DropReason::RxNoBuffer);
        }
        let slot = (batch.len() - 1) as SlotId;
        batch.packet_mut(slot).offload = offload;
        Ok(())
    }

    /// Ends a frame: makes a packet of it, or counts why not, which a driver that knows already says instead of an offload. Returns the
    /// bytes of the packet; zero when there is none.
    #[inline]
    pub fn end<'q>(
        &mut self,
        arena: &'q DmaArena,
        batch: &mut Batch<'q>,
        offload: Result<Offload, DropReason>,
        drops: &DropCounters,
    ) -> u64 {
        let delivered = offload.and_then(|offload| self.deliver(arena, batch, offload));
        let bytes = match delivered {
            Ok(()) => self.total as u64,
            Err(reason) => {
                drops.add(reason, 1);
                0
            }
        };
        self.clear();
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Arena;
    use crate::packet::BatchStorage;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_frame_in_pieces_is_the_frame(cuts in prop::collection::vec(1usize..900, 1..8), trim in 0usize..6) {
            let arena = DmaArena::new(std::sync::Arc::new(Arena::create("parts", 1 << 16).unwrap()), 0, Box::new(()));
            let bytes: Vec<u8> = (0..cuts.iter().sum::<usize>()).map(|i| (i % 251) as u8).collect();
            let mut parts = Parts::new(8);
            let mut at = 0;
            for (i, len) in cuts.iter().enumerate() {
                arena.copy_in(i * 1024, &bytes[at..at + len]);
                prop_assert!(parts.push(i * 1024, *len));
                at += len;
            }
            parts.trim(trim);
            let expected = &bytes[..bytes.len().saturating_sub(trim)];
            let mut storage = BatchStorage::new();
            let mut batch = storage.begin();
            if expected.len() < MIN_FRAME {
                prop_assert_eq!(parts.deliver(&arena, &mut batch, Offload::default()), Err(DropReason::RxTooShort));
            } else {
                prop_assert_eq!(parts.deliver(&arena, &mut batch, Offload::default()), Ok(()));
                let mut out = vec![0; 8192];
                let n = batch.frame(0).copy_to(&mut out);
                prop_assert_eq!(&out[..n], expected);
            }
        }
    }
}

//! Sending: a frame is copied into the buffers of as many descriptors as it fills. Descriptor `i` has buffer `i`.
//!
//! The card looks for the generation bit, perhaps without being told. So the first descriptor of a frame gets its bit last, when all
//! others are written. The register is written once per batch all the same: the card may wait for it.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::Arc;

use super::descriptors::{
    LARGEST_SEGMENT, LEN, LONGEST_HEADERS, Mode, TX_GENERATION, tx_completion, tx_word,
};
use super::registers::{NEXT, TX_PRODUCER};
use crate::memory::DmaArena;
use crate::nic::{Fault, FrameRing, copy_piece};
use crate::offload::{CutByCard, transport};
use crate::packet::{Frame, Gso, OffloadCaps};
use crate::pci::Bar;
use crate::port::DropReason;

/// Bytes of a buffer. A frame of 64 KiB has 17 of them; the card takes 24 at most.
pub(super) const BUFFER: usize = 4096;
/// Memory starts with descriptors, completions behind them.
const RINGS: usize = 2;

/// Transmit ring. See the module.
pub(super) struct VmxTx {
    arena: Arc<DmaArena>,
    bar: Arc<Bar>,
    register: usize,
    size: u16,
    buffers: usize,
    longest: usize,
    /// Next descriptor to fill and its generation; the first that the card was not told of.
    next: u16,
    generation: bool,
    shown: u16,
    /// First descriptor that is not done, and descriptors that are free.
    oldest: u16,
    free: u16,
    /// Next completion, and the generation that says it is there.
    completion: u16,
    completion_generation: bool,
    done: u64,
}

impl VmxTx {
    fn buffers_at(size: u16) -> usize {
        (RINGS * usize::from(size) * LEN).next_multiple_of(4096)
    }

    /// Bytes of memory of a ring.
    pub(super) fn bytes(size: u16) -> usize {
        Self::buffers_at(size) + usize::from(size) * BUFFER
    }

    /// Addresses and sizes of descriptors, nothing, and completions, as the card is told.
    pub(super) fn describe(arena: &DmaArena, size: u16) -> ([u64; 3], [u32; 3]) {
        let completions = arena.iova(usize::from(size) * LEN);
        ([arena.iova(0), 0, completions], [size.into(), 0, size.into()])
    }

    /// Transmit queue `index`, in zeroed memory of [`VmxTx::bytes`], for frames of at most `longest` bytes on the wire.
    pub(super) fn new(arena: Arc<DmaArena>, bar: Arc<Bar>, index: u16, size: u16, longest: usize) -> VmxTx {
        VmxTx {
            arena,
            bar,
            register: TX_PRODUCER + usize::from(index) * NEXT,
            size,
            buffers: Self::buffers_at(size),
            longest,
            next: 0,
            generation: true,
            shown: 0,
            oldest: 0,
            // One stays unused, so that a full ring is told from an empty one.
            free: size - 1,
            completion: 0,
            completion_generation: true,
            done: 0,
        }
    }

    fn outstanding(&self) -> u16 {
        self.size - 1 - self.free
    }

    /// What the card is to do with a frame, and how its headers are to be changed for that.
    fn mode(&self, frame: &Frame<'_>) -> Result<(Mode, Option<CutByCard>), DropReason> {
        let offload = &frame.offload;
        if offload.gso != Gso::None {
            let cut = CutByCard::of(frame, self.longest).ok_or(DropReason::TxNoOffload)?;
            return Ok((Mode::Segment { headers: cut.headers as u16, size: offload.gso_size }, Some(cut)));
        }
        if offload.needs_csum {
            let (start, field) = (offload.csum_start, offload.csum_start + offload.csum_offset);
            return Ok((Mode::Checksum { start, field }, None));
        }
        Ok((Mode::Plain, None))
    }

    /// Changes headers, which lie in the buffer at `at`, for a card that cuts.
    fn prepare(&self, at: usize, cut: &CutByCard) {
        if let Some(field) = cut.ip_checksum() {
            self.arena.copy_in(at + field, &[0; 2]);
        }
        self.arena.copy_in(at + cut.tcp_checksum(), &cut.pseudo_sum);
    }

    /// Writes a descriptor and goes to the next.
    fn put(&mut self, buffer: usize, word: u64) {
        let at = usize::from(self.next) * LEN;
        self.arena.store_u64(at, self.arena.iova(buffer), Relaxed);
        self.arena.store_u64(at + 8, word, Release);
        self.free -= 1;
        self.next += 1;
        if self.next == self.size {
            self.next = 0;
            self.generation = !self.generation;
        }
    }
}

impl FrameRing for VmxTx {
    fn caps(&self) -> OffloadCaps {
        OffloadCaps { csum: true, tso4: true, tso6: true, ..OffloadCaps::default() }
    }

    fn caps_for(&self, frame: &Frame<'_>) -> OffloadCaps {
        let offload = &frame.offload;
        let sums = transport(frame).is_some_and(|l4| l4 + usize::from(offload.csum_offset) < LONGEST_HEADERS);
        // Headers must lie in the first buffer, which they do if the card can name their length.
        let cuts = offload.gso != Gso::None
            && offload.gso_size <= LARGEST_SEGMENT
            && CutByCard::of(frame, self.longest).is_some_and(|cut| cut.headers <= LONGEST_HEADERS);
        OffloadCaps { csum: sums, tso4: sums && cuts, tso6: sums && cuts, ..OffloadCaps::default() }
    }

    fn reclaim(&mut self) -> Result<(), Fault> {
        loop {
            let at = (usize::from(self.size) + usize::from(self.completion)) * LEN;
            let second = self.arena.load_u64(at + 8, Acquire);
            let first = || self.arena.load_u64(at, Relaxed);
            let Some(last) = tx_completion(first, second, self.completion_generation) else { return Ok(()) };
            let count = (last.wrapping_sub(self.oldest) & (self.size - 1)) + 1;
            if last >= self.size || count > self.outstanding() {
                return Err(Fault::BadDescriptor);
            }
            self.oldest = (last + 1) & (self.size - 1);
            self.free += count;
            self.done += u64::from(count);
            self.completion += 1;
            if self.completion == self.size {
                self.completion = 0;
                self.completion_generation = !self.completion_generation;
            }
        }
    }

    fn send(&mut self, frame: &Frame<'_>) -> Result<(), DropReason> {
        let len = frame.len();
        let (mode, cut) = self.mode(frame)?;
        if len == 0 || (cut.is_none() && len > self.longest) {
            return Err(DropReason::TxTooLong);
        }
        let pieces = len.div_ceil(BUFFER);
        if usize::from(self.free) < pieces {
            return Err(DropReason::TxRingFull);
        }
        let (first_at, first_generation) = (usize::from(self.next) * LEN, self.generation);
        let mut first_word = 0;
        for piece in 0..pieces {
            let skip = piece * BUFFER;
            let n = (len - skip).min(BUFFER);
            let buffer = self.buffers + usize::from(self.next) * BUFFER;
            copy_piece(&self.arena, buffer, frame, skip, n);
            let is_first = piece == 0;
            if let (true, Some(cut)) = (is_first, &cut) {
                self.prepare(buffer, cut);
            }
            // Until all are there, the first is of the round before.
            let word = tx_word(n, mode, piece + 1 == pieces, self.generation != is_first);
            if is_first {
                first_word = word;
            }
            self.put(buffer, word);
        }
        debug_assert_eq!(first_word & TX_GENERATION != 0, !first_generation);
        self.arena.store_u64(first_at + 8, first_word ^ TX_GENERATION, Release);
        Ok(())
    }

    fn publish(&mut self) -> bool {
        if self.shown == self.next {
            return false;
        }
        self.shown = self.next;
        self.bar.write32(self.register, self.next.into());
        true
    }

    fn progress(&mut self) -> (u64, u32) {
        (self.done, self.outstanding().into())
    }
}

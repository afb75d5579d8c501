//! Sending: a frame is copied into the buffers of as many descriptors as it fills. Descriptor `i` has buffer `i`.
//!
//! The card writes a descriptor back only where it is asked to: at the end of each batch that is shown to it, and at least every
//! [`REPORT_EVERY`]. So completions cost one written line per batch, and are taken in bulk.

use core::marker::PhantomData;
use core::sync::atomic::Ordering::{Acquire, Relaxed};
use std::collections::VecDeque;
use std::sync::Arc;

use super::DESCRIPTOR as LEN;
use crate::memory::DmaArena;
use crate::nic::{Fault, TxRing, copy_piece};
use crate::packet::{Frame, Offload, OffloadCaps};
use crate::pci::Bar;
use crate::port::DropReason;

/// Bytes of a buffer.
const BUFFER: usize = 2048;
/// Descriptors after which a report is asked for, though the batch goes on.
const REPORT_EVERY: u16 = 32;

/// In the second word of a data descriptor: report when it is done; it is done.
pub const TX_REPORT: u64 = 1 << 27;
/// See [`TX_REPORT`].
pub const TX_DONE: u64 = 1 << 32;

/// How a card's transmit descriptors look.
pub trait Format: Send + 'static {
    /// Whether the card can sum from `start` to the end of the frame, and store the result `offset` bytes after that.
    fn can_sum(start: u16, offset: u16) -> bool;

    /// A context that says so.
    fn context(start: u16, offset: u16) -> [u64; 2];

    /// Second word of a data descriptor of `len` of the `total` bytes of a frame.
    fn data(len: usize, total: usize, last: bool, checksum: bool) -> u64;
}

/// Transmit ring. See the module.
pub struct IntelTx<F> {
    arena: Arc<DmaArena>,
    bar: Arc<Bar>,
    /// Register of the tail.
    tail_at: usize,
    size: u16,
    buffers: usize,
    longest: usize,
    /// Next descriptor to fill, and the first that the card has not been shown.
    next: u16,
    shown: u16,
    free: u16,
    /// Checksum place the card knows.
    context: Option<(u16, u16)>,
    /// Last descriptor of the last frame, with its second word, while no report was asked for.
    unreported: Option<(u16, u64)>,
    since_report: u16,
    /// Descriptors with a report, and how many each completes.
    reports: VecDeque<(u16, u16)>,
    done: u64,
    format: PhantomData<F>,
}

impl<F: Format> IntelTx<F> {
    fn buffers_at(size: u16) -> usize {
        (usize::from(size) * LEN).next_multiple_of(4096)
    }

    /// Bytes of memory of a ring.
    pub fn bytes(size: u16) -> usize {
        Self::buffers_at(size) + usize::from(size) * BUFFER
    }

    /// A ring in zeroed memory of [`IntelTx::bytes`], for frames of at most `longest` bytes.
    pub fn new(arena: Arc<DmaArena>, bar: Arc<Bar>, tail_at: usize, size: u16, longest: usize) -> IntelTx<F> {
        IntelTx {
            arena,
            bar,
            tail_at,
            size,
            buffers: Self::buffers_at(size),
            longest,
            next: 0,
            shown: 0,
            // One stays unused, so that a full ring is told from an empty one.
            free: size - 1,
            context: None,
            unreported: None,
            since_report: 0,
            reports: VecDeque::with_capacity(usize::from(size)),
            done: 0,
            format: PhantomData,
        }
    }

    fn put(&mut self, words: [u64; 2]) -> u16 {
        let slot = self.next;
        let at = usize::from(slot) * LEN;
        self.arena.store_u64(at, words[0], Relaxed);
        self.arena.store_u64(at + 8, words[1], Relaxed);
        self.next = (slot + 1) & (self.size - 1);
        self.free -= 1;
        self.since_report += 1;
        slot
    }

    /// Asks for a report at the end of what was added.
    fn report(&mut self) {
        if let Some((slot, word)) = self.unreported.take() {
            self.arena.store_u64(usize::from(slot) * LEN + 8, word | TX_REPORT, Relaxed);
            self.reports.push_back((slot, self.since_report));
            self.since_report = 0;
        }
    }
}

impl<F: Format> TxRing for IntelTx<F> {
    fn caps(&self, offload: &Offload) -> OffloadCaps {
        let csum = F::can_sum(offload.csum_start, offload.csum_offset);
        OffloadCaps { csum, ..OffloadCaps::default() }
    }

    fn reclaim(&mut self) -> Result<(), Fault> {
        while let Some(&(slot, count)) = self.reports.front() {
            if self.arena.load_u64(usize::from(slot) * LEN + 8, Acquire) & TX_DONE == 0 {
                break;
            }
            self.reports.pop_front();
            self.free += count;
            self.done += u64::from(count);
        }
        Ok(())
    }

    fn send(&mut self, frame: &Frame<'_>) -> Result<(), DropReason> {
        let len = frame.len();
        if len > self.longest {
            return Err(DropReason::TxTooLong);
        }
        let pieces = len.div_ceil(BUFFER);
        // One more for a context.
        if usize::from(self.free) < pieces + 1 {
            self.report();
            return Err(DropReason::TxRingFull);
        }
        let checksum = frame.offload.needs_csum;
        if checksum {
            let place = (frame.offload.csum_start, frame.offload.csum_offset);
            if self.context != Some(place) {
                self.context = Some(place);
                self.put(F::context(place.0, place.1));
            }
        }
        for piece in 0..pieces {
            let skip = piece * BUFFER;
            let n = (len - skip).min(BUFFER);
            let buffer = self.buffers + usize::from(self.next) * BUFFER;
            copy_piece(&self.arena, buffer, frame, skip, n);
            let last = piece + 1 == pieces;
            let word = F::data(n, len, last, checksum);
            let address = self.arena.iova(buffer);
            let slot = self.put([address, word]);
            if last {
                self.unreported = Some((slot, word));
            }
        }
        if self.since_report >= REPORT_EVERY {
            self.report();
        }
        Ok(())
    }

    fn publish(&mut self) -> bool {
        if self.shown == self.next {
            return false;
        }
        self.report();
        self.shown = self.next;
        self.bar.write32(self.tail_at, self.next.into());
        true
    }

    fn progress(&mut self) -> (u64, u32) {
        (self.done, u32::from(self.size - 1 - self.free))
    }
}

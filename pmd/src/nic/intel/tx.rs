//! Sending: a frame is copied into the buffers of as many descriptors as it fills. Descriptor `i` has buffer `i`. What the card shall do with
//! frames stands in a context, a descriptor before theirs.
//!
//! The card writes a descriptor back only where it is asked to: at the end of each batch that is shown to it, and at least every
//! [`REPORT_EVERY`]. So completions cost one written line per batch, and are taken in bulk.

use core::marker::PhantomData;
use core::sync::atomic::Ordering::{Acquire, Relaxed};
use std::collections::VecDeque;
use std::sync::Arc;

use super::DESCRIPTOR as LEN;
use super::format::{Context, Format, cut_of};
use crate::memory::DmaArena;
use crate::nic::{Fault, FrameRing, copy_piece};
use crate::offload::CutByCard;
use crate::packet::{Frame, OffloadCaps};
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
    /// What the card was told last, while that still holds.
    context: Option<Context>,
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

    /// Tells the card what is to be done with a frame of `total` bytes, unless it knows.
    fn tell(&mut self, context: &Context, total: usize) {
        if self.context.as_ref() == Some(context) {
            return;
        }
        self.put(F::context(context, total));
        let stays = F::CUT_STAYS || !matches!(context, Context::Cut(_));
        self.context = stays.then_some(*context);
    }

    /// Changes headers, which lie whole in the buffer at `at`, for a card that cuts (82574 datasheet, 7.3.6; 82576 datasheet, 7.2.4): it fills in
    /// lengths and the sum of the IPv4 header, and goes on with TCP's sum from what it finds.
    fn prepare(&self, at: usize, headers: &CutByCard) {
        self.arena.copy_in(at + headers.ip_length(), &[0; 2]);
        if let Some(field) = headers.ip_checksum() {
            self.arena.copy_in(at + field, &[0; 2]);
        }
        self.arena.copy_in(at + headers.tcp_checksum(), &headers.pseudo_sum);
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

impl<F: Format> FrameRing for IntelTx<F> {
    fn caps(&self) -> OffloadCaps {
        OffloadCaps { csum: true, tso4: true, tso6: true, ..OffloadCaps::default() }
    }

    fn caps_for(&self, frame: &Frame<'_>) -> OffloadCaps {
        let cuts = cut_of::<F>(frame, self.longest).is_some();
        let csum = cuts || F::can_sum(frame.offload.csum_start, frame.offload.csum_offset);
        OffloadCaps { csum, tso4: cuts, tso6: cuts, ..OffloadCaps::default() }
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
        let cut = cut_of::<F>(frame, self.longest);
        if cut.is_none() && len > self.longest {
            return Err(DropReason::TxTooLong);
        }
        let pieces = len.div_ceil(BUFFER);
        // One more for a context.
        if usize::from(self.free) < pieces + 1 {
            self.report();
            return Err(DropReason::TxRingFull);
        }
        let context = match cut {
            Some((_, cut)) => Some(Context::Cut(cut)),
            None if frame.offload.needs_csum => {
                Some(Context::Sum { start: frame.offload.csum_start, offset: frame.offload.csum_offset })
            }
            None => None,
        };
        if let Some(context) = &context {
            self.tell(context, len);
        }
        for piece in 0..pieces {
            let skip = piece * BUFFER;
            let n = (len - skip).min(BUFFER);
            let buffer = self.buffers + usize::from(self.next) * BUFFER;
            copy_piece(&self.arena, buffer, frame, skip, n);
            if let (0, Some((headers, _))) = (piece, &cut) {
                self.prepare(buffer, headers);
            }
            let last = piece + 1 == pieces;
            let word = F::data(n, len, last, context.as_ref());
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

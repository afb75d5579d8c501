//! Sending to a guest: its receive rings, shared by all workers that send to the port.
//!
//! A frame's head and payload are copied straight into the guest's buffers, payload from where it lies, so a frame
//! between two guests is copied once. With mergeable buffers a frame takes as many as it needs; the number is known
//! before the header is written.
#![expect(unsafe_code, reason = "writes guest memory")]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pmd::offload::Finisher;
use pmd::packet::{BURST, Batch, Frame, Gso, Offload, SlotId};
use pmd::port::{DropReason, QueueCounters, TxQueue};
use pmd::virtio::{NetHeader, SharedPtr};

use super::rules::NetRules;
use super::shared::{Shared, interrupt};
use crate::ring::{Chain, Direction, RingFault, RingState, Segment, SplitRing};

/// Ethernet header and two tags: what a frame may have beyond its payload.
const L2_OVERHEAD: usize = 22;
/// Most buffers one frame may fill: 64 KiB in buffers of a page and a half each would be 43.
const MAX_MERGED: usize = 512;

/// A transmit queue of one worker.
pub(crate) struct VhostTx {
    shared: Arc<Shared>,
    worker: u16,
    /// Generation of the port when `ring` was chosen.
    generation: u64,
    /// Index of the receive ring this worker sends to; none is usable otherwise.
    ring: Option<usize>,
    counters: Arc<QueueCounters>,
    /// Chains a frame fills: head and bytes.
    merged: Vec<(u16, u32)>,
    /// Does what the guest cannot.
    finisher: Finisher,
}

impl VhostTx {
    pub(crate) fn new(shared: Arc<Shared>, worker: u16) -> VhostTx {
        let generation = u64::MAX;
        let merged = Vec::with_capacity(MAX_MERGED);
        VhostTx {
            shared,
            worker,
            generation,
            ring: None,
            counters: Arc::default(),
            merged,
            finisher: Finisher::new(),
        }
    }

    /// Picks one of the usable rings by the worker's number.
    #[cold]
    fn choose(&mut self, generation: u64) {
        self.generation = generation;
        let usable = || (0..self.shared.rings.len()).step_by(2).filter(|&i| self.shared.rings[i].usable());
        let count = usable().count();
        self.ring = usable().nth(usize::from(self.worker) % count.max(1));
    }
}

/// Why a frame was not sent.
enum Unsent {
    Dropped(DropReason),
    Broken(RingFault),
}

impl From<RingFault> for Unsent {
    fn from(fault: RingFault) -> Unsent {
        Unsent::Broken(fault)
    }
}

impl TxQueue for VhostTx {
    fn tx_burst(&mut self, batch: &Batch<'_>, slots: &[SlotId]) -> usize {
        let generation = self.shared.generation.load(Ordering::Acquire);
        if generation != self.generation {
            self.choose(generation);
        }
        let all = slots.len() as u64;
        let drops = &self.counters.drops;
        let Some(vring) = self.ring.map(|i| &self.shared.rings[i]) else {
            drops.add(DropReason::TxLinkDown, all);
            return 0;
        };
        let Some(mut guard) = vring.try_lock() else {
            drops.add(DropReason::TxRingBusy, all);
            return 0;
        };
        let RingState { ring: Some(ring), net } = &mut *guard else {
            drops.add(DropReason::TxLinkDown, all);
            return 0;
        };
        if !vring.usable() {
            drops.add(DropReason::TxLinkDown, all);
            return 0;
        }
        let max_frame = usize::from(self.shared.mtu.load(Ordering::Relaxed)) + L2_OVERHEAD;
        let mut sender = Sender::new(ring, net, max_frame, &mut self.merged);
        let mut sent = 0;
        for (i, &slot) in slots.iter().enumerate() {
            if batch.packet(slot).plain().is_some_and(|frame| sender.put_plain(frame)) {
                sent += 1;
                continue;
            }
            match sender.send(&batch.frame(slot), &mut self.finisher) {
                Ok(()) => sent += 1,
                Err(Unsent::Dropped(DropReason::TxRingFull)) => {
                    // Nothing after it fits either, or would overtake it.
                    drops.add(DropReason::TxRingFull, all - i as u64);
                    break;
                }
                Err(Unsent::Dropped(reason)) => drops.add(reason, 1),
                Err(Unsent::Broken(fault)) => {
                    drops.add(DropReason::TxBadRing, all - i as u64);
                    vring.break_down(fault);
                    break;
                }
            }
        }
        let bytes = sender.bytes;
        if vring.memory_gone() {
            vring.break_down(RingFault::MemoryGone);
        }
        if let Some(wanted) = ring.publish() {
            self.counters.add_burst(sent as u64, bytes);
            interrupt(ring, wanted, &self.counters);
        }
        sent
    }

    fn counters(&self) -> Arc<QueueCounters> {
        Arc::clone(&self.counters)
    }
}

/// One burst on a locked ring.
struct Sender<'a> {
    ring: &'a mut SplitRing,
    net: &'a NetRules,
    /// Longest frame the MTU allows, unless it is to be segmented by the guest.
    max_frame: usize,
    merged: &'a mut Vec<(u16, u32)>,
    bytes: u64,
    /// Chains looked at, and which of them is next.
    chains: [Chain; BURST],
    looked: usize,
    next: usize,
}

impl<'a> Sender<'a> {
    fn new(
        ring: &'a mut SplitRing,
        net: &'a NetRules,
        max_frame: usize,
        merged: &'a mut Vec<(u16, u32)>,
    ) -> Sender<'a> {
        Sender { ring, net, max_frame, merged, bytes: 0, chains: [Chain::NONE; BURST], looked: 0, next: 0 }
    }

    /// Sends a frame that may need more than copying.
    #[inline(never)]
    fn send(&mut self, frame: &Frame<'_>, finisher: &mut Finisher) -> Result<(), Unsent> {
        if self.net.to_guest.takes(&frame.offload) {
            return self.put(frame);
        }
        let mut outcome = Ok(());
        let finished = finisher.finish(*frame, self.net.to_guest, self.max_frame, |piece| {
            if outcome.is_ok() {
                outcome = self.put(&piece);
            }
        });
        outcome?;
        finished.map_err(Unsent::Dropped)
    }

    /// Sees to it that a chain has been looked at, and names it.
    #[inline(always)]
    fn chain(&mut self) -> Result<Chain, Unsent> {
        if self.next == self.looked {
            self.look()?;
        }
        Ok(self.chains[self.next % BURST])
    }

    #[inline(never)]
    fn look(&mut self) -> Result<(), Unsent> {
        (self.looked, self.next) = (0, 0);
        if self.ring.waiting() == 0 && self.ring.refresh()? == 0 {
            return Err(Unsent::Dropped(DropReason::TxRingFull));
        }
        let count = usize::from(self.ring.waiting()).min(BURST);
        let (found, fault) = self.ring.look(Direction::Write, self.net.header_len, &mut self.chains[..count]);
        self.looked = found;
        match fault {
            Some(fault) if found == 0 => Err(Unsent::Broken(fault)),
            _ => Ok(()),
        }
    }

    /// Puts a short frame without offloads into the next buffer: most frames, one buffer, one copy. False, with nothing done,
    /// when it is not that simple; [`Sender::send`] then finds out why.
    #[inline(always)]
    fn put_plain(&mut self, frame: &[u8]) -> bool {
        let needed = self.net.header_len + frame.len();
        let Ok(Chain { head, single: Some(buffer) }) = self.chain() else { return false };
        if (buffer.len as usize) < needed || frame.len() > self.max_frame {
            return false;
        }
        // SAFETY: the buffer is mapped and holds header and frame.
        unsafe {
            self.put_plain_header(buffer.start);
            buffer.start.add(self.net.header_len).copy_in(frame);
        }
        self.complete(head, needed);
        self.bytes += frame.len() as u64;
        true
    }

    #[inline(always)]
    fn complete(&mut self, head: u16, len: usize) {
        self.ring.complete(head, len as u32);
        self.next += 1;
    }

    /// Puts a frame that the guest can take as it is into its next buffers.
    #[inline(never)]
    fn put(&mut self, frame: &Frame<'_>) -> Result<(), Unsent> {
        if frame.len() > self.max_frame && frame.offload.gso == Gso::None {
            return Err(Unsent::Dropped(DropReason::TxTooLong));
        }
        let chain = self.chain()?;
        let needed = self.net.header_len + frame.len();
        match chain.single {
            Some(buffer) if buffer.len as usize >= needed => {
                // SAFETY: the buffer is mapped and holds header and frame.
                unsafe {
                    if frame.offload.is_none() {
                        self.put_plain_header(buffer.start);
                    } else {
                        let header = self.header(&frame.offload, 1);
                        buffer.start.copy_in(&header[..self.net.header_len]);
                    }
                    copy_frame(buffer.start.add(self.net.header_len), frame);
                }
                self.complete(chain.head, needed);
            }
            _ => {
                // Takes as many chains as it needs: what was looked at is no longer what is next.
                (self.looked, self.next) = (0, 0);
                self.put_scattered(frame, needed)?;
            }
        }
        self.bytes += frame.len() as u64;
        Ok(())
    }

    /// Writes the header of a frame that fills one buffer and asks for nothing.
    ///
    /// By whole registers: bytes put together in memory and then copied would have to wait there for every store before
    /// them, and those go to lines that another processor holds. A header that says the right thing already, because the guest
    /// uses its buffers again, is not written: its line can then stay in both caches.
    ///
    /// # Safety
    /// `header_len` bytes from `to` are mapped and writable.
    #[inline(always)]
    unsafe fn put_plain_header(&self, to: SharedPtr) {
        // SAFETY: forwarded; header_len is one of the two lengths.
        unsafe {
            match self.net.header_len {
                NetHeader::LEN => put_unless_equal(to, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]),
                _ => put_unless_equal(to, [0; NetHeader::LEGACY_LEN]),
            }
        }
    }

    fn header(&self, offload: &Offload, buffers: u16) -> [u8; NetHeader::LEN] {
        if offload.is_none() {
            let [n0, n1] = buffers.to_le_bytes();
            return [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n0, n1];
        }
        let mut header = NetHeader::from_offload(offload);
        header.num_buffers = buffers;
        if !self.net.to_guest.csum {
            // A guest without GUEST_CSUM knows no flags; a partial checksum never gets here.
            header.flags = 0;
        }
        header.to_bytes()
    }

    /// Puts a frame into chains of any shape, several of them if they merge.
    #[inline(never)]
    fn put_scattered(&mut self, frame: &Frame<'_>, needed: usize) -> Result<(), Unsent> {
        self.merged.clear();
        self.ring.segments.clear();
        let mut capacity = 0usize;
        while capacity < needed {
            let taken = self.merged.len();
            if taken > 0 && !self.net.mergeable || taken >= MAX_MERGED {
                return Err(Unsent::Dropped(DropReason::TxTooLong));
            }
            let ahead = taken as u16;
            if ahead >= self.ring.waiting() && ahead >= self.ring.refresh()? {
                return Err(Unsent::Dropped(DropReason::TxRingFull));
            }
            let head = self.ring.head(ahead)?;
            let bytes = self.ring.walk(head, Direction::Write)?;
            self.merged.push((head, bytes));
            capacity += bytes as usize;
        }
        let header = self.header(&frame.offload, self.merged.len() as u16);
        let mut writer = Writer { segments: &self.ring.segments, offset: 0 };
        writer.write(header.as_ptr(), self.net.header_len);
        writer.write(frame.head.as_ptr(), frame.head.len());
        frame.for_each_payload(|piece| writer.write(piece.as_ptr(), piece.len()));
        let mut left = needed as u32;
        for &(head, bytes) in self.merged.iter() {
            let used = bytes.min(left);
            left -= used;
            self.ring.complete(head, used);
        }
        Ok(())
    }
}

/// Writes `bytes`, unless they are there.
///
/// # Safety
/// `N` bytes from `to` are mapped and writable.
#[inline(always)]
unsafe fn put_unless_equal<const N: usize>(to: SharedPtr, bytes: [u8; N]) {
    // SAFETY: forwarded.
    unsafe {
        if to.read_bytes::<N>() != bytes {
            to.write_bytes(bytes);
        }
    }
}

/// Copies a frame to `to`.
///
/// # Safety
/// `frame.len()` bytes from `to` are mapped and writable.
#[inline]
unsafe fn copy_frame(to: SharedPtr, frame: &Frame<'_>) {
    // SAFETY: forwarded; the head is private memory.
    unsafe { to.copy_in(frame.head) };
    let mut at = frame.head.len();
    frame.for_each_payload(|piece| {
        // SAFETY: the pieces are frame.len() - head.len() bytes together. They may overlap the buffer when a guest
        // lies about its memory, which `copy` allows.
        unsafe { std::ptr::copy(piece.as_ptr(), to.add(at).as_non_null().as_ptr(), piece.len()) };
        at += piece.len();
    });
}

/// Writes the pieces of chains one after the other.
struct Writer<'a> {
    segments: &'a [Segment],
    /// Bytes of the first piece already written.
    offset: u32,
}

impl Writer<'_> {
    /// Copies `len` bytes from `from`, as far as the pieces reach.
    fn write(&mut self, mut from: *const u8, mut len: usize) {
        while let (Some(segment), true) = (self.segments.first(), len > 0) {
            let n = ((segment.len - self.offset) as usize).min(len);
            // SAFETY: `from` has `len` readable bytes (a slice or a span); offset + n <= segment.len, which is mapped.
            // Source and target may overlap when a guest lies about its memory, which `copy` allows.
            unsafe {
                let to = segment.start.add(self.offset as usize).as_non_null().as_ptr();
                std::ptr::copy(from, to, n);
                from = from.add(n);
            }
            len -= n;
            self.offset += n as u32;
            if self.offset == segment.len {
                self.segments = &self.segments[1..];
                self.offset = 0;
            }
        }
    }
}

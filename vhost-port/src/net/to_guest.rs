//! Sending to a guest: its receive rings, shared by all workers that send to the port.
//!
//! A frame's head and payload are copied straight into the guest's buffers, payload from where it lies, so a frame
//! between two guests is copied once. With mergeable buffers a frame takes as many as it needs; the number is known
//! before the header is written.
#![expect(unsafe_code, reason = "writes guest memory")]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pmd::offload::{Finisher, Takes};
use pmd::packet::{Batch, Frame, Gso, OffloadCaps, SlotId};
use pmd::port::{DropReason, QueueCounters, TxLimits, TxQueue};

use super::held::Held;
use super::rules::NetRules;
use super::run::{header, put_run, write_whole};
use super::shared::Shared;
use super::writer::Writer;
use crate::memory::{Marks, NoMarks};
use crate::ring::{
    Chain, Cursor, DeviceRing, Direction, Extent, MOST_NOTES, Ring, RingFault, RingState, Segment, Vring,
};

/// Most buffers one frame may fill, all shown at once: 64 KiB in buffers of a page and a half each would be 43.
const MAX_MERGED: usize = MOST_NOTES;

/// A transmit queue of one worker.
pub(crate) struct VhostTx {
    shared: Arc<Shared>,
    worker: u16,
    /// Generation of the port when `ring` was chosen.
    generation: u64,
    /// Index of the receive ring this worker sends to; none is live otherwise.
    ring: Option<usize>,
    counters: Arc<QueueCounters>,
    /// The guest has not been told yet of the last burst.
    owing: bool,
    /// What the guest of the chosen ring takes; unknown until the first burst.
    takes: Option<OffloadCaps>,
    tools: Tools,
}

impl VhostTx {
    pub(crate) fn new(shared: Arc<Shared>, worker: u16) -> VhostTx {
        let generation = u64::MAX;
        let (counters, tools) = (Arc::default(), Tools::new());
        VhostTx { shared, worker, generation, ring: None, counters, owing: false, takes: None, tools }
    }

    /// Picks one of the live rings by the worker's number.
    #[cold]
    fn choose(&mut self, generation: u64) {
        self.notify();
        self.generation = generation;
        self.takes = None;
        let live = || (0..self.shared.rings.len()).step_by(2).filter(|&i| self.shared.rings[i].live());
        let count = live().count();
        self.ring = live().nth(usize::from(self.worker) % count.max(1));
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
        if !vring.usable() {
            if vring.awaiting() {
                guard.held.push_all(batch, slots, &self.counters);
            } else if vring.offloaded() {
                drops.add(DropReason::TxOffloaded, all);
                self.shared.vdpa.refused.fetch_add(all, Ordering::Relaxed);
            } else {
                drops.add(DropReason::TxLinkDown, all);
            }
            return 0;
        }
        self.takes.get_or_insert(guard.net.to_guest);
        let limits = self.shared.limits();
        let sent = send_burst(&mut guard, vring, batch, slots, limits, &mut self.tools, &self.counters);
        let (Some((sent, bytes)), Some(ring)) = (sent, &mut guard.ring) else {
            drops.add(DropReason::TxLinkDown, all);
            return 0;
        };
        if vring.memory_gone() {
            vring.break_down(RingFault::MemoryGone);
        }
        if ring.publish() {
            self.counters.add_burst(sent, bytes);
            self.owing = true;
        }
        sent as usize
    }

    fn notify(&mut self) -> bool {
        let Some(vring) = self.ring.filter(|_| self.owing).map(|i| &self.shared.rings[i]) else {
            return true;
        };
        let Some(mut guard) = vring.try_lock() else { return false };
        self.owing = false;
        if let Some(ring) = &mut guard.ring {
            self.counters.add_notification(ring.interrupt());
        }
        true
    }

    fn takes(&self) -> Takes {
        self.shared.limits().takes(self.takes.unwrap_or_default())
    }

    fn counters(&self) -> Arc<QueueCounters> {
        Arc::clone(&self.counters)
    }
}

impl Drop for VhostTx {
    fn drop(&mut self) {
        self.notify();
    }
}

/// What a burst works with, apart from ring and packets.
pub(super) struct Tools {
    /// Chains a frame fills, and their bytes.
    merged: Vec<(Extent, u32)>,
    /// Does what the guest cannot.
    finisher: Finisher,
}

impl Tools {
    pub(super) fn new() -> Tools {
        Tools { merged: Vec::with_capacity(MAX_MERGED), finisher: Finisher::new() }
    }
}

/// Sends a burst on a locked ring. Returns how many packets were sent, and their bytes; `None` when there is no ring. It is not
/// published yet.
#[inline(always)]
pub(super) fn send_burst(
    state: &mut RingState,
    vring: &Vring,
    batch: &Batch<'_>,
    slots: &[SlotId],
    limits: TxLimits,
    tools: &mut Tools,
    counters: &QueueCounters,
) -> Option<(u64, u64)> {
    let RingState { ring: Some(ring), net, written, held } = state else { return None };
    let Tools { merged, finisher } = tools;
    macro_rules! send {
        ($ring:expr, $marks:expr) => {
            Sender { ring: $ring, marks: $marks, net, limits, merged, held, bytes: 0 }
                .burst(batch, slots, finisher, vring, counters)
        };
    }
    let sent = match (ring, &mut *written) {
        (DeviceRing::Split(ring), None) => send!(ring, &mut NoMarks),
        (DeviceRing::Packed(ring), None) => send!(ring, &mut NoMarks),
        (DeviceRing::Split(ring), Some(marks)) => send!(ring, marks),
        (DeviceRing::Packed(ring), Some(marks)) => send!(ring, marks),
    };
    if let Some(marks) = written {
        marks.flush();
    }
    Some(sent)
}

/// One burst on a locked ring.
struct Sender<'a, R, M> {
    ring: &'a mut R,
    /// Takes note of what is written.
    marks: &'a mut M,
    net: &'a NetRules,
    limits: TxLimits,
    merged: &'a mut Vec<(Extent, u32)>,
    /// Takes what has to wait for translations.
    held: &'a mut Held,
    bytes: u64,
}

impl<R: Ring, M: Marks> Sender<'_, R, M> {
    /// Sends frames, and has a look at what the next burst will need. Returns how many were sent, and their bytes.
    fn burst(
        mut self,
        batch: &Batch<'_>,
        slots: &[SlotId],
        finisher: &mut Finisher,
        vring: &Vring,
        counters: &QueueCounters,
    ) -> (u64, u64) {
        let drops = &counters.drops;
        let (mut sent, mut left) = (0, slots);
        loop {
            let run = self.put_run(batch, left);
            sent += run;
            left = left.get(run..).unwrap_or_default();
            let Some((&slot, rest)) = left.split_first() else { break };
            match self.send(&batch.frame(slot), finisher, counters) {
                Ok(()) => sent += 1,
                Err(Unsent::Dropped(DropReason::TxRingFull)) => {
                    // Nothing after it fits either, or would overtake it.
                    drops.add(DropReason::TxRingFull, left.len() as u64);
                    break;
                }
                Err(Unsent::Dropped(reason)) => drops.add(reason, 1),
                Err(Unsent::Broken(fault)) => {
                    if fault == RingFault::Untranslated {
                        // The first is held already, as it is or in the pieces that were left of it.
                        self.held.push_all(batch, rest, counters);
                    } else {
                        drops.add(DropReason::TxBadRing, left.len() as u64);
                    }
                    vring.break_down(fault);
                    break;
                }
            }
            left = rest;
        }
        self.ring.look_ahead(Direction::Write, self.net.header_len);
        (sent as u64, self.bytes)
    }

    /// Sends a frame that may need more than copying.
    #[inline(never)]
    fn send(
        &mut self,
        frame: &Frame<'_>,
        finisher: &mut Finisher,
        counters: &QueueCounters,
    ) -> Result<(), Unsent> {
        let caps = self.limits.offloads.limit(self.net.to_guest);
        if caps.takes(&frame.offload) {
            return self.put_or_hold(frame, counters);
        }
        let mut outcome = Ok(());
        let finished = finisher.finish(*frame, caps, self.limits.max_frame, |piece| match outcome {
            Ok(()) => outcome = self.put_or_hold(&piece, counters),
            Err(Unsent::Broken(RingFault::Untranslated)) => self.hold(&piece, counters),
            Err(_) => {}
        });
        outcome?;
        counters.add_finished(finished.map_err(Unsent::Dropped)?);
        Ok(())
    }

    /// Puts a frame, or holds it until its buffers are translated.
    #[inline]
    fn put_or_hold(&mut self, frame: &Frame<'_>, counters: &QueueCounters) -> Result<(), Unsent> {
        let outcome = self.put(frame);
        if let Err(Unsent::Broken(RingFault::Untranslated)) = outcome {
            self.hold(frame, counters);
        }
        outcome
    }

    #[cold]
    fn hold(&mut self, frame: &Frame<'_>, counters: &QueueCounters) {
        if !self.held.push(frame) {
            counters.drops.add(DropReason::TxUntranslated, 1);
        }
    }

    /// The next chain.
    #[inline]
    fn chain(&mut self) -> Result<Chain, Unsent> {
        match self.ring.ready(Direction::Write, self.net.header_len, 1) {
            (0, None) => Err(Unsent::Dropped(DropReason::TxRingFull)),
            (0, Some(fault)) => Err(Unsent::Broken(fault)),
            _ => Ok(self.ring.chain(0)),
        }
    }

    /// [`put_run`] on this ring.
    #[inline(always)]
    fn put_run(&mut self, batch: &Batch<'_>, slots: &[SlotId]) -> usize {
        let (done, bytes) = put_run(self.ring, self.marks, self.net, self.limits, batch, slots);
        self.bytes += bytes;
        usize::from(done)
    }

    /// Puts a frame that the guest can take as it is into its next buffers.
    #[inline(never)]
    fn put(&mut self, frame: &Frame<'_>) -> Result<(), Unsent> {
        if frame.len() > self.limits.max_frame && frame.offload.gso == Gso::None {
            return Err(Unsent::Dropped(DropReason::TxTooLong));
        }
        let chain = self.chain()?;
        let needed = self.net.header_len + frame.len();
        match chain.start {
            Some(start) if chain.len as usize >= needed => {
                // SAFETY: the buffer is mapped and holds header and frame.
                unsafe { write_whole(self.net, start, frame) };
                self.marks.wrote(start, needed);
                self.ring.make_room(1);
                self.ring.write_used(0, chain, needed as u32);
                self.ring.complete_run(1);
            }
            _ => self.put_scattered(frame, needed)?,
        }
        self.bytes += frame.len() as u64;
        Ok(())
    }

    /// Puts a frame into chains of any shape, several of them if they merge.
    #[inline(never)]
    fn put_scattered(&mut self, frame: &Frame<'_>, needed: usize) -> Result<(), Unsent> {
        self.merged.clear();
        self.ring.forget_segments();
        let (mut capacity, mut cursor) = (0usize, Cursor::default());
        while capacity < needed {
            let taken = self.merged.len();
            if taken > 0 && !self.net.mergeable || taken >= MAX_MERGED {
                return Err(Unsent::Dropped(DropReason::TxTooLong));
            }
            let Some(chain) = self.ring.peek(&mut cursor)? else {
                return Err(Unsent::Dropped(DropReason::TxRingFull));
            };
            let bytes = self.ring.walk(chain, Direction::Write)?;
            self.merged.push((chain, bytes));
            capacity += bytes as usize;
        }
        let header = header(self.net, &frame.offload, self.merged.len() as u16);
        let mut writer = Writer::new(self.ring.segments());
        writer.write(header.as_ptr(), self.net.header_len);
        writer.write(frame.head.as_ptr(), frame.head.len());
        frame.for_each_payload(|piece| writer.write(piece.as_ptr(), piece.len()));
        note_written(self.marks, self.ring.segments(), needed);
        let mut left = needed as u32;
        // All chains of a frame are shown at once, whatever happens.
        self.ring.make_room(self.merged.len() as u16);
        for &(chain, bytes) in self.merged.iter() {
            let used = bytes.min(left);
            left -= used;
            self.ring.complete(chain, used);
        }
        Ok(())
    }
}

/// Notes that the first `len` bytes of these pieces were written.
#[inline]
fn note_written<M: Marks>(marks: &mut M, segments: &[Segment], mut len: usize) {
    for segment in segments {
        let here = len.min(segment.len as usize);
        if here == 0 {
            break;
        }
        marks.wrote(segment.start, here);
        len -= here;
    }
}

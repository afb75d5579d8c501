//! Sending: a frame is copied into one buffer of the ring, behind its header.
//!
//! Most frames are short and ask for nothing. Those are staged a run at a time: the ring's indexes stay in registers, and nothing is loaded that was just
//! stored. A header that says nothing is left alone where the buffer's last frame had the same, so its line stays in both processors' caches. The
//! buffers of the next burst are asked for at the end of this one, and a frame that was copied is let go of ([`demote`]): with a back-end on another processor,
//! which has to read it next, this is worth 15 %.

use crate::packet::{BURST, Batch, Frame, Offload, OffloadCaps, SlotId};
use crate::port::{DropReason, SentBurst, TxBurst};
use crate::prefetch::demote;
use crate::virtio::NetHeader;
use crate::virtio::burst_driver::{BadDevice, EitherRing};

/// The transmit ring of a network driver.
pub struct NetTxRing {
    ring: EitherRing,
    caps: OffloadCaps,
    /// Bytes a buffer holds behind the header.
    capacity: usize,
    /// Buffers the device has sent and that were taken back.
    done: u64,
    bad: Option<BadDevice>,
}

impl NetTxRing {
    /// Takes a ring whose buffers are all free, of a device that does `caps` for us.
    pub fn new(mut ring: EitherRing, caps: OffloadCaps) -> NetTxRing {
        let mut capacity = usize::MAX;
        ring.for_each_buffer(|view| capacity = capacity.min(view.capacity()));
        NetTxRing { ring, caps, capacity: capacity.saturating_sub(NetHeader::LEN), done: 0, bad: None }
    }

    /// What the device does for us.
    pub fn caps(&self) -> OffloadCaps {
        self.caps
    }

    /// Puts a burst into the ring and shows it to the device, which is to be asked with [`NetTxRing::wants_kick`] soon. A frame goes as several where
    /// the device cannot cut it itself or shall not. What cannot be sent is counted under its reason. Calls `kick` where the ring is full and the device
    /// wants to be told of what is in it. Returns how many frames were sent.
    #[inline]
    pub fn send(&mut self, burst: TxBurst<'_, '_>, mut kick: impl FnMut()) -> usize {
        let TxBurst { batch, slots, finisher, limits, counters } = burst;
        if self.bad.is_some() {
            counters.drops.add(DropReason::TxBadRing, slots.len() as u64);
            return 0;
        }
        let (mut sent, mut left) = (SentBurst::default(), slots);
        loop {
            let (run, run_bytes) = self.put_plain_run(batch, left, limits.max_frame);
            sent.add(run, run_bytes);
            left = left.get(run..).unwrap_or_default();
            let Some((&slot, rest)) = left.split_first() else { break };
            let frame = batch.frame(slot);
            let len = frame.len() as u64;
            let caps = limits.offloads.limit(self.caps);
            let outcome = finisher.send(frame, caps, limits.max_frame, |piece| self.put(piece, &mut kick));
            sent.add_outcome(len, outcome, counters);
            left = rest;
        }
        self.ring.show();
        self.make_room(BURST as u16);
        self.ring.prefetch_free::<1>(BURST as u16, NetHeader::LEN);
        counters.add_sent(sent)
    }

    /// Puts the packets at the front of `slots` that are short and without offloads, as many as there is room for. Returns how many, and their bytes.
    #[inline(never)]
    fn put_plain_run(&mut self, batch: &Batch<'_>, slots: &[SlotId], max_frame: usize) -> (usize, u64) {
        let longest = max_frame.min(self.capacity);
        let plain = |slot: &&SlotId| batch.packet(**slot).plain().is_some_and(|frame| frame.len() <= longest);
        let run = slots.iter().take(BURST).take_while(plain).count() as u16;
        self.make_room(run);
        let (mut frames, mut bytes) = (slots.iter().filter_map(|&slot| batch.packet(slot).plain()), 0);
        let put = self.ring.stage(run, |view| {
            let Some(frame) = frames.next() else { return };
            view.write_unless_equal(0, [0; NetHeader::LEN]);
            view.copy_in(NetHeader::LEN, frame);
            view.set_len((NetHeader::LEN + frame.len()) as u32);
            demote(view.addr() + NetHeader::LEN, frame.len());
            bytes += frame.len() as u64;
        });
        (usize::from(put), bytes)
    }

    /// Puts one frame of any kind that the device takes as it is.
    #[inline(never)]
    fn put(&mut self, frame: &Frame<'_>, kick: &mut dyn FnMut()) -> Result<(), DropReason> {
        if frame.len() > self.capacity {
            return Err(DropReason::TxTooLong);
        }
        self.make_room(1);
        if self.ring.free() == 0 && self.ring.staged() > 0 {
            // Shown at once to the device, which may make some.
            self.ring.show();
            if self.ring.wants_kick() {
                kick();
            }
            self.make_room(1);
        }
        // A device that receives may be told that a checksum is right; one that sends is not (5.1.6.2).
        let offload = Offload { csum_valid: false, ..frame.offload };
        let header = NetHeader { num_buffers: 0, ..NetHeader::from_offload(&offload) }.to_bytes();
        let staged = self.ring.stage(1, |view| {
            view.write_unless_equal(0, header);
            let mut at = NetHeader::LEN;
            view.copy_in(at, frame.head);
            at += frame.head.len();
            frame.for_each_payload(|span| {
                view.copy_from(at, span);
                at += span.len();
            });
            view.set_len(at as u32);
        });
        match (staged, self.bad) {
            (0, Some(_)) => Err(DropReason::TxBadRing),
            (0, None) => Err(DropReason::TxRingFull),
            _ => Ok(()),
        }
    }

    /// Takes back what the device has sent, if fewer than `wanted` buffers are free.
    #[inline]
    fn make_room(&mut self, wanted: u16) {
        if self.ring.free() < wanted {
            self.take_back();
        }
    }

    #[inline]
    fn take_back(&mut self) {
        if self.bad.is_some() {
            return;
        }
        match self.ring.reclaim(u16::MAX) {
            Ok(done) => self.done += u64::from(done),
            Err(error) => self.bad = Some(error),
        }
    }

    /// How far the device has come: buffers it has sent since the ring was made, and those it has not.
    ///
    /// # Errors
    /// The device broke the rules.
    pub fn progress(&mut self) -> Result<(u64, u16), BadDevice> {
        self.take_back();
        self.bad.map_or_else(|| Ok((self.done, self.ring.outstanding())), Err)
    }

    /// Whether the device wants to be told of what it was shown.
    #[inline]
    #[must_use = "a device that asked for a kick sleeps until it gets one"]
    pub fn wants_kick(&mut self) -> bool {
        self.ring.wants_kick()
    }

    /// How the device broke the rules, if it did; the ring is then of no more use.
    pub fn bad(&self) -> Option<BadDevice> {
        self.bad
    }
}

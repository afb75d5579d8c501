//! Counters of one queue.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::drops::{DropCounters, DropReason};
use crate::offload::Finished;

/// What a queue has done. Written by its one owner with plain loads and stores, read by anybody.
#[derive(Default, Debug)]
#[repr(align(128))]
pub struct QueueCounters {
    packets: AtomicU64,
    bytes: AtomicU64,
    bursts: AtomicU64,
    notified: AtomicU64,
    suppressed: AtomicU64,
    checksummed: AtomicU64,
    segmented: AtomicU64,
    segments: AtomicU64,
    merged: AtomicU64,
    merged_into: AtomicU64,
    /// Packets lost here, by reason.
    pub drops: DropCounters,
}

/// The numbers of a [`QueueCounters`] at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct QueueSnapshot {
    /// Packets moved.
    pub packets: u64,
    /// Bytes of those packets.
    pub bytes: u64,
    /// Bursts that moved at least one packet.
    pub bursts: u64,
    /// Notifications sent to the far side.
    pub notified: u64,
    /// Notifications the far side did not want.
    pub suppressed: u64,
    /// Packets whose checksum was completed in software, because the far side does not do it.
    pub checksummed: u64,
    /// Packets cut in software for the same reason.
    pub segmented: u64,
    /// Pieces they were cut into.
    pub segments: u64,
    /// Packets merged to larger ones before they were sent.
    pub merged: u64,
    /// Frames they became.
    pub merged_into: u64,
}

#[inline]
fn bump(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

impl QueueCounters {
    /// Counts a burst.
    #[inline]
    pub fn add_burst(&self, packets: u64, bytes: u64) {
        bump(&self.packets, packets);
        bump(&self.bytes, bytes);
        bump(&self.bursts, 1);
    }

    /// Counts a notification sent, or one spared.
    #[inline]
    pub fn add_notification(&self, sent: bool) {
        bump(if sent { &self.notified } else { &self.suppressed }, 1);
    }

    /// Counts what software did to a packet that was sent.
    #[inline]
    pub fn add_finished(&self, done: Finished) {
        match done {
            Finished::AsItIs => {}
            Finished::Checksum => bump(&self.checksummed, 1),
            Finished::Pieces(pieces) => {
                bump(&self.segmented, 1);
                bump(&self.segments, pieces as u64);
            }
        }
    }

    /// Counts a transmit burst, if it moved anything. Returns how many packets it moved.
    #[inline]
    pub fn add_sent(&self, sent: SentBurst) -> usize {
        if sent.packets != 0 {
            self.add_burst(sent.packets as u64, sent.bytes);
        }
        sent.packets
    }

    /// Counts frames that were made of smaller packets before they were sent.
    pub fn add_merged(&self, frames: u64, packets: u64) {
        bump(&self.merged, packets);
        bump(&self.merged_into, frames);
    }

    /// The numbers now.
    pub fn snapshot(&self) -> QueueSnapshot {
        QueueSnapshot {
            packets: self.packets.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            bursts: self.bursts.load(Relaxed),
            notified: self.notified.load(Relaxed),
            suppressed: self.suppressed.load(Relaxed),
            checksummed: self.checksummed.load(Relaxed),
            segmented: self.segmented.load(Relaxed),
            segments: self.segments.load(Relaxed),
            merged: self.merged.load(Relaxed),
            merged_into: self.merged_into.load(Relaxed),
        }
    }
}

/// What a transmit burst comes to: packets sent, and their bytes.
#[derive(Clone, Copy, Default, Debug)]
pub struct SentBurst {
    packets: usize,
    bytes: u64,
}

impl SentBurst {
    /// Adds packets that were sent as they were.
    #[inline]
    pub fn add(&mut self, packets: usize, bytes: u64) {
        self.packets += packets;
        self.bytes += bytes;
    }

    /// Adds a packet of `len` bytes if it was sent, and counts what was done to it, or why it was dropped.
    #[inline]
    pub fn add_outcome(&mut self, len: u64, outcome: Result<Finished, DropReason>, counters: &QueueCounters) {
        match outcome {
            Ok(done) => {
                self.add(1, len);
                counters.add_finished(done);
            }
            Err(reason) => counters.drops.add(reason, 1),
        }
    }
}

//! A conversation's rings without a conversation, for a fuzz target that plays the back-end.
//!
//! The rings are those of a `virtio-user` port of one pair, laid out and started by the same code; whoever has [`Bench::file`] has what a
//! back-end has. Not part of the API.

use std::fs::File;
use std::os::fd::AsFd as _;

use pmd::offload::Finisher;
use pmd::packet::{BatchStorage, SlotId, Span};
use pmd::port::{Offloads, PmdError, QueueCounters};
use pmd::virtio::NetHeader;
use pmd::virtio::burst_driver::BadDevice;
use pmd::virtio::net_driver::{NetRxRing, NetTxRing, TxLimits};

use super::control::make_rings;
use super::memory::{Memory, Places, RING_SIZE};

/// Longest frame that is sent.
const MAX_FRAME: usize = 9_022;

/// The rings of one pair.
pub struct Bench {
    // Before the memory they lie in.
    rx: NetRxRing,
    tx: NetTxRing,
    memory: Memory,
    finisher: Finisher,
    counters: QueueCounters,
    storage: BatchStorage,
}

impl Bench {
    /// Entries of each ring.
    pub const SIZE: u16 = RING_SIZE;
    /// Bytes before a frame in a buffer.
    pub const HEADER: usize = NetHeader::LEN;

    /// Rings under these features.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new(features: u64) -> Result<Bench, PmdError> {
        let memory = Memory::create("fuzz", 1, features)?;
        let rings = make_rings(&memory, 1, features).map_err(PmdError::Config)?;
        let (rx, tx) =
            rings.into_iter().next().ok_or_else(|| PmdError::Config("there are no rings".into()))?;
        let (finisher, counters, storage) = (Finisher::new(), QueueCounters::default(), BatchStorage::new());
        Ok(Bench { rx, tx, memory, finisher, counters, storage })
    }

    /// The memory, as the back-end gets it.
    ///
    /// # Errors
    /// There are too many open files.
    pub fn file(&self) -> std::io::Result<File> {
        Ok(self.memory.arena().as_fd().try_clone_to_owned()?.into())
    }

    /// Where in the file ring 0 (received by) or 1 (sent by) lies. `None` when there is no such ring.
    pub fn places(&self, index: usize) -> Option<Places> {
        self.memory.places(index)
    }

    /// Receives a burst and gives its buffers back.
    ///
    /// # Errors
    /// The back-end broke the rules; the rings are of no more use.
    pub fn receive(&mut self) -> Result<Vec<Vec<u8>>, BadDevice> {
        let mut batch = self.storage.begin();
        self.rx.receive(&mut batch, &self.counters)?;
        let copy = |slot| {
            let frame = batch.frame(slot);
            let mut bytes = vec![0; frame.len()];
            frame.copy_to(&mut bytes);
            bytes
        };
        let frames = (0..batch.len() as SlotId).map(copy).collect();
        let _ = self.rx.give_back();
        Ok(frames)
    }

    /// Sends frames; how many were taken.
    ///
    /// # Errors
    /// As [`Bench::receive`].
    pub fn send(&mut self, frames: &[&[u8]]) -> Result<usize, BadDevice> {
        let mut batch = self.storage.begin();
        for frame in frames {
            let _ = batch.receive(Span::from_slice(frame));
        }
        let slots: Vec<SlotId> = (0..batch.len() as SlotId).collect();
        let limits = TxLimits { offloads: Offloads::default(), max_frame: MAX_FRAME };
        let sent = self.tx.send(&batch, &slots, &mut self.finisher, limits, &self.counters);
        let _ = self.tx.wants_kick();
        self.tx.bad().map_or(Ok(sent), Err)
    }

    /// Asks for notifications and takes that back: whether something waits.
    pub fn arm(&mut self) -> bool {
        let waits = self.rx.enable_interrupts();
        self.rx.disable_interrupts();
        waits
    }
}

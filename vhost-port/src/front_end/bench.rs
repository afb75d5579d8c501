//! A conversation's rings without a conversation, for a fuzz target that plays the back-end.
//!
//! The rings are those of a `virtio-user` port of one pair, laid out and started by the same code; [`Bench::write`] and [`Bench::read`] do what a
//! back-end can do to them. Not part of the API.
#![expect(unsafe_code, reason = "plays a back-end in the memory shared with it")]

use pmd::offload::Finisher;
use pmd::packet::{BatchStorage, SlotId, Span};
use pmd::port::{Offloads, PmdError, QueueCounters, TxBurst, TxLimits};
use pmd::virtio::burst_driver::BadDevice;
use pmd::virtio::net_driver::{NetRxRing, NetTxRing};
use pmd::virtio::{NetHeader, SharedPtr};

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

    /// Writes into the memory at `at`, as the back-end may. Not by its file: where huge pages back it, it cannot be written. Panics outside of it.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        // SAFETY: `shared` has checked that so many bytes are mapped there.
        unsafe { self.shared(at, bytes.len()).copy_in(bytes) };
    }

    /// Reads `len` bytes of the memory from `at` on. Panics outside of it.
    pub fn read(&self, at: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        // SAFETY: as in `write`.
        unsafe { self.shared(at, len).copy_out(&mut bytes) };
        bytes
    }

    fn shared(&self, at: usize, len: usize) -> SharedPtr {
        let arena = self.memory.arena();
        assert!(at <= arena.len() && len <= arena.len() - at, "outside the memory");
        // SAFETY: inside, as just checked, and mapped as long as `memory` lives.
        unsafe { SharedPtr::new(arena.start()).add(at) }
    }

    /// Where in the memory ring 0 (received by) or 1 (sent by) lies. `None` when there is no such ring.
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
        self.rx.give_back();
        let _ = self.rx.wants_kick();
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
        let (finisher, counters) = (&mut self.finisher, &self.counters);
        let sent = self.tx.send(TxBurst { batch: &batch, slots: &slots, finisher, limits, counters }, || ());
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

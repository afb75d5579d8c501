//! What Intel's gigabit cards do alike: reset, link, counters, where a ring lies.
//!
//! A driver holds one of these and adds what is its own: interrupts, descriptors, queues. Every access is a register access; all of it
//! is the control side.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::DESCRIPTOR;
use super::registers::*;
use crate::nic::{Fault, Link};
use crate::pci::{Bar, PciFn};
use crate::port::PmdError;

/// How long accesses that are under way may take to end.
const MASTER: Duration = Duration::from_millis(80);
/// How long the card needs to be left alone after a reset (82574 datasheet, 4.6.3.1; 82576 datasheet, 4.3.1).
const SETTLE: Duration = Duration::from_millis(1);
/// How long a reset may take.
pub(crate) const RESET: Duration = Duration::from_secs(1);
/// Of the longest frame on the wire, what is not payload: Ethernet header, two tags, check sequence.
pub(crate) const OVERHEAD: u16 = 14 + 8 + 4;

/// The key that spreads flows: a pattern of 16 bits, so that both directions of a flow meet in one queue.
const RSS_PATTERN: u32 = 0x5a6d_5a6d;

/// Where a card has what the others have elsewhere.
#[derive(Clone, Copy)]
pub(crate) struct Places {
    /// Interrupt causes: read and cleared.
    pub(crate) causes: usize,
    /// Clears the mask of causes.
    pub(crate) mask_clear: usize,
    /// Bytes from the ring registers of a queue to those of the next.
    pub(crate) queue: usize,
}

/// Waits until `done`. False when it takes too long.
pub(crate) fn wait(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !done() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// Tells a card where a ring lies: `[base, len, head, tail]` are its registers.
pub(crate) fn place_ring(bar: &Bar, [base, len, head, tail]: [usize; 4], size: u16, iova: u64) {
    bar.write32(base, iova as u32);
    bar.write32(base + 4, (iova >> 32) as u32);
    bar.write32(len, u32::from(size) * DESCRIPTOR as u32);
    bar.write32(head, 0);
    bar.write32(tail, 0);
}

/// The link as the device status register tells it.
pub(crate) fn link(status: u32) -> Link {
    if status == u32::MAX || status & STATUS_LINK_UP == 0 {
        return Link::default();
    }
    let speed = match status >> STATUS_SPEED_SHIFT & 3 {
        0 => 10,
        1 => 100,
        _ => 1000,
    };
    Link { up: true, speed: Some(speed), full_duplex: Some(status & STATUS_FULL_DUPLEX != 0) }
}

/// A card of the family.
pub(crate) struct Gigabit {
    pub(crate) function: Arc<dyn PciFn>,
    pub(crate) bar: Arc<Bar>,
    driver: &'static str,
    places: Places,
    /// Of [`COUNTERS`], since the card was opened: its registers are cleared when they are read.
    sums: [u64; COUNTERS.len()],
}

impl Gigabit {
    /// Takes the function and resets the card.
    pub(crate) fn new(
        function: Arc<dyn PciFn>,
        driver: &'static str,
        places: Places,
    ) -> Result<Gigabit, PmdError> {
        function.enable()?;
        let bar = Arc::new(function.bar(0)?);
        let card = Gigabit { function, bar, driver, places, sums: [0; COUNTERS.len()] };
        card.reset()?;
        Ok(card)
    }

    /// The address in the card's memory. Valid after a reset.
    pub(crate) fn mac(&self) -> [u8; 6] {
        let (low, high) = (self.bar.read32(RAL).to_le_bytes(), self.bar.read32(RAH).to_le_bytes());
        [low[0], low[1], low[2], low[3], high[0], high[1]]
    }

    pub(crate) fn set(&self, register: usize, bits: u32) {
        self.bar.write32(register, self.bar.read32(register) | bits);
    }

    pub(crate) fn failed(&self, what: &str) -> PmdError {
        PmdError::Config(format!("{}: {what} ({})", self.function.address(), self.driver))
    }

    /// Silences the card and resets it (82574 datasheet, 4.6.3; 82576 datasheet, 4.3).
    pub(crate) fn reset(&self) -> Result<(), PmdError> {
        let bar = &*self.bar;
        bar.write32(self.places.mask_clear, u32::MAX);
        bar.write32(RCTL, 0);
        bar.write32(TCTL, TCTL_PAD);
        self.set(CTRL, CTRL_MASTER_DISABLE);
        // One that goes on is stopped by the reset all the same.
        let _ = wait(MASTER, || bar.read32(STATUS) & STATUS_MASTER_ENABLED == 0);
        self.set(CTRL, CTRL_RESET);
        std::thread::sleep(SETTLE);
        let alive = || bar.read32(STATUS) != u32::MAX && bar.read32(CTRL) & CTRL_RESET == 0;
        if !wait(RESET, alive) {
            return Err(self.failed("it does not come out of reset: power the machine off and on"));
        }
        bar.write32(self.places.mask_clear, u32::MAX);
        bar.write32(self.places.causes, u32::MAX);
        Ok(())
    }

    /// Resets the card so that it does nothing any more.
    pub(crate) fn stop(&self) {
        if let Err(error) = self.reset() {
            // It may still write: the bus takes that right from it.
            self.function.silence();
            log::warn!("{error}");
        }
    }

    /// Tells the card where a ring lies: `first` are the registers of queue 0.
    pub(crate) fn place_ring(&self, first: [usize; 4], index: u16, size: u16, iova: u64) {
        place_ring(
            &self.bar,
            first.map(|register| register + usize::from(index) * self.places.queue),
            size,
            iova,
        );
    }

    /// Spreads flows by `entries`, four of the table's 128 a word; `mode` is what turns it on.
    pub(crate) fn spread(&self, entries: impl Fn(usize) -> u32, mode: u32) {
        for word in 0..10 {
            self.bar.write32(RSS_KEY + 4 * word, RSS_PATTERN);
        }
        for word in 0..32 {
            self.bar.write32(RETA + 4 * word, entries(word));
        }
        self.bar.write32(MRQC, mode | MRQC_FIELDS);
    }

    /// Begins to receive every frame.
    pub(crate) fn receive_all(&self) {
        // Two tags make even a frame of the standard MTU a long one.
        let all = RCTL_ALL_UNICAST | RCTL_ALL_MULTICAST | RCTL_BROADCAST | RCTL_LONG_PACKETS;
        self.bar.write32(RCTL, RCTL_ENABLE | all | RCTL_STRIP_CRC);
    }

    /// What the card says of the link.
    pub(crate) fn link(&self) -> Link {
        link(self.bar.read32(STATUS))
    }

    /// Whether the card is still there.
    pub(crate) fn fault(&self) -> Option<Fault> {
        // All ones from an empty slot; all zero, which a running card never is, where the kernel has taken the registers away.
        match (self.bar.read32(STATUS), self.bar.read32(RCTL)) {
            (u32::MAX, _) | (_, 0) => Some(Fault::Gone),
            _ => None,
        }
    }

    /// Reads the counters and gives all sums. A card that is gone adds nothing.
    pub(crate) fn counters(&mut self) -> Vec<(&'static str, u64)> {
        let mut all = Vec::with_capacity(COUNTERS.len());
        for (&(register, name), sum) in COUNTERS.iter().zip(&mut self.sums) {
            let more = self.bar.read32(register);
            if more != u32::MAX {
                *sum += u64::from(more);
            }
            all.push((name, *sum));
        }
        all
    }
}

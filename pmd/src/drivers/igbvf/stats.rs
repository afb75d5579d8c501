//! The function's own counters.
//!
//! They have 32 bits and go round: at a gigabit those of bytes after half a minute. So they are looked at with every look at the link, and what
//! they have moved since the last is added up.

use super::registers::*;
use crate::pci::Bar;

const COUNTERS: [(usize, &str); 7] = [
    (GOOD_RECEIVED, "rx_good_packets"),
    (BYTES_RECEIVED, "rx_good_bytes"),
    (MULTICAST_RECEIVED, "rx_multicast_packets"),
    (LOOPED_RECEIVED, "rx_loopback_packets"),
    (GOOD_SENT, "tx_good_packets"),
    (BYTES_SENT, "tx_good_bytes"),
    (LOOPED_SENT, "tx_loopback_packets"),
];

#[derive(Default)]
pub(super) struct Stats {
    /// Of each: as last read, and what it has moved since the function was opened.
    counters: [(u32, u64); COUNTERS.len()],
}

impl Stats {
    /// Counts from here: a reset may have moved them.
    pub(super) fn begin(&mut self, bar: &Bar) {
        for ((register, _), (last, _)) in COUNTERS.iter().zip(&mut self.counters) {
            *last = bar.read32(*register);
        }
    }

    /// Looks at all. A function that is gone, whose registers read as all ones, adds nothing.
    pub(super) fn look(&mut self, bar: &Bar) {
        for ((register, _), (last, sum)) in COUNTERS.iter().zip(&mut self.counters) {
            let now = bar.read32(*register);
            if now != u32::MAX {
                *sum += u64::from(now.wrapping_sub(*last));
                *last = now;
            }
        }
    }

    /// The sums, by name.
    pub(super) fn named(&self) -> Vec<(&'static str, u64)> {
        COUNTERS.iter().zip(&self.counters).map(|((_, name), (_, sum))| (*name, *sum)).collect()
    }
}

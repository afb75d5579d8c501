//! Counters of the card. Its registers are cleared when they are read, so they are summed here.

use super::registers::COUNTERS;
use crate::pci::Bar;

/// Sums since the card was opened.
#[derive(Default)]
pub(super) struct Stats {
    sums: [u64; COUNTERS.len()],
}

impl Stats {
    /// Reads the card and gives all sums. A card that is gone adds nothing.
    pub(super) fn read(&mut self, bar: &Bar) -> Vec<(&'static str, u64)> {
        let mut all = Vec::with_capacity(COUNTERS.len());
        for (&(register, name), sum) in COUNTERS.iter().zip(&mut self.sums) {
            let more = bar.read32(register);
            if more != u32::MAX {
                *sum += u64::from(more);
            }
            all.push((name, *sum));
        }
        all
    }
}

//! How often a quiet device is looked at.
//!
//! A look is a system call even when nothing is there. A worker that polls rings as fast as it can would make one every few
//! microseconds for each idle TAP, and lose a tenth of its time with it. So each look that finds nothing doubles the pause before the
//! next, up to [`LONGEST`]; a frame, or the worker's waking up, ends it. A worker that has nothing else to do sleeps, and
//! the kernel wakes it at once: the pause delays only frames that come while others are being forwarded.

use std::time::Duration;

use crate::sys::clock;

/// Longest pause: the most that a frame may wait while its worker is busy elsewhere.
const LONGEST: Duration = Duration::from_micros(20);
/// The first pause is this part of the longest.
const STEPS: u64 = 16;

/// Decides when to look. Time is in ticks of the time-stamp counter.
pub(super) struct Pace {
    due: u64,
    pause: u64,
    longest: u64,
}

impl Pace {
    pub(super) fn new() -> Pace {
        let longest = u128::from(clock::cycles_per_second()) * LONGEST.as_nanos() / 1_000_000_000;
        let longest = u64::try_from(longest).unwrap_or(u64::MAX);
        Pace { due: 0, pause: longest / STEPS, longest }
    }

    /// Whether it is time for a look.
    #[inline]
    pub(super) fn is_due(&self) -> bool {
        self.due == 0 || clock::cycles().wrapping_sub(self.due) as i64 >= 0
    }

    /// The look found nothing.
    #[inline]
    pub(super) fn found_nothing(&mut self) {
        self.due = clock::cycles().wrapping_add(self.pause).max(1);
        self.pause = (self.pause * 2).min(self.longest);
    }

    /// Something is there, or may be.
    #[inline]
    pub(super) fn look_at_once(&mut self) {
        self.due = 0;
        self.pause = self.longest / STEPS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_end_at_once() {
        let mut pace = Pace { due: 0, pause: 1 << 40, longest: 1 << 44 };
        assert!(pace.is_due());
        for pause in [1u64 << 41, 1 << 42, 1 << 43, 1 << 44, 1 << 44] {
            pace.found_nothing();
            // 2^40 ticks are minutes.
            assert!(!pace.is_due());
            assert_eq!(pace.pause, pause);
        }
        pace.look_at_once();
        assert!(pace.is_due());
        assert_eq!(pace.pause, 1 << 40);
    }
}

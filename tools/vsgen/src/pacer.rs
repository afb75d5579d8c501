//! Sending at a rate: how many frames are due now.
//!
//! Ticks are those of [`pmd::sys::clock::cycles`], kept with 16 bits of fraction: at 20 million frames a second and 2 GHz that is
//! wrong by less than one in a million. Whoever is late (interrupted, or busy receiving) sends what is due in one go, up to
//! 100 microseconds' worth; what is older is given up, and counted: an open loop that makes up for a long pause by a long burst would
//! measure the burst.

/// Bits of fraction of a tick.
const FRACTION: u32 = 16;
/// The part of a second that may be made up for.
const CATCH_UP: u64 = 10_000;
/// The least that may be made up for: frames.
const CATCH_UP_LEAST: u64 = 64;

/// The clock of one paced stream.
#[derive(Debug, Clone)]
pub(crate) struct Pacer {
    start: u64,
    /// Fractional ticks between frames.
    interval: u64,
    /// When the next frame is due, in fractional ticks since the start.
    due: u64,
    limit: u64,
    behind: u64,
}

impl Pacer {
    /// A pacer of `rate` frames a second on a clock of `hz`; the first frame is due at once.
    pub(crate) fn new(rate: u64, hz: u64, now: u64) -> Self {
        let interval = (u128::from(hz) << FRACTION) / u128::from(rate.max(1));
        Self {
            start: now,
            interval: u64::try_from(interval).unwrap_or(u64::MAX).max(1),
            due: 0,
            limit: (rate / CATCH_UP).max(CATCH_UP_LEAST),
            behind: 0,
        }
    }

    /// Starts again: nothing is owed from before.
    pub(crate) fn restart(&mut self, now: u64) {
        (self.start, self.due, self.behind) = (now, 0, 0);
    }

    /// Frames that are due.
    #[inline]
    pub(crate) fn owed(&mut self, now: u64) -> u64 {
        let elapsed = now.wrapping_sub(self.start) << FRACTION;
        if elapsed < self.due {
            return 0;
        }
        let owed = (elapsed - self.due) / self.interval + 1;
        if owed <= self.limit {
            return owed;
        }
        self.behind += 1;
        self.due += (owed - self.limit) * self.interval;
        self.limit
    }

    /// So many of them are settled: sent, or given up for want of room.
    #[inline]
    pub(crate) fn settle(&mut self, frames: u64) {
        self.due += frames * self.interval;
    }

    /// How often more was due than may be made up for.
    pub(crate) fn behind(&self) -> u64 {
        self.behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_over_a_long_time() {
        let hz = 2_300_000_000;
        for rate in [1, 999, 1_000_003, 20_000_000] {
            let (mut pacer, mut sent, start) = (Pacer::new(rate, hz, 77), 0, 77);
            let step = hz / rate.max(100_000);
            let mut now = start;
            while now < start + 3 * hz {
                let owed = pacer.owed(now);
                sent += owed;
                pacer.settle(owed);
                now += step;
            }
            assert!(sent.abs_diff(3 * rate) <= 1 + rate / 100_000, "{sent} at {rate}");
            assert_eq!(pacer.behind(), 0);
        }
    }

    #[test]
    fn a_long_pause_is_not_made_up_for() {
        let mut pacer = Pacer::new(1_000_000, 1_000_000_000, 0);
        assert_eq!(pacer.owed(0), 1);
        pacer.settle(1);
        assert_eq!(pacer.owed(999), 0);
        assert_eq!(pacer.owed(1_000_000_000), 100);
        assert_eq!(pacer.behind(), 1);
        pacer.settle(100);
        assert_eq!(pacer.owed(1_000_000_000), 0);
        assert_eq!(pacer.owed(1_000_001_000), 1);
    }
}

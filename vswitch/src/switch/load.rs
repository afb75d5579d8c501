//! What something cost lately: a counter that only grows, remembered over the last minute.

/// Intervals remembered.
const INTERVALS: usize = 12;

/// The growth of a counter in each of the last intervals, and since.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Recent {
    grown: [u64; INTERVALS],
    next: usize,
    seen: u64,
}

impl Recent {
    /// Of a counter that stands at `value` and had no past.
    pub(super) fn from(value: u64) -> Recent {
        Recent { seen: value, ..Recent::default() }
    }

    /// An interval ends; the counter stands at `value`.
    pub(super) fn tick(&mut self, value: u64) {
        if let Some(place) = self.grown.get_mut(self.next) {
            *place = value.wrapping_sub(self.seen);
        }
        self.next = (self.next + 1) % INTERVALS;
        self.seen = value;
    }

    /// The growth over the intervals remembered and since; the counter stands at `value`.
    pub(super) fn growth(&self, value: u64) -> u64 {
        self.grown.iter().sum::<u64>().wrapping_add(value.wrapping_sub(self.seen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_intervals_count() {
        let mut recent = Recent::from(1000);
        assert_eq!(recent.growth(1005), 5);
        for interval in 1..=20u64 {
            recent.tick(1000 + interval * 10);
            assert_eq!(recent.growth(1000 + interval * 10), interval.min(12) * 10);
        }
        assert_eq!(recent.growth(1200 + 3), 123);
    }
}

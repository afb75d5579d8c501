//! Latencies, counted in buckets that grow with their value.
//!
//! Log-linear: every power of two is cut into 128 equal buckets, so a bucket is never wider than 1/128 of the values in it, and what
//! [`Histogram::quantile`] says (the middle of a bucket) is off by at most 0.4 %. Our own because the `hdrhistogram` crate brings
//! serialization formats and corrections along and costs more per value than this: a shift, an add, an increment.
//!
//! 37 KiB; values from 2⁴⁰ on (minutes, in ticks) share the last bucket.

/// Buckets per power of two, as a power of two.
const SUB_BITS: u32 = 7;
/// Values have fewer bits than this.
const VALUE_BITS: u32 = 40;
const BUCKETS: usize = ((VALUE_BITS - SUB_BITS + 1) << SUB_BITS) as usize;

/// Counts of values.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    buckets: Box<[u64]>,
    samples: u64,
    min: u64,
    max: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { buckets: vec![0; BUCKETS].into(), samples: 0, min: u64::MAX, max: 0 }
    }

    /// Counts a value.
    #[inline]
    pub(crate) fn record(&mut self, value: u64) {
        if let Some(bucket) = self.buckets.get_mut(bucket_of(value)) {
            *bucket += 1;
        }
        self.samples += 1;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// Values counted.
    pub(crate) fn samples(&self) -> u64 {
        self.samples
    }

    /// The smallest value, exactly; 0 if there is none.
    pub(crate) fn min(&self) -> u64 {
        if self.samples == 0 { 0 } else { self.min }
    }

    /// The largest value, exactly; 0 if there is none.
    pub(crate) fn max(&self) -> u64 {
        self.max
    }

    /// The value that `permille` thousandths of all values do not exceed; 0 if there is none.
    pub(crate) fn quantile(&self, permille: u64) -> u64 {
        let wanted = (u128::from(self.samples) * u128::from(permille)).div_ceil(1000).max(1);
        let mut seen = 0u128;
        for (index, &count) in self.buckets.iter().enumerate() {
            seen += u128::from(count);
            if seen >= wanted {
                return middle_of(index).clamp(self.min(), self.max);
            }
        }
        self.max
    }
}

/// The bucket of a value: values below 128 have one each.
#[inline]
fn bucket_of(value: u64) -> usize {
    let value = value.min((1 << VALUE_BITS) - 1);
    let shift = (u64::BITS - (value | 1).leading_zeros()).saturating_sub(SUB_BITS + 1);
    ((shift as usize) << SUB_BITS) + (value >> shift) as usize
}

/// The middle of a bucket's values.
fn middle_of(index: usize) -> u64 {
    let shift = (index >> SUB_BITS).saturating_sub(1);
    let start = ((index - (shift << SUB_BITS)) as u64) << shift;
    start + (1u64 << shift) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_stands_for_its_values() {
        let mut value = 1u64;
        while value < 1 << (VALUE_BITS - 1) {
            for near in [value - 1, value, value + value / 3] {
                let middle = middle_of(bucket_of(near));
                assert!(middle.abs_diff(near) * 200 <= near, "{near} is counted as {middle}");
            }
            value = value * 5 / 4 + 1;
        }
        assert!(bucket_of(u64::MAX) < BUCKETS);
    }

    #[test]
    fn buckets_are_in_order_and_without_gaps() {
        let mut last = 0;
        for value in 1..100_000 {
            let bucket = bucket_of(value);
            assert!(bucket == last || bucket == last + 1, "{value}");
            last = bucket;
        }
    }

    #[test]
    fn quantiles_of_a_thousand_values() {
        let mut histogram = Histogram::new();
        assert_eq!((histogram.min(), histogram.quantile(500), histogram.max()), (0, 0, 0));
        for value in (1..=1000).rev() {
            histogram.record(value * 1000);
        }
        assert_eq!((histogram.samples(), histogram.min(), histogram.max()), (1000, 1000, 1_000_000));
        for permille in [1, 500, 900, 990, 999, 1000] {
            let exact = permille * 1000;
            assert!(histogram.quantile(permille).abs_diff(exact) * 100 <= exact, "{permille}");
        }
    }
}

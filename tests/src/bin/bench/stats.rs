//! Medians, and ratios taken within a round.

/// The middle of the samples; of an even number the mean of the middle two; NaN of none.
pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle.wrapping_sub(1)), sorted.get(middle)) {
        (Some(low), Some(high)) if sorted.len().is_multiple_of(2) => f64::midpoint(*low, *high),
        (_, Some(high)) => *high,
        _ => f64::NAN,
    }
}

/// The largest sample.
pub(crate) fn largest(samples: &[f64]) -> f64 {
    samples.iter().copied().fold(f64::NAN, f64::max)
}

/// The smallest sample.
pub(crate) fn smallest(samples: &[f64]) -> f64 {
    samples.iter().copied().fold(f64::NAN, f64::min)
}

/// First by second of each round. The machine changes between rounds more than within one, so the median of these says
/// more than a ratio of medians.
pub(crate) fn paired(first: &[f64], second: &[f64]) -> Vec<f64> {
    first.iter().zip(second).map(|(a, b)| a / b).collect()
}

#[cfg(test)]
mod tests {
    use super::{largest, median, paired, smallest};

    fn same(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn the_median_is_the_middle() {
        assert!(same(median(&[3.0, 1.0, 2.0]), 2.0));
        assert!(same(median(&[4.0, 1.0, 2.0, 3.0]), 2.5));
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn extremes_of_nothing_are_nothing() {
        assert!(same(largest(&[1.0, 3.0, 2.0]), 3.0) && same(smallest(&[2.0, 1.0]), 1.0));
        assert!(largest(&[]).is_nan() && smallest(&[]).is_nan());
    }

    #[test]
    fn ratios_pair_rounds() {
        // Twice as fast in every round, though the machine was three times slower in the second.
        let ratios = paired(&[6.0, 2.0], &[3.0, 1.0]);
        assert!(ratios.iter().all(|r| same(*r, 2.0)));
    }
}

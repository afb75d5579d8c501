//! Medians, ratios taken within a round, and how far apart the processors were.

/// One measured value and the circumstances it is to be compared under.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    /// The round it was taken in, from 0.
    pub(crate) round: usize,
    /// The value, in its table's unit.
    pub(crate) value: f64,
    /// Nanoseconds a cache line took to the other processor and back just before; `None` where it was not measured.
    pub(crate) distance: Option<f64>,
}

/// How far apart generator and switch were. Rates over shared memory follow it, up to three-fold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// A round trip below 60 ns: the two processors share a core or a cache.
    Near,
    /// Between the two others.
    Mid,
    /// Above 250 ns: the hypervisor put them on different dies or sockets.
    Far,
}

impl Class {
    /// The class of a round trip of so many nanoseconds.
    pub(crate) fn of(nanoseconds: f64) -> Self {
        if nanoseconds < 60.0 {
            Self::Near
        } else if nanoseconds > 250.0 {
            Self::Far
        } else {
            Self::Mid
        }
    }

    /// Its word in tables.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Near => "near",
            Self::Mid => "mid",
            Self::Far => "far",
        }
    }
}

/// A ratio of two samples of one round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pair {
    /// First by second.
    pub(crate) ratio: f64,
    /// The class both were taken in; `None` if it changed between them or was not measured.
    pub(crate) class: Option<Class>,
}

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

/// First by second of each round that has both. The machine changes between rounds more than within one, so the median
/// of these says more than a ratio of medians.
pub(crate) fn paired(first: &[Sample], second: &[Sample]) -> Vec<Pair> {
    let partner = |a: &Sample| second.iter().find(|b| b.round == a.round);
    let pair = |a: &Sample, b: &Sample| {
        let [x, y] = [a, b].map(|s| s.distance.map(Class::of));
        Pair { ratio: a.value / b.value, class: x.filter(|_| x == y) }
    };
    first.iter().filter_map(|a| Some(pair(a, partner(a)?))).collect()
}

/// The ratios to judge by: of the pairs whose samples were taken in one class, or of all, if there are none such.
pub(crate) fn fair(pairs: &[Pair]) -> Vec<f64> {
    let within: Vec<f64> = pairs.iter().filter(|p| p.class.is_some()).map(|p| p.ratio).collect();
    if within.is_empty() { pairs.iter().map(|p| p.ratio).collect() } else { within }
}

/// Which classes occur, nearest first, for example `near/mid`; empty if none was measured.
pub(crate) fn classes(samples: &[Sample]) -> String {
    let mut all: Vec<Class> = samples.iter().filter_map(|s| s.distance.map(Class::of)).collect();
    all.sort_unstable();
    all.dedup();
    all.into_iter().map(Class::word).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::{Class, Pair, Sample, classes, fair, largest, median, paired, smallest};

    fn same(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    fn at(round: usize, value: f64, distance: f64) -> Sample {
        Sample { round, value, distance: Some(distance) }
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
        let pairs = paired(&[at(0, 6.0, 30.0), at(1, 2.0, 300.0)], &[at(0, 3.0, 30.0), at(1, 1.0, 300.0)]);
        assert!(pairs.len() == 2 && pairs.iter().all(|p| same(p.ratio, 2.0)));
    }

    #[test]
    fn a_round_that_lacks_one_of_the_two_gives_no_ratio() {
        // The second contestant failed in round 0: its round 1 must not be paired with the first one's round 0.
        let pairs = paired(&[at(0, 6.0, 30.0), at(1, 2.0, 30.0)], &[at(1, 1.0, 30.0)]);
        assert_eq!(pairs, [Pair { ratio: 2.0, class: Some(Class::Near) }]);
    }

    #[test]
    fn a_pair_across_classes_does_not_count_while_there_are_others() {
        let moved = paired(&[at(0, 9.0, 30.0), at(1, 2.0, 30.0)], &[at(0, 1.0, 430.0), at(1, 1.0, 30.0)]);
        assert_eq!(fair(&moved), [2.0]);
        assert_eq!(fair(&moved[..1]), [9.0]);
    }

    #[test]
    fn classes_have_the_bounds_of_the_issue() {
        assert_eq!(
            [59.9, 60.0, 250.0, 250.1].map(Class::of),
            [Class::Near, Class::Mid, Class::Mid, Class::Far]
        );
        assert_eq!(classes(&[at(0, 1.0, 400.0), at(1, 1.0, 20.0), at(2, 1.0, 30.0)]), "near/far");
        assert_eq!(classes(&[Sample { round: 0, value: 1.0, distance: None }]), "");
    }
}

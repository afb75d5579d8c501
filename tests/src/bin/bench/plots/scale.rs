//! From values to pixels, and where to put round numbers on an axis.

/// A linear or logarithmic scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
    from: f64,
    to: f64,
}

/// Above this ratio of the largest to the smallest value a linear axis would hide the small ones.
const WIDE: f64 = 60.0;

impl Scale {
    /// A scale for positive `values` onto the pixels `from` to `to`: linear from zero, or logarithmic if they differ much.
    pub(super) fn of(values: &[f64], from: f64, to: f64) -> Self {
        let largest = values.iter().copied().filter(|v| v.is_finite()).fold(0.0, f64::max);
        let smallest = values.iter().copied().filter(|v| *v > 0.0).fold(f64::INFINITY, f64::min);
        if smallest.is_finite() && largest / smallest > WIDE {
            let (low, high) = (10_f64.powf(smallest.log10().floor()), 10_f64.powf(largest.log10().ceil()));
            return Self { low, high, logarithmic: true, from, to };
        }
        let largest = if largest > 0.0 { largest } else { 1.0 };
        let step = step(largest);
        Self { low: 0.0, high: (largest / step).ceil() * step, logarithmic: false, from, to }
    }

    /// A logarithmic scale from `low` to `high`.
    pub(super) fn log(low: f64, high: f64, from: f64, to: f64) -> Self {
        Self { low, high: high.max(low * 1.001), logarithmic: true, from, to }
    }

    /// The pixel of a value; values outside are drawn at the edge.
    pub(super) fn at(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// Round values along the axis.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let mut ticks = vec![self.low];
        let step = step(self.high);
        while let Some(last) = ticks.last().copied() {
            let next = if self.logarithmic { last * 10.0 } else { last + step };
            if next > self.high * 1.0001 {
                break;
            }
            ticks.push(next);
        }
        ticks
    }
}

/// 1, 2 or 5 times a power of ten, so that up to `largest` there are about six steps.
fn step(largest: f64) -> f64 {
    let power = 10_f64.powf((largest / 6.0).log10().floor());
    let wanted = largest / 6.0 / power;
    let round = [1.0, 2.0, 5.0].into_iter().find(|r| *r >= wanted).unwrap_or(10.0);
    round * power
}

/// A tick's label: no more digits than it needs.
pub(super) fn label(value: f64) -> String {
    if value >= 1000.0 {
        return crate::table::thousands(value);
    }
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::{Scale, label};

    #[test]
    fn linear_axes_begin_at_zero_and_end_round() {
        let scale = Scale::of(&[13.9, 5.9], 100.0, 800.0);
        assert_eq!(scale.ticks(), [0.0, 5.0, 10.0, 15.0]);
        assert!((scale.at(0.0) - 100.0).abs() < 1e-9 && (scale.at(15.0) - 800.0).abs() < 1e-9);
        assert!((scale.at(7.5) - 450.0).abs() < 1e-9);
    }

    #[test]
    fn values_of_many_sizes_get_a_logarithmic_axis() {
        let scale = Scale::of(&[3.0, 900.0], 0.0, 300.0);
        assert_eq!(scale.ticks(), [1.0, 10.0, 100.0, 1000.0]);
        assert!((scale.at(10.0) - 100.0).abs() < 1e-9);
        assert!(scale.at(0.0).abs() < 1e-9, "zero is drawn at the edge");
    }

    #[test]
    fn nothing_and_zero_have_an_axis_too() {
        assert!(Scale::of(&[], 0.0, 1.0).ticks().len() > 1);
        assert!(Scale::of(&[0.0, f64::NAN], 0.0, 1.0).at(0.0).abs() < 1e-9);
    }

    #[test]
    fn labels_are_short() {
        assert_eq!([0.0, 0.5, 2.0, 0.02, 20_000.0].map(label), ["0", "0.5", "2", "0.02", "20 000"]);
    }
}

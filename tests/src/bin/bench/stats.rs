//! Medians and their presentation.

/// The middle of the samples; of an even number the mean of the middle two.
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

/// Prints a line per contestant: median, its ratio to the first, all samples.
pub(crate) fn compare(title: &str, unit: &str, contestants: &[(&str, Vec<f64>)]) {
    println!("\n{title}");
    println!("  {:<26} {:>10}  {:>8}  samples", "", unit, "ratio");
    let first = contestants.first().map_or(f64::NAN, |(_, samples)| median(samples));
    for (name, samples) in contestants {
        let middle = median(samples);
        let all: Vec<String> = samples.iter().map(|s| format!("{s:.2}")).collect();
        println!("  {name:<26} {middle:>10.2}  {:>8.2}  {}", first / middle, all.join(" "));
    }
    println!("  (ratio: ours / theirs)");
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(&[]).is_nan());
    }
}

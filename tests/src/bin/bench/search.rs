//! Finding the highest rate that still works: doubling while it does, then halving the gap.

/// What a search found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Found {
    /// The highest rate that worked.
    Rate(f64),
    /// Not even the lowest one worked.
    Nothing,
    /// Everything up to the highest rate worked.
    Everything,
}

/// Looks between `lowest` and `highest` until the gap between what works and what does not is less than `precision` of
/// the rate. `works` is asked once per rate; its errors end the search.
///
/// # Errors
/// The first of `works`.
pub(crate) fn highest<E>(
    lowest: f64,
    highest: f64,
    precision: f64,
    mut works: impl FnMut(f64) -> Result<bool, E>,
) -> Result<Found, E> {
    if !works(lowest)? {
        return Ok(Found::Nothing);
    }
    let mut good = lowest;
    let mut bad = loop {
        if good >= highest {
            return Ok(Found::Everything);
        }
        let next = (good * 2.0).min(highest);
        if !works(next)? {
            break next;
        }
        good = next;
    };
    while bad - good > good * precision {
        let middle = f64::midpoint(good, bad);
        if works(middle)? {
            good = middle;
        } else {
            bad = middle;
        }
    }
    Ok(Found::Rate(good))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::{Found, highest};

    fn search(limit: f64, asked: &mut Vec<f64>) -> Found {
        let works = |rate: f64| -> Result<bool, Infallible> {
            asked.push(rate);
            Ok(rate <= limit)
        };
        match highest(10.0, 1000.0, 0.1, works) {
            Ok(found) => found,
            Err(never) => match never {},
        }
    }

    #[test]
    fn the_limit_is_found_within_the_precision() {
        for limit in [10.0, 11.0, 79.0, 80.0, 123.4, 640.0, 999.0] {
            let mut asked = Vec::new();
            let Found::Rate(rate) = search(limit, &mut asked) else { panic!("{limit}: no rate") };
            assert!(rate <= limit && rate * 1.1 >= limit, "{rate} for {limit}");
            assert!(asked.len() <= 14, "{} questions", asked.len());
            asked.sort_by(f64::total_cmp);
            assert!(asked.windows(2).all(|w| w[0] < w[1]), "a rate was asked twice: {asked:?}");
        }
    }

    #[test]
    fn limits_outside_the_range_are_named() {
        assert_eq!(search(5.0, &mut Vec::new()), Found::Nothing);
        assert_eq!(search(1000.0, &mut Vec::new()), Found::Everything);
    }

    #[test]
    fn an_error_ends_the_search() {
        let mut asked = 0;
        let result = highest(1.0, 8.0, 0.1, |_| {
            asked += 1;
            if asked == 2 { Err("broken") } else { Ok(true) }
        });
        assert_eq!((result, asked), (Err("broken"), 2));
    }
}

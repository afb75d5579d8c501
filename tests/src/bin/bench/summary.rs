//! The table at the end: what was to be reached, and whether it was.

use crate::goals::{self, Bound, Goal, Verdict};
use crate::results::Results;

/// Prints one line per goal. Returns how many were missed.
pub(crate) fn print(results: &Results) -> usize {
    println!(
        "\n{:<10} {:<40} {:>18}  {:<42} {:>7}  {:<8} distance",
        "row", "ours", "median", "best peer", "ratio", "goal"
    );
    let mut missed = 0;
    for goal in goals::all() {
        let verdict = goals::judge(&goal, results);
        missed += usize::from(verdict.as_ref().is_some_and(|v| !v.met));
        println!("{}", line(&goal, verdict.as_ref()));
    }
    missed
}

fn line(goal: &Goal, verdict: Option<&Verdict>) -> String {
    let bound = bound(goal);
    let Some(v) = verdict else {
        let text = format!(
            "{:<10} {:<40} {:>18}  {:<42} {:>7}  {bound:<8} {:<9} not measured",
            goal.row, goal.ours, "", "", "", ""
        );
        return text;
    };
    let value = |x: f64| format!("{} {}", figure(x), v.unit);
    let peer = v.peer.as_ref().map(|(name, x)| format!("{name}: {}", figure(*x))).unwrap_or_default();
    let ratio = v.ratio.map(|r| format!("{r:.2} x")).unwrap_or_default();
    let met = if v.met { "met" } else { "NOT MET" };
    format!(
        "{:<10} {:<40} {:>18}  {peer:<42} {ratio:>7}  {bound:<8} {:<9} {met}",
        goal.row,
        goal.ours,
        value(v.ours),
        v.class
    )
}

fn bound(goal: &Goal) -> String {
    match goal.bound {
        Bound::AtLeast(b) => format!(">= {b}"),
        Bound::AtMost(b) => format!("<= {b}"),
    }
}

/// A number with about three digits that say something.
pub(crate) fn figure(x: f64) -> String {
    if x == 0.0 || x.abs() >= 100.0 {
        format!("{x:.0}")
    } else if x.abs() >= 10.0 {
        format!("{x:.1}")
    } else if x.abs() >= 0.1 {
        format!("{x:.2}")
    } else {
        format!("{x:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::{figure, line};
    use crate::goals::{Bound, Goal, Verdict};

    fn goal(bound: Bound) -> Goal {
        Goal { row: "loop64", ours: "us".into(), peers: vec!["them".into()], bound }
    }

    #[test]
    fn a_line_says_who_how_much_and_whether() {
        let verdict = Verdict {
            ours: 13.0,
            unit: "Mpps".into(),
            peer: Some(("them".into(), 7.3)),
            ratio: Some(1.78),
            class: "mid".into(),
            met: true,
        };
        let text = line(&goal(Bound::AtLeast(1.6)), Some(&verdict));
        for part in ["13.0 Mpps", "them: 7.30", "1.78 x", ">= 1.6", "mid"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(text.ends_with(" met"));
        assert!(line(&goal(Bound::AtMost(1.0)), None).ends_with("not measured"));
    }

    #[test]
    fn figures_have_three_digits() {
        let texts = [0.0, 0.0312, 0.5, 7.341, 13.04, 1234.5].map(figure);
        assert_eq!(texts, ["0", "0.031", "0.50", "7.34", "13.0", "1234"]);
    }
}

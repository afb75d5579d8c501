//! All goals in one picture: the ratio reached, and a mark where it should be.

use super::scale::{Scale, label};
use super::svg::{Anchor, CHARACTER, MARGIN, Sheet, WIDTH, heading_height};
use crate::goals::{self, Bound, Goal, Verdict};
use crate::results::Results;

const TITLE: &str = "Ratio to the best peer, median of ratios paired by round";
const BELOW: &str = "bar: reached; upright mark: goal; blue: goal met, red: not met. Rows marked with * are prices: less is better";
const BAR: f64 = 15.0;
const STEP: f64 = 23.0;
const MET: &str = "#3b7ddd";
const MISSED: &str = "#d1495b";

/// Every goal that is a ratio and was measured.
pub(super) fn draw(results: &Results) -> String {
    let goals = goals::all();
    let judged: Vec<(&Goal, Verdict, f64)> = goals
        .iter()
        .filter_map(|g| {
            let verdict = goals::judge(g, results)?;
            let ratio = verdict.ratio?;
            Some((g, verdict, ratio))
        })
        .collect();
    #[expect(clippy::cast_precision_loss, reason = "tens of goals")]
    let area = judged.len() as f64 * STEP;
    let top = heading_height(TITLE) + 6.0;
    let mut sheet = Sheet::new(top + area + 26.0 + MARGIN, TITLE);
    sheet.heading(TITLE, BELOW);
    let labels: Vec<String> = judged.iter().map(|(g, v, _)| name(g, v)).collect();
    let widest = labels.iter().map(|l| l.chars().count()).max().unwrap_or(0);
    #[expect(clippy::cast_precision_loss, reason = "tens of characters")]
    let left = (MARGIN + widest as f64 * (CHARACTER - 0.5) + 10.0).min(WIDTH * 0.68);
    let ends: Vec<f64> = judged.iter().flat_map(|(g, _, ratio)| [*ratio, value(g.bound)]).collect();
    let scale = Scale::of(&ends, left, WIDTH - MARGIN - 44.0);
    for tick in scale.ticks() {
        let x = scale.at(tick);
        sheet.line((x, top), (x, top + area), "grid");
        sheet.text((x, top + area + 18.0), Anchor::Middle, "soft", &label(tick));
    }
    let mut y = top + (STEP - BAR) / 2.0;
    for ((goal, verdict, ratio), name) in judged.iter().zip(&labels) {
        let end = scale.at(*ratio);
        sheet.text((left - 8.0, y + BAR - 3.0), Anchor::End, "soft", name);
        sheet.bar((left, y), (end - left, BAR), if verdict.met { MET } else { MISSED });
        let mark = scale.at(value(goal.bound));
        sheet.line((mark, y - 3.0), (mark, y + BAR + 3.0), "mark");
        sheet.text((end.max(mark) + 6.0, y + BAR - 3.0), Anchor::Start, "", &format!("{ratio:.2}"));
        y += STEP;
    }
    sheet.line((left, top), (left, top + area), "axis");
    sheet.finish()
}

fn value(bound: Bound) -> f64 {
    match bound {
        Bound::AtLeast(value) | Bound::AtMost(value) => value,
    }
}

fn name(goal: &Goal, verdict: &Verdict) -> String {
    let star = if matches!(goal.bound, Bound::AtMost(_)) { "*" } else { "" };
    let ours = goal.ours.strip_prefix("vswitchd, ").unwrap_or(&goal.ours);
    let peer = verdict.peer.as_ref().map(|(name, _)| name.as_str()).unwrap_or_default();
    // What both sides do need not be said twice.
    let peer = peer.strip_suffix(ours).map_or(peer, |short| short.trim_end_matches([' ', ',']));
    format!("{}{star}: {ours} / {peer}", goal.row)
}

#[cfg(test)]
mod tests {
    use super::draw;
    use crate::contestants::{OURS_RULE, OVS_RULE};
    use crate::plots::svg::tests::well_formed;
    use crate::results::{Entry, Results};
    use crate::table::Table;

    #[test]
    fn met_and_missed_goals_differ() {
        let loops = |row: &str, ours: f64| {
            let mut table = Table::new("t", "Mpps");
            table.add(OURS_RULE, ours);
            table.add(OVS_RULE, 1.0);
            Entry { row: row.into(), date: String::new(), commit: String::new(), table }
        };
        let results =
            Results { entries: vec![loops("loop64", 2.0), loops("loop1518", 1.2)], ..Results::default() };
        let text = draw(&results);
        assert!(well_formed(&text), "{text}");
        assert!(text.contains(super::MET) && text.contains(super::MISSED));
        assert!(text.contains("loop64: in_port rule / OVS-DPDK<"), "{text}");
    }

    #[test]
    fn nothing_measured_nothing_judged() {
        assert!(well_formed(&draw(&Results::default())));
    }
}

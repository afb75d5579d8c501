//! Horizontal bars: a median each, whiskers from the smallest to the largest sample, contestants together.

use super::scale::{Scale, label};
use super::svg::{Anchor, CHARACTER, MARGIN, Sheet, WIDTH, colour, heading_height};
use crate::stats::{largest, median, smallest};
use crate::summary::figure;
use crate::table::{Better, Table};

const BAR: f64 = 17.0;
const STEP: f64 = 25.0;
/// Between one contestant's bars and the next one's.
const GROUP: f64 = 9.0;
/// Room to the right of the axis for the number of the longest bar.
const NUMBER: f64 = 64.0;

/// The table as a bar chart.
pub(super) fn draw(table: &Table) -> String {
    let mut series: Vec<_> = table.series.iter().filter(|s| !s.samples.is_empty()).collect();
    // Contestants in the order they first appear, each one's bars together.
    let first = |name: &str| series.iter().position(|s| colour(&s.name) == colour(name)).unwrap_or(0);
    let order: Vec<usize> = series.iter().map(|s| first(&s.name)).collect();
    let mut keyed: Vec<_> = order.into_iter().zip(series.drain(..)).collect();
    keyed.sort_by_key(|(group, _)| *group);

    let groups = keyed.windows(2).filter(|w| matches!(w, [a, b] if a.0 != b.0)).count();
    #[expect(clippy::cast_precision_loss, reason = "tens of bars")]
    let area = keyed.len() as f64 * STEP + groups as f64 * GROUP;
    let top = heading_height(&table.title) + 6.0;
    let mut sheet = Sheet::new(top + area + 26.0 + MARGIN, &table.title);
    sheet.heading(&table.title, &subtitle(table));

    let widest = keyed.iter().map(|(_, s)| s.name.chars().count()).max().unwrap_or(0);
    #[expect(clippy::cast_precision_loss, reason = "tens of characters")]
    let left = (MARGIN + widest as f64 * CHARACTER + 12.0).min(WIDTH / 2.0);
    let all: Vec<f64> = keyed.iter().flat_map(|(_, s)| s.values()).collect();
    let scale = Scale::of(&all, left, WIDTH - MARGIN - NUMBER);
    for tick in scale.ticks() {
        let x = scale.at(tick);
        sheet.line((x, top), (x, top + area), "grid");
        sheet.text((x, top + area + 18.0), Anchor::Middle, "soft", &label(tick));
    }
    let mut y = top + (STEP - BAR) / 2.0;
    let mut before = None;
    for (group, series) in keyed {
        if before.is_some_and(|b| b != group) {
            y += GROUP;
        }
        before = Some(group);
        let values = series.values();
        let (low, middle, high) = (smallest(&values), median(&values), largest(&values));
        sheet.text((left - 8.0, y + BAR - 4.0), Anchor::End, "", &series.name);
        sheet.bar((left, y), (scale.at(middle) - left, BAR), colour(&series.name));
        whiskers(&mut sheet, &scale, y + BAR / 2.0, low, high);
        sheet.text((scale.at(high) + 8.0, y + BAR - 4.0), Anchor::Start, "", &figure(middle));
        y += STEP;
    }
    sheet.line((left, top), (left, top + area), "axis");
    sheet.finish()
}

fn whiskers(sheet: &mut Sheet, scale: &Scale, y: f64, low: f64, high: f64) {
    let (from, to) = (scale.at(low), scale.at(high));
    if to - from < 1.0 {
        return;
    }
    sheet.line((from, y), (to, y), "mark");
    for x in [from, to] {
        sheet.line((x, y - 3.5), (x, y + 3.5), "mark");
    }
}

/// Unit, direction, and what bar and whiskers are.
pub(super) fn subtitle(table: &Table) -> String {
    let rounds = table.series.iter().map(|s| s.samples.len()).max().unwrap_or(0);
    let direction = match table.better() {
        Better::More => "more is better",
        Better::Less => "less is better",
    };
    let rounds =
        if rounds == 1 { "one sample".to_owned() } else { format!("median and range of {rounds} rounds") };
    format!("{}, {direction}; {rounds}", table.unit)
}

#[cfg(test)]
mod tests {
    use super::draw;
    use crate::plots::svg::tests::well_formed;
    use crate::table::Table;

    #[test]
    fn each_series_has_a_bar_and_its_name() {
        let mut table = Table::new("loop & more", "Mpps");
        for value in [10.0, 12.0, 11.0] {
            table.add("vswitchd, in_port rule", value);
            table.add("OVS-DPDK, in_port rule", value / 2.0);
            table.add("vswitchd, learning bridge", value);
        }
        let text = draw(&table);
        assert!(well_formed(&text), "{text}");
        assert_eq!(text.matches("<rect").count(), 3);
        let at = |name: &str| text.find(name).unwrap();
        assert!(at("vswitchd, learning") < at("OVS-DPDK"), "a contestant's bars stand together");
        assert!(text.contains("median and range of 3 rounds"));
    }

    #[test]
    fn a_table_without_samples_is_drawn_empty() {
        assert!(well_formed(&draw(&Table::new("nothing", "ms"))));
    }
}

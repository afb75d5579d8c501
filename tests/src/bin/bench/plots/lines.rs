//! Lines over a logarithmic axis: how a rate falls as flows or masks become more.

use super::bars::subtitle;
use super::scale::{Scale, label};
use super::svg::{Anchor, CHARACTER, MARGIN, Sheet, WIDTH, colour, heading_height};
use crate::stats::{largest, median, smallest};
use crate::table::{Table, thousands};

/// Height of the area of the curves.
const AREA: f64 = 290.0;
/// Room for the labels of the upright axis.
const LEFT: f64 = MARGIN + 44.0;
/// Between the edge of the area and the first and last points.
const INSET: f64 = 36.0;
const LEGEND: f64 = 24.0;

/// A point of a line: where, and the smallest, middle and largest sample.
type Point = (f64, [f64; 3]);

/// The table's points as a line chart.
pub(super) fn draw(table: &Table) -> String {
    let lines = lines(table);
    let top = heading_height(&table.title) + LEGEND + 4.0;
    let bottom = top + AREA;
    let mut sheet = Sheet::new(bottom + 48.0 + MARGIN, &table.title);
    let below = sheet.heading(&table.title, &subtitle(table));
    legend(&mut sheet, below + 8.0, &lines);

    let points = || lines.iter().flat_map(|(_, points)| points);
    let values: Vec<f64> = points().flat_map(|(_, marks)| *marks).collect();
    let upright = Scale::of(&values, bottom, top);
    let right = WIDTH - MARGIN;
    for tick in upright.ticks() {
        let y = upright.at(tick);
        sheet.line((LEFT, y), (right, y), "grid");
        sheet.text((LEFT - 8.0, y + 4.0), Anchor::End, "soft", &label(tick));
    }
    let mut xs: Vec<f64> = points().map(|(x, _)| *x).collect();
    xs.sort_by(f64::total_cmp);
    xs.dedup();
    let (low, high) = (xs.first().copied().unwrap_or(1.0), xs.last().copied().unwrap_or(10.0));
    let along = Scale::log(low.max(0.5), high, LEFT + INSET, right - INSET);
    for x in &xs {
        let at = along.at(*x);
        sheet.line((at, top), (at, bottom), "grid");
        sheet.text((at, bottom + 18.0), Anchor::Middle, "soft", &thousands(*x));
    }
    let axis = table.axis.as_deref().unwrap_or_default();
    sheet.text((f64::midpoint(LEFT, right), bottom + 40.0), Anchor::Middle, "soft", axis);
    sheet.line((LEFT, bottom), (right, bottom), "axis");
    for (number, (name, points)) in lines.iter().enumerate() {
        curve(&mut sheet, (&along, &upright), points, colour(name), second(&lines, number));
    }
    sheet.finish()
}

fn curve(
    sheet: &mut Sheet,
    (along, upright): (&Scale, &Scale),
    points: &[Point],
    colour: &str,
    dashed: bool,
) {
    for (x, [low, _, high]) in points {
        let x = along.at(*x);
        sheet.whisker((x, upright.at(*low)), (x, upright.at(*high)), colour);
        for y in [low, high] {
            sheet.whisker((x - 4.0, upright.at(*y)), (x + 4.0, upright.at(*y)), colour);
        }
    }
    let middles: Vec<(f64, f64)> =
        points.iter().map(|(x, [_, middle, _])| (along.at(*x), upright.at(*middle))).collect();
    sheet.curve(&middles, colour, dashed);
}

/// The lines of a table in the order they first appear, each with its points from left to right.
fn lines(table: &Table) -> Vec<(String, Vec<Point>)> {
    let mut lines: Vec<(String, Vec<Point>)> = Vec::new();
    for series in table.series.iter().filter(|s| !s.samples.is_empty()) {
        let Some((line, x)) = &series.point else { continue };
        let values = series.values();
        let point = (*x, [smallest(&values), median(&values), largest(&values)]);
        match lines.iter_mut().find(|(name, _)| name == line) {
            Some((_, points)) => points.push(point),
            None => lines.push((line.clone(), vec![point])),
        }
    }
    for (_, points) in &mut lines {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    lines
}

/// Whether an earlier line has the same colour.
fn second(lines: &[(String, Vec<Point>)], number: usize) -> bool {
    let same =
        |(name, _): &(String, Vec<Point>)| lines.get(number).is_some_and(|l| colour(&l.0) == colour(name));
    lines.iter().take(number).any(same)
}

fn legend(sheet: &mut Sheet, y: f64, lines: &[(String, Vec<Point>)]) {
    let mut x = LEFT;
    for (number, (name, _)) in lines.iter().enumerate() {
        let middle = y - 4.0;
        sheet.curve(&[(x, middle), (x + 26.0, middle)], colour(name), second(lines, number));
        sheet.text((x + 36.0, y), Anchor::Start, "", name);
        #[expect(clippy::cast_precision_loss, reason = "tens of characters")]
        let width = name.chars().count() as f64 * CHARACTER;
        x += 36.0 + width + 26.0;
    }
}

#[cfg(test)]
mod tests {
    use super::{draw, lines};
    use crate::plots::svg::tests::well_formed;
    use crate::table::Table;

    fn table() -> Table {
        let mut table = Table::new("flows", "Mpps").along("flows");
        for x in [1000.0, 1.0] {
            table.add_at("vswitchd, in_port rule", x, 9.0);
            table.add_at("vswitchd, learning bridge", x, 8.0);
            table.add_at("OVS-DPDK", x, 4.0);
        }
        table
    }

    #[test]
    fn points_of_a_line_run_from_left_to_right() {
        let lines = lines(&table());
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|(_, p)| p.iter().map(|p| p.0).collect::<Vec<_>>() == [1.0, 1000.0]));
    }

    #[test]
    fn a_second_line_of_a_contestant_is_dashed() {
        let text = draw(&table());
        assert!(well_formed(&text), "{text}");
        // Once in the legend, once in the area.
        assert_eq!(text.matches("stroke-dasharray").count(), 2);
        assert_eq!(text.matches("<polyline").count(), 6);
    }

    #[test]
    fn no_points_no_curves() {
        assert!(well_formed(&draw(&Table::new("nothing", "Mpps").along("flows"))));
    }
}

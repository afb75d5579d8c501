//! Distinct masks in the megaflow table: each is one more table that a packet may have to be looked up in.

use tests::failure::{Failure, Result};
use tests::hugepages::Hugepages;

use crate::Bench;
use crate::contestants::{self, BASELINE, Contestant, OURS, OVS, Setup};
use crate::flows::one_way;
use crate::forwarding::PAGES;
use crate::goals::MASK_COUNTS;
use crate::report::{Report, Table};
use crate::rounds::{Tables, alternate};
use crate::rules;

/// More than the exact-match caches hold, so that the table behind them is what is measured.
const FLOWS: u32 = 10_000;

/// Measures the row.
pub(crate) fn masks(bench: &Bench, report: &mut Report) -> Result<()> {
    let title =
        "64 B, one direction, closed loop, 10 000 flows over megaflows of different masks, one worker";
    let mut tables = Tables::new([Table::new(title, "Mpps").along("masks")]);
    let _pages = Hugepages::reserve(PAGES)?;
    let setup = Setup { many_flows: true, ..Setup::default() };
    alternate(bench, &setup, &contestants::switches(bench), &mut tables, |tables, contestant| {
        for count in MASK_COUNTS {
            measure(bench, tables, contestant, count)?;
        }
        Ok(())
    })?;
    let [mut table] = tables.into_inner();
    table.compare_lines(OURS, OVS);
    table.compare_lines(OURS, BASELINE);
    report.push(table);
    Ok(())
}

fn measure(bench: &Bench, tables: &mut Tables<1>, contestant: &Contestant, count: u32) -> Result<()> {
    contestant.rules(&bench.lab, &rules::masks(count))?;
    contestant.flush()?;
    tables.look()?;
    let rate = one_way(bench, contestant, &format!("flows={FLOWS},dst-nets={count}"))?;
    let flows = contestant.megaflows()?;
    // What the generator sends from A; the frame that teaches bridges, and what B sends, is of no interest.
    let of_interest = flows.iter().filter(|f| f.contains("dst=11.")).map(String::as_str);
    let found = rules::distinct_masks(of_interest);
    println!("    {}, {count} masks ({found} in the flow dump): {rate:.2} Mpps", contestant.name());
    if found == 0 {
        return Err(Failure::new("no megaflow of the measured traffic in the flow dump"));
    }
    if found != count as usize {
        tables.note(&format!(
            "{}: {found} masks in the flow dump where {count} were wanted",
            contestant.name()
        ));
    }
    if let Some(table) = tables.table(0) {
        table.add_at(contestant.name(), f64::from(count), rate);
    }
    Ok(())
}

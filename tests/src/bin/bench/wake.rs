//! The first packet after idleness. This switch sleeps when nothing comes; Open vSwitch polls for ever, and stands beside to
//! show what sleeping costs in latency.

use tests::failure::Result;
use tests::hugepages::Hugepages;

use crate::Bench;
use crate::contestants::{self, Setup, Way};
use crate::forwarding::PAGES;
use crate::report::{Report, Table};
use crate::rounds::{Tables, alternate};
use crate::vsgen;

/// Wake-ups per sample, and milliseconds of silence before each.
const COUNT: u32 = 200;
const GAP: u32 = 20;

/// Measures the row.
pub(crate) fn wake(bench: &Bench, report: &mut Report) -> Result<()> {
    let title = format!("first frame after {GAP} ms of silence, guest's kick to used entry");
    let mut tables = Tables::new([Table::new(title, "µs")]);
    let _pages = Hugepages::reserve(PAGES)?;
    alternate(bench, &Setup::default(), &contestants::switches(bench), &mut tables, |tables, contestant| {
        contestant.forward(&bench.lab, Way::Rule)?;
        tables.look()?;
        let marks = vsgen::wake(bench, contestant, COUNT, GAP)?;
        let name = contestant.name();
        println!("    {name}: p50 {:.1} µs, p99 {:.1} µs", marks.p50, marks.p99);
        tables.add(&format!("{name}, p50"), marks.p50);
        tables.add(&format!("{name}, p99"), marks.p99);
        Ok(())
    })?;
    let [mut table] = tables.into_inner();
    table.remark("Open vSwitch does not sleep: it polls at 100 % of a core");
    report.push(table);
    Ok(())
}

//! The first packet after idleness. This switch sleeps when nothing comes; Open vSwitch polls for ever, and stands beside to
//! show what sleeping costs in latency. So does a bare wake-up ([`crate::waking`]): how much of the number is the machine's.

use std::time::Duration;

use tests::failure::Result;
use tests::hugepages::Hugepages;

use crate::Bench;
use crate::contestants::{self, BASELINE, Contestant, OURS, Setup, Way};
use crate::forwarding::PAGES;
use crate::report::{Report, Table};
use crate::rounds::{Tables, alternate};
use crate::vsgen::{self, Latency};
use crate::waking;

/// Wake-ups per sample, and milliseconds of silence before each.
const COUNT: u32 = 200;
const GAP: u32 = 20;
/// The series that nobody who sleeps can undercut.
const BARE: &str = "nothing but a thread woken by an eventfd";

/// Measures the row.
pub(crate) fn wake(bench: &Bench, report: &mut Report) -> Result<()> {
    let title = format!("first frame after {GAP} ms of silence, guest's kick to used entry");
    let mut tables = Tables::new([Table::new(title, "µs")]);
    let _pages = Hugepages::reserve(PAGES)?;
    alternate(bench, &Setup::default(), &contestants::switches(bench), &mut tables, |tables, contestant| {
        contestant.forward(&bench.lab, Way::Rule)?;
        tables.look()?;
        if matches!(contestant, Contestant::Ours(_)) {
            // Not after: a switch whose guests have just gone has a lot to do on both processors.
            add(tables, BARE, waking::marks(COUNT, Duration::from_millis(GAP.into()))?);
        }
        add(tables, contestant.name(), vsgen::wake(bench, contestant, COUNT, GAP)?);
        Ok(())
    })?;
    let [mut table] = tables.into_inner();
    for mark in ["p50", "p99"] {
        table.compare(&series(OURS, mark), &series(BARE, mark));
        if bench.baseline.is_some() {
            table.compare(&series(OURS, mark), &series(BASELINE, mark));
        }
    }
    table.remark("Open vSwitch does not sleep: it polls at 100 % of a core");
    report.push(table);
    Ok(())
}

fn add(tables: &mut Tables<1>, name: &str, marks: Latency) {
    println!("    {name}: p50 {:.1} µs, p99 {:.1} µs", marks.p50, marks.p99);
    tables.add(&series(name, "p50"), marks.p50);
    tables.add(&series(name, "p99"), marks.p99);
}

fn series(name: &str, mark: &str) -> String {
    format!("{name}, {mark}")
}

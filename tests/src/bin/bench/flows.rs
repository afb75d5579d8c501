//! Many flows: with a rule and so a megaflow for each of them, and with one rule for all.
//!
//! `flows` is the worst case of a flow table: nothing is wildcarded, a million entries have to be found. `microflows` is the
//! ordinary one: the rules are simple and only the exact-match cache in front of the table sees how many flows there are.

use std::time::{Duration, Instant};

use ::tests::failure::{Failure, Result};
use ::tests::hugepages::Hugepages;

use crate::Bench;
use crate::contestants::{
    self, BASELINE, BASELINE_RULE, Contestant, OURS, OURS_LEARNING, OURS_RULE, OVS, OVS_LEARNING, OVS_RULE,
    Setup, Way,
};
use crate::forwarding::PAGES;
use crate::goals::FLOW_COUNTS;
use crate::report::{Report, Table};
use crate::rounds::{Tables, alternate};
use crate::rules;
use crate::table::{point_name, thousands};
use crate::vsgen::{self, Offer};

/// From so many rules on loading them and their megaflows takes minutes: measured in the first round only.
const SLOW: u32 = 1_000_000;
/// How long a contestant may take to install a million megaflows.
const WARM_UP: Duration = Duration::from_secs(45);
/// Flows a warm-up run is expected to touch per second; it is repeated while the number of megaflows grows.
const TOUCHED: f64 = 300_000.0;

/// One direction of 64-byte frames in a closed loop: Mpps.
pub(crate) fn one_way(bench: &Bench, contestant: &Contestant, stream: &str) -> Result<f64> {
    let seconds = bench.sample.as_secs_f64();
    let offer = Offer { ab: Some(format!("size=64,{stream}")), settle: 1.0, seconds, ..Offer::default() };
    let streams = vsgen::send(bench, contestant, &offer)?;
    let stream = streams.first().ok_or_else(|| Failure::new("vsgen: no stream"))?;
    if stream.received <= 0.0 {
        return Err(Failure::new("no frame arrived"));
    }
    Ok(stream.mpps)
}

/// Row of flows with a megaflow each.
pub(crate) fn flows(bench: &Bench, report: &mut Report) -> Result<()> {
    let title = "64 B, one direction, closed loop, one 5-tuple rule and one megaflow per flow, one worker";
    let mut tables = Tables::new([Table::new(title, "Mpps").along("flows")]);
    let _pages = Hugepages::reserve(PAGES)?;
    let setup = Setup { many_flows: true, ..Setup::default() };
    alternate(bench, &setup, &contestants::switches(bench), &mut tables, |tables, contestant| {
        let first = tables.round() == 0;
        for count in FLOW_COUNTS.into_iter().filter(|&count| first || count < SLOW) {
            contestant.rules(&bench.lab, &rules::five_tuples(count))?;
            warm_up(bench, tables, contestant, count)?;
            tables.look()?;
            let rate = one_way(bench, contestant, &format!("flows={count}"))?;
            point(tables, contestant.name(), count, rate);
        }
        Ok(())
    })?;
    let [mut table] = tables.into_inner();
    table.remark(format!("{} flows in the first round only", thousands(f64::from(SLOW))));
    table.compare_lines(OURS, OVS);
    table.compare_lines(OURS, BASELINE);
    report.push(table);
    Ok(())
}

/// Row of flows that share their megaflow.
pub(crate) fn microflows(bench: &Bench, report: &mut Report) -> Result<()> {
    let title = "64 B, one direction, closed loop, many flows over one megaflow, one worker";
    let mut tables = Tables::new([Table::new(title, "Mpps").along("flows")]);
    let _pages = Hugepages::reserve(PAGES)?;
    alternate(bench, &Setup::default(), &contestants::switches(bench), &mut tables, |tables, contestant| {
        for &(way, name) in contestant.ways().iter().filter(|(way, _)| *way != Way::Flooding) {
            contestant.forward(&bench.lab, way)?;
            for count in FLOW_COUNTS {
                tables.look()?;
                let rate = one_way(bench, contestant, &format!("flows={count}"))?;
                point(tables, name, count, rate);
            }
        }
        Ok(())
    })?;
    let [mut table] = tables.into_inner();
    table.compare_lines(OURS_RULE, OVS_RULE);
    table.compare_lines(OURS_LEARNING, OVS_LEARNING);
    table.compare_lines(OURS_RULE, BASELINE_RULE);
    report.push(table);
    Ok(())
}

fn point(tables: &mut Tables<1>, line: &str, count: u32, rate: f64) {
    println!("    {}: {rate:.2} Mpps", point_name(line, f64::from(count), "flows"));
    if let Some(table) = tables.table(0) {
        table.add_at(line, f64::from(count), rate);
    }
}

/// Sends every flow again and again until hardly one of them still asks for a megaflow, or time is up, which is noted. (The
/// megaflows themselves are not counted: a dump of a million of them is more than a management socket wants to say.)
fn warm_up(bench: &Bench, tables: &mut Tables<1>, contestant: &Contestant, count: u32) -> Result<()> {
    let seconds = (f64::from(count) / TOUCHED).max(0.3);
    let began = Instant::now();
    let offer =
        Offer { ab: Some(format!("size=64,flows={count}")), settle: 0.0, seconds, ..Offer::default() };
    let mut before = contestant.misses()?;
    loop {
        let sent = vsgen::send(bench, contestant, &offer)?.first().map_or(0.0, |s| s.sent);
        let after = contestant.misses()?;
        let asked = after - before;
        if seen(sent, asked, count) {
            return Ok(());
        }
        if began.elapsed() > WARM_UP {
            let (flows, took) = (thousands(f64::from(count)), began.elapsed().as_secs());
            tables.note(&format!(
                "{}: of {flows} flows {asked} packets still missed after {took} s",
                contestant.name()
            ));
            return Ok(());
        }
        before = after;
    }
}

/// Whether a run of `sent` packets over `count` flows, of which `asked` missed, shows every flow to have its megaflow: each was
/// sent, and at most one in a thousand asked. (The frames that teach bridges ask too.)
fn seen(sent: f64, asked: u64, count: u32) -> bool {
    sent >= f64::from(count) && asked <= u64::from(count) / 1000 + 4
}

#[cfg(test)]
mod tests {
    use super::seen;

    #[test]
    fn a_run_counts_only_if_it_touched_every_flow() {
        assert!(seen(2e6, 900, 1_000_000));
        assert!(!seen(2e6, 1_100, 1_000_000));
        assert!(!seen(9e5, 0, 1_000_000));
        assert!(seen(1e6, 2, 1));
    }
}

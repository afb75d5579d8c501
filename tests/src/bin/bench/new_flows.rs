//! How many new flows per second a switch takes until it loses some, and whether others notice.
//!
//! From A every packet is of a flow never seen before, and [`rules::new_flows`] makes each one need a megaflow of its own.
//! From B comes one established flow at a steady rate through the same worker: it must lose nothing.

use ::tests::failure::{Failure, Result};
use ::tests::hugepages::Hugepages;

use crate::Bench;
use crate::contestants::{self, BASELINE, Contestant, OURS, OVS, Setup};
use crate::forwarding::PAGES;
use crate::report::{Report, Table};
use crate::rounds::{Tables, alternate};
use crate::rules;
use crate::search::{self, Found};
use crate::vsgen::{self, Offer, Stream};

/// Bounds of the search, new flows per second.
const LOWEST: f64 = 5_000.0;
const HIGHEST: f64 = 2_560_000.0;
/// The search ends when it knows the rate this well.
const PRECISION: f64 = 0.1;
/// Share of the packets of new flows that may be lost.
const LOSS: f64 = 0.001;
/// The established flow.
const ESTABLISHED: &str = "size=64,rate=100k";
/// Length of a step, seconds. Longer would fill tables rather than measure how they are filled.
const STEP: f64 = 1.0;

/// Measures the row.
pub(crate) fn new_flows(bench: &Bench, report: &mut Report) -> Result<()> {
    let rate = Table::new(
        "64 B, every packet a new flow, a megaflow each: highest rate that loses < 0.1 %",
        "thousand flows/s",
    );
    let loss = Table::new("an established flow of 100 kpps the other way meanwhile", "frames lost in 1 s");
    let mut tables = Tables::new([rate, loss]);
    let _pages = Hugepages::reserve(PAGES)?;
    let setup = Setup { many_flows: true, ..Setup::default() };
    alternate(bench, &setup, &contestants::switches(bench), &mut tables, |tables, contestant| {
        measure(bench, tables, contestant)
    })?;
    let [mut rate, loss] = tables.into_inner();
    for peer in [OVS, BASELINE] {
        rate.compare(&format!("{OURS}, new flows"), &format!("{peer}, new flows"));
    }
    report.push(rate);
    report.push(loss);
    Ok(())
}

fn measure(bench: &Bench, tables: &mut Tables<2>, contestant: &Contestant) -> Result<()> {
    let name = contestant.name();
    contestant.rules(&bench.lab, &rules::new_flows())?;
    verify(bench, contestant)?;
    tables.look()?;
    let found = search::highest(LOWEST, HIGHEST, PRECISION, |rate| {
        let (new, established) = step(bench, contestant, rate)?;
        println!(
            "    {name}: {:.0} k new flows/s: {:.2} % lost; established flow lost {:.0}",
            rate / 1000.0,
            missing(&new) / new.sent.max(1.0) * 100.0,
            lost(&established)
        );
        Ok::<bool, Failure>(missing(&new) <= LOSS * new.offered.max(new.sent))
    })?;
    let rate = match found {
        Found::Rate(rate) => rate,
        Found::Nothing => {
            tables.note(&format!("{name}: loses new flows even at {LOWEST} per second"));
            LOWEST
        }
        Found::Everything => {
            tables.note(&format!("{name}: loses none at {HIGHEST} per second, where the search ends"));
            HIGHEST
        }
    };
    let reached = if found == Found::Nothing { 0.0 } else { rate };
    tables.add(&format!("{name}, new flows"), reached / 1000.0);
    for (times, label) in [(1.0, ""), (2.0, " at twice the rate")] {
        let (_, established) = step(bench, contestant, rate * times)?;
        if let Some(table) = tables.table(1) {
            table.add(&format!("{name}, established flow lost{label}"), lost(&established));
        }
    }
    Ok(())
}

/// One second of new flows at `rate` on a table without any, beside the established flow.
fn step(bench: &Bench, contestant: &Contestant, rate: f64) -> Result<(Stream, Stream)> {
    contestant.flush()?;
    let offer = Offer {
        ab: Some(format!("size=64,new={rate:.0}")),
        ba: Some(ESTABLISHED.to_owned()),
        settle: 0.3,
        seconds: STEP,
        tso: false,
    };
    let mut streams = vsgen::send(bench, contestant, &offer)?.into_iter();
    streams.next().zip(streams.next()).ok_or_else(|| Failure::new("vsgen: two streams were wanted"))
}

/// Frames that did not arrive, of those a rate consists of: lost on the way, or never sent, whoever was too slow. A pacer's rounding is neither.
/// For the rate itself, which is not to be one that was not offered.
fn missing(stream: &Stream) -> f64 {
    let unsent = stream.offered - stream.sent;
    stream.lost + if unsent > stream.offered * LOSS { unsent } else { 0.0 }
}

/// Frames that the switch lost: on the way, or because it left the ring full. What the generator did not send because it had no processor
/// for a while (it shares one with the slow path) is not among them.
fn lost(stream: &Stream) -> f64 {
    stream.lost + stream.refused
}

/// An error unless new flows really need megaflows of their own.
fn verify(bench: &Bench, contestant: &Contestant) -> Result<()> {
    let (new, _) = step(bench, contestant, LOWEST)?;
    let installed = contestant.installed()?;
    #[expect(clippy::cast_precision_loss, reason = "thousands of flows")]
    if (installed as f64) < new.received * 0.9 {
        return Err(Failure::new(format!(
            "{} new flows arrived over {installed} megaflows: not one each, so nothing would be measured",
            new.received
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{lost, missing};
    use crate::vsgen::Stream;

    fn stream(offered: f64, sent: f64, lost: f64) -> Stream {
        Stream {
            sent,
            offered,
            refused: 7.0,
            received: sent - lost,
            lost,
            foreign: 0.0,
            mpps: 0.0,
            gbps: 0.0,
            latency: None,
        }
    }

    #[test]
    fn what_a_full_ring_kept_out_is_lost_too() {
        assert_eq!(missing(&stream(100_000.0, 100_000.0, 3.0)), 3.0);
        assert_eq!(missing(&stream(100_000.0, 90_000.0, 3.0)), 10_003.0);
        // Half a millisecond of pacing.
        assert_eq!(missing(&stream(100_000.0, 99_950.0, 0.0)), 0.0);
        assert_eq!(
            lost(&stream(100_000.0, 90_000.0, 3.0)),
            10.0,
            "what the generator was late with is not lost"
        );
    }
}

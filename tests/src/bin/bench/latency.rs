//! Latency from ring to ring under load: at a tenth, a half and nine tenths of what each contestant can carry, and at one
//! load that is the same for all.

use tests::failure::{Failure, Result};
use tests::hugepages::Hugepages;

use crate::Bench;
use crate::contestants::{self, BASELINE, Contestant, OURS, OVS, Setup, TESTPMD, Way};
use crate::forwarding::PAGES;
use crate::report::{Report, Table};
use crate::rounds::{Tables, alternate};
use crate::vsgen::{self, Latency, Offer, Stream};

/// Loads, shares of a contestant's own maximum.
const LOADS: [(f64, &str); 3] = [(0.1, "10 %"), (0.5, "50 %"), (0.9, "90 %")];
/// What the common load is called.
const COMMON: &str = "the common load";
/// More than this share not arriving: the load was more than could be carried, latency is that of a full queue.
const OVERLOAD: f64 = 0.01;

/// Measures the row.
pub(crate) fn latency(bench: &Bench, report: &mut Report) -> Result<()> {
    let _pages = Hugepages::reserve(PAGES)?;
    let slowest = slowest(bench)?;
    let about = |load: &str| format!("64 B both ways, ring to ring, at {load}");
    let mut tables = Tables::new([
        Table::new("64 B both ways, closed loop: what loads are shares of", "Mpps"),
        Table::new(about("10 % of the own maximum"), "µs"),
        Table::new(about("50 % of the own maximum"), "µs"),
        Table::new(about("90 % of the own maximum"), "µs"),
        Table::new(about(&format!("{:.2} Mpps, half the slowest one's maximum", slowest / 2.0)), "µs"),
    ]);
    alternate(bench, &Setup::default(), &contestants::all(bench), &mut tables, |tables, contestant| {
        measure(bench, tables, contestant, slowest / 2.0)
    })?;
    for mut table in tables.into_inner() {
        compare(&mut table);
        report.push(table);
    }
    Ok(())
}

/// Every mark of ours with the same mark of the others.
fn compare(table: &mut Table) {
    let names: Vec<String> = table.series.iter().map(|s| s.name.clone()).collect();
    for ours in &names {
        let Some(mark) = ours.strip_prefix(OURS) else { continue };
        for peer in [OVS, TESTPMD, BASELINE] {
            let theirs = format!("{peer}{mark}");
            if names.contains(&theirs) {
                table.compare(ours, &theirs);
            }
        }
    }
}

/// The smallest maximum of all contestants, each measured once: half of it is a load everybody can carry.
fn slowest(bench: &Bench) -> Result<f64> {
    let mut slowest = f64::INFINITY;
    for entrant in contestants::all(bench) {
        // Who cannot be measured here fails again in the rounds, where it is reported.
        let maximum = (entrant.start)(bench, &Setup::default()).and_then(|mut c| maximum(bench, &mut c));
        if let Ok(maximum) = maximum {
            println!("  {}: at most {maximum:.2} Mpps", entrant.name);
            slowest = slowest.min(maximum);
        }
    }
    if slowest.is_finite() { Ok(slowest) } else { Err(Failure::new("nobody forwards anything")) }
}

/// Mpps both ways in a closed loop.
fn maximum(bench: &Bench, contestant: &mut Contestant) -> Result<f64> {
    if !matches!(contestant, Contestant::Testpmd(..)) {
        contestant.forward(&bench.lab, Way::Rule)?;
    }
    let (ab, ba) = offer(bench, contestant, "size=64", 0.7)?;
    let both = ab.mpps + ba.mpps;
    if both > 0.0 { Ok(both) } else { Err(Failure::new("no frame arrived")) }
}

fn measure(bench: &Bench, tables: &mut Tables<5>, contestant: &mut Contestant, common: f64) -> Result<()> {
    tables.look()?;
    let maximum = maximum(bench, contestant)?;
    tables.add(contestant.name(), maximum);
    let own = LOADS.iter().map(|&(share, name)| (maximum * share, name));
    for (index, (load, name)) in (1..).zip(own.chain([(common, COMMON)])) {
        tables.look()?;
        let stream = format!("size=64,rate={:.0},latency=yes", load / 2.0 * 1e6);
        let (ab, ba) = offer(bench, contestant, &stream, 0.3)?;
        let lost = 1.0 - (ab.received + ba.received) / (ab.offered + ba.offered).max(1.0);
        if lost > OVERLOAD {
            tables.note(&format!(
                "{} at {name} ({load:.2} Mpps): {:.0} % did not arrive, the machine had become slower",
                contestant.name(),
                lost * 100.0
            ));
        }
        let marks = ab.latency.zip(ba.latency).ok_or_else(|| Failure::new("vsgen printed no latency"))?;
        record(tables, index, contestant.name(), name, marks);
    }
    Ok(())
}

/// The worse direction counts.
fn record(tables: &mut Tables<5>, index: usize, who: &str, load: &str, (ab, ba): (Latency, Latency)) {
    let marks = [("p50", ab.p50.max(ba.p50)), ("p99", ab.p99.max(ba.p99)), ("p99.9", ab.p999.max(ba.p999))];
    let Some(table) = tables.table(index) else { return };
    for (mark, value) in marks {
        table.add(&format!("{who}, {mark} at {load}"), value);
    }
    let text: Vec<String> = marks.iter().map(|(mark, value)| format!("{mark} {value:.1}")).collect();
    println!("    {who} at {load}: {} µs", text.join(", "));
}

fn offer(bench: &Bench, contestant: &Contestant, stream: &str, settle: f64) -> Result<(Stream, Stream)> {
    let both = Some(stream.to_owned());
    let seconds = bench.sample.as_secs_f64();
    let offer = Offer { ab: both.clone(), ba: both, settle, seconds, tso: false };
    let mut streams = vsgen::send(bench, contestant, &offer)?.into_iter();
    streams.next().zip(streams.next()).ok_or_else(|| Failure::new("vsgen: two streams were wanted"))
}

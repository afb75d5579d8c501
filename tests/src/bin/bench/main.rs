//! `make bench`: the switch beside Open vSwitch with DPDK, testpmd's own vhost forwarding and the Linux bridge.
//!
//! The contestants take turns round by round, so that whatever else the machine does hits all of them. What counts is
//! the median of ratios taken within a round, never a single number. Settings, all by environment:
//!
//! ```text
//! ROWS=loop64,idle   which rows, by name (default: all)
//! ROUNDS=5           rounds of each row (default: 5, and 3 of the longest rows)
//! SECONDS=2          length of one sample
//! BASELINE=DIR       another build of vswitchd and vsctl that takes part: what did a change bring?
//! PEERS=no           without Open vSwitch and testpmd, to look at a change quickly
//! ```
//!
//! `bench plots` (`make plots`) only draws what is in `results.json`. `docs/PERFORMANCE.md` says what each row means.

mod contestants;
mod copying;
mod features;
mod flows;
mod forwarding;
mod goals;
mod gso;
mod idle;
mod latency;
mod machine;
mod masks;
mod new_flows;
mod plots;
mod ports;
mod relaying;
mod report;
mod results;
mod rounds;
mod rules;
mod search;
mod settings;
mod start;
mod stats;
mod summary;
mod table;
mod tcp;
mod uplink;
mod veth;
mod vsgen;
mod wake;
mod waking;

use std::env;
use std::process::ExitCode;
use std::time::Duration;

use pmd::sys::huge_alloc::HugeAlloc;
use rustix::process::setpriority_process;
use tests::failure::{Failure, Result};
use tests::lab::{Binaries, Lab};

use report::Report;
use results::Results;
use settings::Settings;

/// As in `vswitchd`: what [`copying`] copies lies in huge pages, as the guests' memory does.
#[global_allocator]
static ALLOCATOR: HugeAlloc = HugeAlloc;

/// What every row is given.
pub(crate) struct Bench {
    /// Programs and scratch folder.
    pub(crate) lab: Lab,
    /// How often each contestant is measured.
    pub(crate) rounds: usize,
    /// Length of one sample.
    pub(crate) sample: Duration,
    /// An earlier build of ours to compare with.
    pub(crate) baseline: Option<Binaries>,
    /// Whether others take part.
    pub(crate) peers: bool,
}

/// A row of the report.
pub(crate) struct Row {
    /// Its name, for `ROWS`.
    pub(crate) name: &'static str,
    /// Rounds if nothing else is asked for: as many as leave the whole run within three quarters of an hour.
    rounds: usize,
    /// What measures it.
    measure: fn(&Bench, &mut Report) -> Result<()>,
}

const fn row(name: &'static str, rounds: usize, measure: fn(&Bench, &mut Report) -> Result<()>) -> Row {
    Row { name, rounds, measure }
}

/// All rows, in the order they are measured and printed.
pub(crate) const ROWS: &[Row] = &[
    row("loop64", 5, forwarding::loop_64),
    row("loop512", 5, forwarding::loop_512),
    row("loop1518", 5, forwarding::loop_1518),
    row("packed64", 5, forwarding::packed_64),
    row("gso64k", 5, gso::gso_64k),
    row("flows", 3, flows::flows),
    row("microflows", 3, flows::microflows),
    row("masks", 5, masks::masks),
    row("newflows", 3, new_flows::new_flows),
    row("latency", 5, latency::latency),
    row("wake", 5, wake::wake),
    row("idle", 5, idle::idle),
    row("start", 5, start::start),
    row("ports", 3, ports::ports),
    row("tcp", 5, tcp::tcp),
    row("afpacket", 3, veth::af_packet),
    row("afxdp", 3, veth::af_xdp),
    row("virtiouser", 3, uplink::virtio_user),
];

/// Above this load others take part of the processors we measure with.
const BUSY: f64 = 0.5;
/// Scheduling priority of everything that is measured: a stray daemon of the machine then costs little. Contestants and
/// generators all have it.
const NICE: i32 = -15;

fn main() -> ExitCode {
    let done = match env::args().nth(1).as_deref() {
        None => bench(),
        Some("plots") => draw().map(|()| true),
        Some(other) => Err(Failure::new(format!("there is nothing called {other:?} to do; only \"plots\""))),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("bench: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Runs everything that is asked for. Whether nothing failed; a goal that was missed is not a failure.
fn bench() -> Result<bool> {
    let settings = Settings::read()?;
    let rows = settings.pick(ROWS, |r| r.name)?;
    let lab = Lab::open()?;
    // After the build, which is not measured.
    raise_priority();
    let path = results::file(if settings.counts() { "results.json" } else { "trial.json" });
    let mut report = Report::new(machine::describe(), ROWS.iter().map(|r| r.name).collect(), path.clone());
    if machine::load() > BUSY {
        println!(
            "WARNING: the load is {:.1}: others use this machine; expect ratios to swing and distrust absolute numbers",
            machine::load()
        );
    }
    let (sample, peers, counts) = (settings.sample, settings.peers, settings.counts());
    let mut bench = Bench { lab, rounds: 0, sample, peers, baseline: settings.baseline };
    for row in rows {
        bench.rounds = settings.rounds.unwrap_or(row.rounds);
        report.begin(row.name);
        if let Err(e) = (row.measure)(&bench, &mut report) {
            report.fail(&e.to_string());
        }
        // After each row: what has been measured survives whatever comes next.
        report.save()?;
    }
    report.print();
    let all = report.save()?;
    summary::print(&all);
    println!("\nresults: {}", path.display());
    if counts {
        draw()?;
    }
    Ok(!report.failed())
}

/// Draws the newest results, or, on a machine where nothing was measured, those that are committed.
fn draw() -> Result<()> {
    let folder = results::committed();
    let newest = results::file("results.json");
    let results = Results::newest(&newest);
    if results.entries.is_empty() {
        return Err(Failure::new(format!("{} holds no results; run `make bench` first", newest.display())));
    }
    plots::draw(&results, &folder)?;
    // The plots and the numbers they were made from stay together.
    results.save(&folder.join("results.json"))?;
    println!("plots: {}", folder.display());
    Ok(())
}

fn raise_priority() {
    // Where the kernel groups sessions, priorities count only within a group, so the group gets the same.
    let _ = std::fs::write("/proc/self/autogroup", NICE.to_string());
    if let Err(e) = setpriority_process(None, NICE) {
        println!("no higher priority ({e}): other work on this machine will show in the numbers");
    }
}

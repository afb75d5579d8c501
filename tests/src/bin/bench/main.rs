//! `make bench`: the switch beside Open vSwitch with DPDK, testpmd's own vhost forwarding and the Linux bridge.
//!
//! The contestants take turns round by round, so that whatever else the machine does hits all of them. What counts is
//! the median of ratios taken within a round, never a single number. Settings, all by environment:
//!
//! ```text
//! ROWS=loop64,idle   which rows, by name (default: all)
//! ROUNDS=3           rounds of each row
//! SECONDS=3          length of one sample
//! BASELINE=DIR       another build of vswitchd and vsctl that takes part in the loop rows: what did a change bring?
//! PEERS=no           without Open vSwitch and testpmd, to look at a change quickly
//! ```
//!
//! Results are printed and kept in `target/bench/results.json`. `docs/PERFORMANCE.md` says what each row means.

mod contestants;
mod forwarding;
mod idle;
mod machine;
mod ports;
mod report;
mod start;
mod stats;
mod tcp;

use std::env;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::setpriority_process;
use tests::failure::{Failure, Result};
use tests::lab::{Binaries, Lab};

use report::Report;

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

/// A row of the report: its name and what measures it.
type Row = (&'static str, fn(&Bench, &mut Report) -> Result<()>);

const ROWS: [Row; 6] = [
    ("loop64", forwarding::loop_64),
    ("loop1518", forwarding::loop_1518),
    ("idle", idle::idle),
    ("start", start::start),
    ("ports", ports::ports),
    ("tcp", tcp::tcp),
];

/// Above this load others take part of the processors we measure with.
const BUSY: f64 = 0.5;
/// Scheduling priority of everything that is measured: a stray daemon of the machine then costs little. Contestants and
/// generators all have it.
const NICE: i32 = -15;

fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench: {e}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Result<()> {
    let rounds = number("ROUNDS", 3)?;
    let seconds = number("SECONDS", 3)?;
    let rows = rows()?;
    let baseline = env::var_os("BASELINE").filter(|v| !v.is_empty()).map(Binaries::at).transpose()?;
    let peers = env::var("PEERS").map_or(true, |v| v != "no");
    let lab = Lab::open()?;
    // After the build, which is not measured.
    // Where the kernel groups sessions, priorities count only within a group, so the group gets the same.
    let _ = std::fs::write("/proc/self/autogroup", NICE.to_string());
    if let Err(e) = setpriority_process(None, NICE) {
        println!("no higher priority ({e}): other work on this machine will show in the numbers");
    }
    let mut report = Report::new(machine::describe());
    if machine::load() > BUSY {
        println!(
            "WARNING: the load is {:.1}: others use this machine; expect ratios to swing and distrust absolute numbers",
            machine::load()
        );
    }
    let bench = Bench { lab, rounds, sample: Duration::from_secs(seconds as u64), baseline, peers };
    for (name, measure) in rows {
        report.begin(name);
        measure(&bench, &mut report)?;
        // After each row: what has been measured survives a failure of the next.
        report.save()?;
    }
    report.print();
    println!("\nresults: {}", report.save()?.display());
    Ok(())
}

fn rows() -> Result<Vec<Row>> {
    let wanted = env::var("ROWS").unwrap_or_default();
    let words: Vec<&str> = wanted.split([',', ' ']).filter(|w| !w.is_empty()).collect();
    if let Some(unknown) = words.iter().find(|w| ROWS.iter().all(|(name, _)| name != *w)) {
        let names = ROWS.map(|(name, _)| name).join(", ");
        return Err(Failure::new(format!("ROWS: there is no row {unknown:?}; there are {names}")));
    }
    Ok(ROWS.into_iter().filter(|(name, _)| words.is_empty() || words.contains(name)).collect())
}

fn number(name: &str, default: usize) -> Result<usize> {
    let Some(text) = env::var(name).ok().filter(|v| !v.is_empty()) else { return Ok(default) };
    text.parse()
        .ok()
        .filter(|n| (1..=1000).contains(n))
        .ok_or_else(|| Failure::new(format!("{name}={text}: a number from 1 to 1000 is wanted")))
}

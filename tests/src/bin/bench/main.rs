//! `make bench`: the switch beside Open vSwitch with DPDK and testpmd's own vhost forwarding.
//!
//! The contestants take turns round by round, so that whatever else the machine does hits all of them; what counts is
//! the ratio of medians, not a single number. `ROUNDS` (3) says how often, `ROWS` which rows, by a part of their name.

mod forwarding;
mod idle;
mod stats;

use std::env;
use std::process::ExitCode;

use tests::failure::Result;
use tests::lab::Lab;

/// A row of the report: its name and what measures and prints it.
type Row = (&'static str, fn(&Lab, usize) -> Result<()>);

const ROWS: [Row; 2] = [("loop-64", forwarding::loop_64), ("idle", idle::idle)];

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
    let rounds = env::var("ROUNDS").ok().and_then(|v| v.parse().ok()).unwrap_or(3).max(1);
    let wanted = env::var("ROWS").unwrap_or_default();
    let lab = Lab::open()?;
    println!("{} processors, load {}", processors(), load());
    for (name, measure) in ROWS {
        if wanted.is_empty() || wanted.split([',', ' ']).any(|part| name.contains(part)) {
            measure(&lab, rounds)?;
        }
    }
    Ok(())
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// How busy the machine is with other things: whoever reads the numbers should know.
fn load() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').next().unwrap_or("?").to_owned()
}

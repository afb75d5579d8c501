//! `make soak`: [`tests::soak`] for as many minutes as the argument says.

use std::process::ExitCode;
use std::time::Duration;

use tests::failure::{During as _, Result};
use tests::lab::Lab;
use tests::soak::{Plan, run};

fn soak() -> Result<()> {
    let minutes: u64 = std::env::args().nth(1).unwrap_or_default().parse().during("minutes")?;
    let lab = Lab::open()?;
    let plan = Plan { ports: 256, time: Duration::from_secs(minutes * 60), guests: 96 };
    println!("soak: {plan:?}");
    let outcome = run(&lab, plan)?;
    println!(
        "soak: {} guests came and went, {} frames of bystanders all arrived",
        outcome.visits, outcome.frames
    );
    println!("soak: held before {:?}\nsoak: held after  {:?}", outcome.held[0], outcome.held[1]);
    Ok(())
}

fn main() -> ExitCode {
    match soak() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("soak: {e}");
            ExitCode::FAILURE
        }
    }
}

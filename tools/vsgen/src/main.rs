//! `vsgen`: a traffic generator for virtual switches, as two guests in one thread.
//!
//! ```text
//!   args, stream ─▶ run, wake ─▶ pair ─┬─ guest A, guest B: memory, session (vhost-user), rings (pmd's burst driver)
//!                                      └─ way A→B, B→A:     sender (flows, frame, pacer) … receiver (histogram)
//!                                                                                  └─▶ report (JSON)
//! ```
//!
//! It must never be the bottleneck: about 60 instructions per frame for sending and receiving it in the simplest stream,
//! and one cache line per frame that it pulls from the switch's processor. docs/vsgen.md tells how to use it.

mod args;
mod error;
mod flows;
mod frame;
mod guest;
mod histogram;
mod memory;
mod pacer;
mod pair;
mod receiver;
mod report;
mod restart;
mod run;
mod sender;
mod session;
mod stream;
mod wake;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use args::{Cli, Command};
use error::{During as _, Error};

fn main() -> ExitCode {
    match dispatch(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vsgen: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn dispatch(cli: &Cli) -> Result<(), Error> {
    let report = match &cli.command {
        Command::Run(args) => run::run(args)?,
        Command::Wake(args) => wake::wake(args)?,
    };
    writeln!(std::io::stdout(), "{report}").during("standard output")
}

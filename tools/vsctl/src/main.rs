//! `vsctl`: looks at and changes a running `vswitchd` through its OVSDB socket.
//!
//! ```text
//!   arguments ─grammar─▶ calls ─commands─▶ plan (copy of the database + changes) ─▶ one transaction ─▶ wait until live
//!                 └────▶ own command ─▶ one or more vs.* calls ─▶ table
//! ```
//!
//! `main` only dispatches. What a word means is in [`commands`], what a line means in [`grammar`] and [`cli`],
//! what goes over the wire in [`plan`] and [`socket`].

mod cli;
mod commands;
mod connection;
mod error;
mod grammar;
mod output;
mod plan;
mod run;
mod schema;
mod socket;
mod value;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod script;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use cli::{Globals, Request};
use connection::Database;
use error::{EXIT_TIMEOUT, Error};
use socket::Socket;

fn main() -> ExitCode {
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is_silent() {
                for line in error.to_string().lines() {
                    eprintln!("vsctl: {line}");
                }
            }
            ExitCode::from(error.exit_code())
        }
    }
}

fn dispatch(args: &[String]) -> Result<(), Error> {
    let (globals, request) = cli::parse(args)?;
    start_watchdog(globals.timeout);
    let mut out = std::io::stdout().lock();
    match request {
        Request::Print(text) => out.write_all(text.as_bytes()).map_err(|why| Error::output(&why)),
        Request::Own(own) => commands::run_own(&own, &mut || connect(&globals), globals.style(), &mut out),
        Request::Chain(calls) => {
            let settings = run::Settings {
                no_wait: globals.no_wait,
                dry_run: globals.dry_run,
                oneline: globals.oneline,
                style: globals.style(),
                origin: args.join(" "),
            };
            run::run_chain(&mut *connect(&globals)?, &calls, &settings, &mut out)
        }
    }
}

fn connect(globals: &Globals) -> Result<Box<dyn Database>, Error> {
    Ok(Box::new(Socket::connect(globals.db.as_deref(), globals.verbose)?))
}

/// Ends the process when `--timeout` is over, whatever it is waiting for. The database needs no goodbye: a
/// transaction was either committed or not.
fn start_watchdog(seconds: u64) {
    if seconds == 0 {
        return;
    }
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(seconds));
        eprintln!("vsctl: gave up after {seconds} seconds (--timeout): is vswitchd busy or stopped?");
        std::process::exit(i32::from(EXIT_TIMEOUT));
    });
}

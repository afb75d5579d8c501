//! The daemon: parse, start, serve, stop.

use std::process::ExitCode;

use clap::Parser;
use pmd::sys::huge_alloc::HugeAlloc;
use vswitch::daemon::{Daemon, Options};

#[global_allocator]
static ALLOCATOR: HugeAlloc = HugeAlloc;

fn main() -> ExitCode {
    let options = Options::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(options.log_filter()))
        .format_target(false)
        .init();
    match Daemon::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

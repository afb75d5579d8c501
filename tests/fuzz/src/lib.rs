//! Fuzz targets: what each trust boundary of the switch must survive, and what must hold besides.
//!
//! A target is a module with `run`, which panics when a property is broken, and `seeds`, a few inputs that reach
//! the interesting code. The programs in `bin/` hand `run` to libFuzzer; `tests/tests/fuzz_regressions.rs` includes this file and
//! replays seeds and past findings without it. `docs/howto/fuzz.md` says how to run, add, and keep what was found.
//!
//! Targets here are deterministic: no thread, no clock, no state that outlives an input. One input tells one story. Those in
//! `tests::fuzzed` talk to live ports and servers over their sockets instead.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a target reports what it found"
)]

pub mod flow_text;
pub mod frame_key;
pub mod frames;
pub mod input;
pub mod journal_repair;
pub mod offload;
pub mod ring_program;
pub mod transaction;
pub mod vhost_session;

/// A target: how to run an input, and inputs to start from.
#[derive(Clone, Copy)]
pub struct Target {
    /// Name of its module, program and folder of regressions.
    pub name: &'static str,
    /// Runs one input; panics when a property is broken.
    pub run: fn(&[u8]),
    /// Makes the seeds.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: [Target; 7] = [
    Target { name: "flow_text", run: flow_text::run, seeds: flow_text::seeds },
    Target { name: "frame_key", run: frame_key::run, seeds: frame_key::seeds },
    Target { name: "journal_repair", run: journal_repair::run, seeds: journal_repair::seeds },
    Target { name: "offload", run: offload::run, seeds: offload::seeds },
    Target { name: "ring_program", run: ring_program::run, seeds: ring_program::seeds },
    Target { name: "transaction", run: transaction::run, seeds: transaction::seeds },
    Target { name: "vhost_session", run: vhost_session::run, seeds: vhost_session::seeds },
];

/// Writes the seeds of a target as files into the folder `$FUZZ_SEEDS`, if that is set: called before libFuzzer reads
/// its corpus.
pub fn write_seeds(seeds: fn() -> Vec<Vec<u8>>) {
    let Some(folder) = std::env::var_os("FUZZ_SEEDS") else { return };
    std::fs::create_dir_all(&folder).expect("the folder of seeds can be made");
    for (number, seed) in seeds().into_iter().enumerate() {
        let path = std::path::Path::new(&folder).join(format!("seed-{number:02}"));
        std::fs::write(path, seed).expect("a seed can be written");
    }
}

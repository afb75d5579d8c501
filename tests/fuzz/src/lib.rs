//! Fuzz targets: what each trust boundary of the switch must survive, and what must hold besides.
//!
//! A target is a module with `run`, which panics when a property is broken, and `seeds`, a few inputs that reach
//! the interesting code. The programs in `bin/` hand `run` to libFuzzer; `tests/tests/fuzz_regressions.rs` includes this file and
//! replays seeds and past findings without it. `docs/howto/fuzz.md` says how to run, add, and keep what was found.
//!
//! Targets are deterministic: no thread, no clock, no state that outlives an input. One input tells one story. The exceptions,
//! `management_session`, `flipping_rings` and `vhost_messages`, say why.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a target reports what it found"
)]

pub mod back_end_rings;
pub mod descriptor_chains;
pub mod flipping_rings;
pub mod flow_text;
pub mod frame_key;
pub mod frames;
pub mod input;
pub mod journal;
pub mod jsonrpc;
pub mod management_session;
pub mod merge;
pub mod offload;
pub mod shadow_device;
pub mod vhost_messages;

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
pub const TARGETS: [Target; 12] = [
    Target { name: "back_end_rings", run: back_end_rings::run, seeds: back_end_rings::seeds },
    Target { name: "descriptor_chains", run: descriptor_chains::run, seeds: descriptor_chains::seeds },
    Target { name: "flipping_rings", run: flipping_rings::run, seeds: flipping_rings::seeds },
    Target { name: "flow_text", run: flow_text::run, seeds: flow_text::seeds },
    Target { name: "frame_key", run: frame_key::run, seeds: frame_key::seeds },
    Target { name: "journal", run: journal::run, seeds: journal::seeds },
    Target { name: "jsonrpc", run: jsonrpc::run, seeds: jsonrpc::seeds },
    Target { name: "management_session", run: management_session::run, seeds: management_session::seeds },
    Target { name: "merge", run: merge::run, seeds: merge::seeds },
    Target { name: "offload", run: offload::run, seeds: offload::seeds },
    Target { name: "shadow_device", run: shadow_device::run, seeds: shadow_device::seeds },
    Target { name: "vhost_messages", run: vhost_messages::run, seeds: vhost_messages::seeds },
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

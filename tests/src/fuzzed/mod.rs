//! What is fuzzed: one function per trust boundary, each takes any bytes and panics when an invariant breaks.
//!
//! `tests/fuzz` feeds them from libFuzzer (`make fuzz-smoke`); `tests/regressions.rs` replays every input that once
//! found something, so that plain `cargo test` guards what fuzzing has taught. Inputs are kept in
//! `tests/regressions/TARGET/NAME`.
//!
//! | target | boundary |
//! |---|---|
//! | [`frame_to_key`] | frames from guests and wires; the text forms of matches |
//! | [`vhost_messages`] | the front-end's side of a vhost-user socket |
//! | [`descriptor_chains`] | the guest's side of its rings |
//! | [`json_rpc`] | the management socket |
//! | [`journal`] | the configuration file |

#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken invariant must stop the fuzzer")]

mod frame;
mod front_end;
mod management;
mod messages;
mod rings;

pub use frame::frame_to_key;
pub use management::{journal, json_rpc};
pub use messages::vhost_messages;
pub use rings::descriptor_chains;

/// A fuzzed function.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: [(&str, Target); 5] = [
    ("frame_to_key", frame_to_key),
    ("vhost_messages", vhost_messages),
    ("descriptor_chains", descriptor_chains),
    ("json_rpc", json_rpc),
    ("journal", journal),
];

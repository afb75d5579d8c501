//! A second try for scenarios with a guest inside the host guest.
//!
//! Their guest runs on virtualisation that QEMU emulates instruction by instruction. Now and then it falls silent for minutes: once in
//! CI in the middle of a stream, never in the nine runs of that scenario after it. Guests that QEMU runs itself never did. Until the cause is known such a scenario
//! may fail once, and says so aloud. A fault of the switch that shows less than every other time would slip through here: what
//! these scenarios show of rings, cards and engines is also shown without such a guest.

use std::io::Write as _;
use std::panic::catch_unwind;

/// Runs a scenario, and once more if it fails.
pub(crate) fn twice_at_most(name: &str, scenario: fn()) {
    let Err(cause) = catch_unwind(scenario) else { return };
    let said = cause.downcast_ref::<String>().map_or("no message", String::as_str);
    // Not by `eprintln!`, which a test that passes keeps to itself.
    let _ = writeln!(std::io::stderr(), "{name} FAILED ONCE and is tried again: {said}");
    scenario();
}

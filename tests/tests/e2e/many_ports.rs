//! 256 ports on one switch, guests that come and go: what `make soak` does for ten minutes, for a short while.

use std::time::Duration;

use tests::lab::Lab;
use tests::soak::{Plan, run};

#[test]
fn guests_come_and_go_on_256_ports_without_leak_or_loss() {
    let lab = Lab::open().unwrap();
    let outcome = run(&lab, Plan { ports: 256, time: Duration::from_secs(10), guests: 96 }).unwrap();
    println!("{outcome:?}");
    // One per port is the warm-up.
    assert!(outcome.visits > 252 && outcome.frames > 1000, "{outcome:?}");
}

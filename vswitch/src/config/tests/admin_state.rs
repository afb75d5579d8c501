//! Ports that the operator takes down: without opening them anew, and from the start after a restart.

use serde_json::json;

use super::offloads::options;
use super::{Bench, VHOST, interface};

#[test]
fn port_is_taken_down_and_up_without_opening_it_anew() {
    let mut bench = Bench::new();
    bench.add_bridge("br0", &[("p1", json!({}), json!({"type": VHOST}))]);
    bench.pass();
    let state = |bench: &Bench| {
        (
            bench.fake.state.lock().unwrap().ports["p1"].0.admin_up,
            interface(&bench.snapshot(), "p1").str("admin_state").to_owned(),
        )
    };
    assert_eq!(state(&bench), (true, "up".to_owned()));
    bench.transact(&[options(&[("admin-state", "down")])]);
    assert_eq!(bench.pass(), ["set p1 None None", "sync"]);
    assert_eq!(state(&bench), (false, "down".to_owned()));
    bench.transact(&[options(&[("admin-state", "sideways")])]);
    assert_eq!(bench.pass(), ["set p1 None None", "sync"]);
    assert_eq!(state(&bench), (true, "up".to_owned()));
    let error = interface(&bench.snapshot(), "p1").str("error").to_owned();
    assert!(error.contains("options:admin-state=sideways: use up or down"), "{error}");
}

#[test]
fn port_that_was_down_is_opened_so() {
    let mut bench = Bench::new();
    let down = json!(["map", [["admin-state", "down"]]]);
    bench.add_bridge("br0", &[("p1", json!({}), json!({"type": VHOST, "options": down}))]);
    let log = bench.pass();
    assert!(!log.iter().any(|line| line.starts_with("set p1")), "{log:?}");
    assert!(!bench.fake.state.lock().unwrap().ports["p1"].0.admin_up);
    assert_eq!(interface(&bench.snapshot(), "p1").str("admin_state"), "down");
}

//! Offloads of a port: changed while it runs, never at the price of the port.

use pmd::port::Offloads;
use serde_json::json;

use super::{Bench, VHOST, interface};
use crate::switch::PortOffloads;

pub(super) fn options(options: &[(&str, &str)]) -> serde_json::Value {
    let map: Vec<_> = options.iter().map(|(key, value)| json!([key, value])).collect();
    json!({"op": "update", "table": "Interface", "where": [["name", "==", "p1"]], "row": {"options": ["map", map]}})
}

#[test]
fn they_are_switched_without_opening_the_port_anew() {
    let mut bench = Bench::new();
    let off = json!(["map", [["uso", "false"]]]);
    bench.add_bridge("br0", &[("p1", json!({}), json!({"type": VHOST, "options": off}))]);
    let now = |bench: &Bench| bench.fake.state.lock().unwrap().offloads["p1"];
    bench.pass();
    let uso = Offloads { uso: false, ..Offloads::default() };
    assert_eq!(now(&bench), PortOffloads { tx: uso, gro: true });

    bench.transact(&[options(&[("tso", "false"), ("gro", "false"), ("ufo", "true")])]);
    assert_eq!(bench.pass(), ["set p1 None None", "sync"]);
    assert_eq!(now(&bench), PortOffloads { tx: Offloads { tso: false, ..Offloads::default() }, gro: false });

    bench.transact(&[options(&[])]);
    assert_eq!(bench.pass(), ["set p1 None None", "sync"]);
    assert_eq!(now(&bench), PortOffloads::default());
}

#[test]
fn a_value_that_cannot_be_is_named_and_the_port_goes_on() {
    let mut bench = Bench::new();
    bench.add_bridge("br0", &[("p1", json!({}), json!({"type": VHOST}))]);
    bench.pass();
    bench.transact(&[options(&[("tso", "no"), ("csum", "false"), ("uso", "true")])]);
    assert_eq!(bench.pass(), ["set p1 None None", "sync"]);
    let snapshot = bench.snapshot();
    let row = interface(&snapshot, "p1");
    assert_eq!(row.opt_int("ofport"), Some(1));
    let error = row.str("error");
    assert!(error.contains("options:tso=no: use true or false"), "{error}");
    assert!(error.contains("options:uso=true does nothing while options:csum=false"), "{error}");
    let wanted = Offloads { csum: false, ..Offloads::default() };
    assert_eq!(bench.fake.state.lock().unwrap().offloads["p1"].tx, wanted);
}

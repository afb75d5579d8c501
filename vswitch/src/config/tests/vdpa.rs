//! Devices for a guest's rings: named and taken away while the port runs.

use serde_json::json;

use super::offloads::options;
use super::{Bench, VHOST, interface};

#[test]
fn devices_are_named_and_taken_away_without_opening_the_port_anew() {
    let mut bench = Bench::new();
    let both = json!(["map", [["vdpa-standby", "/dev/vhost-vdpa-0"], ["vdpa", "3:10.1"]]]);
    bench.add_bridge("br0", &[("p1", json!({}), json!({"type": VHOST, "options": both}))]);
    let now = |bench: &Bench| bench.fake.state.lock().unwrap().vdpa["p1"].clone();
    bench.pass();
    assert_eq!(now(&bench), ["0000:03:10.1", "/dev/vhost-vdpa-0"]);
    bench.transact(&[options(&[("vdpa", "0000:03:10.2")])]);
    assert_eq!(bench.pass(), ["set p1 None None", "sync"]);
    assert_eq!(now(&bench), ["0000:03:10.2"]);
    bench.transact(&[options(&[])]);
    assert_eq!(bench.pass(), ["set p1 None None", "sync"]);
    assert_eq!(now(&bench), Vec::<String>::new());
}

#[test]
fn name_that_cannot_be_is_told_and_the_guest_stays_with_the_switch() {
    let mut bench = Bench::new();
    bench.add_bridge("br0", &[("p1", json!({}), json!({"type": VHOST}))]);
    bench.pass();
    let error = |bench: &mut Bench, set: &[(&str, &str)]| {
        bench.transact(&[options(set)]);
        bench.pass();
        interface(&bench.snapshot(), "p1").str("error").to_owned()
    };
    let bad = error(&mut bench, &[("vdpa", "vf0")]);
    assert!(bad.contains("options:vdpa") && bad.contains("PCI address"), "{bad}");
    let twice = error(&mut bench, &[("vdpa", "0000:03:10.1"), ("vdpa-standby", "3:10.1")]);
    assert!(twice.contains("options:vdpa-standby=3:10.1 is the device"), "{twice}");
    assert_eq!(bench.fake.state.lock().unwrap().vdpa["p1"], ["0000:03:10.1"]);
}

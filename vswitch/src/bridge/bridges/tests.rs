//! Bridges and ports as management changes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use flowtable::key::PortNo;
use flowtable::text::PortNames;

use super::*;
use crate::bridge::{BridgePortConfig, FailMode, Learn, MacKey, VlanConfig, VlanError};

/// Bridges on a clock that the test moves.
fn bridges() -> (Bridges, Arc<AtomicU64>) {
    let now = Arc::new(AtomicU64::new(1_000_000));
    let read = now.clone();
    let bridges = Bridges::with_clock(Clock::new(move || read.load(Relaxed)));
    bridges.set_bridge(BridgeConfig::new("br0")).unwrap();
    (bridges, now)
}

fn port(name: &str, dp: u32) -> BridgePortConfig {
    BridgePortConfig::new(name, PortNo(dp))
}

fn learn(bridges: &Bridges, ofport: u16, last: u8) {
    let bridge = bridges.read().bridge_named("br0").unwrap().id;
    let key = MacKey { vlan: 0, mac: [2, 0, 0, 0, 0, last] };
    bridges.learn(&Learn { bridge, key, port: ofport }, bridges.epoch(), bridges.clock().now_ms());
}

#[test]
fn ports_get_the_lowest_free_number_or_the_one_they_ask_for() {
    let (bridges, _) = bridges();
    let ask = |name, dp, ofport| BridgePortConfig { ofport_request: Some(ofport), ..port(name, dp) };
    assert_eq!(bridges.add_port("br0", port("a", 1)), Ok(1));
    assert_eq!(bridges.add_port("br0", ask("b", 2, 7)), Ok(7));
    assert_eq!(bridges.add_port("br0", ask("c", 3, 7)), Ok(2), "taken");
    assert_eq!(bridges.add_port("br0", ask("d", 4, 0)), Ok(3), "no number");
    assert_eq!(bridges.add_port("br0", ask("e", 5, 0xff00)), Ok(4), "reserved");
    bridges.remove_port("a").unwrap();
    assert_eq!(bridges.add_port("br0", port("f", 6)), Ok(1));
    let local = |name, dp| BridgePortConfig { local: true, ..port(name, dp) };
    assert_eq!(bridges.add_port("br0", local("br0", 7)), Ok(0xfffe));
    assert!(matches!(bridges.add_port("br0", local("x", 8)), Err(BridgeError::LocalTaken { .. })));
    let names: Vec<_> = bridges.ports("br0").unwrap().into_iter().map(|port| port.name).collect();
    assert_eq!(names, ["f", "c", "d", "e", "b", "br0"]);
}

#[test]
fn errors_name_the_thing_and_the_remedy() {
    let (bridges, _) = bridges();
    bridges.add_port("br0", port("a", 1)).unwrap();
    let text = |error: BridgeError| error.to_string();
    let missing = text(bridges.add_port("nope", port("b", 2)).unwrap_err());
    assert!(missing.contains("\"nope\"") && missing.contains("add-br"), "{missing}");
    let taken = text(bridges.add_port("br0", port("a", 2)).unwrap_err());
    assert!(taken.contains("\"a\"") && taken.contains("del-port br0 a"), "{taken}");
    let number = text(bridges.add_port("br0", port("b", 1)).unwrap_err());
    assert!(number.contains("\"a\"") && number.contains("number 1"), "{number}");
    assert!(matches!(bridges.add_port("br0", port("b", 0)), Err(BridgeError::NoNumber { .. })));
    assert!(matches!(bridges.remove_port("zz"), Err(BridgeError::UnknownPort { .. })));
    assert!(matches!(bridges.remove_bridge("zz"), Err(BridgeError::NoBridge { .. })));
    let vlan = BridgePortConfig { vlan: VlanConfig::access(5000), ..port("b", 2) };
    let expected = BridgeError::Vlan { port: "b".into(), source: VlanError::Tag(5000) };
    assert_eq!(bridges.add_port("br0", vlan), Err(expected));
    let flood = BridgeConfig { flood_vlans: vec![9999], ..BridgeConfig::new("br0") };
    assert!(matches!(bridges.set_bridge(flood), Err(BridgeError::FloodVlan { vlan: 9999, .. })));
    assert_eq!(bridges.ports("br0").unwrap().len(), 1, "nothing was changed");
}

#[test]
fn each_change_of_translation_takes_an_epoch_and_nothing_else_does() {
    let (bridges, _) = bridges();
    let mut last = bridges.epoch();
    let mut moved = |what: &str, expected: bool| {
        let now = bridges.epoch();
        assert_eq!(now != last, expected, "{what}");
        last = now;
    };
    bridges.add_port("br0", port("a", 1)).unwrap();
    moved("a port joins", true);
    bridges.set_port_vlan("a", VlanConfig::access(3)).unwrap();
    moved("its VLAN changes", true);
    bridges.set_port_vlan("a", VlanConfig::access(3)).unwrap();
    moved("its VLAN stays", false);
    bridges.set_port_no_flood("a", true).unwrap();
    moved("it leaves floods", true);
    bridges.set_port_no_flood("a", true).unwrap();
    moved("it stays out of floods", false);
    bridges.add_flows("br0", &["priority=5,actions=drop"]).unwrap();
    moved("a rule comes", true);
    bridges.add_flows::<&str>("br0", &[]).unwrap();
    moved("no rule comes", false);
    assert_eq!(bridges.del_flows("br0", "in_port=1", false), Ok(0));
    moved("no rule goes", false);
    assert_eq!(bridges.del_flows("br0", "", false), Ok(2));
    moved("rules go", true);
    bridges.set_bridge(BridgeConfig::new("br0")).unwrap();
    moved("the bridge stays", false);
    bridges.set_bridge(BridgeConfig { forward_bpdu: true, ..BridgeConfig::new("br0") }).unwrap();
    moved("the bridge changes", true);
    learn(&bridges, 1, 1);
    moved("an address is learned", false);
    bridges.fdb_flush("br0").unwrap();
    moved("addresses are flushed", true);
    bridges.remove_port("a").unwrap();
    moved("a port leaves", true);
    bridges.remove_bridge("br0").unwrap();
    moved("a bridge goes", true);
}

#[test]
fn the_default_rule_is_there_and_can_go() {
    let (bridges, now) = bridges();
    now.fetch_add(1500, Relaxed);
    let rules = bridges.dump_flows("br0", "").unwrap();
    assert_eq!(rules.len(), 1);
    assert!(rules[0].contains("priority=0 actions=NORMAL"), "{}", rules[0]);
    assert!(rules[0].contains("duration=1.500s"), "{}", rules[0]);
    assert_eq!(bridges.del_flows("br0", "", false), Ok(1));
    assert!(bridges.dump_flows("br0", "").unwrap().is_empty());
    bridges.set_bridge(BridgeConfig { fail_mode: FailMode::Secure, ..BridgeConfig::new("br1") }).unwrap();
    assert!(bridges.dump_flows("br1", "").unwrap().is_empty());
}

#[test]
fn rules_come_all_or_none() {
    let (bridges, _) = bridges();
    bridges.add_port("br0", port("vm-1", 1)).unwrap();
    let wrong = bridges.add_flows("br0", &["priority=7,actions=drop", "priority=8,actions=fly"]);
    assert!(matches!(&wrong, Err(BridgeError::Flow { reason, .. }) if reason.contains("fly")), "{wrong:?}");
    assert_eq!(bridges.dump_flows("br0", "").unwrap().len(), 1);
    let table = bridges.add_flows("br0", &["table=3,actions=drop"]).unwrap_err().to_string();
    assert!(table.contains("table=3"), "{table}");
    bridges
        .add_flows("br0", &["priority=7,in_port=\"vm-1\",actions=LOCAL", "priority=8,actions=drop"])
        .unwrap();
    let rules = bridges.dump_flows("br0", "").unwrap();
    assert!(rules[0].contains("priority=8") && rules[1].contains("in_port=\"vm-1\""), "{rules:?}");
    assert_eq!(bridges.del_flows("br0", "priority=7,in_port=1", true), Ok(1));
}

#[test]
fn a_changed_port_forgets_its_addresses() {
    let (bridges, now) = bridges();
    bridges.add_port("br0", port("a", 1)).unwrap();
    bridges.add_port("br0", port("b", 2)).unwrap();
    learn(&bridges, 1, 1);
    learn(&bridges, 2, 2);
    now.fetch_add(3000, Relaxed);
    let fdb = bridges.fdb("br0").unwrap();
    assert_eq!(fdb.iter().map(|entry| (&*entry.port, entry.age_s)).collect::<Vec<_>>(), [("a", 3), ("b", 3)]);
    bridges.set_port_vlan("a", VlanConfig::access(9)).unwrap();
    assert_eq!(bridges.fdb("br0").unwrap().len(), 1);
    bridges.remove_port("b").unwrap();
    assert!(bridges.fdb("br0").unwrap().is_empty());
    assert_eq!(bridges.fdb_stats("br0").unwrap().learned, 2);
}

#[test]
fn nothing_is_learned_of_a_port_that_is_down() {
    let (bridges, _) = bridges();
    bridges.add_port("br0", port("a", 1)).unwrap();
    learn(&bridges, 1, 1);
    bridges.set_port_admin("a", true).unwrap();
    assert_eq!(bridges.fdb("br0").unwrap().len(), 1, "it was up");
    bridges.set_port_admin("a", false).unwrap();
    // What workers had handed on before.
    learn(&bridges, 1, 1);
    assert!(bridges.fdb("br0").unwrap().is_empty());
    bridges.set_port_admin("a", true).unwrap();
    learn(&bridges, 1, 1);
    assert_eq!(bridges.fdb("br0").unwrap().len(), 1);
}

#[test]
fn ageing_and_size_follow_the_settings() {
    let (bridges, _) = bridges();
    bridges.add_port("br0", port("a", 1)).unwrap();
    (1..=5).for_each(|last| learn(&bridges, 1, last));
    let small = BridgeConfig { mac_table_size: 3, mac_ageing_s: 20, ..BridgeConfig::new("br0") };
    bridges.set_bridge(small).unwrap();
    assert_eq!(bridges.fdb("br0").unwrap().len(), 3);
    bridges.expire_macs(1_000_000 + 19_999);
    assert_eq!(bridges.fdb("br0").unwrap().len(), 3);
    bridges.expire_macs(1_000_000 + 20_000);
    assert!(bridges.fdb("br0").unwrap().is_empty());
}

#[test]
fn learning_by_an_old_translation_is_refused() {
    let (bridges, _) = bridges();
    bridges.add_port("br0", port("a", 1)).unwrap();
    let bridge = bridges.read().bridge_named("br0").unwrap().id;
    let old = bridges.epoch();
    bridges.remove_port("a").unwrap();
    let key = MacKey { vlan: 0, mac: [2, 0, 0, 0, 0, 1] };
    assert_eq!(bridges.learn(&Learn { bridge, key, port: 1 }, old, 0), None);
    assert!(bridges.fdb("br0").unwrap().is_empty());
}

#[test]
fn names_and_numbers() {
    let (bridges, _) = bridges();
    bridges.add_port("br0", port("a", 4)).unwrap();
    assert_eq!(bridges.bridge_of_port(PortNo(4)).as_deref(), Some("br0"));
    assert_eq!(bridges.bridge_of_port(PortNo(5)), None);
    assert_eq!(PortNames::name(&bridges, PortNo(4)).as_deref(), Some("a"));
    assert_eq!(bridges.number("a"), Some(PortNo(4)));
    assert_eq!(bridges.port("a").map(|(bridge, port)| (bridge, port.ofport)), Some(("br0".into(), 1)));
    assert_eq!(bridges.names(), ["br0"]);
    bridges.remove_bridge("br0").unwrap();
    assert_eq!(bridges.number("a"), None);
    assert_eq!(bridges.bridge_of_port(PortNo(4)), None);
}

#[test]
fn rules_end_by_their_timeouts() {
    let (bridges, now) = bridges();
    bridges.add_flows("br0", &["priority=9,hard_timeout=2,actions=drop"]).unwrap();
    let epoch = bridges.epoch();
    assert_eq!(bridges.expire_rules(now.load(Relaxed) + 1999), 0);
    assert_eq!(bridges.epoch(), epoch);
    assert_eq!(bridges.expire_rules(now.load(Relaxed) + 2000), 1);
    assert_ne!(bridges.epoch(), epoch);
}

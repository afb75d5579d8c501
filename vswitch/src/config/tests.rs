//! The whole way from transactions to a fake switch and back.

use std::collections::BTreeMap;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pmd::port::{PortInfo, QueueSnapshot};
use proptest::prelude::*;
use serde_json::{Value, json};
use vswitch_ovsdb::{Db, RowView, Snapshot, schema::vswitch_schema};

use super::*;
use crate::bridge::BridgeConfig;
use crate::datapath::IdlePolicy;
use crate::switch::{PortChange, PortKind, PortOffloads, PortReport, PortRequest};

mod admin_state;
mod offloads;
mod vdpa;

/// A switch that only keeps book, and refuses what it is told to refuse.
#[derive(Default)]
struct Fake {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    bridges: BTreeMap<String, BridgeConfig>,
    ports: BTreeMap<String, (PortRequest, u16)>,
    log: Vec<String>,
    refused: Vec<String>,
    mtu_limit: Option<u16>,
    gone: Vec<String>,
    offloads: BTreeMap<String, PortOffloads>,
    vdpa: BTreeMap<String, Vec<String>>,
    packets: u64,
}

impl Fake {
    fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }
}

impl Target for Fake {
    fn set_workers(&self, cpus: Option<&[u32]>) -> Result<(), String> {
        let mut state = self.state.lock().unwrap();
        if cpus.is_some_and(|cpus| cpus.contains(&63)) && state.refused.contains(&"cpu63".to_owned()) {
            return Err("CPU 63 of pmd-cpu-mask is not online".into());
        }
        state.log.push(format!("workers {cpus:?}"));
        Ok(())
    }
    fn can_open(&self, request: &PortRequest) -> bool {
        !self.state.lock().unwrap().refused.contains(&request.name)
    }
    fn set_idle(&self, _: IdlePolicy) {}
    fn set_balance(&self, _: crate::switch::Balance) {}
    fn set_limits(&self, _: crate::slowpath::Limits) {}
    fn set_bridge(&self, config: BridgeConfig) -> Result<(), String> {
        let mut state = self.state.lock().unwrap();
        state.log.push(format!("bridge {}", config.name));
        state.bridges.insert(config.name.clone(), config);
        Ok(())
    }
    fn remove_bridge(&self, name: &str) -> Result<(), String> {
        let mut state = self.state.lock().unwrap();
        state.log.push(format!("-bridge {name}"));
        assert!(state.ports.values().all(|(port, _)| port.bridge != name), "ports go before their bridge");
        state.bridges.remove(name).map(|_| ()).ok_or_else(|| "no such bridge".into())
    }
    fn add_port(&self, request: PortRequest) -> Result<u16, String> {
        let mut state = self.state.lock().unwrap();
        if state.refused.contains(&request.name) && request.kind != PortKind::Null {
            return Err(format!("{} is refused", request.name));
        }
        assert!(state.bridges.contains_key(&request.bridge), "bridges come before their ports");
        assert!(!state.ports.contains_key(&request.name), "a name is freed before it is taken");
        state.log.push(format!("port {}", request.name));
        let taken = |no: u16| state.ports.values().any(|(port, n)| port.bridge == request.bridge && *n == no);
        let number = match request.ofport_request {
            _ if request.local => 65534,
            Some(wanted) if !taken(wanted) => wanted,
            _ => (1..).find(|no| !taken(*no)).unwrap(),
        };
        state.ports.insert(request.name.clone(), (request, number));
        Ok(number)
    }
    fn set_port(&self, name: &str, change: PortChange) -> Result<(), String> {
        let mut state = self.state.lock().unwrap();
        let limit = state.mtu_limit;
        state.log.push(format!("set {name} {:?} {:?}", change.vlan.tag, change.mtu));
        let (port, _) = state.ports.get_mut(name).ok_or("no such port")?;
        if change.mtu.zip(limit).is_some_and(|(mtu, limit)| mtu > limit) {
            return Err(format!("MTU {} is too large", change.mtu.unwrap()));
        }
        port.vlan = change.vlan;
        port.mtu = change.mtu.or(port.mtu);
        port.affinity = change.affinity;
        port.admin_up = change.admin_up;
        state.offloads.insert(name.into(), change.offloads);
        state.vdpa.insert(name.into(), change.vdpa);
        Ok(())
    }
    fn remove_port(&self, name: &str) -> Result<(), String> {
        let mut state = self.state.lock().unwrap();
        state.log.push(format!("-port {name}"));
        state.gone.retain(|gone| gone != name);
        state.ports.remove(name).map(|_| ()).ok_or_else(|| "no such port".into())
    }
    fn sync(&self) {
        self.state.lock().unwrap().log.push("sync".into());
    }
    fn counters_elsewhere(&self, name: &str) -> Vec<(&'static str, u64)> {
        assert!(self.state.lock().unwrap().ports.contains_key(name));
        vec![("vdpa_rx_packets", 77)]
    }
    fn reports(&self) -> Vec<PortReport> {
        let mut state = self.state.lock().unwrap();
        state.packets += 1;
        let packets = state.packets;
        let report = |(request, ofport): &(PortRequest, u16)| PortReport {
            admin_up: request.admin_up,
            name: request.name.clone(),
            bridge: request.bridge.clone(),
            ofport: *ofport,
            driver: "fake",
            offloads: state.offloads.get(&request.name).copied().unwrap_or_default(),
            info: PortInfo {
                mtu: 1500,
                mac: Some([2, 0, 0, 0, 0, 1]),
                gone: state.gone.contains(&request.name),
                ..PortInfo::default()
            },
            rx: QueueSnapshot { packets, ..QueueSnapshot::default() },
            tx: QueueSnapshot::default(),
            rx_drops: BTreeMap::from([("rx_too_short", 2), ("no_output", 3)]),
            tx_drops: BTreeMap::new(),
            queues: Vec::new(),
        };
        state.ports.values().map(report).collect()
    }
}

struct Bench {
    db: Db,
    fake: Arc<Fake>,
    reconciler: Reconciler,
}

impl Bench {
    fn new() -> Bench {
        let db = Db::in_memory(vswitch_schema());
        let fake = Arc::new(Fake::default());
        let reconciler = Reconciler::new(db.clone(), fake.clone()).unwrap();
        Bench { db, fake, reconciler }
    }

    fn transact(&self, operations: &[Value]) {
        let results = self.db.transact_json(operations);
        assert!(results.iter().all(|result| result.get("error").is_none()), "{results:?}");
    }

    /// What `add-br` does, with `ports` as (name, columns of Port, columns of Interface).
    fn add_bridge(&self, name: &str, ports: &[(&str, Value, Value)]) {
        let mut ops = Vec::new();
        let mut uuids = Vec::new();
        for (n, (port, port_columns, interface_columns)) in ports.iter().enumerate() {
            let mut interface = interface_columns.clone();
            interface["name"] = json!(port);
            let mut row = port_columns.clone();
            row["name"] = json!(port);
            row["interfaces"] = json!(["named-uuid", format!("i{n}")]);
            ops.push(
                json!({"op": "insert", "table": "Interface", "uuid-name": format!("i{n}"), "row": interface}),
            );
            ops.push(json!({"op": "insert", "table": "Port", "uuid-name": format!("p{n}"), "row": row}));
            uuids.push(json!(["named-uuid", format!("p{n}")]));
        }
        ops.push(json!({"op": "insert", "table": "Bridge", "uuid-name": "b",
            "row": {"name": name, "ports": ["set", uuids]}}));
        ops.push(json!({"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": [
            ["bridges", "insert", ["named-uuid", "b"]], ["next_cfg", "+=", 1]]}));
        self.transact(&ops);
    }

    fn pass(&mut self) -> Vec<String> {
        let snapshot = self.db.snapshot();
        self.reconciler.configure(&snapshot).unwrap();
        self.fake.log()
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.db.snapshot()
    }
}

fn interface<'a>(snapshot: &'a Snapshot, name: &str) -> RowView<'a> {
    snapshot.table("Interface").find("name", name).unwrap()
}

const VHOST: &str = "dpdkvhostuser";

#[test]
fn a_bridge_with_ports_comes_up_and_is_acknowledged() {
    let mut bench = Bench::new();
    bench.pass();
    bench.add_bridge(
        "br0",
        &[
            ("br0", json!({}), json!({"type": "internal"})),
            ("p1", json!({"tag": 5}), json!({"type": VHOST})),
            ("p2", json!({}), json!({"type": VHOST, "ofport_request": 1})),
        ],
    );
    assert_eq!(bench.snapshot().table("Open_vSwitch").first().unwrap().int("cur_cfg"), 0);
    assert_eq!(bench.pass(), ["bridge br0", "port br0", "port p2", "port p1", "sync"]);
    let snapshot = bench.snapshot();
    assert_eq!(interface(&snapshot, "br0").opt_int("ofport"), Some(65534));
    assert_eq!(interface(&snapshot, "p2").opt_int("ofport"), Some(1), "asked-for numbers are given first");
    let p1 = interface(&snapshot, "p1");
    assert_eq!((p1.opt_int("ofport"), p1.opt_str("error")), (Some(2), None));
    assert_eq!(
        (p1.str("mac_in_use"), p1.int("mtu"), p1.str("link_state")),
        ("02:00:00:00:00:01", 1500, "down")
    );
    let root = snapshot.table("Open_vSwitch").first().unwrap();
    assert_eq!((root.int("cur_cfg"), root.int("next_cfg")), (1, 1));
    assert!(root.set("iface_types").contains(&"dpdkvhostuserclient"));
    let bridge = snapshot.table("Bridge").find("name", "br0").unwrap();
    assert_eq!(bridge.str("datapath_id"), "0000020000000001");
    assert_eq!(bench.fake.state.lock().unwrap().ports["p1"].0.vlan.tag, Some(5));
}

#[test]
fn a_pass_without_change_does_and_writes_nothing() {
    let mut bench = Bench::new();
    bench.add_bridge("br0", &[("p1", json!({}), json!({"type": VHOST}))]);
    bench.pass();
    let before = bench.snapshot().sequence();
    assert_eq!(bench.pass(), Vec::<String>::new());
    assert_eq!(bench.snapshot().sequence(), before, "counters alone must not make a configuring pass commit");
    bench.reconciler.refresh().unwrap();
    assert_eq!(bench.snapshot().sequence(), before + 1);
}

#[test]
fn statistics_are_named_as_ovs_names_them() {
    let mut bench = Bench::new();
    bench.add_bridge("br0", &[("p1", json!({}), json!({"type": VHOST}))]);
    bench.pass();
    bench.reconciler.refresh().unwrap();
    let snapshot = bench.snapshot();
    let statistics = interface(&snapshot, "p1").datum("statistics");
    let get = |name: &str| statistics.get(&name.into()).and_then(|n| n.as_int());
    assert_eq!(get("rx_errors"), Some(2));
    assert_eq!(get("rx_dropped"), Some(3));
    assert_eq!(get("drop_rx_too_short"), Some(2));
    assert_eq!(get("vdpa_rx_packets"), Some(77));
    assert!(get("rx_packets").unwrap() > 0);
}

#[test]
fn a_bad_interface_fails_alone_and_says_what_to_do() {
    let mut bench = Bench::new();
    bench.fake.state.lock().unwrap().refused.push("taken".into());
    let bad = [
        ("eth0", json!({"type": "", "options": ["map", [["n_rxq", "65"]]]}), "1 to 64"),
        ("eth1", json!({"type": "afxdp", "options": ["map", [["xdp-mode", "fast"]]]}), "best-effort"),
        ("odd", json!({"type": "quux"}), "vhost-user"),
        ("patchy", json!({"type": "patch"}), "patch"),
        ("client", json!({"type": "vhost-user-client"}), "options:vhost-server-path"),
        ("cap", json!({"type": "pcap"}), "rx_pcap"),
        ("pairs", json!({"type": VHOST, "options": ["map", [["vhost-max-queue-pairs", "129"]]]}), "1 to 128"),
        ("a/b", json!({"type": VHOST}), "name"),
        ("taken", json!({"type": VHOST}), "refused"),
    ];
    let mut ports: Vec<_> = bad.iter().map(|(name, row, _)| (*name, json!({}), row.clone())).collect();
    ports.push(("dot1q", json!({"vlan_mode": "dot1q-tunnel"}), json!({"type": VHOST})));
    ports.push(("good", json!({}), json!({"type": VHOST, "mtu_request": 7})));
    bench.add_bridge("br0", &ports);
    bench.pass();
    let snapshot = bench.snapshot();
    for (name, _, hint) in bad {
        let row = interface(&snapshot, name);
        assert_eq!(row.opt_int("ofport"), Some(-1), "{name}");
        assert!(row.str("error").contains(hint), "{name}: {}", row.str("error"));
    }
    assert!(interface(&snapshot, "dot1q").str("error").contains("dot1q-tunnel"));
    let good = interface(&snapshot, "good");
    assert_eq!(good.opt_int("ofport"), Some(1));
    assert!(good.str("error").contains("mtu_request 7"));
    assert_eq!(snapshot.table("Open_vSwitch").first().unwrap().int("cur_cfg"), 1);

    // What was refused is tried again, and its error goes when it works.
    bench.fake.state.lock().unwrap().refused.clear();
    assert!(bench.pass().contains(&"port taken".to_owned()));
    let snapshot = bench.snapshot();
    assert_eq!(interface(&snapshot, "taken").opt_str("error"), None);
}

#[test]
fn the_local_port_falls_back_when_there_is_no_tap() {
    let mut bench = Bench::new();
    bench.fake.state.lock().unwrap().refused.push("br0".into());
    bench.add_bridge("br0", &[("br0", json!({}), json!({"type": "internal"}))]);
    bench.pass();
    let snapshot = bench.snapshot();
    let row = interface(&snapshot, "br0");
    assert_eq!(row.opt_int("ofport"), Some(65534));
    assert!(row.str("error").contains("cannot reach this bridge"));

    // Other changes do not hide what is wrong.
    bench.transact(&[json!({"op": "update", "table": "Port", "where": [], "row": {"tag": 3}})]);
    assert_eq!(bench.pass(), ["set br0 Some(3) None", "sync"]);
    assert!(interface(&bench.snapshot(), "br0").str("error").contains("cannot reach this bridge"));

    // When the device can be made, it takes the place of the stand-in.
    bench.fake.state.lock().unwrap().refused.clear();
    assert!(bench.reconciler.failing());
    assert_eq!(bench.pass(), ["-port br0", "port br0", "sync"]);
    assert!(!bench.reconciler.failing());
    let snapshot = bench.snapshot();
    let row = interface(&snapshot, "br0");
    assert_eq!((row.opt_int("ofport"), row.opt_str("error")), (Some(65534), None));
    assert_ne!(bench.fake.state.lock().unwrap().ports["br0"].0.kind, PortKind::Null);
}

#[test]
fn a_device_deleted_from_outside_is_made_again() {
    let mut bench = Bench::new();
    bench.add_bridge(
        "br0",
        &[("p1", json!({}), json!({"type": "tap"})), ("p2", json!({}), json!({"type": "tap"}))],
    );
    bench.pass();
    bench.fake.state.lock().unwrap().gone.push("p2".into());
    assert!(bench.reconciler.failing());
    assert_eq!(bench.pass(), ["-port p2", "port p2", "sync"]);
    assert!(!bench.reconciler.failing());
    assert_eq!(interface(&bench.snapshot(), "p2").opt_int("ofport"), Some(2));
}

#[test]
fn an_mtu_taken_back_is_the_default_again() {
    let mut bench = Bench::new();
    bench.add_bridge("br0", &[("p1", json!({}), json!({"type": VHOST, "mtu_request": 9000}))]);
    bench.pass();
    let mtu = |bench: &Bench| bench.fake.state.lock().unwrap().ports["p1"].0.mtu;
    assert_eq!(mtu(&bench), Some(9000));
    let request =
        |mtu: Value| json!({"op": "update", "table": "Interface", "where": [], "row": {"mtu_request": mtu}});
    bench.transact(&[request(json!(["set", []]))]);
    bench.pass();
    assert_eq!(mtu(&bench), Some(1500));

    // A refused one stays known through other changes.
    bench.fake.state.lock().unwrap().mtu_limit = Some(2000);
    bench.transact(&[request(json!(9000))]);
    bench.pass();
    bench.transact(&[json!({"op": "update", "table": "Port", "where": [], "row": {"tag": 3}})]);
    bench.pass();
    assert!(interface(&bench.snapshot(), "p1").str("error").contains("too large"));
}

#[test]
fn what_is_passed_over_is_said() {
    let mut bench = Bench::new();
    bench.add_bridge("br0", &[("p1", json!({}), json!({"type": VHOST, "ingress_policing_rate": 5}))]);
    bench.transact(&[json!({"op": "update", "table": "Bridge", "where": [], "row": {"stp_enable": true}})]);
    bench.pass();
    let snapshot = bench.snapshot();
    let row = interface(&snapshot, "p1");
    assert_eq!(row.opt_int("ofport"), Some(1));
    assert!(row.str("error").contains("ingress_policing_rate"));
    let bridge = snapshot.table("Bridge").first().unwrap();
    assert!(bridge.map_get("status", "note").unwrap().contains("stp_enable"));
}

#[test]
fn numbers_stay_over_a_restart() {
    let mut bench = Bench::new();
    bench.add_bridge("br0", &[("b", json!({}), json!({"type": VHOST}))]);
    bench.pass();
    bench.add_bridge("br1", &[]);
    let port = json!([{"op": "insert", "table": "Interface", "uuid-name": "i", "row": {"name": "a", "type": VHOST}},
        {"op": "insert", "table": "Port", "uuid-name": "p", "row": {"name": "a", "interfaces": ["named-uuid", "i"]}},
        {"op": "mutate", "table": "Bridge", "where": [["name", "==", "br0"]],
            "mutations": [["ports", "insert", ["named-uuid", "p"]]]}]);
    bench.transact(port.as_array().unwrap());
    bench.pass();
    let numbers = |db: &Db| {
        let snapshot = db.snapshot();
        ["a", "b"].map(|name| interface(&snapshot, name).opt_int("ofport"))
    };
    assert_eq!(numbers(&bench.db), [Some(2), Some(1)]);
    let fake = Arc::new(Fake::default());
    let mut reconciler = Reconciler::new(bench.db.clone(), fake).unwrap();
    reconciler.configure(&bench.db.snapshot()).unwrap();
    assert_eq!(numbers(&bench.db), [Some(2), Some(1)]);
}

#[test]
fn changes_keep_the_port_where_they_can() {
    let mut bench = Bench::new();
    bench.add_bridge(
        "br0",
        &[("p1", json!({}), json!({"type": VHOST})), ("p2", json!({}), json!({"type": VHOST}))],
    );
    bench.pass();
    let update = |table: &str, row: Value| json!({"op": "update", "table": table, "where": [["name", "==", "p1"]], "row": row});
    bench.fake.state.lock().unwrap().mtu_limit = Some(2000);
    bench.transact(&[update("Port", json!({"tag": 7})), update("Interface", json!({"mtu_request": 9000}))]);
    let log = bench.pass();
    assert_eq!(log, ["set p1 Some(7) Some(9000)", "set p1 Some(7) None", "sync"]);
    assert!(interface(&bench.snapshot(), "p1").str("error").contains("too large"));

    bench.transact(&[update("Interface", json!({"ofport_request": 1}))]);
    let log = bench.pass();
    assert!(!log.iter().any(|line| line.starts_with("-port")), "it has that number already: {log:?}");

    bench.transact(&[update("Interface", json!({"type": "null"}))]);
    assert_eq!(bench.pass(), ["-port p1", "port p1", "set p1 Some(7) Some(9000)", "sync"]);

    bench.transact(&[json!({"op": "update", "table": "Bridge", "where": [], "row": {"ports": ["set", []]}})]);
    assert_eq!(bench.pass(), ["-port p1", "-port p2", "sync"]);
    bench.transact(&[
        json!({"op": "update", "table": "Open_vSwitch", "where": [], "row": {"bridges": ["set", []]}}),
    ]);
    assert_eq!(bench.pass(), ["-bridge br0", "sync"]);
}

#[test]
fn worker_masks_are_applied_and_bad_ones_leave_workers_alone() {
    let mut bench = Bench::new();
    assert!(bench.pass().contains(&"workers None".to_owned()));
    let set = |mask: &str| {
        json!({"op": "update", "table": "Open_vSwitch", "where": [],
            "row": {"other_config": ["map", [["pmd-cpu-mask", mask]]]}})
    };
    bench.transact(&[set("6")]);
    assert_eq!(bench.pass(), ["workers Some([1, 2])", "sync"]);
    let error = |bench: &Bench| {
        let snapshot = bench.snapshot();
        snapshot.table("Open_vSwitch").first().unwrap().map_get("statistics", "error").map(str::to_owned)
    };
    bench.transact(&[set("xyz")]);
    assert_eq!(bench.pass(), Vec::<String>::new());
    assert!(error(&bench).unwrap().contains("pmd-cpu-mask=xyz is not a hexadecimal mask"));

    // One that cannot be now is tried again until it can.
    bench.fake.state.lock().unwrap().refused.push("cpu63".into());
    bench.transact(&[set("8000000000000000")]);
    bench.pass();
    assert_eq!(error(&bench).unwrap(), "CPU 63 of pmd-cpu-mask is not online");
    assert!(bench.reconciler.failing());
    bench.fake.state.lock().unwrap().refused.clear();
    assert_eq!(bench.pass(), ["workers Some([63])", "sync"]);
    assert_eq!(error(&bench), None);
    assert!(!bench.reconciler.failing());
}

#[test]
fn odd_settings_of_the_switch_are_named() {
    let mut bench = Bench::new();
    let odd = [("pmd-spin-us", "-1"), ("pmd-always-poll", "yes"), ("stats-update-interval", "5s")];
    bench.transact(&[json!({"op": "update", "table": "Open_vSwitch", "where": [],
        "row": {"other_config": ["map", odd]}})]);
    bench.pass();
    let snapshot = bench.snapshot();
    let error = snapshot.table("Open_vSwitch").first().unwrap().map_get("statistics", "error").unwrap();
    for (key, value) in odd {
        assert!(error.contains(&format!("other_config:{key}={value}: use ")), "{error}");
    }
}

#[test]
fn the_thread_follows_changes_and_ends() {
    let db = Db::in_memory(vswitch_schema());
    let fake = Arc::new(Fake::default());
    let (port_changed, changes) = channel();
    let thread = ConfigThread::start(&db, fake, changes).unwrap();
    let bench = Bench {
        db: db.clone(),
        fake: Arc::default(),
        reconciler: Reconciler::new(Db::in_memory(vswitch_schema()), Arc::new(Fake::default())).unwrap(),
    };
    let mut commits = db.subscribe();
    bench.add_bridge("br0", &[("p1", json!({}), json!({"type": VHOST}))]);
    let acknowledged = |snapshot: &Snapshot| {
        let root = snapshot.table("Open_vSwitch").first().unwrap();
        root.int("cur_cfg") == 1 && interface(snapshot, "p1").opt_int("ofport") == Some(1)
    };
    let patience = Some(Duration::from_secs(30));
    while !commits.wait(patience).is_some_and(|snapshot| acknowledged(&snapshot)) {}
    let packets = |snapshot: &Snapshot| {
        interface(snapshot, "p1").datum("statistics").get(&"rx_packets".into()).and_then(|n| n.as_int())
    };
    let before = packets(&db.snapshot());
    // A port's report is followed by fresh statistics at once, not at the next interval.
    port_changed.send(()).unwrap();
    while packets(&db.snapshot()) == before {
        commits.wait(patience);
    }
    drop(thread);
}

#[test]
fn the_thread_heals_what_failed_without_being_asked() {
    let db = Db::in_memory(vswitch_schema());
    let fake = Arc::new(Fake::default());
    fake.state.lock().unwrap().refused.push("p1".into());
    let (_port_changed, changes) = channel();
    let mut commits = db.subscribe();
    let _thread = ConfigThread::start(&db, fake.clone(), changes).unwrap();
    let bench = Bench {
        db: db.clone(),
        fake: Arc::default(),
        reconciler: Reconciler::new(Db::in_memory(vswitch_schema()), Arc::new(Fake::default())).unwrap(),
    };
    bench.add_bridge("br0", &[("p1", json!({}), json!({"type": VHOST}))]);
    let ofport = |snapshot: &Snapshot| interface(snapshot, "p1").opt_int("ofport");
    let patience = Some(Duration::from_secs(30));
    while ofport(&db.snapshot()) != Some(-1) {
        commits.wait(patience);
    }
    fake.state.lock().unwrap().refused.clear();
    while ofport(&db.snapshot()) != Some(1) {
        assert!(commits.wait(patience).is_some(), "it was not tried again");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_sequence_of_states_is_reached(states in proptest::collection::vec(
        proptest::collection::btree_map(0usize..5, (0usize..2, 0usize..3, 0u16..3, proptest::option::of(1u16..4)), 0..5), 1..6))
    {
        let kinds = [PortKind::Null, PortKind::Tap { queues: 1, bring_up: true }, PortKind::VhostUser { path: None, guest: Default::default() }];
        let fake = Fake::default();
        let mut running = Running::default();
        for state in states {
            let mut desired = Desired::default();
            for (port, (bridge, kind, tag, number)) in state {
                let bridge = format!("br{bridge}");
                desired.bridges.insert(bridge.clone(), BridgeConfig::new(bridge.clone()));
                let spec = PortSpec {
                    name: format!("p{port}"),
                    bridge,
                    kind: kinds[kind].clone(),
                    ofport_request: number,
                    local: false,
                    vlan: crate::bridge::VlanConfig::access(tag),
                    mtu: None,
                    affinity: BTreeMap::new(),
                    offloads: PortOffloads::default(),
                    vdpa: Vec::new(),
                    admin_up: true,
                };
                desired.ports.insert(spec.name.clone(), spec);
            }
            let steps = diff(&running, &desired);
            running.apply(&fake, steps);
            let state = fake.state.lock().unwrap();
            prop_assert_eq!(state.bridges.keys().collect::<Vec<_>>(), desired.bridges.keys().collect::<Vec<_>>());
            prop_assert_eq!(state.ports.len(), desired.ports.len());
            for (name, spec) in &desired.ports {
                let (request, number) = &state.ports[name];
                prop_assert_eq!(&request.kind, &spec.kind);
                prop_assert_eq!(&request.bridge, &spec.bridge);
                prop_assert_eq!(&request.vlan, &spec.vlan);
                prop_assert_eq!(running.ports[name].ofport, *number);
            }
            drop(state);
            prop_assert_eq!(diff(&running, &desired), vec![]);
        }
    }
}

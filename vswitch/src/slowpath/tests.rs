//! The slow path by script: fake workers, a clock the test moves, no threads but in `threaded`.

mod conformance;
mod storm;
mod threaded;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use flowtable::actions::{Action, ActionList};
use flowtable::key::{FlowKey, PortNo};
use pmd::packet::{OwnedPacket, Pool};

use super::engine::{Engine, Limits};
use super::revalidate::SLICE;
use super::*;
use crate::bridge::{BridgeConfig, BridgePortConfig, Bridges, Clock, FLAP_MS, VlanConfig};
use crate::datapath::{FlowSink, Megaflow, Upcall};

/// What a worker was told.
#[derive(Clone, Debug)]
enum Told {
    Install(Arc<Megaflow>),
    Remove(Arc<Megaflow>),
    Execute(PortNo, ActionList),
}

/// A worker that only takes notes.
#[derive(Default)]
struct FakeWorker {
    id: u16,
    told: Mutex<Vec<Told>>,
}

impl FlowSink for FakeWorker {
    fn worker(&self) -> u16 {
        self.id
    }

    fn install(&self, flow: Arc<Megaflow>) {
        self.told.lock().unwrap().push(Told::Install(flow));
    }

    fn install_for(&self, flow: Arc<Megaflow>, packet: OwnedPacket, in_port: PortNo) {
        let (actions, drop_reason) = (flow.actions.clone(), flow.drop_reason);
        self.install(flow);
        self.execute(packet, in_port, actions, drop_reason);
    }

    fn remove(&self, flow: &Arc<Megaflow>) {
        self.told.lock().unwrap().push(Told::Remove(flow.clone()));
    }

    fn execute(
        &self,
        _packet: OwnedPacket,
        in_port: PortNo,
        actions: ActionList,
        _reason: pmd::port::DropReason,
    ) {
        self.told.lock().unwrap().push(Told::Execute(in_port, actions));
    }
}

impl FakeWorker {
    fn take(&self) -> Vec<Told> {
        std::mem::take(&mut self.told.lock().unwrap())
    }
}

/// A slow path with bridge "br", ports p1 to p3 (datapath 1 to 3), and two workers.
struct Lab {
    engine: Engine,
    bridges: Arc<Bridges>,
    now: Arc<AtomicU64>,
    workers: Vec<Arc<FakeWorker>>,
    pool: &'static Pool,
}

const LIMITS: Limits = Limits { flows: 1000, idle_ms: 10_000, crowded_idle_ms: 100, pass_ms: 500 };

impl Lab {
    fn new() -> Lab {
        Lab::with(LIMITS)
    }

    fn with(limits: Limits) -> Lab {
        let now = Arc::new(AtomicU64::new(100_000));
        let read = now.clone();
        let bridges = Arc::new(Bridges::with_clock(Clock::new(move || read.load(Relaxed))));
        bridges.set_bridge(BridgeConfig::new("br")).unwrap();
        for number in 1..=3 {
            bridges.add_port("br", BridgePortConfig::new(format!("p{number}"), PortNo(number))).unwrap();
        }
        let sinks = SinkList::default();
        let workers: Vec<_> = (0..2).map(|id| Arc::new(FakeWorker { id, ..FakeWorker::default() })).collect();
        for worker in &workers {
            sinks.add(worker.clone());
        }
        let mut engine = Engine::new(bridges.clone(), sinks, limits);
        while engine.revalidate_some(SLICE) {}
        Lab { engine, bridges, now, workers, pool: Pool::create(512).unwrap() }
    }

    fn packet(&self) -> OwnedPacket {
        OwnedPacket::from_bytes(&[0; 100], &mut self.pool.cache()).unwrap()
    }

    /// Packets from ports miss on worker 0, all in one batch.
    fn miss(&mut self, keys: &[FlowKey]) {
        let upcall = |key: &FlowKey| Upcall { worker: 0, key: *key, packet: self.packet() };
        let mut batch: Vec<_> = keys.iter().map(upcall).collect();
        self.engine.handle(&mut batch);
        assert!(batch.is_empty());
    }

    /// Does what is due until nothing is.
    fn settle(&mut self) {
        while self.engine.revalidate_some(SLICE) {}
    }

    fn pass(&mut self) {
        let ticket = self.engine.ask_for_pass();
        while !self.engine.has_passed(ticket) {
            self.engine.revalidate_some(SLICE);
        }
    }

    fn wait(&self, ms: u64) {
        self.now.fetch_add(ms, Relaxed);
    }

    fn now_ms(&self) -> u64 {
        self.now.load(Relaxed)
    }

    fn told(&self) -> Vec<Told> {
        self.workers[0].take()
    }

    fn flows(&self) -> Vec<Arc<Megaflow>> {
        self.engine.dump().into_iter().map(|(_, flow)| flow).collect()
    }

    /// The installed flow for packets like `key`.
    fn flow(&self, key: &FlowKey) -> Option<Arc<Megaflow>> {
        self.flows().into_iter().find(|flow| flow.mask().matches(key, &flow.key()))
    }

    fn hit(&self, key: &FlowKey) {
        self.flow(key).unwrap().stats.hit(100, 0, self.now_ms());
    }

    fn ports_of(&self, key: &FlowKey) -> Vec<u32> {
        outputs(&self.flow(key).unwrap().actions)
    }

    fn stats(&self) -> SlowPathStats {
        self.engine.counters.snapshot()
    }

    fn fdb(&self) -> Vec<(u16, u8)> {
        let mut fdb: Vec<_> =
            self.bridges.fdb("br").unwrap().iter().map(|entry| (entry.ofport, entry.mac[5])).collect();
        fdb.sort_unstable();
        fdb
    }
}

fn outputs(actions: &[Action]) -> Vec<u32> {
    actions
        .iter()
        .filter_map(|action| if let Action::Output(port) = action { Some(port.0) } else { None })
        .collect()
}

/// A frame from a port, between hosts of these numbers.
fn frame(in_port: u32, src: u8, dst: u8) -> FlowKey {
    let mac = |last| [2, 0, 0, 0, 0, last];
    FlowKey {
        in_port,
        eth_src: mac(src),
        eth_dst: mac(dst),
        eth_type: 0x0800u16.into(),
        ..FlowKey::default()
    }
}

#[test]
fn a_flow_is_installed_before_its_packet_is_executed() {
    let mut lab = Lab::new();
    lab.miss(&[frame(1, 1, 2)]);
    let told = lab.told();
    let [Told::Install(flow), Told::Execute(PortNo(1), actions)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(outputs(actions), [2, 3]);
    assert_eq!(flow.actions, *actions);
    assert!(flow.mask().matches(&frame(1, 1, 2), &flow.key()));
    assert_eq!(lab.fdb(), [(1, 1)]);
}

#[test]
fn packets_of_one_flow_are_decided_once() {
    let mut lab = Lab::new();
    let varied = FlowKey { nw_ttl: 9, ..frame(1, 1, 2) };
    lab.miss(&[frame(1, 1, 2), frame(1, 1, 2), varied]);
    let stats = lab.stats();
    assert_eq!((stats.upcalls, stats.deduplicated, stats.installed), (3, 1, 1));
    assert_eq!(lab.told().iter().filter(|told| matches!(told, Told::Execute(..))).count(), 3);
}

#[test]
fn learning_in_a_batch_counts_for_the_rest_of_it() {
    let mut lab = Lab::new();
    lab.miss(&[frame(1, 1, 2), frame(2, 2, 1), frame(1, 1, 2)]);
    let told = lab.told();
    let executed: Vec<_> = told
        .iter()
        .filter_map(|told| if let Told::Execute(_, actions) = told { Some(outputs(actions)) } else { None })
        .collect();
    assert_eq!(executed, [vec![2, 3], vec![1], vec![2]]);
    assert_eq!(lab.ports_of(&frame(1, 1, 2)), [2]);
}

#[test]
fn a_learned_address_ends_flooding_at_once() {
    let mut lab = Lab::new();
    lab.miss(&[frame(1, 1, 2)]);
    lab.miss(&[frame(3, 3, 9)]);
    let retranslated = lab.stats().retranslated;
    lab.told();
    lab.miss(&[frame(2, 2, 1)]);
    lab.settle();
    assert_eq!(lab.ports_of(&frame(1, 1, 2)), [2]);
    assert_eq!(lab.stats().retranslated, retranslated + 1, "only the flow that asked for the address");
    let told = lab.told();
    assert!(matches!(&told[..], [Told::Install(_), Told::Execute(..), Told::Install(_)]), "{told:?}");
}

#[test]
fn a_moved_sender_takes_its_flows_along() {
    let mut lab = Lab::new();
    lab.miss(&[frame(2, 2, 9), frame(1, 1, 2)]);
    assert_eq!(lab.ports_of(&frame(1, 1, 2)), [2]);
    lab.wait(4000);
    lab.miss(&[frame(3, 2, 9)]);
    lab.settle();
    assert_eq!(lab.ports_of(&frame(1, 1, 2)), [3]);
    assert!(lab.flow(&frame(2, 2, 9)).is_none(), "its next frame from the old port must be noticed");
    lab.wait(4000);
    lab.miss(&[frame(2, 2, 9)]);
    lab.settle();
    assert_eq!(lab.ports_of(&frame(1, 1, 2)), [2]);
}

#[test]
fn two_ports_that_claim_an_address_do_not_undo_each_others_flows() {
    let mut lab = Lab::new();
    lab.miss(&[frame(2, 7, 9)]);
    lab.miss(&[frame(3, 7, 9)]);
    lab.wait(FLAP_MS / 10);
    lab.miss(&[frame(2, 7, 9)]);
    assert!(lab.flow(&frame(3, 7, 9)).is_some());
    // Who sent last has it.
    lab.wait(100);
    lab.hit(&frame(3, 7, 9));
    lab.pass();
    assert_eq!(lab.fdb(), [(3, 7)]);
    lab.wait(100);
    lab.hit(&frame(2, 7, 9));
    lab.pass();
    assert_eq!(lab.fdb(), [(2, 7)]);
}

#[test]
fn a_config_change_reaches_every_flow_of_its_bridge_and_no_other() {
    let mut lab = Lab::new();
    lab.bridges.set_bridge(BridgeConfig::new("other")).unwrap();
    for number in 11..=12 {
        lab.bridges.add_port("other", BridgePortConfig::new(format!("q{number}"), PortNo(number))).unwrap();
    }
    lab.settle();
    lab.miss(&[frame(1, 1, 2), frame(11, 1, 2)]);
    let before = lab.stats().retranslated;
    lab.bridges.set_port_vlan("p3", VlanConfig::access(9)).unwrap();
    lab.pass();
    assert_eq!(lab.stats().retranslated, before + 1);
    assert_eq!(lab.ports_of(&frame(1, 1, 2)), [2]);
    assert_eq!(lab.ports_of(&frame(11, 1, 2)), [12]);
    // Both are up to date now: another pass has nothing to translate.
    lab.pass();
    assert_eq!(lab.stats().retranslated, before + 1);
}

#[test]
fn a_link_concerns_floods_alone() {
    let mut lab = Lab::new();
    // The first floods, the second goes to an address that the first had learned.
    lab.miss(&[frame(1, 1, 9)]);
    lab.miss(&[frame(2, 2, 1)]);
    lab.settle();
    let before = lab.stats().retranslated;
    for (up, flooded) in [(false, vec![2]), (true, vec![2, 3])] {
        lab.bridges.set_port_link("p3", up).unwrap();
        lab.pass();
        assert_eq!(lab.ports_of(&frame(1, 1, 9)), flooded);
        assert_eq!(lab.ports_of(&frame(2, 2, 1)), [1]);
    }
    assert_eq!(lab.stats().retranslated, before + 2);
    lab.bridges.add_flows("br", &["priority=9,in_port=2,actions=all"]).unwrap();
    lab.pass();
    lab.bridges.set_port_no_flood("p3", true).unwrap();
    lab.bridges.set_port_link("p3", false).unwrap();
    lab.pass();
    assert_eq!(lab.ports_of(&frame(1, 1, 9)), [2]);
    assert_eq!(lab.ports_of(&frame(2, 2, 1)), [1], "`all` among the actions is a flood too");
}

#[test]
fn a_change_is_noticed_without_being_told() {
    let mut lab = Lab::new();
    lab.miss(&[frame(1, 1, 2)]);
    lab.bridges.add_flows("br", &["priority=9,actions=drop"]).unwrap();
    lab.settle();
    assert_eq!(lab.ports_of(&frame(1, 1, 2)), [0; 0]);
}

#[test]
fn a_rule_that_looks_closer_sends_packets_up_again() {
    let mut lab = Lab::new();
    lab.miss(&[frame(1, 1, 2)]);
    lab.told();
    lab.bridges.add_flows("br", &["priority=9,ip,nw_src=10.0.0.1,actions=drop"]).unwrap();
    lab.pass();
    assert!(lab.flows().is_empty());
    assert!(matches!(&lab.told()[..], [Told::Remove(_)]));
    lab.miss(&[frame(1, 1, 2)]);
    assert_eq!(lab.ports_of(&frame(1, 1, 2)), [2, 3]);
}

#[test]
fn a_removed_port_is_in_no_flow() {
    let mut lab = Lab::new();
    lab.miss(&[frame(3, 3, 9), frame(1, 1, 3), frame(1, 1, 2)]);
    lab.bridges.remove_port("p3").unwrap();
    lab.pass();
    assert_eq!(lab.ports_of(&frame(1, 1, 2)), [2]);
    assert_eq!(lab.ports_of(&frame(1, 1, 3)), [2], "floods again");
    assert!(lab.flow(&frame(3, 3, 9)).is_none_or(|flow| flow.actions.is_drop()));
    assert_eq!(lab.fdb(), [(1, 1)]);
}

#[test]
fn idle_flows_go_and_used_ones_stay() {
    let mut lab = Lab::new();
    lab.miss(&[frame(1, 1, 2), frame(2, 5, 6)]);
    lab.wait(6000);
    lab.hit(&frame(1, 1, 2));
    lab.settle();
    lab.wait(4000);
    lab.settle();
    assert!(lab.flow(&frame(1, 1, 2)).is_some());
    assert!(lab.flow(&frame(2, 5, 6)).is_none());
    assert_eq!((lab.stats().idled, lab.stats().flows), (1, 1));
    assert!(lab.told().iter().any(|told| matches!(told, Told::Remove(flow) if flow.key().in_port == 2)));
}

#[test]
fn hits_are_credited_once_and_keep_addresses_alive() {
    let mut lab = Lab::new();
    lab.bridges.set_bridge(BridgeConfig { mac_ageing_s: 15, ..BridgeConfig::new("br") }).unwrap();
    lab.miss(&[frame(1, 1, 2)]);
    for _ in 0..4 {
        lab.wait(5000);
        lab.hit(&frame(1, 1, 2));
        lab.settle();
    }
    assert_eq!(lab.fdb(), [(1, 1)]);
    let rules = lab.bridges.dump_flows("br", "").unwrap();
    assert!(rules[0].contains("n_packets=5, n_bytes=500"), "{rules:?}");
    lab.wait(9000);
    lab.settle();
    assert_eq!(lab.fdb(), [(1, 1)]);
    lab.wait(6000);
    lab.settle();
    assert_eq!(lab.fdb(), []);
}

#[test]
fn hits_of_a_removed_flow_are_not_lost() {
    let mut lab = Lab::new();
    lab.miss(&[frame(1, 1, 2)]);
    let flow = lab.flow(&frame(1, 1, 2)).unwrap();
    lab.engine.flush();
    assert_eq!(lab.stats().flows, 0);
    // The worker had not heard of it yet.
    flow.stats.hit(60, 0, lab.now_ms());
    lab.pass();
    let rules = lab.bridges.dump_flows("br", "").unwrap();
    assert!(rules[0].contains("n_packets=2, n_bytes=160"), "{rules:?}");
}

#[test]
fn a_rule_lives_as_long_as_its_flow_is_used() {
    let mut lab = Lab::new();
    lab.bridges.add_flows("br", &["priority=9,idle_timeout=3,in_port=p1,actions=output:p3"]).unwrap();
    lab.miss(&[frame(1, 1, 2)]);
    for _ in 0..3 {
        lab.wait(2000);
        lab.hit(&frame(1, 1, 2));
        lab.settle();
    }
    assert_eq!(lab.ports_of(&frame(1, 1, 2)), [3]);
    lab.wait(3000);
    lab.settle();
    assert_eq!(lab.bridges.dump_flows("br", "").unwrap().len(), 1);
    assert!(lab.flow(&frame(1, 1, 2)).is_none(), "the next rule looks at more");
}

#[test]
fn beyond_the_limit_packets_go_on_without_a_flow() {
    let mut lab = Lab::with(Limits { flows: 10, ..LIMITS });
    let flood: Vec<_> = (10..60).map(|host| frame(1, host, 1)).collect();
    lab.miss(&flood);
    let stats = lab.stats();
    assert_eq!((stats.flows, stats.limit_hits), (8, 42), "one port gets four fifths");
    assert_eq!(lab.told().iter().filter(|told| matches!(told, Told::Execute(..))).count(), 50);
    lab.miss(&[frame(2, 2, 1)]);
    assert!(lab.flow(&frame(2, 2, 1)).is_some(), "another port still has room");
    lab.wait(500);
    lab.settle();
    assert_eq!(lab.stats().flows, 0, "crowded: idle flows go sooner");
}

#[test]
fn limits_change_while_it_runs() {
    let mut lab = Lab::with(Limits { flows: 5, ..LIMITS });
    let flood: Vec<_> = (10..20).map(|host| frame(1, host, 1)).collect();
    lab.miss(&flood);
    assert_eq!((lab.stats().flows, lab.stats().limit_hits), (4, 6));
    lab.engine.set_limits(Limits { idle_ms: 2000, pass_ms: 100, ..LIMITS });
    lab.miss(&flood);
    assert_eq!(lab.stats().flows, 10);
    lab.wait(1900);
    lab.settle();
    assert_eq!(lab.stats().flows, 10);
    lab.wait(200);
    lab.settle();
    assert_eq!(lab.stats().flows, 0, "idle for 2 s, seen by a pass 100 ms later");
}

#[test]
fn an_ended_worker_is_forgotten() {
    let mut lab = Lab::new();
    lab.miss(&[frame(1, 1, 2)]);
    let mut batch = vec![Upcall { worker: 1, key: frame(1, 1, 2), packet: lab.packet() }];
    lab.engine.handle(&mut batch);
    assert_eq!(lab.stats().flows, 2);
    lab.engine.sinks.remove(1);
    lab.engine.forget_worker(1);
    assert_eq!(lab.stats().flows, 1);
    let mut batch = vec![Upcall { worker: 1, key: frame(1, 1, 2), packet: lab.packet() }];
    lab.engine.handle(&mut batch);
    assert_eq!((lab.stats().flows, lab.stats().orphaned), (1, 1));
}

#[test]
fn a_flow_that_still_misses_is_installed_again() {
    let mut lab = Lab::new();
    lab.miss(&[frame(1, 1, 2)]);
    lab.told();
    lab.miss(&[frame(1, 1, 2)]);
    assert!(matches!(&lab.told()[..], [Told::Execute(..)]), "the packet was on its way before");
    lab.wait(1000);
    lab.miss(&[frame(1, 1, 2)]);
    assert!(matches!(&lab.told()[..], [Told::Install(_), Told::Execute(..)]));
}

#[test]
fn a_long_pass_is_done_in_slices() {
    let mut lab = Lab::with(Limits { flows: 100_000, ..LIMITS });
    for batch in 0..12u8 {
        let keys: Vec<_> = (0..=255).map(|host| frame(1, host, batch)).collect();
        lab.miss(&keys);
    }
    lab.settle();
    let flows = lab.stats().flows;
    assert!(flows > 2000);
    lab.bridges.set_port_vlan("p3", VlanConfig::access(9)).unwrap();
    let ticket = lab.engine.ask_for_pass();
    let mut slices = 0;
    while !lab.engine.has_passed(ticket) {
        lab.engine.revalidate_some(SLICE);
        slices += 1;
    }
    assert!(slices >= flows as usize / SLICE, "{slices}");
    assert!(lab.flows().iter().all(|flow| !outputs(&flow.actions).contains(&3)));
}

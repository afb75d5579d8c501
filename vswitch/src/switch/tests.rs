//! A whole switch between capture files: what goes in by replay comes out in recordings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flowtable::rules::{RuleAction, RuleFilter};
use pmd::drivers::pcap::Capture;
use pmd::port::LinkState;

use super::*;
use crate::bridge::{VlanConfig, VlanMode};
use crate::slowpath::Limits;

/// Nothing but another VLAN mode.
fn change(vlan: VlanConfig) -> PortChange {
    let offloads = PortOffloads::default();
    PortChange { vlan, mtu: None, affinity: BTreeMap::new(), offloads, vdpa: Vec::new(), admin_up: true }
}

/// A directory of captures and a switch with a bridge `br0`.
struct Bench {
    dir: tempfile::TempDir,
    switch: Arc<Switch>,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let switch = Switch::start(SwitchConfig { rundir: dir.path().to_owned() }).unwrap();
        switch.set_bridge(BridgeConfig::new("br0")).unwrap();
        Bench { dir, switch }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn request(&self, name: &str, kind: PortKind) -> PortRequest {
        PortRequest {
            name: name.into(),
            bridge: "br0".into(),
            kind,
            ofport_request: None,
            local: false,
            vlan: VlanConfig::default(),
            mtu: None,
            affinity: BTreeMap::new(),
            admin_up: true,
        }
    }

    /// A port that records what it is sent to `NAME.pcap`.
    fn recorder(&self, name: &str) -> PortRequest {
        let record = Some(self.path(&format!("{name}.pcap")));
        self.request(name, PortKind::Pcap { replay: None, record })
    }

    /// A port that brings these frames, once.
    fn source(&self, name: &str, frames: &[Vec<u8>]) -> PortRequest {
        let path = self.path(&format!("{name}-in.pcap"));
        write_capture(&path, frames);
        self.request(name, PortKind::Pcap { replay: Some(path), record: None })
    }

    /// Waits until a port has been sent so many packets.
    fn await_sent(&self, port: &str, packets: u64) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.switch.port_reports(Some(port))[0].tx.packets < packets {
            assert!(Instant::now() < deadline, "{:?}", self.switch.port_reports(None));
            std::thread::yield_now();
        }
    }

    /// What a recorder got, after it has been removed.
    fn recorded(&self, name: &str) -> Vec<Vec<u8>> {
        self.switch.remove_port(name).unwrap();
        let capture = Capture::load(&self.path(&format!("{name}.pcap"))).unwrap();
        (0..capture.len()).map(|i| capture.frame(i).to_vec()).collect()
    }
}

fn write_capture(path: &Path, frames: &[Vec<u8>]) {
    let mut bytes = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];
    for frame in frames {
        bytes.extend([0; 8]);
        bytes.extend((frame.len() as u32).to_le_bytes());
        bytes.extend((frame.len() as u32).to_le_bytes());
        bytes.extend_from_slice(frame);
    }
    std::fs::write(path, bytes).unwrap();
}

fn frame(dst: u8, src: u8, mark: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, dst, 2, 0, 0, 0, 0, src, 0x88, 0xb5];
    frame.resize(80, mark);
    frame
}

#[test]
fn unknown_destinations_flood_and_senders_are_learned() {
    let bench = Bench::new();
    let switch = &bench.switch;
    for name in ["a", "b"] {
        switch.add_port(bench.recorder(name)).unwrap();
    }
    let frames: Vec<_> = (0..100).map(|i| frame(0xee, 1, i)).collect();
    assert_eq!(switch.add_port(bench.source("s", &frames)).unwrap(), 3);
    bench.await_sent("a", 100);
    bench.await_sent("b", 100);
    let fdb = switch.bridges().fdb("br0").unwrap();
    assert_eq!((fdb.len(), fdb[0].ofport, fdb[0].mac), (1, 3, [2, 0, 0, 0, 0, 1]));
    let flows = switch.dp_flows();
    assert_eq!(flows.len(), 1);
    // What the slow path carried out itself is not counted by the flow.
    let worker = switch.worker_reports()[0].counters;
    assert_eq!(flows[0].flow.stats.packets() + worker.misses, 100);
    let mut got = bench.recorded("a");
    got.sort();
    assert_eq!(got, frames);
    assert_eq!(bench.recorded("b").len(), 100);
}

#[test]
fn a_learned_destination_gets_its_frames_alone() {
    let bench = Bench::new();
    let switch = &bench.switch;
    // `b` both sends, so that it is known, and records.
    let path = bench.path("b-in.pcap");
    write_capture(&path, &[frame(0xee, 7, 0)]);
    let record = Some(bench.path("b.pcap"));
    switch.add_port(bench.recorder("a")).unwrap();
    switch.add_port(bench.request("b", PortKind::Pcap { replay: Some(path), record })).unwrap();
    bench.await_sent("a", 1);
    switch.add_port(bench.source("s", &[frame(7, 1, 1), frame(7, 1, 2)])).unwrap();
    bench.await_sent("b", 2);
    assert_eq!(bench.recorded("b").len(), 2);
    assert_eq!(bench.recorded("a"), [frame(0xee, 7, 0)]);
}

#[test]
fn rules_and_vlans_decide_and_drops_say_why() {
    let bench = Bench::new();
    let switch = &bench.switch;
    switch.bridges().delete_rules("br0", &RuleFilter::default(), false).unwrap();
    switch.add_port(bench.recorder("a")).unwrap();
    switch.add_port(bench.source("s", &[frame(1, 2, 3)])).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while switch.port_reports(Some("s"))[0].rx.packets == 0 || switch.dp_flows().is_empty() {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    assert_eq!(switch.port_reports(Some("a"))[0].tx.packets, 0);
    let all = flowtable::key::FlowMatch::any();
    let rule = flowtable::rules::Rule::new(5, all, vec![RuleAction::Normal], switch.now_ms());
    switch.bridges().add_rules("br0", vec![rule]).unwrap();
    let tagged = VlanConfig { mode: Some(VlanMode::Access), tag: Some(9), ..VlanConfig::default() };
    switch.set_port("a", change(tagged)).unwrap();
    switch.sync();
    switch.add_port(bench.recorder("trunk")).unwrap();
    switch.add_port(bench.source("s2", &[frame(1, 4, 5)])).unwrap();
    bench.await_sent("trunk", 1);
    assert_eq!(bench.recorded("trunk"), [frame(1, 4, 5)]);
    assert!(bench.recorded("a").is_empty());
}

#[test]
fn port_that_is_down_neither_receives_nor_sends() {
    let bench = Bench::new();
    let switch = &bench.switch;
    let drops = |port: &str| {
        let report = switch.port_reports(Some(port)).remove(0);
        report.rx_drops.into_iter().chain(report.tx_drops).collect::<BTreeMap<_, _>>()
    };
    let state = |port: &str| {
        let report = switch.port_reports(Some(port)).remove(0);
        (report.admin_up, report.info.link)
    };
    let admin = |port: &str, up: bool| {
        switch.set_port(port, PortChange { admin_up: up, ..change(VlanConfig::default()) }).unwrap();
        switch.sync();
    };
    let await_drops = |port: &str, reason: &str, count: u64| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while drops(port).get(reason) != Some(&count) {
            assert!(Instant::now() < deadline, "{port} {reason} {count}: {:?}", switch.port_reports(None));
            std::thread::yield_now();
        }
    };
    switch.add_port(bench.recorder("a")).unwrap();
    switch.add_port(bench.recorder("b")).unwrap();
    assert_eq!(state("a"), (true, LinkState::Up));
    // Down from the beginning.
    let frames: Vec<_> = (0..40).map(|i| frame(0xee, 1, i)).collect();
    let mut source = bench.source("s", &frames);
    source.admin_up = false;
    switch.add_port(source).unwrap();
    await_drops("s", "rx_admin_down", 40);
    assert_eq!(state("s"), (false, LinkState::Down));
    assert!(switch.bridges().fdb("br0").unwrap().is_empty(), "nothing is learned of it");
    // Taken down: only the other one is flooded to. A worker that comes meanwhile knows.
    admin("a", false);
    let cpus = pmd::sys::cpu::online();
    switch.set_workers(Some(cpus)).unwrap();
    switch.add_port(bench.source("s2", &frames)).unwrap();
    bench.await_sent("b", 40);
    await_drops("a", "tx_admin_down", 40);
    assert_eq!(state("a"), (false, LinkState::Down));
    assert_eq!(switch.bridges().fdb("br0").unwrap().len(), 1);
    // What was learned of a port goes with it.
    admin("s2", false);
    assert!(switch.bridges().fdb("br0").unwrap().is_empty());
    admin("a", true);
    assert_eq!(state("a"), (true, LinkState::Up));
    switch.add_port(bench.source("s3", &frames[..5])).unwrap();
    bench.await_sent("a", 5);
    assert_eq!(bench.recorded("a"), frames[..5]);
}

#[test]
fn floods_reach_a_guest_as_soon_as_it_is_there_and_cost_nothing_before() {
    let bench = Bench::new();
    let switch = &bench.switch;
    switch.set_bridge(BridgeConfig::new("br1")).unwrap();
    switch.add_port(bench.recorder("a")).unwrap();
    let guest = GuestOptions::default();
    switch.add_port(bench.request("g", PortKind::VhostUser { path: None, guest })).unwrap();
    switch.add_port(bench.source("s", &[frame(0xee, 1, 1)])).unwrap();
    bench.await_sent("a", 1);
    let report = switch.port_reports(Some("g")).remove(0);
    assert_eq!((report.info.link, report.tx.packets), (LinkState::Down, 0));
    assert_eq!(report.tx_drops.values().sum::<u64>(), 0, "nothing was sent there: {:?}", report.tx_drops);

    // No pass by the clock: megaflows made without the guest are looked at again because it has come.
    switch.slow.set_limits(Limits { pass_ms: 3_600_000, ..Limits::default() });
    switch.sync();
    let passes = switch.slow.stats().passes;

    // A guest that is another bridge's uplink.
    let uplink = PortKind::VirtioUser { path: bench.path("g"), server: false, pairs: 1, packed: false };
    let uplink = PortRequest { bridge: "br1".into(), ..bench.request("u", uplink) };
    switch.add_port(uplink).unwrap();
    let far = PortRequest { bridge: "br1".into(), ..bench.recorder("far") };
    switch.add_port(far).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut sources = 0;
    while switch.port_reports(Some("far"))[0].tx.packets == 0 {
        assert!(Instant::now() < deadline, "{:?}", switch.port_reports(None));
        let linked = ["g", "u"].map(|port| switch.port_reports(Some(port))[0].info.link);
        if linked == [LinkState::Up; 2] && switch.slow.stats().passes > passes {
            sources += 1;
            switch.add_port(bench.source(&format!("s{sources}"), &[frame(0xee, 1, 2)])).unwrap();
            bench.await_sent("a", 1 + sources);
        }
        std::thread::yield_now();
    }
    assert_eq!(bench.recorded("far")[0], frame(0xee, 1, 2));
}

/// Runs `ip ARGUMENTS` in the test's network namespace.
fn ip(arguments: &str) {
    let status = std::process::Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

#[test]
fn a_tap_that_is_down_is_not_polled_and_its_first_frame_arrives() {
    let test = || {
        pmd::sys::netns::enter_new().expect("run as root: it makes a network namespace");
        let bench = Bench::new();
        let switch = &bench.switch;
        switch.add_port(bench.recorder("a")).unwrap();
        switch.add_port(bench.request("tap0", PortKind::Tap { queues: 1, bring_up: false })).unwrap();
        // Its own frames would be among those recorded.
        std::fs::write("/proc/sys/net/ipv6/conf/tap0/disable_ipv6", "1").unwrap();
        ip("addr add 10.9.0.1/24 dev tap0");
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_broadcast(true).unwrap();
        let polled = || switch.worker_reports()[0].rxqs.len();
        let changes = switch.watch();
        for round in 1..=3u64 {
            while polled() != 0 {
                changes.recv_timeout(Duration::from_secs(60)).expect("the queue to be let go");
            }
            ip("link set tap0 up");
            // At once, whether the switch knows by now or not.
            socket.send_to(&[round as u8; 50], "10.9.0.255:9").unwrap();
            bench.await_sent("a", round);
            assert_eq!(polled(), 1);
            ip("link set tap0 down");
        }
        let recorded = bench.recorded("a");
        let bytes: Vec<u8> = recorded.iter().map(|frame| frame[frame.len() - 1]).collect();
        assert_eq!(bytes, [1, 2, 3]);
        let received = switch.port_reports(Some("tap0"))[0].rx.packets;
        assert_eq!(received, 3, "what a queue has counted stays when it goes");
    };
    std::thread::spawn(test).join().unwrap();
}

#[test]
fn names_are_unique_numbers_are_reused_and_unknown_things_are_errors() {
    let bench = Bench::new();
    let switch = &bench.switch;
    assert_eq!(switch.add_port(bench.request("n", PortKind::Null)).unwrap(), 1);
    let error = switch.add_port(bench.request("n", PortKind::Null)).unwrap_err().to_string();
    assert!(error.contains("already on bridge br0"), "{error}");
    let mut lost = bench.request("m", PortKind::Null);
    lost.bridge = "br9".into();
    assert!(switch.add_port(lost).unwrap_err().to_string().contains("br9"));
    let numbers = switch.port_numbers();
    switch.remove_port("n").unwrap();
    assert!(switch.remove_port("n").is_err());
    assert_eq!(switch.add_port(bench.request("k", PortKind::Null)).unwrap(), 1);
    assert_eq!(switch.port_numbers()[0].0, numbers[0].0);
    switch.remove_bridge("br0").unwrap();
    assert!(switch.port_numbers().is_empty());
}

#[test]
fn workers_come_and_go_under_traffic() {
    let bench = Bench::new();
    let switch = &bench.switch;
    let cpus = pmd::sys::cpu::online();
    switch.add_port(bench.recorder("a")).unwrap();
    switch.add_port(bench.source("s", &vec![frame(0xee, 1, 0); 5000])).unwrap();
    for set in [&cpus[..1], cpus, &cpus[cpus.len() - 1..]] {
        switch.set_workers(Some(set)).unwrap();
        let cores: Vec<u32> = switch.worker_reports().iter().map(|w| w.core).collect();
        assert_eq!(cores, set);
        let polled: usize = switch.worker_reports().iter().map(|w| w.rxqs.len()).sum();
        assert_eq!(polled, 1);
    }
    let absent = cpus.iter().max().unwrap() + 1;
    let error = switch.set_workers(Some(&[absent])).unwrap_err().to_string();
    assert!(error.contains(&format!("CPU {absent}")), "{error}");
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let report = &switch.port_reports(Some("s"))[0];
        let sent = &switch.port_reports(Some("a"))[0];
        let lost: u64 = report.rx_drops.values().chain(sent.tx_drops.values()).sum();
        if report.rx.packets == 5000 && sent.tx.packets + lost == 5000 {
            break;
        }
        assert!(Instant::now() < deadline, "{report:?} {sent:?}");
        std::thread::yield_now();
    }
}

/// Ports polled on each of two CPUs.
fn polled(switch: &Switch) -> Vec<Vec<String>> {
    let names = |worker: &WorkerReport| worker.rxqs.iter().map(|rxq| rxq.port.clone()).collect();
    switch.worker_reports().iter().map(names).collect()
}

#[test]
fn queues_are_spread_when_a_worker_comes_and_a_pinned_one_has_its_worker_alone() {
    let bench = Bench::new();
    let switch = &bench.switch;
    let cpus = pmd::sys::cpu::online();
    if cpus.len() < 2 {
        // Nothing to spread over.
        return;
    }
    switch.set_workers(Some(&cpus[..1])).unwrap();
    for name in ["p", "q", "r", "s"] {
        switch.add_port(bench.source(name, &[frame(0xee, 1, 0)])).unwrap();
    }
    assert_eq!(polled(switch), [["p", "q", "r", "s"]]);
    switch.set_workers(Some(&cpus[..2])).unwrap();
    let counts = |switch: &Switch| polled(switch).iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(counts(switch), [2, 2]);

    let pin = |core| PortChange { affinity: BTreeMap::from([(0, core)]), ..change(VlanConfig::default()) };
    switch.set_port("r", pin(cpus[1])).unwrap();
    assert_eq!(polled(switch), [vec!["p", "q", "s"], vec!["r"]]);
    let isolated: Vec<bool> = switch.worker_reports().iter().map(|worker| worker.isolated).collect();
    assert_eq!(isolated, [false, true]);
    assert!(switch.worker_reports()[1].rxqs[0].pinned);
    // With both isolated the others still are polled somewhere.
    switch.set_port("p", pin(cpus[0])).unwrap();
    assert_eq!(counts(switch).iter().sum::<usize>(), 4);
    switch.set_port("p", change(VlanConfig::default())).unwrap();

    switch.set_balance(Balance { isolate: false, assign: Assign::RoundRobin, auto: None });
    assert!(polled(switch)[1].contains(&"r".to_owned()));
    assert_eq!(polled(switch)[0].len(), 2);
    switch.set_balance(Balance::default());
    assert_eq!(polled(switch), [vec!["p", "q", "s"], vec!["r"]]);
}

#[test]
fn a_busy_worker_gives_queues_away_by_itself() {
    let bench = Bench::new();
    let switch = &bench.switch;
    let cpus = pmd::sys::cpu::online();
    if cpus.len() < 2 {
        return;
    }
    switch.set_workers(Some(&cpus[..2])).unwrap();
    for name in ["p", "q"] {
        switch.add_port(bench.source(name, &vec![frame(0xee, 1, 0); 100])).unwrap();
    }
    // Both on one worker, by hand.
    let mut inner = switch.lock();
    let first = inner.workers[0].handle.id();
    for number in [1, 2] {
        let from = inner.ports[&PortNo(number)].rxqs[&0].worker;
        inner.move_to(PortNo(number), 0, from, first);
    }
    drop(inner);
    assert_eq!(polled(switch).iter().map(Vec::len).max(), Some(2));
    let balance = |load_pct, improvement_pct| {
        let interval = Duration::ZERO;
        Balance { auto: Some(AutoBalance { interval, load_pct, improvement_pct }), ..Balance::default() }
    };
    for name in ["p", "q"] {
        let deadline = Instant::now() + Duration::from_secs(60);
        while switch.port_reports(Some(name))[0].rx.packets < 100 {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
    }
    // Not busy enough; not worth it, since nothing more than all can be gained; then both.
    for (balance, apart) in [(balance(100, 0), false), (balance(0, 101), false), (balance(0, 1), true)] {
        switch.set_balance(balance);
        switch.lock().tick();
        assert_eq!(polled(switch).iter().map(Vec::len).max(), Some(if apart { 1 } else { 2 }), "{balance:?}");
    }
}

/// Ports, workers, rules and queries from many threads at once. What is checked is that all of it ends, that nothing is left
/// over, and that the switch still switches.
#[test]
fn everything_at_once() {
    let bench = Bench::new();
    let switch = &bench.switch;
    let cpus = pmd::sys::cpu::online();
    std::thread::scope(|scope| {
        for name in ["x", "y", "z"] {
            scope.spawn(|| flap(&bench, name));
        }
        scope.spawn(|| {
            for round in 0..20 {
                let from = round % cpus.len();
                switch.set_workers(Some(&cpus[from..])).unwrap();
            }
        });
        scope.spawn(|| {
            for round in 0..60u32 {
                // As if ports reported a change of their queues, known ones and those just removed.
                switch.maintenance.sender().send(events::Event::Changed(PortNo(round % 6))).unwrap();
                let affinity = BTreeMap::from([(0, cpus[round as usize % cpus.len()])]);
                let vlan = VlanConfig::access((round % 3) as u16);
                // The port may just not be there.
                let _ = switch.set_port("y", PortChange { affinity, ..change(vlan) });
            }
        });
        scope.spawn(|| {
            for _ in 0..40 {
                let all = flowtable::key::FlowMatch::any();
                let rule = flowtable::rules::Rule::new(9, all, vec![RuleAction::Normal], switch.now_ms());
                switch.bridges().add_rules("br0", vec![rule]).unwrap();
                switch.sync();
                let queues: usize = switch.worker_reports().iter().map(|worker| worker.rxqs.len()).sum();
                assert!(queues <= 3);
                assert!(switch.port_reports(None).iter().all(|port| port.bridge == "br0"));
                let _ = (switch.dp_flows(), switch.bridges().fdb("br0").unwrap());
                let strict = RuleFilter::default();
                switch.bridges().delete_rules("br0", &strict, false).unwrap();
            }
        });
    });
    assert!(switch.port_reports(None).is_empty());
    assert!(switch.worker_reports().iter().all(|worker| worker.rxqs.is_empty()));
    let all = flowtable::key::FlowMatch::any();
    let rule = flowtable::rules::Rule::new(9, all, vec![RuleAction::Normal], switch.now_ms());
    switch.bridges().add_rules("br0", vec![rule]).unwrap();
    switch.sync();
    assert!(switch.dp_flows().is_empty(), "flows of removed ports are left");
    switch.add_port(bench.recorder("a")).unwrap();
    switch.add_port(bench.source("s", &[frame(1, 2, 3)])).unwrap();
    bench.await_sent("a", 1);
}

/// Adds and removes a port that brings traffic, again and again.
fn flap(bench: &Bench, name: &str) {
    let frames: Vec<_> = (0..200).map(|i| frame(0xee, i as u8, 0)).collect();
    let request = bench.source(name, &frames);
    for _ in 0..25 {
        bench.switch.add_port(request.clone()).unwrap();
        bench.switch.remove_port(name).unwrap();
    }
}

#[test]
fn a_port_without_offloads_says_so_and_takes_the_rest() {
    let bench = Bench::new();
    bench.switch.add_port(bench.request("n", PortKind::Null)).unwrap();
    let tx = pmd::port::Offloads { tso: false, ..Default::default() };
    let tagged = VlanConfig::access(7);
    let refused = PortChange { offloads: PortOffloads { tx, gro: false }, ..change(tagged.clone()) };
    let error = bench.switch.set_port("n", refused.clone()).unwrap_err().to_string();
    assert!(error.contains("tso") && error.contains("type null"), "{error}");
    assert!(bench.switch.set_port("n", refused).is_err());
    let report = &bench.switch.port_reports(Some("n"))[0];
    assert!(!report.offloads.gro);
    assert!(report.info.status.contains(&("rx_gro".into(), "false".into())));
    bench.switch.set_port("n", change(tagged)).unwrap();
    assert!(bench.switch.port_reports(Some("n"))[0].offloads.gro);
}

//! A worker and the slow path in turns on one thread, while one port brings nothing but new flows.

use std::time::Duration;

use pmd::drivers::pair::{self, PairConfig, Tester};
use pmd::packet::Offload;
use pmd::port::{DropCounters, DropReason, Port};

use super::*;
use crate::datapath::worker::{Stepped as SteppedWorker, WorkerConfig};
use crate::datapath::{Command, IdlePolicy, RxAssignment, WorkerHandle, upcall_queue};

/// Ports 1 and 2 come in, port 3 goes out.
struct Rig {
    worker: SteppedWorker,
    slow: Stepped,
    testers: Vec<Tester>,
    drops: Vec<Arc<DropCounters>>,
    _handle: WorkerHandle,
    _ports: Vec<Arc<dyn Port>>,
}

/// Masks that are no prefixes must be looked at whole, so together they make every source address a megaflow.
const RULES: [&str; 4] = [
    "priority=9,ip,nw_src=192.0.0.0/255.85.85.85,actions=drop",
    "priority=9,ip,nw_src=192.0.0.0/255.170.170.170,actions=drop",
    "priority=8,in_port=1,actions=drop",
    "priority=8,in_port=2,actions=output:3",
];

impl Rig {
    fn new() -> Rig {
        let pool = Pool::create(8192).unwrap();
        let bridges = Arc::new(Bridges::new());
        bridges.set_bridge(BridgeConfig::new("br")).unwrap();
        let (sender, receiver) = upcall_queue().unwrap();
        let idle = IdlePolicy { spin: Duration::ZERO, always_poll: true };
        let config = WorkerConfig { id: 0, core: 0, idle, upcalls: sender, pool };
        let (handle, worker) = SteppedWorker::new(config).unwrap();
        let (mut testers, mut drops, mut ports) = (Vec::new(), Vec::new(), Vec::new());
        for number in 1..=3 {
            bridges.add_port("br", BridgePortConfig::new(format!("p{number}"), PortNo(number))).unwrap();
            let names = [format!("p{number}"), format!("t{number}")];
            let (near, far) = pair::open(PairConfig { names, queues: 1, pool }).unwrap();
            let (port, counters) = (PortNo(number), Arc::new(DropCounters::default()));
            let queue = near.tx_queue(0).unwrap();
            handle.send(Command::AddPort { port, queue, drops: counters.clone() });
            let queue = near.rx_queue(0).unwrap();
            handle.send(Command::AddRxq(RxAssignment { port, index: 0, queue, load: Arc::default() }));
            testers.push(Tester::new(&*far, pool).unwrap());
            drops.push(counters);
            ports.extend([near, far]);
        }
        bridges.add_flows("br", &RULES).unwrap();
        let sinks = SinkList::default();
        sinks.add(Arc::new(handle.clone()));
        let slow = Stepped::new(bridges, receiver, sinks, Limits::default());
        Rig { worker, slow, testers, drops, _handle: handle, _ports: ports }
    }

    fn send(&mut self, port: usize, source: u32) {
        assert!(self.testers[port - 1].send(&udp(source), Offload::default()));
    }

    /// Source addresses of what has come out, in order.
    fn sent_on(&mut self) -> Vec<u32> {
        let mut sources = Vec::new();
        while let Some(frame) = self.testers[2].receive(Duration::ZERO) {
            sources.push(u32::from_be_bytes(frame[26..30].try_into().unwrap()));
        }
        sources
    }

    fn lost(&self, port: usize) -> u64 {
        self.drops[port - 1].nonzero().map(|(_, count)| count).sum()
    }
}

/// A UDP frame from an address.
fn udp(source: u32) -> Vec<u8> {
    let mut frame = vec![0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 0x08, 0];
    frame.extend([0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame.extend(source.to_be_bytes());
    frame.extend([10, 1, 0, 1, 4, 0, 0, 53, 0, 26, 0, 0]);
    frame.resize(60, 0);
    frame
}

const KNOWN: u32 = 0x0aff_0001;
const NEW: u32 = 0x0afe_0000;

#[test]
fn a_storm_of_new_flows_on_one_port_costs_another_port_nothing() {
    let mut rig = Rig::new();
    rig.worker.round();
    rig.send(2, KNOWN);
    rig.worker.round();
    rig.slow.round();
    rig.worker.round();
    assert_eq!(rig.sent_on(), [KNOWN]);
    let mut storm = 0x0a00_0000;
    // Twice as many misses as the slow path decides about, until the port's share has long been full.
    for round in 0..48 {
        for _ in 0..16 {
            for _ in 0..32 {
                rig.send(1, storm);
                storm += 1;
            }
            rig.send(2, KNOWN);
            rig.worker.round();
            assert_eq!(rig.sent_on(), [KNOWN], "round {round}");
        }
        rig.send(2, NEW + round);
        rig.worker.round();
        rig.slow.round();
        rig.worker.round();
        assert_eq!(rig.sent_on(), [NEW + round], "answered by the next batch");
        rig.send(2, NEW + round);
        rig.worker.round();
        assert_eq!(rig.sent_on(), [NEW + round], "and then known to the worker");
    }
    let overflow = rig.drops[0].nonzero().any(|(reason, _)| reason == DropReason::UpcallQueueFull);
    assert!(overflow, "the storm outran the slow path");
    assert_eq!(rig.lost(2), 0);
}

//! A worker between in-process ports, with the test as its slow path.

use std::sync::Arc;
use std::time::Duration;

use flowtable::actions::{Action, ActionList, SetField};
use flowtable::key::{Field, FlowKey, FlowMask, PortNo};
use pmd::drivers::pair::{self, PairConfig, Tester};
use pmd::packet::{Offload, Pool};
use pmd::port::{DropCounters, DropReason, Port};

use super::command::RxAssignment;
use super::worker::WorkerConfig;
use super::*;

mod merging;
mod sleeping;
mod trains;

const WAIT: Duration = Duration::from_secs(30);

/// One worker and some ports, numbered from 1, each with a tester at its far side.
struct Bench {
    worker: WorkerHandle,
    thread: Option<std::thread::JoinHandle<()>>,
    upcalls: UpcallReceiver,
    testers: Vec<Tester>,
    drops: Vec<Arc<DropCounters>>,
    _ports: Vec<Arc<dyn Port>>,
}

impl Bench {
    fn new(ports: u32) -> Bench {
        let pool = Pool::create(8192).unwrap();
        let (sender, upcalls) = upcall_queue().unwrap();
        let core = pmd::sys::cpu::online()[0];
        let config = WorkerConfig { id: 0, core, idle: IdlePolicy::default(), upcalls: sender, pool };
        let (worker, thread) = spawn(config).unwrap();
        let mut bench = Bench {
            worker,
            thread: Some(thread),
            upcalls,
            testers: Vec::new(),
            drops: Vec::new(),
            _ports: Vec::new(),
        };
        for number in 1..=ports {
            let names = [format!("p{number}"), format!("t{number}")];
            let (near, far) = pair::open(PairConfig { names, queues: 1, pool }).unwrap();
            let (port, drops) = (PortNo(number), Arc::new(DropCounters::default()));
            let queue = near.tx_queue(0).unwrap();
            bench.worker.send(Command::AddPort { port, queue, drops: drops.clone() });
            let queue = near.rx_queue(0).unwrap();
            bench.worker.send(Command::AddRxq(RxAssignment { port, index: 0, queue, load: Arc::default() }));
            bench.testers.push(Tester::new(&*far, pool).unwrap());
            bench.drops.push(drops);
            bench._ports.extend([near, far]);
        }
        bench
    }

    /// Installs a flow for everything that comes in by a port.
    fn install(&self, in_port: u32, actions: Vec<Action>) -> Arc<Megaflow> {
        let mut mask = FlowMask::default();
        (mask.fields.in_port, mask.fields.recirc_id) = (u32::MAX, u32::MAX);
        let flow = Arc::new(Megaflow::new(
            0,
            &FlowKey { in_port, ..FlowKey::default() },
            &mask,
            ActionList::new(actions),
            DropReason::Action,
        ));
        self.worker.install(flow.clone());
        self.worker.barrier();
        flow
    }

    fn send(&mut self, port: usize, frame: &[u8]) {
        assert!(self.testers[port - 1].send(frame, Offload::default()));
    }

    fn receive(&mut self, port: usize) -> Vec<u8> {
        self.testers[port - 1].receive(WAIT).expect("no frame came")
    }

    fn upcall(&mut self) -> Upcall {
        let mut out = Vec::new();
        while out.is_empty() {
            self.upcalls.receive(&mut out, WAIT);
        }
        assert_eq!(out.len(), 1);
        out.remove(0)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.worker.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// An untagged frame with a recognisable payload.
fn frame(len: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5];
    frame.extend((14..len).map(|i| i as u8));
    frame
}

fn output(port: u32) -> Action {
    Action::Output(PortNo(port))
}

#[test]
fn a_miss_goes_up_and_comes_back_decided() {
    let mut bench = Bench::new(2);
    bench.send(1, &frame(700));
    let upcall = bench.upcall();
    assert_eq!((upcall.worker, upcall.key.in_port, upcall.packet.len()), (0, 1, 700));
    bench.worker.execute(upcall.packet, PortNo(1), ActionList::new(vec![output(2)]), DropReason::Action);
    bench.send(1, &frame(60));
    let upcall = bench.upcall();
    bench.worker.execute(upcall.packet, PortNo(1), ActionList::drop_all(), DropReason::VlanNotAllowed);
    bench.worker.barrier();
    assert_eq!(bench.drops[0].get(DropReason::VlanNotAllowed), 1);
    assert_eq!(bench.receive(2), frame(700));
    let counters = bench.worker.counters().snapshot();
    assert_eq!((counters.packets, counters.misses, counters.executed), (2, 2, 2));
}

#[test]
fn an_installed_flow_forwards_and_counts_and_can_be_removed() {
    let mut bench = Bench::new(2);
    let flow = bench.install(1, vec![output(2)]);
    for len in [60, 300, 1500, 9000] {
        bench.send(1, &frame(len));
        assert_eq!(bench.receive(2), frame(len));
    }
    assert_eq!((flow.stats.packets(), flow.stats.bytes()), (4, 10860));
    assert_eq!(bench.worker.counters().snapshot().flows, 1);
    bench.worker.remove(&flow);
    bench.worker.barrier();
    assert_eq!(bench.worker.counters().snapshot().flows, 0);
    bench.send(1, &frame(60));
    assert_eq!(bench.upcall().key.in_port, 1);
}

#[test]
fn a_replaced_flow_is_not_removed_by_its_predecessor() {
    let mut bench = Bench::new(3);
    let old = bench.install(1, vec![output(2)]);
    let _new = bench.install(1, vec![output(3)]);
    bench.worker.remove(&old);
    bench.worker.barrier();
    bench.send(1, &frame(60));
    assert_eq!(bench.receive(3), frame(60));
}

#[test]
fn every_output_sees_the_packet_as_it_was_then() {
    let mut bench = Bench::new(4);
    let mac = SetField::exact(Field::EthDst, 0x0200_0000_00ff);
    let tag = Action::PushVlan { tpid: 0x8100, tci: 7 };
    let actions =
        vec![output(2), tag, output(3), Action::set(mac), Action::Truncate(64), output(4), output(2)];
    bench.install(1, actions);
    let plain = frame(1000);
    bench.send(1, &plain);
    let mut tagged = plain.clone();
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    let mut rewritten = tagged.clone();
    rewritten[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0xff]);
    assert_eq!(bench.receive(2), plain);
    assert_eq!(bench.receive(3), tagged);
    assert_eq!(bench.receive(4), &rewritten[..64]);
    assert_eq!(bench.receive(2), rewritten);
}

#[test]
fn a_flood_with_changes_outlasts_the_clones() {
    let mut bench = Bench::new(2);
    let mut actions = Vec::new();
    for tci in 1..=100 {
        actions.extend([Action::PushVlan { tpid: 0x8100, tci }, output(2), Action::PopVlan]);
    }
    bench.install(1, actions);
    bench.send(1, &frame(100));
    for tci in 1..=100u8 {
        assert_eq!(bench.receive(2)[12..16], [0x81, 0, 0, tci]);
    }
}

#[test]
fn drops_have_reasons() {
    let mut bench = Bench::new(3);
    bench.install(1, vec![]);
    bench.install(2, vec![output(9)]);
    bench.install(3, vec![output(3)]);
    for port in 1..=3 {
        bench.send(port, &frame(60));
    }
    // What comes back from port 3 tells that the worker has been round all ports.
    assert_eq!(bench.receive(3), frame(60));
    bench.send(3, &frame(61));
    assert_eq!(bench.receive(3), frame(61));
    assert_eq!(bench.drops[0].get(DropReason::Action), 1);
    assert_eq!(bench.drops[1].get(DropReason::TxPortGone), 1);
}

#[test]
fn a_queue_moves_without_losing_what_waits() {
    let mut bench = Bench::new(2);
    bench.install(1, vec![output(2)]);
    let taken = bench.worker.take_rxq(PortNo(1), 0).unwrap();
    assert!(bench.worker.take_rxq(PortNo(1), 0).is_none());
    bench.send(1, &frame(60));
    bench.worker.send(Command::AddRxq(taken));
    assert_eq!(bench.receive(2), frame(60));
}

#[test]
fn a_worker_without_work_sleeps() {
    let mut bench = Bench::new(2);
    bench.install(1, vec![output(2)]);
    while !bench.worker.counters().snapshot().sleeping {
        std::thread::yield_now();
    }
    bench.send(1, &frame(60));
    assert_eq!(bench.receive(2), frame(60));
}

#[test]
fn nobody_waits_for_a_worker_that_ends() {
    let pool = Pool::create(64).unwrap();
    let (upcalls, _receiver) = upcall_queue().unwrap();
    let core = pmd::sys::cpu::online()[0];
    for _ in 0..100 {
        let upcalls = upcalls.clone();
        let config = WorkerConfig { id: 0, core, idle: IdlePolicy::default(), upcalls, pool };
        let (worker, thread) = spawn(config).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..50).for_each(|_| worker.barrier()));
            }
            scope.spawn(|| (0..50).for_each(|_| assert!(worker.take_rxq(PortNo(1), 0).is_none())));
            worker.send(Command::Stop);
        });
        thread.join().unwrap();
    }
}

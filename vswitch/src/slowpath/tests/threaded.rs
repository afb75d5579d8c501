//! The thread and its handle, over a real upcall queue.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::datapath::{UpcallSender, upcall_queue};

/// A worker that reports every execution, so that the test can wait for it.
struct Reporter(Mutex<Sender<Vec<u32>>>);

impl FlowSink for Reporter {
    fn worker(&self) -> u16 {
        0
    }

    fn install(&self, _flow: Arc<Megaflow>) {}

    fn install_for(&self, flow: Arc<Megaflow>, packet: OwnedPacket, in_port: PortNo) {
        let (actions, drop_reason) = (flow.actions.clone(), flow.drop_reason);
        self.install(flow);
        self.execute(packet, in_port, actions, drop_reason);
    }

    fn remove(&self, _flow: &Arc<Megaflow>) {}

    fn execute(
        &self,
        _packet: OwnedPacket,
        _in_port: PortNo,
        actions: ActionList,
        _reason: pmd::port::DropReason,
    ) {
        self.0.lock().unwrap().send(outputs(&actions)).unwrap();
    }
}

fn start(lab: &Lab) -> (SlowPathHandle, UpcallSender, Receiver<Vec<u32>>) {
    let (upcalls, receiver) = upcall_queue().unwrap();
    let (sender, executed) = channel();
    let sinks = SinkList::default();
    sinks.add(Arc::new(Reporter(Mutex::new(sender))));
    let handle = SlowPath::start(lab.bridges.clone(), receiver, sinks).unwrap();
    (handle, upcalls, executed)
}

fn miss(lab: &Lab, upcalls: &UpcallSender, key: FlowKey) {
    assert!(upcalls.send(Upcall { worker: 0, key, packet: lab.packet() }));
    upcalls.notify();
}

#[test]
fn a_change_is_live_when_the_call_returns() {
    let lab = Lab::new();
    let (slow, upcalls, executed) = start(&lab);
    miss(&lab, &upcalls, frame(1, 1, 2));
    assert_eq!(executed.recv().unwrap(), [2, 3]);
    for vlan in [9, 8] {
        lab.bridges.set_port_vlan("p3", VlanConfig::access(vlan)).unwrap();
        slow.revalidate_now();
        assert_eq!(outputs(&slow.dump()[0].1.actions), [2]);
        lab.bridges.set_port_vlan("p3", VlanConfig::default()).unwrap();
        slow.revalidate_now();
        assert_eq!(outputs(&slow.dump()[0].1.actions), [2, 3]);
    }
    assert_eq!(slow.stats().upcalls, 1);
    slow.flush();
    assert!(slow.dump().is_empty());
    miss(&lab, &upcalls, frame(1, 1, 2));
    assert_eq!(executed.recv().unwrap(), [2, 3]);
    assert_eq!(slow.dump().len(), 1);
    slow.forget_worker(0);
    assert!(slow.dump().is_empty());
}

#[test]
fn many_may_wait_at_once() {
    let lab = Lab::new();
    let (slow, ..) = start(&lab);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..20).for_each(|_| slow.revalidate_now()));
        }
    });
    assert!(slow.stats().passes >= 20);
}

#[test]
fn a_stopped_slow_path_answers_nobody_and_blocks_nobody() {
    let lab = Lab::new();
    let (slow, ..) = start(&lab);
    slow.stop();
    slow.revalidate_now();
    slow.forget_worker(0);
    assert!(slow.dump().is_empty());
}

#[test]
fn what_waited_before_a_change_is_decided_before_the_call_returns() {
    let lab = Lab::new();
    let (slow, upcalls, executed) = start(&lab);
    // More than one look at the queue takes. A packet left behind could be taken for one of the port that gets the number
    // next.
    for source in 0..400u16 {
        let [a, b] = source.to_be_bytes();
        let mut key = frame(1, 1, 2);
        key.eth_src = [2, 9, 9, 9, a, b];
        assert!(upcalls.send(Upcall { worker: 0, key, packet: lab.packet() }));
    }
    lab.bridges.remove_port("p1").unwrap();
    slow.revalidate_now();
    assert_eq!(slow.stats().upcalls, 400);
    assert_eq!(executed.try_iter().count(), 400);
}

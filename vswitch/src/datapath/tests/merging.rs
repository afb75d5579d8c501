//! Merging between ports of different abilities: who takes large frames gets them, others get what came.

use std::sync::Mutex;

use pmd::offload::{Finisher, Takes};
use pmd::packet::{Batch, Gso, OffloadCaps, SlotId};
use pmd::port::{QueueCounters, TxQueue};

use super::*;

/// A frame as it was sent.
type Sent = (Vec<u8>, Offload);

/// A far side that notes what it is sent: each frame's bytes and segmentation.
struct Recorder {
    takes: Takes,
    sent: Arc<Mutex<Vec<Sent>>>,
    counters: Arc<QueueCounters>,
}

impl TxQueue for Recorder {
    fn tx_burst(&mut self, batch: &Batch<'_>, slots: &[SlotId]) -> usize {
        let mut sent = self.sent.lock().unwrap();
        for &slot in slots {
            let finished =
                Finisher::new().finish(batch.frame(slot), self.takes.caps, self.takes.max_frame, |frame| {
                    let mut bytes = vec![0; frame.len()];
                    frame.copy_to(&mut bytes);
                    sent.push((bytes, frame.offload));
                });
            finished.unwrap();
        }
        slots.len()
    }
    fn takes(&self) -> Takes {
        self.takes
    }
    fn counters(&self) -> Arc<QueueCounters> {
        self.counters.clone()
    }
}

/// One port with a tester, and two recorders: port 2 takes large frames, port 3 none.
struct Room {
    handle: WorkerHandle,
    worker: worker::Stepped,
    tester: Tester,
    sent: [Arc<Mutex<Vec<Sent>>>; 2],
    counters: [Arc<QueueCounters>; 2],
    _upcalls: UpcallReceiver,
    _ports: [Arc<dyn Port>; 2],
}

impl Room {
    fn new() -> Room {
        let pool = Pool::create(8192).unwrap();
        let (sender, _upcalls) = upcall_queue().unwrap();
        let idle = IdlePolicy { spin: Duration::ZERO, always_poll: true };
        let config = WorkerConfig { id: 0, core: 0, idle, upcalls: sender, pool };
        let (handle, worker) = worker::Stepped::new(config).unwrap();
        let names = ["p1".to_owned(), "t1".to_owned()];
        let (near, far) = pair::open(PairConfig { names, queues: 1, pool }).unwrap();
        let port = PortNo(1);
        let (sent, counters): ([Arc<Mutex<_>>; 2], [Arc<QueueCounters>; 2]) = Default::default();
        handle.send(Command::AddPort { port, queue: near.tx_queue(0).unwrap(), drops: Arc::default() });
        let queue = near.rx_queue(0).unwrap();
        handle.send(Command::AddRxq(RxAssignment { port, index: 0, queue, load: Arc::default() }));
        let all = OffloadCaps { csum: true, tso4: true, tso6: true, ecn: true, ufo: true, uso: true };
        for (i, caps) in [all, OffloadCaps::default()].into_iter().enumerate() {
            let takes = Takes { caps, max_frame: 1522 };
            let queue = Recorder { takes, sent: sent[i].clone(), counters: counters[i].clone() };
            let port = PortNo(2 + i as u32);
            handle.send(Command::AddPort { port, queue: Box::new(queue), drops: Arc::default() });
        }
        let flow = Megaflow::new(
            0,
            &FlowKey { in_port: 1, ..FlowKey::default() },
            &{
                let mut mask = FlowMask::default();
                (mask.fields.in_port, mask.fields.recirc_id) = (u32::MAX, u32::MAX);
                mask
            },
            ActionList::new(vec![output(2), output(3)]),
            DropReason::Action,
        );
        handle.send(Command::Install(Arc::new(flow)));
        let tester = Tester::new(&*far, pool).unwrap();
        let mut room = Room { handle, worker, tester, sent, counters, _upcalls, _ports: [near, far] };
        room.worker.round();
        room
    }

    /// Sends a burst and gives what ports 2 and 3 were sent.
    fn burst(&mut self, frames: &[Sent]) -> [Vec<Sent>; 2] {
        assert!(frames.iter().all(|(frame, offload)| self.tester.send(frame, *offload)));
        self.worker.round();
        [0, 1].map(|port| std::mem::take(&mut *self.sent[port].lock().unwrap()))
    }
}

/// Segment `number` of a connection, 1000 bytes of payload, its checksum vouched for.
fn segment(number: u32) -> Sent {
    let mut frame = frame(12);
    frame.truncate(12);
    let id = (number as u16).to_be_bytes();
    frame.extend([8, 0, 0x45, 0, 4, 16, id[0], id[1], 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let sum: u32 = frame[14..34].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.extend([4, 0, 0, 80]);
    frame.extend((number * 1000).to_be_bytes());
    frame.extend([0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    frame.extend([number as u8; 1000]);
    (frame, Offload { csum_valid: true, ..Offload::default() })
}

#[test]
fn a_burst_becomes_one_frame_for_who_takes_it_and_stays_itself_for_others() {
    let mut room = Room::new();
    let frames: Vec<_> = (0..20).map(segment).collect();
    let [large, small] = room.burst(&frames);
    assert_eq!(
        large.iter().map(|(bytes, offload)| (bytes.len(), offload.gso, offload.gso_size)).collect::<Vec<_>>(),
        [(54 + 20_000, Gso::TcpV4, 1000)]
    );
    assert_eq!(
        large[0].0[54..],
        frames.iter().flat_map(|(frame, _)| frame[54..].to_vec()).collect::<Vec<_>>()
    );
    assert!(small.iter().map(|(bytes, _)| bytes).eq(frames.iter().map(|(frame, _)| frame)));
    let counted = room.counters[0].snapshot();
    assert_eq!((counted.merged, counted.merged_into), (20, 1));
    assert_eq!(room.counters[1].snapshot().merged, 0);
}

#[test]
fn what_comes_alone_and_what_is_large_already_is_left_alone() {
    let mut room = Room::new();
    assert_eq!(room.burst(&[segment(1)])[0].len(), 1);
    assert_eq!(room.burst(&[segment(2)])[0], [segment(2)], "it does not wait for another burst");
    let (mut frame, _) = segment(3);
    frame.extend([7; 2000]);
    frame[16..18].copy_from_slice(&3040u16.to_be_bytes());
    let gso = Offload {
        needs_csum: true,
        gso: Gso::TcpV4,
        gso_size: 1000,
        csum_start: 34,
        csum_offset: 16,
        ..Offload::default()
    };
    let whole = [(frame.clone(), gso), segment(6), (frame, gso)];
    assert_eq!(room.burst(&whole)[0], whole);
}

#[test]
fn a_port_may_be_told_not_to_merge() {
    let mut room = Room::new();
    let frames = [segment(0), segment(1)];
    for (gro, count) in [(false, 2), (true, 1)] {
        room.handle.send(Command::SetGro(PortNo(1), gro));
        room.worker.round();
        assert_eq!(room.burst(&frames)[0].len(), count);
    }
}

//! A guest that runs here before its memory has arrived: pages come when asked for, late, or never.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests; the lint only exempts functions marked as such"
)]

mod guest;

use std::sync::Arc;
use std::time::{Duration, Instant};

use guest::late::Late;
use guest::messages::{Carries, Message, State, Teller, all};
use guest::raw::NEED_REPLY;
use guest::{Guest, MODERN, burst, wait_for};
use pmd::packet::{BatchStorage, Span};
use pmd::port::{LinkState, Port, RxQueue, TxQueue};
use pmd::virtio::NetHeader;
use pmd::virtio::features::*;
use rustix::process::{Pid, Signal, kill_process};
use vhost_port::{Mode, VhostConfig, VhostPort};

fn open() -> (tempfile::TempDir, std::path::PathBuf, Arc<dyn Port>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p");
    let port = VhostPort::open(VhostConfig::new("p", Mode::Listen(path.clone()))).unwrap();
    port.set_mtu(9000).unwrap();
    (dir, path, port)
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

fn send(txq: &mut dyn TxQueue, frame: &[u8]) {
    let mut storage = BatchStorage::new();
    let mut batch = storage.begin();
    assert!(batch.receive(Span::from_slice(frame)));
    txq.tx_burst(&batch, &[0]);
    // The control thread may have the ring just now.
    while !txq.notify() {
        std::thread::yield_now();
    }
}

fn postcopy(port: &Arc<dyn Port>) -> Option<String> {
    port.info().status.into_iter().find(|(key, _)| key == "postcopy").map(|(_, value)| value)
}

/// Takes frames from the guest, delivering what the port waits for.
fn receive(rxq: &mut dyn RxQueue, late: &mut Late, frames: usize) -> Vec<Vec<u8>> {
    let (mut got, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(60));
    while got.len() < frames {
        assert!(Instant::now() < deadline, "{} frames of {frames}", got.len());
        got.extend(burst(rxq));
        if let Some(page) = late.fault_now() {
            late.deliver(page);
        }
        std::thread::yield_now();
    }
    got
}

#[test]
fn rings_go_on_page_by_page_and_nothing_is_touched_too_early() {
    for (kind, slots) in [(0, false), (0, true), (VIRTIO_F_RING_PACKED, true)] {
        let (_dir, path, port) = open();
        let sent: Vec<_> = (0..20).map(|i| pattern(60 + usize::from(i) * 200, i)).collect();
        let (mut guest, mut late) = Guest::arrive(&path, MODERN | kind, 2, slots, |guest| {
            for frame in &sent {
                guest.send(1, NetHeader::default(), frame, &[]);
            }
            guest.send_indirect(1, NetHeader::default(), &pattern(9000, 99), &[12, 5000]);
            (0..10).for_each(|_| guest.post(0, &[2000, 3000]));
        });
        wait_for(&port, |info| info.link == LinkState::Up && info.rx_queues == 1);
        let (mut rxq, mut txq) = (port.rx_queue(0).unwrap(), port.tx_queue(0).unwrap());
        // Nothing has arrived, not even rings.
        assert!(burst(&mut *rxq).is_empty());
        (0..3).for_each(|i| send(&mut *txq, &pattern(4000, 200 + i)));
        late.only_what_arrived_is_there();
        let got = receive(&mut *rxq, &mut late, 21);
        assert_eq!(got[..20], sent);
        assert_eq!(got[20], pattern(9000, 99));
        assert!(postcopy(&port).unwrap().starts_with("on, "));
        // What was held reaches the guest; by then its buffers are there.
        let deadline = Instant::now() + Duration::from_secs(60);
        while port.late_tx().unwrap().snapshot().packets < 3 {
            assert!(Instant::now() < deadline, "held frames are sent");
            if let Some(page) = late.fault_now() {
                late.deliver(page);
            }
            std::thread::yield_now();
        }
        late.only_what_arrived_is_there();
        (0..3).for_each(|i| assert_eq!(guest.receive(0).unwrap().1, pattern(4000, 200 + i)));
        assert_eq!(guest.reclaim(1), 21);
        late.end();
        assert_eq!(postcopy(&port), None);
        // As ever.
        guest.send(1, NetHeader::default(), &pattern(500, 7), &[]);
        assert_eq!(receive(&mut *rxq, &mut late, 1), [pattern(500, 7)]);
        send(&mut *txq, &pattern(700, 8));
        assert_eq!(guest.receive(0).unwrap().1, pattern(700, 8));
        assert_eq!(port.info().error, None);
    }
}

/// As soon as its ring can be used: the guest itself may take seconds until it says a word.
#[test]
fn guest_whose_address_the_operator_set_is_announced_when_it_arrives() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p");
    let mac = [0x52, 0x54, 0, 1, 2, 3];
    let port =
        VhostPort::open(VhostConfig { mac: Some(mac), ..VhostConfig::new("p", Mode::Listen(path.clone())) })
            .unwrap();
    let (_guest, mut late) = stuck(&path);
    wait_for(&port, |info| info.link == LinkState::Up && info.rx_queues == 1);
    let mut rxq = port.rx_queue(0).unwrap();
    let got = receive(&mut *rxq, &mut late, 2);
    assert_eq!((&got[0][6..12], &got[0][12..14]), (&mac[..], &[0x80, 0x35][..]), "no reverse ARP");
    assert_eq!(got[1], pattern(60, 1));
    late.end();
    assert!(burst(&mut *rxq).is_empty(), "announced twice");
}

/// A guest whose one frame waits for a page that never comes.
fn stuck(path: &std::path::Path) -> (Guest, Late) {
    Guest::arrive(path, MODERN, 2, true, |guest| {
        guest.send(1, NetHeader::default(), &pattern(60, 1), &[]);
    })
}

#[test]
fn page_that_never_comes_stops_nobody_else_and_not_the_end_of_the_port() {
    let ((_dir, path, port), (_other_dir, other_path, other)) = (open(), open());
    let (_guest, late) = stuck(&path);
    wait_for(&port, |info| info.link == LinkState::Up && info.rx_queues == 1);
    let mut bystander = Guest::connect(&other_path, MODERN, 2);
    wait_for(&other, |info| info.link == LinkState::Up && info.rx_queues == 1);
    // One worker, two ports: it polls both, and sends to both.
    let (mut rxq, mut txq) = (port.rx_queue(0).unwrap(), port.tx_queue(0).unwrap());
    let (mut other_rxq, mut other_txq) = (other.rx_queue(0).unwrap(), other.tx_queue(0).unwrap());
    late.fault();
    let begun = Instant::now();
    for i in 0..200 {
        let frame = pattern(100, i);
        bystander.send(1, NetHeader::default(), &frame, &[]);
        bystander.post(0, &[2000]);
        assert!(burst(&mut *rxq).is_empty());
        assert_eq!(burst(&mut *other_rxq), std::slice::from_ref(&frame));
        send(&mut *txq, &frame);
        send(&mut *other_txq, &frame);
        assert_eq!(bystander.receive(0).unwrap().1, frame);
        bystander.reclaim(1);
    }
    println!("200 rounds beside a port that waits: {:?}", begun.elapsed());
    assert_eq!(other_rxq.counters().drops.nonzero().count(), 0);
    assert_eq!(other_txq.counters().drops.nonzero().count(), 0);
    late.only_what_arrived_is_there();
    // The operator removes the port; the front-end is there still and delivers nothing.
    drop((rxq, txq));
    drop(port);
    late.only_what_arrived_is_there();
}

#[test]
fn front_end_that_goes_leaves_the_port_for_the_next_one() {
    let (_dir, path, port) = open();
    let (guest, late) = stuck(&path);
    late.fault();
    drop((guest, late));
    let mut next = Guest::connect(&path, MODERN, 2);
    wait_for(&port, |info| info.link == LinkState::Up && info.rx_queues == 1);
    assert_eq!(postcopy(&port), None);
    let mut rxq = port.rx_queue(0).unwrap();
    next.send(1, NetHeader::default(), &pattern(60, 3), &[]);
    assert_eq!(burst(&mut *rxq), [pattern(60, 3)]);
}

/// The pager of the port with this name: a child of its control thread.
fn pager_of(name: &str) -> Pid {
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let mut threads = std::fs::read_dir("/proc/self/task").unwrap().map(|thread| thread.unwrap().path());
    let control = threads.find(|thread| read(thread.join("comm")).trim() == format!("vhost:{name}")).unwrap();
    Pid::from_raw(read(control.join("children")).trim().parse().expect("one child")).unwrap()
}

/// As when it does what its filter of system calls forbids.
#[test]
fn death_of_the_pager_ends_the_connection_with_its_reason_and_the_port_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p");
    let port = VhostPort::open(VhostConfig::new("doomed", Mode::Listen(path.clone()))).unwrap();
    let (guest, late) = stuck(&path);
    wait_for(&port, |info| info.rx_queues == 1);
    let mut rxq = port.rx_queue(0).unwrap();
    assert!(burst(&mut *rxq).is_empty());
    late.fault();
    kill_process(pager_of("doomed"), Signal::SYS).unwrap();
    wait_for(&port, |info| info.error.as_ref().is_some_and(|error| error.contains("SIGSYS")));
    late.only_what_arrived_is_there();
    assert_eq!((port.info().link, postcopy(&port)), (LinkState::Down, None));
    drop((guest, late));
    let mut next = Guest::connect(&path, MODERN, 2);
    wait_for(&port, |info| info.link == LinkState::Up && info.error.is_none());
    next.send(1, NetHeader::default(), &pattern(60, 6), &[]);
    assert_eq!(burst(&mut *rxq), [pattern(60, 6)]);
}

#[test]
fn guest_with_an_iommu_waits_for_all_of_its_memory() {
    let (_dir, path, port) = open();
    let features = MODERN | VIRTIO_F_ACCESS_PLATFORM;
    let (mut guest, mut late) = Guest::arrive(&path, features, 2, true, |guest| {
        guest.send(1, NetHeader::default(), &pattern(60, 4), &[]);
    });
    wait_for(&port, |info| info.link == LinkState::Up && info.rx_queues == 1);
    let mut rxq = port.rx_queue(0).unwrap();
    guest.iommu().answer();
    assert!(burst(&mut *rxq).is_empty());
    assert_eq!(late.fault_now(), None);
    late.end();
    loop {
        let frames = burst(&mut *rxq);
        if !frames.is_empty() {
            assert_eq!(frames, [pattern(60, 4)]);
            break;
        }
        guest.iommu().answer_now();
        std::thread::yield_now();
    }
}

/// Leads a front-end to where memory is to arrive.
fn listening(path: &std::path::Path) -> Teller {
    let mut teller = Teller::connect(path);
    teller.lead_to(State::Features);
    assert_eq!(teller.raw.answers(28, 1, &[], &[]), [(28, vec![])]);
    assert_eq!(teller.raw.answers(29, NEED_REPLY, &[], &[]), [(29, vec![0; 8])]);
    teller
}

#[test]
fn whatever_a_front_end_says_while_memory_arrives_the_next_one_finds_the_port() {
    let (_dir, path, port) = open();
    let mut messages = all();
    let named = |name: &str| all().into_iter().find(|message| message.name == name).unwrap();
    for name in ["SET_MEM_TABLE", "ADD_MEM_REG"] {
        let good = named(name);
        let mut odd = good.body.clone();
        // The offset in the file.
        let at = odd.len() - 8;
        odd[at] = 8;
        let bodies = [vec![], vec![0; 8], vec![1; 8], vec![0xff; good.body.len()], vec![0; 4000], odd];
        messages.extend(bodies.map(|body| Message { body, ..good.clone() }));
        messages.push(Message { carries: Carries::Event, ..good.clone() });
        messages.push(Message { carries: Carries::Nothing, ..good });
    }
    let again = |code| Message { code, carries: Carries::Nothing, body: vec![], ..named("GET_FEATURES") };
    messages.extend([28, 29].map(again));
    for message in messages {
        let mut teller = listening(&path);
        teller.tell(&message, NEED_REPLY);
        drop(teller);
        let mut guest = Guest::connect(&path, MODERN, 2);
        wait_for(&port, |info| info.link == LinkState::Up && info.rx_queues == 1);
        let mut rxq = port.rx_queue(0).unwrap();
        guest.send(1, NetHeader::default(), &pattern(60, 5), &[]);
        assert_eq!(burst(&mut *rxq), [pattern(60, 5)], "after {message:?}");
    }
}

#[test]
fn listening_with_memory_there_already_is_refused() {
    let (_dir, path, port) = open();
    let mut teller = Teller::connect(&path);
    teller.lead_to(State::Running);
    teller.raw.answers(28, 1, &[], &[]);
    let answers = teller.raw.answers(29, NEED_REPLY, &[], &[]);
    assert_eq!(answers, [(29, 1u64.to_le_bytes().to_vec())]);
    wait_for(&port, |info| info.error.as_ref().is_some_and(|error| error.contains("POSTCOPY_LISTEN")));
}

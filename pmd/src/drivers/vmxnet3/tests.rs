//! The driver over a card that is played.

use std::sync::Arc;
use std::time::Duration;

use super::descriptors::Mode;
use super::model::{Chip, Lie, SentFrame, Shared};
use super::registers::*;
use super::*;
use crate::nic::test_cards::{self, config, frame, receive, restarts, send, send_with, until};
use crate::packet::{BURST, Gso, Offload};
use crate::pci::FakeFn;
use crate::port::test_bursts::receive_burst;
use crate::port::{Armed, DropReason, LinkState};

type Bench = test_cards::Bench<Chip>;

fn bench_on(chip: Shared, config: NicConfig) -> Bench {
    let function = FakeFn::new(chip.clone());
    let port = open(config, function.clone()).unwrap();
    Bench { chip, function, port }
}

fn bench_with(config: NicConfig) -> Bench {
    bench_on(Shared::new(), config)
}

#[test]
fn frames_of_every_length_both_ways() {
    let bench = bench_with(NicConfig { mtu: 9000, ..config() });
    let (mut rx, mut tx) = (bench.port.rx_queue(0).unwrap(), bench.port.tx_queue(0).unwrap());
    for len in (60..1518).chain([2047, 2048, 2049, 4095, 4096, 4097, 6144, 8192, 8193, 9018, 9022]) {
        let frame = frame(len, len);
        assert_eq!(send(&mut *tx, std::slice::from_ref(&frame)), 1);
        let sent = bench.chip.lock().sent.pop().unwrap();
        assert!(sent == SentFrame { bytes: frame.clone(), mode: Mode::Plain }, "sent, {len}");
        assert!(bench.deliver(&frame));
        let got = receive_burst(&mut *rx);
        assert!(got[0].0 == frame, "received, {len}");
        assert_eq!(got[0].1.csum_valid, len > 100);
    }
    assert_eq!(bench.function.dma_view().faults(), 0);
    let info = bench.port.info();
    assert_eq!(
        (info.link, info.mtu, info.mac),
        (LinkState::Up, 9000, Some([0x52, 0x53, 0x54, 0x56, 0x57, 0x58]))
    );
    // What the card lets through though it is longer than the port allows.
    assert!(bench.deliver(&frame(9023, 0)));
    assert_eq!(receive(&mut *rx).len(), 0);
    assert_eq!(rx.counters().drops.get(DropReason::RxTooLong), 1);
}

#[test]
fn the_rings_go_round_with_long_frames_and_gaps() {
    let bench = bench_with(NicConfig { mtu: 9000, ..config() });
    let mut rx = bench.port.rx_queue(0).unwrap();
    let mut came = 0;
    for round in 0..300 {
        let long = frame(9000, round);
        bench.chip.lock().passes_over = round % 3 == 0;
        // Fills the card up to the point where it drops, as a card on a busy wire does.
        while bench.deliver(&long) || bench.deliver(&long[..60]) {}
        let got = receive(&mut *rx);
        assert!(!got.is_empty(), "the ring stands still in round {round}");
        assert!(got.iter().all(|bytes| bytes[..60] == frame(60, bytes[0].into())));
        came += got.len();
    }
    assert!(came > 3000, "{came}");
    // Not told while the watch has the card.
    let counters = until(&*bench.port, "counters", |info| !info.counters.is_empty()).counters;
    let of = |name| counters.iter().find(|(have, _)| *have == name).unwrap().1;
    assert!(of("rx_unicast_packets") as usize >= came && of("rx_missed_errors") > 0, "{counters:?}");
}

#[test]
fn doorbells_are_few_at_full_bursts() {
    let bench = bench_with(config());
    let (mut rx, mut tx) = (bench.port.rx_queue(0).unwrap(), bench.port.tx_queue(0).unwrap());
    let frames: Vec<_> = (0..BURST).map(|i| frame(64, i)).collect();
    let doorbells = || {
        [TX_PRODUCER, RX_PRODUCERS[0], RX_PRODUCERS[1]]
            .map(|at| bench.function.writes_at(0, at))
            .iter()
            .sum::<u64>()
    };
    let (before, rounds) = (doorbells(), 64);
    for _ in 0..rounds {
        assert_eq!(send(&mut *tx, &frames), BURST);
        frames.iter().for_each(|frame| assert!(bench.deliver(frame)));
        assert_eq!(receive(&mut *rx).len(), BURST);
    }
    let (writes, packets) = (doorbells() - before, 2 * rounds * BURST as u64);
    println!("vmxnet3: {writes} register writes for {packets} packets");
    assert_eq!(writes, rounds, "one for each batch that is sent, none for what is received");
}

#[test]
fn a_card_that_wants_them_is_told_producer_indexes() {
    let chip = Shared::new();
    chip.lock().wants_producer = true;
    let bench = bench_on(chip, config());
    let mut rx = bench.port.rx_queue(0).unwrap();
    let before = bench.function.writes_at(0, RX_PRODUCERS[0]);
    for _ in 0..64 {
        (0..BURST).for_each(|i| assert!(bench.deliver(&frame(64, i))));
        assert_eq!(receive(&mut *rx).len(), BURST);
    }
    let writes = bench.function.writes_at(0, RX_PRODUCERS[0]) - before;
    assert!((60..=64).contains(&writes), "{writes}");
}

/// Ethernet, IPv4, TCP: as `Gso` and a checksum need them.
fn tcp(len: usize) -> Vec<u8> {
    let mut bytes = frame(len, 0);
    bytes[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6]);
    bytes[46] = 0x50;
    bytes
}

#[test]
fn the_card_sums_and_cuts_what_it_can_find() {
    let bench = bench_with(config());
    let mut tx = bench.port.tx_queue(0).unwrap();
    let mut sent = |bytes: Vec<u8>, offload: Offload| {
        assert_eq!(send_with(&mut *tx, &[bytes], offload), 1);
        std::mem::take(&mut bench.chip.lock().sent)
    };
    let partial =
        |csum_start, csum_offset| Offload { needs_csum: true, csum_start, csum_offset, ..Offload::default() };
    let one = sent(tcp(300), partial(34, 16));
    assert!(one == [SentFrame { bytes: tcp(300), mode: Mode::Checksum { start: 34, field: 50 } }]);
    // Inside of something else: done in software.
    let one = sent(tcp(300), partial(84, 16));
    assert_eq!(one[0].mode, Mode::Plain);
    assert!(one[0].bytes != tcp(300));

    let segments = Offload { gso: Gso::TcpV4, gso_size: 1460, ..partial(34, 16) };
    let whole = tcp(60_054);
    let one = sent(whole.clone(), segments);
    assert_eq!((one.len(), one[0].mode), (1, Mode::Segment { headers: 54, size: 1460 }));
    let changed = |at: usize| one[0].bytes[at] != whole[at];
    assert!((0..60_054).filter(|&at| changed(at)).all(|at| [24, 25, 50, 51].contains(&at)));
    assert_eq!(one[0].bytes[24..26], [0, 0]);
    // With ECN the card is not trusted: cut in software.
    let many = sent(tcp(14_654), Offload { ecn: true, ..segments });
    assert_eq!(many.len(), 10);
    assert!(many.iter().all(|frame| frame.mode == Mode::Plain && frame.bytes.len() <= 1514));
    assert_eq!(bench.function.dma_view().faults(), 0);
}

#[test]
fn a_full_ring_drops_and_recovers() {
    let bench = bench_with(NicConfig { tick: Duration::from_secs(3600), ..config() });
    let mut tx = bench.port.tx_queue(0).unwrap();
    bench.chip.lock().stuck = true;
    let frames: Vec<_> = (0..200).map(|i| frame(60, i)).collect();
    assert_eq!(send(&mut *tx, &frames), 127);
    assert_eq!(tx.counters().drops.get(DropReason::TxRingFull), 73);
    let mut chip = bench.chip.lock();
    chip.stuck = false;
    chip.transmit(bench.function.dma_view(), 0);
    assert_eq!(chip.sent.len(), 127);
    drop(chip);
    assert_eq!(send(&mut *tx, &frames[..32]), 32);
    assert_eq!(bench.chip.lock().sent.len(), 127 + 32);
}

#[test]
fn queues_share_what_comes() {
    let bench = bench_with(NicConfig { queues: 2, ..config() });
    let table = bench.chip.lock().spread(bench.function.dma_view()).unwrap();
    assert!(table.chunks(2).all(|pair| pair == [0, 1]));
    let (mut rx, mut tx) = (bench.port.rx_queue(1).unwrap(), bench.port.tx_queue(1).unwrap());
    // A head of queue 1 is ring 1, its bodies are ring 3.
    for len in [100, 5000] {
        assert!(bench.chip.lock().deliver(bench.function.dma_view(), 1, &frame(len, 1)));
    }
    assert_eq!(receive(&mut *rx), [frame(100, 1)], "the other is longer than the MTU");
    assert_eq!(send(&mut *tx, &[frame(99, 1)]), 1);
    assert_eq!(bench.function.writes_at(0, TX_PRODUCER + NEXT), 1);
    let single = bench_with(config());
    assert_eq!(single.chip.lock().spread(single.function.dma_view()), None);
}

#[test]
fn what_cannot_be_is_refused_with_a_remedy() {
    let refused = |chip: Shared, config| open(config, FakeFn::new(chip)).err().unwrap().to_string();
    assert!(refused(Shared::new(), NicConfig { queues: 9, ..config() }).contains("1 to 8 queues"));
    assert!(refused(Shared::new(), NicConfig { mtu: 9001, ..config() }).contains("68 to 9000"));
    let (dead, strict) = (Shared::new(), Shared::new());
    dead.lock().dead = true;
    assert!(refused(dead, config()).contains("out of reset"));
    strict.lock().refuses = true;
    assert!(refused(strict, config()).contains("n_rxq"));
}

#[test]
fn a_sleeping_worker_is_woken_by_the_vector_of_its_queue() {
    let bench = bench_with(config());
    let (mut rx, mut tx) = (bench.port.rx_queue(0).unwrap(), bench.port.tx_queue(0).unwrap());
    let event = rx.wait_fd().unwrap();
    let mut count = [0; 8];
    let _ = rustix::io::read(&*event, &mut count);
    assert!(bench.deliver(&frame(60, 0)));
    assert_eq!(send(&mut *tx, &[frame(60, 0)]), 1);
    assert!(rustix::io::read(&*event, &mut count).is_err(), "not asked for");
    assert_eq!(receive(&mut *rx).len(), 1);
    assert_eq!(rx.arm(), Armed::Idle);
    assert!(bench.deliver(&frame(60, 0)));
    assert_eq!(rustix::io::read(&*event, &mut count), Ok(8));
    assert_eq!(rx.arm(), Armed::Work);
    rx.disarm();
}

#[test]
fn link_changes_are_seen() {
    // Long ticks: only the interrupt can tell.
    let bench = bench_with(NicConfig { tick: Duration::from_secs(3600), ..config() });
    let mut tx = bench.port.tx_queue(0).unwrap();
    for round in 0..3 {
        bench.chip.lock().set_link(bench.function.dma_view(), false);
        bench.until("link down", |info| info.link == LinkState::Down);
        assert_eq!(send(&mut *tx, &[frame(60, 0)]), 0);
        assert_eq!(tx.counters().drops.get(DropReason::TxLinkDown), round + 1);
        bench.chip.lock().set_link(bench.function.dma_view(), true);
        let info = bench.until("link up", |info| info.link == LinkState::Up);
        assert!(info.status.contains(&("link_speed".into(), "10000 Mbit/s".into())), "{info:?}");
        assert_eq!(send(&mut *tx, &[frame(60, 0)]), 1);
    }
}

#[test]
fn a_card_that_lies_is_restarted_and_works_again() {
    let bench = bench_with(config());
    let (mut rx, mut tx) = (bench.port.rx_queue(0).unwrap(), bench.port.tx_queue(0).unwrap());
    for (lie, round) in
        [Lie::Length, Lie::RxIndex, Lie::NoBeginning, Lie::Ring, Lie::TxIndex].into_iter().zip(1..)
    {
        bench.chip.lock().lie = Some(lie);
        if lie == Lie::TxIndex {
            send(&mut *tx, &[frame(60, 0)]);
            assert_eq!(send(&mut *tx, &[frame(60, 0)]), 0, "found at the next burst");
            assert_ne!(tx.counters().drops.get(DropReason::TxBadRing), 0);
        } else {
            assert!(bench.deliver(&frame(60, 0)));
            assert_eq!(receive(&mut *rx).len(), 0, "{lie:?}");
        }
        bench.until("restart", |info| restarts(info) >= round && info.error.is_none());
        assert!(bench.deliver(&frame(99, 1)));
        assert_eq!(receive(&mut *rx), [frame(99, 1)]);
        bench.chip.lock().sent.clear();
        assert_eq!(send(&mut *tx, &[frame(98, 1)]), 1);
        assert_eq!(bench.chip.lock().sent[0].bytes, frame(98, 1));
    }
}

#[test]
fn a_card_with_a_fault_is_restarted_and_works_again() {
    let bench = bench_with(config());
    let (mut rx, mut tx) = (bench.port.rx_queue(0).unwrap(), bench.port.tx_queue(0).unwrap());
    bench.chip.lock().stop_queue(bench.function.dma_view());
    bench.until("restart after a queue stopped", |info| restarts(info) == 1 && info.error.is_none());

    bench.stuck_and_pulled(&mut *rx, &mut *tx);
}

#[test]
fn another_mtu_restarts_the_card() {
    let bench = bench_with(config());
    let mut rx = bench.port.rx_queue(0).unwrap();
    let resets = bench.chip.lock().resets;
    bench.port.set_mtu(9000).unwrap();
    assert!(bench.chip.lock().resets > resets);
    assert!(bench.deliver(&frame(9000, 1)));
    assert!(receive(&mut *rx) == [frame(9000, 1)]);
    assert!(bench.port.set_mtu(9001).is_err());
}

#[test]
fn a_closed_port_leaves_its_queues_idle() {
    let Bench { chip, function, port } = bench_with(config());
    let (mut rx, mut tx) = (port.rx_queue(0).unwrap(), port.tx_queue(0).unwrap());
    drop(port);
    assert_eq!((receive(&mut *rx).len(), send(&mut *tx, &[frame(60, 0)])), (0, 0));
    assert!(!chip.lock().deliver(function.dma_view(), 0, &frame(60, 0)));
    assert_eq!(Arc::strong_count(&function), 1, "nobody keeps the function open");
}

//! The driver over a card that is played.

use std::sync::Arc;
use std::time::Duration;

use super::model::{SentFrame, Shared};
use super::registers::*;
use super::*;
use crate::nic::test_cards::{frame, receive, restarts, send, send_with, until};
use crate::packet::{BURST, Offload};
use crate::pci::FakeFn;
use crate::port::{Armed, DropReason, LinkState, PortInfo};

struct Bench {
    chip: Shared,
    function: Arc<FakeFn>,
    port: Arc<dyn Port>,
}

fn config() -> NicConfig {
    NicConfig {
        name: "up0".into(),
        rx_descriptors: 128,
        tx_descriptors: 128,
        tick: Duration::from_millis(5),
        ..NicConfig::default()
    }
}

fn bench_with(config: NicConfig) -> Bench {
    let chip = Shared::new();
    let function = FakeFn::new(chip.clone());
    let port = open(config, function.clone()).unwrap();
    Bench { chip, function, port }
}

impl Bench {
    fn deliver(&self, frame: &[u8]) -> bool {
        self.chip.lock().deliver(self.function.dma_view(), 0, frame)
    }

    fn until(&self, what: &str, good: impl Fn(&PortInfo) -> bool) -> PortInfo {
        until(&*self.port, what, good)
    }
}

#[test]
fn frames_of_every_length_both_ways() {
    let bench = bench_with(NicConfig { mtu: 9018, ..config() });
    let (mut rx, mut tx) = (bench.port.rx_queue(0).unwrap(), bench.port.tx_queue(0).unwrap());
    for len in (60..1518).chain([2047, 2048, 2049, 4095, 4096, 4097, 9018]) {
        let frame = frame(len, len);
        assert_eq!(send(&mut *tx, std::slice::from_ref(&frame)), 1);
        let sent = bench.chip.lock().sent.pop().unwrap();
        assert!(sent == SentFrame { bytes: frame.clone(), checksum: None }, "sent, {len}");
        assert!(bench.deliver(&frame));
        assert!(receive(&mut *rx) == [frame], "received, {len}");
    }
    assert_eq!(bench.function.dma_view().faults(), 0);
    let info = bench.port.info();
    assert_eq!((info.link, info.mac), (LinkState::Up, Some([0x52, 0x54, 0x52, 0x54, 0, 1])));
}

#[test]
fn the_ring_goes_round_with_long_frames_cut_by_bursts() {
    let bench = bench_with(config());
    let mut rx = bench.port.rx_queue(0).unwrap();
    let mut came = 0;
    for round in 0..400 {
        let long = frame(9000, round);
        // Fills the card up to the point where it drops, as a card on a busy wire does.
        let mut put = 0;
        while bench.deliver(&long) {
            put += 1;
        }
        let got = receive(&mut *rx);
        assert!(got.iter().all(|bytes| bytes.len() == 9000));
        came += got.len();
        assert!(put > 0 || !got.is_empty(), "the ring stands still in round {round}");
    }
    assert!(came > 400);
}

#[test]
fn doorbells_are_few_at_full_bursts() {
    let bench = bench_with(config());
    let (mut rx, mut tx) = (bench.port.rx_queue(0).unwrap(), bench.port.tx_queue(0).unwrap());
    let frames: Vec<_> = (0..BURST).map(|i| frame(64, i)).collect();
    let (before, rounds) = (bench.function.writes(), 64);
    for _ in 0..rounds {
        assert_eq!(send(&mut *tx, &frames), BURST);
        frames.iter().for_each(|frame| assert!(bench.deliver(frame)));
        assert_eq!(receive(&mut *rx).len(), BURST);
    }
    let (tails, reports) = (
        bench.function.writes_at(0, TX_TAIL) + bench.function.writes_at(0, RX_TAIL),
        bench.chip.lock().reports,
    );
    let (writes, packets) = (bench.function.writes() - before, 2 * rounds * BURST as u64);
    println!("e1000e: {writes} register writes, {reports} reports for {packets} packets");
    // The watch looks at the link meanwhile; that is no doorbell.
    assert!(tails * 16 <= packets, "{tails} doorbells for {packets} packets");
    assert!(reports <= rounds, "{reports} reports for {rounds} batches");
}

#[test]
fn the_card_is_told_where_a_checksum_goes() {
    let bench = bench_with(config());
    let mut tx = bench.port.tx_queue(0).unwrap();
    let partial =
        |csum_start| Offload { needs_csum: true, csum_start, csum_offset: 16, ..Offload::default() };
    for start in [34, 34, 54, 239] {
        assert_eq!(send_with(&mut *tx, &[frame(300, 0)], partial(start)), 1);
        let sent = bench.chip.lock().sent.pop().unwrap();
        assert_eq!(sent.checksum, Some((start as u8, start as u8 + 16)));
    }
    // Beyond what the card can name: done in software, wherever the field is in the head.
    assert_eq!(send_with(&mut *tx, &[frame(250, 0)], partial(230)), 1);
    let sent = bench.chip.lock().sent.pop().unwrap();
    assert_eq!(sent.checksum, Some((230, 246)));
    let far = Offload { csum_offset: 26, ..partial(230) };
    assert_eq!(send_with(&mut *tx, &[frame(258, 0)], far), 0);
    assert_eq!(
        tx.counters().drops.nonzero().map(|(_, n)| n).sum::<u64>(),
        1,
        "an odd place, dropped with a reason"
    );
}

#[test]
fn a_full_ring_drops_and_recovers() {
    let bench = bench_with(NicConfig { tick: Duration::from_secs(3600), ..config() });
    let mut tx = bench.port.tx_queue(0).unwrap();
    bench.chip.lock().stuck = true;
    let frames: Vec<_> = (0..200).map(|i| frame(60, i)).collect();
    let sent = send(&mut *tx, &frames);
    assert!((100..128).contains(&sent), "{sent}");
    assert_eq!(tx.counters().drops.get(DropReason::TxRingFull), 200 - sent as u64);
    let mut chip = bench.chip.lock();
    chip.stuck = false;
    chip.transmit(bench.function.dma_view(), 0);
    assert_eq!(chip.sent.len(), sent);
    drop(chip);
    assert_eq!(send(&mut *tx, &frames[..32]), 32);
    assert!(bench.chip.lock().sent.len() > sent);
}

#[test]
fn two_queues_share_what_comes() {
    let bench = bench_with(NicConfig { queues: 2, ..config() });
    let chip = bench.chip.lock();
    assert_eq!(chip.registers[&MRQC], MRQC_RSS | MRQC_FIELDS);
    assert_eq!(chip.registers[&IVAR], 0x0008_00a9, "other on 0, queue 0 on 1, queue 1 on 2");
    drop(chip);
    let mut rx = bench.port.rx_queue(1).unwrap();
    let mut tx = bench.port.tx_queue(1).unwrap();
    assert!(bench.chip.lock().deliver(bench.function.dma_view(), 1, &frame(100, 1)));
    assert_eq!(receive(&mut *rx), [frame(100, 1)]);
    assert_eq!(send(&mut *tx, &[frame(99, 1)]), 1);
    assert_eq!(bench.function.writes_at(0, TX_TAIL + QUEUE), 2, "zero at the start, then the frame");
}

#[test]
fn a_sleeping_worker_is_woken_by_the_vector_of_its_queue() {
    let bench = bench_with(config());
    let mut rx = bench.port.rx_queue(0).unwrap();
    let event = rx.wait_fd().unwrap();
    let mut count = [0; 8];
    let _ = rustix::io::read(&*event, &mut count);
    assert!(bench.deliver(&frame(60, 0)));
    assert!(rustix::io::read(&*event, &mut count).is_err(), "not asked for");
    assert_eq!(receive(&mut *rx).len(), 1);
    assert_eq!(rx.arm(), Armed::Idle);
    assert!(bench.deliver(&frame(60, 0)));
    assert_eq!(rustix::io::read(&*event, &mut count), Ok(8));
    assert_eq!(rx.arm(), Armed::Work);
    rx.disarm();
}

#[test]
fn link_and_counters_are_reported() {
    let bench = bench_with(config());
    bench.chip.lock().set_link(bench.function.dma_view(), false);
    bench.until("link down", |info| info.link == LinkState::Down);
    bench.chip.lock().set_link(bench.function.dma_view(), true);
    let info = bench.until("link up", |info| info.link == LinkState::Up);
    assert!(info.status.contains(&("link_speed".into(), "1000 Mbit/s".into())), "{info:?}");
    for _ in 0..2 {
        bench.chip.lock().registers.insert(0x4010, 5);
        bench.port.info();
    }
    let counters = bench.port.info().counters;
    assert!(counters.contains(&("rx_missed_errors", 10)), "{counters:?}");
}

#[test]
fn a_card_with_a_fault_is_restarted_and_works_again() {
    let bench = bench_with(config());
    let (mut rx, mut tx) = (bench.port.rx_queue(0).unwrap(), bench.port.tx_queue(0).unwrap());
    bench.chip.lock().lies = true;
    assert!(bench.deliver(&frame(60, 0)));
    assert_eq!(receive(&mut *rx).len(), 0);
    bench.until("restart after a lie", |info| restarts(info) == 1 && info.error.is_none());
    assert!(bench.deliver(&frame(99, 1)));
    assert_eq!(receive(&mut *rx), [frame(99, 1)]);

    bench.chip.lock().stuck = true;
    assert_eq!(send(&mut *tx, &[frame(60, 0)]), 1);
    bench.until("restart of a stuck card", |info| restarts(info) > 1);
    bench.chip.lock().stuck = false;
    bench.until("recovery", |info| info.error.is_none() && info.link == LinkState::Up);
    assert_eq!(send(&mut *tx, &[frame(98, 1)]), 1);
    assert_eq!(bench.chip.lock().sent.last().unwrap().bytes, frame(98, 1));

    bench.function.pull();
    let info = bench.until("error", |info| info.error.is_some());
    assert_eq!(info.link, LinkState::Down);
    bench.function.put_back();
    bench.until("back in its slot", |info| info.error.is_none() && info.link == LinkState::Up);
    assert!(bench.deliver(&frame(60, 3)));
    assert_eq!(receive(&mut *rx), [frame(60, 3)]);
}

#[test]
fn a_card_that_stays_in_reset_is_refused() {
    let chip = Shared::new();
    chip.lock().dead = true;
    let error = open(config(), FakeFn::new(chip)).err().unwrap().to_string();
    assert!(error.contains("out of reset"), "{error}");
}

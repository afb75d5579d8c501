//! What the driver of every gigabit card of Intel must do, over the card that is played. A driver runs all of it by [`intel_suite`].

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::model::{Chip, MAC, Played, RING_TAIL, SentFrame, Shared};
pub(crate) use super::suite_cut::*;
use crate::nic::NicConfig;
pub(crate) use crate::nic::test_cards::config;
use crate::nic::test_cards::{self, frame, receive, restarts, send, send_with};
use crate::packet::{BURST, Offload};
use crate::pci::FakeFn;
use crate::port::{Armed, DropReason, LinkState};

/// A port over a played card.
pub(crate) type Bench<P> = test_cards::Bench<Chip<P>>;

/// Opens a port.
pub(crate) fn bench<P: Played>(config: NicConfig) -> Bench<P> {
    let chip = Shared::new();
    let function = FakeFn::new(chip.clone());
    let port = P::open(config, function.clone()).unwrap();
    Bench { chip, function, port }
}

impl<P: Played> Bench<P> {
    /// Sends a frame with a partial checksum, and gives what the card was told.
    pub(crate) fn sum(&self, len: usize, csum_start: u16, csum_offset: u16) -> SentFrame {
        let offload = Offload { needs_csum: true, csum_start, csum_offset, ..Offload::default() };
        let mut tx = self.port.tx_queue(0).unwrap();
        assert_eq!(send_with(&mut *tx, &[frame(len, 0)], offload), 1);
        self.chip.lock().sent.pop().unwrap()
    }
}

pub(crate) fn frames_of_every_length_both_ways<P: Played>() {
    let bench = bench::<P>(NicConfig { mtu: 9018, ..config() });
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
    assert_eq!((info.link, info.mac), (LinkState::Up, Some(MAC)));
}

pub(crate) fn the_ring_goes_round_with_long_frames_cut_by_bursts<P: Played>() {
    let bench = bench::<P>(config());
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

pub(crate) fn doorbells_are_few_at_full_bursts<P: Played>() {
    let bench = bench::<P>(config());
    let (mut rx, mut tx) = (bench.port.rx_queue(0).unwrap(), bench.port.tx_queue(0).unwrap());
    let frames: Vec<_> = (0..BURST).map(|i| frame(64, i)).collect();
    let (before, rounds) = (bench.function.writes(), 64);
    for _ in 0..rounds {
        assert_eq!(send(&mut *tx, &frames), BURST);
        frames.iter().for_each(|frame| assert!(bench.deliver(frame)));
        assert_eq!(receive(&mut *rx).len(), BURST);
    }
    let tails = [P::TX, P::RX].map(|ring| bench.function.writes_at(0, ring + RING_TAIL));
    let (tails, reports) = (tails.iter().sum::<u64>(), bench.chip.lock().reports);
    let (writes, packets) = (bench.function.writes() - before, 2 * rounds * BURST as u64);
    println!("{}: {writes} register writes, {reports} reports for {packets} packets", bench.port.driver());
    // The watch looks at the link meanwhile; that is no doorbell.
    assert!(tails * 16 <= packets, "{tails} doorbells for {packets} packets");
    assert!(reports <= rounds, "{reports} reports for {rounds} batches");
}

pub(crate) fn a_full_ring_drops_and_recovers<P: Played>() {
    let bench = bench::<P>(NicConfig { tick: Duration::from_secs(3600), ..config() });
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

pub(crate) fn a_sleeping_worker_is_woken_by_its_queue<P: Played>() {
    let bench = bench::<P>(config());
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

pub(crate) fn a_change_of_the_link_is_reported<P: Played>() {
    // No tick: only the interrupt tells.
    let bench = bench::<P>(NicConfig { tick: Duration::from_secs(3600), ..config() });
    bench.chip.lock().set_link(bench.function.dma_view(), false);
    bench.until("link down", |info| info.link == LinkState::Down);
    bench.chip.lock().set_link(bench.function.dma_view(), true);
    let info = bench.until("link up", |info| info.link == LinkState::Up);
    assert!(info.status.contains(&("link_speed".into(), "1000 Mbit/s".into())), "{info:?}");
}

pub(crate) fn a_card_with_a_fault_is_restarted_and_works_again<P: Played>() {
    let bench = bench::<P>(config());
    let (mut rx, mut tx) = (bench.port.rx_queue(0).unwrap(), bench.port.tx_queue(0).unwrap());
    bench.chip.lock().lies = true;
    assert!(bench.deliver(&frame(60, 0)));
    assert_eq!(receive(&mut *rx).len(), 0);
    bench.until("restart after a lie", |info| restarts(info) == 1 && info.error.is_none());
    assert!(bench.deliver(&frame(99, 1)));
    assert_eq!(receive(&mut *rx), [frame(99, 1)]);

    bench.stuck_and_pulled(&mut *rx, &mut *tx);
}

/// The card is restarted over and over under a worker that knows nothing of it: frames are lost, and none is changed.
pub(crate) fn the_mtu_changes_under_load<P: Played>() {
    let bench = bench::<P>(config());
    let (stop, came, sent) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let frames: Vec<_> = (0..BURST).map(|i| frame(1000, i)).collect();
    let mut rx = bench.port.rx_queue(0).unwrap();
    let mut tx = bench.port.tx_queue(0).unwrap();
    let resets = bench.chip.lock().resets;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                frames.iter().for_each(|frame| _ = bench.deliver(frame));
                let got = receive(&mut *rx);
                assert!(got.iter().all(|bytes| *bytes == frame(1000, bytes[0].into())));
                came.fetch_add(got.len(), Ordering::Relaxed);
                sent.fetch_add(send(&mut *tx, &frames), Ordering::Relaxed);
                let out = std::mem::take(&mut bench.chip.lock().sent);
                assert!(out.iter().all(|sent| sent.bytes == frame(1000, sent.bytes[0].into())));
            }
        });
        for mtu in [9000, 1500].into_iter().cycle().take(20) {
            bench.port.set_mtu(mtu).unwrap();
            let before = [&came, &sent].map(|count| count.load(Ordering::Relaxed));
            bench.until("frames both ways", |info| {
                info.mtu == mtu
                    && came.load(Ordering::Relaxed) > before[0]
                    && sent.load(Ordering::Relaxed) > before[1]
            });
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(bench.chip.lock().resets >= resets + 20);
    assert_eq!(bench.function.dma_view().faults(), 0);
    assert_eq!(restarts(&bench.port.info()), 0, "none of them was for a fault");
    bench.port.set_mtu(9000).unwrap();
    assert_eq!(send(&mut *tx, &[frame(9000, 1)]), 1);
    assert!(bench.chip.lock().sent.pop().unwrap().bytes == frame(9000, 1));
    assert!(bench.deliver(&frame(9000, 2)));
    assert!(receive(&mut *rx) == [frame(9000, 2)]);
}

/// Of cards that are whole, not virtual functions.
pub(crate) fn counters_that_reading_clears_are_added_up<P: Played>() {
    let bench = bench::<P>(config());
    for _ in 0..2 {
        bench.chip.lock().registers.insert(0x4010, 5);
        bench.port.info();
    }
    let counters = bench.port.info().counters;
    assert!(counters.contains(&("rx_missed_errors", 10)), "{counters:?}");
}

/// The same.
pub(crate) fn a_card_that_stays_in_reset_is_refused<P: Played>() {
    let chip = Shared::<P>::new();
    chip.lock().dead = true;
    let error = P::open(config(), FakeFn::new(chip)).err().unwrap().to_string();
    assert!(error.contains("out of reset"), "{error}");
}

/// Makes tests of all of the above for a card, but of those for whole cards, or of those named.
macro_rules! intel_suite {
    ($card:ty) => {
        $crate::nic::intel::suite::intel_suite!($card:
            frames_of_every_length_both_ways the_ring_goes_round_with_long_frames_cut_by_bursts
            doorbells_are_few_at_full_bursts a_full_ring_drops_and_recovers
            a_sleeping_worker_is_woken_by_its_queue a_change_of_the_link_is_reported
            a_card_with_a_fault_is_restarted_and_works_again
            tcp_is_cut_by_the_card a_context_is_told_once_where_it_stays what_the_card_does_not_cut_software_does
            a_ring_that_is_nearly_full_takes_what_fits the_mtu_changes_under_load);
    };
    ($card:ty: $($test:ident)+) => {$(
        #[test]
        fn $test() {
            $crate::nic::intel::suite::$test::<$card>();
        }
    )+};
}
pub(crate) use intel_suite;

//! A guest with an IOMMU: translations that come when asked for, and go while traffic runs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests; the lint only exempts functions marked as such"
)]

mod guest;

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use guest::iommu::PAGE;
use guest::log::Log;
use guest::{Guest, MEMORY, MODERN, RING_AREA, burst, wait_for};
use pmd::packet::{BatchStorage, Gso, Offload, Span};
use pmd::port::{Armed, DropReason, LinkState, Port, RxQueue, TxQueue, Waker};
use pmd::virtio::NetHeader;
use pmd::virtio::features::*;
use proptest::prelude::*;
use vhost::VhostBackend;
use vhost_port::{Mode, VhostConfig, VhostPort};

const IOMMU: u64 = MODERN | VIRTIO_F_ACCESS_PLATFORM;
const KINDS: [u64; 4] =
    [0, VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED | VIRTIO_F_IN_ORDER];

fn setup(kind: u64) -> (tempfile::TempDir, Arc<dyn Port>, Guest) {
    setup_with(IOMMU | kind)
}

fn setup_with(features: u64) -> (tempfile::TempDir, Arc<dyn Port>, Guest) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p");
    // Long frames, from the start: a change would be told by the channel on which misses are expected.
    let config = VhostConfig { mtu: 9000, ..VhostConfig::new("p", Mode::Listen(path.clone())) };
    let port = VhostPort::open(config).unwrap();
    let guest = Guest::connect(&path, features, 2);
    wait_for(&port, |info| info.link == LinkState::Up && info.rx_queues == 1);
    (dir, port, guest)
}

fn status(port: &Arc<dyn Port>, key: &str) -> u64 {
    let info = port.info();
    let value = info.status.iter().find(|(name, _)| name == key);
    value.expect("a guest with an IOMMU is there").1.parse().unwrap()
}

/// Answers misses until a burst brings something.
fn receive(rxq: &mut dyn RxQueue, guest: &mut Guest) -> Vec<Vec<u8>> {
    loop {
        let frames = burst(rxq);
        if !frames.is_empty() {
            return frames;
        }
        guest.iommu().answer();
    }
}

fn send(txq: &mut dyn TxQueue, frame: &[u8]) -> usize {
    let mut storage = BatchStorage::new();
    let mut batch = storage.begin();
    assert!(batch.receive(Span::from_slice(frame)));
    batch.packet_mut(0).offload = Offload::default();
    let sent = txq.tx_burst(&batch, &[0]);
    // Somebody else may have the ring just now.
    while !txq.notify() {
        std::thread::yield_now();
    }
    sent
}

/// Sends a frame to the guest and answers misses until it has one.
fn deliver(txq: &mut dyn TxQueue, guest: &mut Guest, frame: &[u8]) -> Vec<u8> {
    send(txq, frame);
    loop {
        if let Some((_, frame)) = guest.receive(0) {
            return frame;
        }
        guest.iommu().answer();
    }
}

/// A TCP/IPv4 frame with this much payload, to be cut into pieces of 1000 bytes.
fn tso_frame(payload: usize) -> (Vec<u8>, Offload) {
    let mut frame = vec![0; 54];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..24].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6]);
    frame[46] = 0x50;
    frame.extend(pattern(payload, 9));
    let total = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    let gso = Gso::TcpV4;
    let offload = Offload {
        needs_csum: true,
        csum_start: 34,
        csum_offset: 16,
        gso,
        gso_size: 1000,
        hdr_len: 54,
        ..Offload::default()
    };
    (frame, offload)
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

#[test]
fn frames_from_the_guest_arrive_whole_wherever_their_pages_are() {
    for kind in KINDS {
        let (_dir, port, mut guest) = setup(kind);
        let mut rxq = port.rx_queue(0).unwrap();
        // Small; over one border of pages; over many; in several buffers; by tables that cross a border themselves.
        for (len, cuts) in [(60, &[][..]), (5000, &[]), (60_000, &[]), (9000, &[12, 40, 5000]), (60, &[6])] {
            guest.send(1, NetHeader::default(), &pattern(len, 1), cuts);
            assert_eq!(receive(&mut *rxq, &mut guest), [pattern(len, 1)]);
            guest.send_indirect(1, NetHeader::default(), &pattern(len, 2), cuts);
            assert_eq!(receive(&mut *rxq, &mut guest), [pattern(len, 2)]);
        }
        assert_eq!(guest.reclaim(1), 10);
        assert_eq!(port.info().error, None);
        assert_eq!(rxq.counters().drops.nonzero().count(), 0);
        assert!(status(&port, "iotlb_misses") >= 16);
    }
}

#[test]
fn what_comes_next_is_asked_for_before_it_is_needed() {
    let (_dir, port, mut guest) = setup(0);
    let mut rxq = port.rx_queue(0).unwrap();
    guest.send(1, NetHeader::default(), &[0; 60], &[]);
    receive(&mut *rxq, &mut guest);
    let frames: Vec<_> = (0..20).map(|i| pattern(4000, i)).collect();
    let first = guest.allocate(0);
    for frame in &frames {
        guest.send(1, NetHeader::default(), frame, &[]);
    }
    let last = guest.allocate(0) - 1;
    assert!(burst(&mut *rxq).is_empty());
    // The page that the first frame begins on is known from before.
    let mut wanted: BTreeSet<u64> = (first / PAGE + 1..=last / PAGE).map(|page| page * PAGE).collect();
    let mut missed = Vec::new();
    while !wanted.is_empty() {
        missed.extend(guest.iommu().missed());
        wanted.retain(|&page| missed.iter().all(|&(known, _)| known != page));
    }
    missed.iter().for_each(|&(page, _)| guest.iommu().update(page));
    assert_eq!(burst(&mut *rxq), frames);
}

#[test]
fn frames_to_the_guest_wait_for_its_buffers_in_order() {
    for kind in KINDS {
        let (_dir, port, mut guest) = setup(kind);
        let mut txq = port.tx_queue(0).unwrap();
        // Three buffers a frame, some over a border.
        (0..30).for_each(|_| guest.post(0, &[600]));
        let frames: Vec<_> = (0..10).map(|i| pattern(1500, i)).collect();
        assert!(frames.iter().all(|frame| send(&mut *txq, frame) == 0));
        let mut seen = Vec::new();
        while seen.len() < frames.len() {
            guest.iommu().answer();
            seen.extend(std::iter::from_fn(|| guest.receive(0)).map(|(_, frame)| frame));
        }
        assert_eq!(seen, frames);
        let late = port.late_tx().unwrap();
        assert_eq!((late.snapshot().packets, late.snapshot().bytes), (10, 15_000));
        assert!(guest.interrupted(0));
        assert_eq!(late.drops.nonzero().count() + txq.counters().drops.nonzero().count(), 0);
        // The ring is in use again; and taken back again.
        (0..6).for_each(|_| guest.post(0, &[800]));
        assert_eq!(deliver(&mut *txq, &mut guest, &pattern(1400, 1)), pattern(1400, 1));
        guest.iommu().invalidate(0, u64::MAX);
        assert_eq!(deliver(&mut *txq, &mut guest, &pattern(1400, 2)), pattern(1400, 2));
    }
}

#[test]
fn a_large_frame_that_is_cut_here_arrives_once_whatever_it_waits_for() {
    let (_dir, port, mut guest) = setup_with(IOMMU & !VIRTIO_NET_F_GUEST_TSO4);
    let mut txq = port.tx_queue(0).unwrap();
    for _ in 0..20 {
        guest.post_page(0);
    }
    let (frame, offload) = tso_frame(8 * 1000);
    let mut storage = BatchStorage::new();
    let mut batch = storage.begin();
    assert!(batch.receive(Span::from_slice(&frame)));
    batch.packet_mut(0).offload = offload;
    txq.tx_burst(&batch, &[0]);
    let mut seen: Vec<Vec<u8>> = Vec::new();
    while seen.len() < 8 {
        // One page at a time.
        for (page, _) in guest.iommu().missed() {
            guest.iommu().update(page);
            seen.extend(std::iter::from_fn(|| guest.receive(0)).map(|(_, piece)| piece));
        }
    }
    let payload: Vec<u8> = seen.iter().flat_map(|piece| piece[54..].to_vec()).collect();
    assert!(payload == frame[54..]);
}

#[test]
fn too_many_frames_that_wait_are_dropped_with_a_reason() {
    let (_dir, port, mut guest) = setup(0);
    let mut txq = port.tx_queue(0).unwrap();
    guest.post(0, &[2000]);
    for _ in 0..1100 {
        send(&mut *txq, &[1; 100]);
    }
    assert_eq!(txq.counters().drops.get(DropReason::TxUntranslated), 76);
    // What waits when the ring stops is lost.
    guest.frontend.get_vring_base(0).unwrap();
    assert_eq!(port.late_tx().unwrap().drops.get(DropReason::TxLinkDown), 1024);
}

#[test]
fn memory_that_was_taken_back_is_not_touched_after_the_acknowledgement() {
    for kind in KINDS {
        let (_dir, port, mut guest) = setup(kind);
        let mut txq = port.tx_queue(0).unwrap();
        let mut rxq = port.rx_queue(0).unwrap();
        // A buffer on a page of its own each, looked at ahead.
        let buffers: Vec<_> = (0..8).map(|_| guest.post_page(0)).collect();
        assert_eq!(deliver(&mut *txq, &mut guest, &[1; 1000]), [1; 1000]);
        guest.send(1, NetHeader::default(), &[5; 60], &[]);
        receive(&mut *rxq, &mut guest);
        let spare = MEMORY - PAGE;
        for (i, &buffer) in buffers.iter().enumerate().skip(1) {
            let before = guest.iommu().offset(buffer);
            guest.iommu().invalidate(buffer, PAGE);
            guest.swap_pages(buffer, spare);
            let seen = vec![0xee; PAGE as usize];
            guest.file.write_all_at(&seen, before).unwrap();
            assert_eq!(deliver(&mut *txq, &mut guest, &[i as u8; 1000]), [i as u8; 1000]);
            let mut now = vec![0; PAGE as usize];
            guest.file.read_exact_at(&mut now, before).unwrap();
            assert_eq!(now, seen, "buffer {i}");
        }
    }
}

#[test]
fn a_ring_that_was_taken_back_goes_on_where_it_was() {
    for kind in KINDS {
        let (_dir, port, mut guest) = setup(kind);
        let mut rxq = port.rx_queue(0).unwrap();
        for round in 0..5 {
            for seed in 0..3 {
                guest.send(1, NetHeader::default(), &pattern(100, seed), &[]);
            }
            let frames = receive(&mut *rxq, &mut guest);
            assert_eq!(frames, [pattern(100, 0), pattern(100, 1), pattern(100, 2)], "round {round}");
            // The flush of everything, as QEMU says it; or the pages of the ring.
            if round % 2 == 0 {
                guest.iommu().invalidate(0, u64::MAX);
            } else {
                guest.iommu().invalidate(RING_AREA, 4 * PAGE);
            }
            assert_eq!(status(&port, "rings_awaiting_translation"), 2 - round % 2);
            assert_eq!(port.info().link, LinkState::Up);
            assert_eq!(burst(&mut *rxq).len(), 0);
        }
        assert_eq!(guest.reclaim(1), 15);
    }
}

#[test]
fn a_worker_sleeps_while_it_waits_and_is_woken() {
    let (_dir, port, mut guest) = setup(VIRTIO_F_EVENT_IDX);
    let mut rxq = port.rx_queue(0).unwrap();
    let waker = Waker::new().unwrap();
    rxq.set_waker(waker.clone());
    let woken = || rustix::io::read(&waker, &mut [0; 8]).is_ok();
    guest.send(1, NetHeader::default(), &[1; 60], &[]);
    receive(&mut *rxq, &mut guest);
    waker.clear();
    guest.send(1, NetHeader::default(), &[2; 6000], &[]);
    assert!(burst(&mut *rxq).is_empty());
    assert_eq!(rxq.arm(), Armed::Idle);
    let missed = guest.iommu().missed();
    assert!(!woken());
    for (page, _) in missed {
        guest.iommu().update(page);
    }
    assert!(woken());
    assert_eq!(receive(&mut *rxq, &mut guest), [[2; 6000]]);
}

#[test]
fn permissions_are_kept() {
    let (_dir, port, mut guest) = setup(0);
    let mut txq = port.tx_queue(0).unwrap();
    let buffer = guest.post_page(0);
    let (read, write) = (1, 2);
    let uva = guest.iommu().uva(buffer);
    assert!(guest.iommu().tell(buffer, PAGE, uva, read, 2));
    assert_eq!(send(&mut *txq, &[7; 100]), 0);
    let asked = loop {
        let missed = guest.iommu().missed();
        if let Some(&asked) = missed.iter().find(|&&(page, _)| page == buffer) {
            break asked;
        }
        missed.iter().for_each(|&(page, _)| guest.iommu().update(page));
    };
    assert_eq!(asked, (buffer, write), "the buffer may only be read");
    assert!(guest.receive(0).is_none());
    assert!(guest.iommu().tell(buffer, PAGE, uva, write, 2));
    assert_eq!(guest.receive(0).unwrap().1, [7; 100]);
}

#[test]
fn an_unanswered_miss_is_asked_again() {
    let (_dir, port, mut guest) = setup(0);
    let mut rxq = port.rx_queue(0).unwrap();
    guest.send(1, NetHeader::default(), &[1; 60], &[]);
    let first = guest.iommu().missed();
    let again = guest.iommu().missed();
    assert!(again.iter().all(|miss| first.contains(miss)), "{first:x?} {again:x?}");
    assert!(burst(&mut *rxq).is_empty());
    first.iter().for_each(|&(page, _)| guest.iommu().update(page));
    assert_eq!(receive(&mut *rxq, &mut guest), [[1; 60]]);
}

#[test]
fn impossible_translations_end_the_connection_with_a_reason() {
    let uva = 0x7000_0000_0000;
    for (message, reason) in [
        ((0, 0, uva, 3, 2), "is empty"),
        ((u64::MAX - 4095, 8192, uva, 3, 2), "wraps around"),
        ((0, 4096, uva - 1, 3, 2), "not inside one memory region"),
        ((0, MEMORY, uva, 3, 2), "not inside one memory region"),
    ] {
        let (_dir, port, mut guest) = setup(0);
        let (iova, size, uva, perm, kind) = message;
        assert!(!guest.iommu().tell(iova, size, uva, perm, kind));
        wait_for(&port, |info| info.error.as_deref().is_some_and(|e| e.contains(reason)));
    }
    // Without an IOMMU there is nothing to take back, and nothing to tell.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p");
    let port = VhostPort::open(VhostConfig::new("p", Mode::Listen(path.clone()))).unwrap();
    let mut guest = Guest::connect(&path, MODERN, 2);
    let mut iommu = guest::iommu::Iommu::new(&mut guest.frontend);
    assert!(iommu.tell(0, 4096, 0, 0, 3));
    assert!(!iommu.tell(0, 4096, uva, 3, 2));
    wait_for(&port, |info| info.error.as_deref().is_some_and(|e| e.contains("ACCESS_PLATFORM")));
}

#[test]
fn translations_follow_the_memory_table() {
    let (_dir, port, mut guest) = setup(0);
    let mut rxq = port.rx_queue(0).unwrap();
    guest.send(1, NetHeader::default(), &[1; 60], &[]);
    receive(&mut *rxq, &mut guest);
    // Mapped again, elsewhere here.
    guest.frontend.set_mem_table(&Guest::regions(&guest.file)).unwrap();
    guest.send(1, NetHeader::default(), &[2; 60], &[]);
    assert_eq!(receive(&mut *rxq, &mut guest), [[2; 60]]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A worker that bursts all the time while pages, those of the ring among them, are taken back and told again: every frame arrives
    /// once, whole, and in order.
    #[test]
    fn traffic_survives_any_invalidations(
        kind in prop::sample::select(KINDS.to_vec()),
        steps in prop::collection::vec((0..6u8, 0..MEMORY / PAGE, 14..9000usize), 20..120),
    ) {
        let (_dir, port, mut guest) = setup(kind);
        let mut rxq = port.rx_queue(0).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let worker = std::thread::spawn(move || {
            let mut frames = Vec::new();
            while !stopped.load(Ordering::Acquire) {
                frames.extend(burst(&mut *rxq));
                std::thread::yield_now();
            }
            frames
        });
        let mut sent = Vec::new();
        for (what, page, len) in steps {
            match what {
                0..=2 if guest.rings[1].driver.free() > 2 => {
                    let frame = pattern(len, sent.len() as u8);
                    if what == 0 {
                        guest.send_indirect(1, NetHeader::default(), &frame, &[page as usize]);
                    } else {
                        guest.send(1, NetHeader::default(), &frame, &[]);
                    }
                    sent.push(frame);
                }
                3 => guest.iommu().invalidate(page * PAGE, len as u64),
                4 => guest.iommu().invalidate(RING_AREA, PAGE),
                _ => {
                    let missed = guest.iommu().missed_now();
                    missed.iter().for_each(|&(page, _)| guest.iommu().update(page));
                    guest.reclaim(1);
                }
            }
        }
        while guest.rings[1].driver.free() < usize::from(guest::RING_SIZE) {
            let missed = guest.iommu().missed_now();
            missed.iter().for_each(|&(page, _)| guest.iommu().update(page));
            guest.reclaim(1);
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Release);
        let frames = worker.join().unwrap();
        prop_assert_eq!(frames.len(), sent.len());
        prop_assert!(frames == sent);
        prop_assert_eq!(port.info().error, None);
    }
}

/// A guest that is being moved: pages are logged where they are in its memory, wherever it sees them; also what is written when its
/// translations are all taken back and come again.
#[test]
fn what_is_written_is_logged_where_it_is() {
    for features in KINDS.map(|kind| IOMMU | kind).into_iter().flat_map(|f| [f, f | VIRTIO_F_EVENT_IDX]) {
        let (_dir, port, mut guest) = setup_with(features);
        let log = Log::new(MEMORY);
        log.give(&guest.frontend);
        guest.frontend.set_features(features | VHOST_F_LOG_ALL).unwrap();
        (0..2).for_each(|ring| guest.log_used_at(ring, guest.used_gpa(ring)));
        let (mut txq, mut rxq) = (port.tx_queue(0).unwrap(), port.rx_queue(0).unwrap());
        for round in 0..6 {
            // In pieces, over the borders of pages, and over several chains.
            (0..4).for_each(|_| guest.post(0, &[700, 3000]));
            let frame = pattern(100 + usize::from(round) * 1300, round);
            let logged = log.observed(&mut guest, |guest| {
                assert!(deliver(&mut *txq, guest, &frame) == frame);
            });
            assert!(!logged.is_empty() && logged.len() < 32, "{logged:x?}");
            guest.send(1, NetHeader::default(), &pattern(60, round), &[]);
            let logged = log.observed(&mut guest, |guest| {
                assert_eq!(receive(&mut *rxq, guest), [pattern(60, round)]);
            });
            assert!(!logged.is_empty() && logged.len() < 8, "{logged:x?}");
            guest.reclaim(1);
            log.observed(&mut guest, |_| {
                rxq.arm();
                rxq.disarm();
            });
            if round % 2 == 1 {
                log.observed(&mut guest, |guest| guest.iommu().invalidate(0, MEMORY));
            }
            while guest.rings[0].driver.free() < 32 && guest.receive(0).is_some() {}
        }
    }
}

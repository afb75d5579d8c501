//! The driver over a device that is played.

use std::sync::Arc;
use std::time::Duration;

use etherparse::PacketBuilder;

use super::*;
use crate::nic::test_cards::{frame, receive, restarts, send, send_with, until};
use crate::packet::{BURST, BatchStorage, Gso, Offload};
use crate::pci::FakeFn;
use crate::port::test_bursts::whole;
use crate::port::{Armed, DropReason, LinkState, PortInfo};
use crate::virtio::features::*;
use crate::virtio::pci::VirtioNetModel;

struct Bench {
    device: VirtioNetModel,
    function: Arc<FakeFn>,
    port: Arc<dyn Port>,
}

fn config() -> NicConfig {
    NicConfig {
        name: "up0".into(),
        rx_descriptors: 256,
        tx_descriptors: 256,
        tick: Duration::from_millis(5),
        ..NicConfig::default()
    }
}

fn bench_with(features: u64, config: NicConfig) -> Bench {
    let device = VirtioNetModel::new(features);
    let function = FakeFn::new(device.clone());
    let port = open(config, function.clone()).unwrap();
    Bench { device, function, port }
}

fn bench() -> Bench {
    bench_with(VIRTIO_NET_F_MRG_RXBUF, config())
}

impl Bench {
    fn deliver(&self, frame: &[u8]) -> bool {
        self.device.lock().deliver(self.function.dma_view(), 0, frame)
    }

    fn until(&self, what: &str, good: impl Fn(&PortInfo) -> bool) -> PortInfo {
        until(&*self.port, what, good)
    }
}

#[test]
fn frames_of_every_length_both_ways() {
    for features in [VIRTIO_NET_F_MRG_RXBUF, 0] {
        let bench = bench_with(features, NicConfig { mtu: 9018, ..config() });
        let (mut rx, mut tx) = (bench.port.rx_queue(0).unwrap(), bench.port.tx_queue(0).unwrap());
        for len in (60..1518).chain([2047, 2048, 2049, 4096, 9018]) {
            let frame = frame(len, len);
            assert_eq!(send(&mut *tx, std::slice::from_ref(&frame)), 1);
            assert!(bench.device.lock().sent.pop().unwrap() == frame, "sent, {len}");
            assert!(bench.deliver(&frame));
            assert!(receive(&mut *rx) == [frame], "received, {len}");
        }
        assert_eq!(bench.function.dma_view().faults(), 0);
        let info = bench.port.info();
        assert_eq!(
            (info.link, info.mtu, info.mac),
            (LinkState::Up, 9018, Some([0x52, 0x53, 0x54, 0x55, 0x56, 0x57]))
        );
    }
}

#[test]
fn a_frame_that_ends_in_the_next_burst_is_whole() {
    let bench = bench();
    let mut rx = bench.port.rx_queue(0).unwrap();
    // One and a half bursts of buffers: the last frame of the burst is not whole in it.
    let frames: Vec<_> = (0..10).map(|i| frame(9000, i)).collect();
    frames.iter().for_each(|frame| assert!(bench.deliver(frame)));
    let mut got = Vec::new();
    for _ in 0..10 {
        got.extend(receive(&mut *rx));
    }
    assert!(got == frames);
    // And all its buffers came back: the ring can be filled again and again.
    for round in 0..100 {
        assert!(bench.deliver(&frame(60_000, round)), "{round}");
        while receive(&mut *rx).is_empty() {}
    }
}

#[test]
fn doorbells_are_few_at_full_bursts() {
    let bench = bench();
    let (mut rx, mut tx) = (bench.port.rx_queue(0).unwrap(), bench.port.tx_queue(0).unwrap());
    let frames: Vec<_> = (0..BURST).map(|i| frame(64, i)).collect();
    let before = bench.function.writes();
    let rounds = 64;
    for _ in 0..rounds {
        assert_eq!(send(&mut *tx, &frames), BURST);
        frames.iter().for_each(|frame| assert!(bench.deliver(frame)));
        assert_eq!(receive(&mut *rx).len(), BURST);
    }
    let writes = bench.function.writes() - before;
    let packets = 2 * rounds * BURST as u64;
    println!("virtio-net: {writes} register writes for {packets} packets");
    assert!(writes * 16 <= packets, "{writes} register writes for {packets} packets");
}

#[test]
fn the_device_is_told_what_it_is_for() {
    let bench = bench_with(VIRTIO_NET_F_MRG_RXBUF, NicConfig { queues: 2, ..config() });
    let device = bench.device.lock();
    assert_eq!(device.commands, [[4, 0, 2], [0, 0, 1], [0, 1, 1]], "two pairs, promiscuous, all multicast");
    assert_ne!(device.accepted & VIRTIO_F_ACCESS_PLATFORM, 0);
    drop(device);
    let mut rx = bench.port.rx_queue(1).unwrap();
    assert!(bench.device.lock().deliver(bench.function.dma_view(), 1, &frame(100, 1)));
    assert_eq!(receive(&mut *rx), [frame(100, 1)]);
}

#[test]
fn what_cannot_be_is_refused_with_a_remedy() {
    let refused =
        |config: NicConfig| open(config, FakeFn::new(VirtioNetModel::new(0))).err().unwrap().to_string();
    assert!(refused(NicConfig { queues: 3, ..config() }).contains("1 to 2 queues"));
    assert!(refused(NicConfig { mtu: 20_000, ..config() }).contains("68 to 9216"));
    assert!(refused(NicConfig { rx_descriptors: 100, ..config() }).contains("power of two"));
    let dead = VirtioNetModel::new(0);
    dead.lock().dead = true;
    let error = open(config(), FakeFn::new(dead)).err().unwrap().to_string();
    assert!(error.contains("out of reset"), "{error}");
}

#[test]
fn a_sleeping_worker_is_woken_by_the_vector_of_its_queue() {
    let bench = bench();
    let mut rx = bench.port.rx_queue(0).unwrap();
    let event = rx.wait_fd().unwrap();
    let mut count = [0; 8];
    let _ = rustix::io::read(&*event, &mut count);
    assert_eq!(rx.arm(), Armed::Idle);
    assert!(bench.deliver(&frame(60, 0)));
    assert_eq!(rustix::io::read(&*event, &mut count), Ok(8));
    assert_eq!(rx.arm(), Armed::Work);
    rx.disarm();
    assert_eq!(receive(&mut *rx).len(), 1);
}

#[test]
fn link_changes_are_seen() {
    let bench = bench();
    let mut tx = bench.port.tx_queue(0).unwrap();
    bench.device.lock().link_up = false;
    assert!(bench.function.dma_view().interrupt(0));
    let info = bench.until("link down", |info| info.link == LinkState::Down);
    assert_eq!(info.link_resets, 2, "up at the start, then down");
    assert_eq!(send(&mut *tx, &[frame(60, 0)]), 0);
    assert_eq!(tx.counters().drops.get(DropReason::TxLinkDown), 1);
    bench.device.lock().link_up = true;
    assert!(bench.function.dma_view().interrupt(0));
    bench.until("link up", |info| info.link == LinkState::Up);
    assert_eq!(send(&mut *tx, &[frame(60, 0)]), 1);
}

#[test]
fn a_device_that_stops_sending_is_restarted() {
    let bench = bench();
    let mut tx = bench.port.tx_queue(0).unwrap();
    bench.device.lock().stuck = true;
    assert_eq!(send(&mut *tx, &[frame(60, 0)]), 1);
    bench.until("restart", |info| restarts(info) > 0);
    bench.device.lock().stuck = false;
    bench.until("link", |info| info.link == LinkState::Up && info.error.is_none());
    assert_eq!(send(&mut *tx, &[frame(61, 0)]), 1);
    assert_eq!(bench.device.lock().sent, [frame(61, 0)]);
}

#[test]
fn a_device_that_lies_is_restarted_and_works_again() {
    let bench = bench();
    let (mut rx, mut tx) = (bench.port.rx_queue(0).unwrap(), bench.port.tx_queue(0).unwrap());
    for round in 1..6 {
        if round % 2 == 0 {
            // The watch finds it, when the ring has room for long yet.
            bench.device.lock().lies = true;
            send(&mut *tx, &[frame(60, 0)]);
        } else {
            let mut device = bench.device.lock();
            (device.lies, device.overstates) = (round == 1, round != 1);
            drop(device);
            assert!(bench.deliver(&frame(60, 0)));
            assert_eq!(receive(&mut *rx).len(), 0);
        }
        bench.until("restart", |info| restarts(info) >= round && info.error.is_none());
        assert!(bench.deliver(&frame(99, 1)));
        assert_eq!(receive(&mut *rx), [frame(99, 1)]);
        bench.device.lock().sent.clear();
        assert_eq!(send(&mut *tx, &[frame(98, 1)]), 1);
        assert_eq!(bench.device.lock().sent, [frame(98, 1)]);
    }
    bench.device.lock().needs_reset = true;
    assert!(bench.function.dma_view().interrupt(0));
    bench.until("reset", |info| restarts(info) == 6 && info.error.is_none());
}

#[test]
fn a_worker_finds_a_lie_when_it_needs_the_buffers() {
    let bench = bench_with(0, NicConfig { tick: Duration::from_secs(1000), ..config() });
    let mut tx = bench.port.tx_queue(0).unwrap();
    bench.device.lock().lies = true;
    let all: Vec<_> = (0..256).map(|i| frame(60, i)).collect();
    assert_eq!(send(&mut *tx, &all), 256);
    assert_eq!(send(&mut *tx, &all[..3]), 0);
    assert_eq!(tx.counters().drops.get(DropReason::TxBadRing), 3);
    bench.until("restart", |info| restarts(info) == 1 && info.error.is_none());
    bench.device.lock().sent.clear();
    assert_eq!(send(&mut *tx, &all[..3]), 3);
    assert_eq!(bench.device.lock().sent, all[..3]);
}

#[test]
fn a_frame_longer_than_any_is_dropped_and_nobody_restarts() {
    let bench = bench();
    let mut rx = bench.port.rx_queue(0).unwrap();
    assert!(bench.deliver(&frame(65_557, 1)));
    assert!(bench.deliver(&frame(65_558, 2)));
    assert!(bench.deliver(&frame(70, 3)));
    let mut got = Vec::new();
    (0..3).for_each(|_| got.extend(receive(&mut *rx)));
    assert!(got == [frame(65_557, 1), frame(70, 3)]);
    assert_eq!(rx.counters().drops.nonzero().collect::<Vec<_>>(), [(DropReason::RxTooLong, 1)]);
    assert_eq!(restarts(&bench.port.info()), 0);
}

#[test]
fn more_frames_than_the_ring_has_buffers_go_in_one_burst() {
    // The device segments nothing: every frame becomes 44.
    let bench = bench();
    let mut tx = bench.port.tx_queue(0).unwrap();
    let mut packet = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
    builder.tcp(700, 701, 1, 1000).write(&mut packet, &frame(44 * 1460, 1)).unwrap();
    let (gso, gso_size, csum_start) = (Gso::TcpV4, 1460, 34);
    let offload =
        Offload { needs_csum: true, gso, gso_size, csum_start, csum_offset: 16, ..Offload::default() };
    assert_eq!(send_with(&mut *tx, &vec![packet; 10], offload), 10);
    assert_eq!(bench.device.lock().sent.len(), 440);
    assert_eq!(tx.counters().drops.nonzero().count(), 0);
}

#[test]
fn a_card_that_is_pulled_is_reported_and_comes_back() {
    let bench = bench();
    let (mut rx, mut tx) = (bench.port.rx_queue(0).unwrap(), bench.port.tx_queue(0).unwrap());
    bench.function.pull();
    let info = bench.until("error", |info| info.error.is_some());
    assert_eq!(info.link, LinkState::Down);
    assert_eq!((receive(&mut *rx).len(), send(&mut *tx, &[frame(60, 0)])), (0, 0));
    bench.function.put_back();
    bench.until("recovery", |info| info.error.is_none() && info.link == LinkState::Up);
    assert!(bench.deliver(&frame(60, 3)));
    assert_eq!(receive(&mut *rx), [frame(60, 3)]);
}

#[test]
fn a_restart_waits_for_payload_that_is_in_use() {
    let bench = bench();
    let mut rx = bench.port.rx_queue(0).unwrap();
    assert!(bench.deliver(&frame(1500, 5)));
    let mut storage = BatchStorage::new();
    let mut batch = storage.begin();
    assert_eq!(rx.rx_burst(&mut batch), 1);
    let resets = bench.device.lock().resets;
    let port = bench.port.clone();
    let change = std::thread::spawn(move || port.set_mtu(1400));
    for _ in 0..1000 {
        std::thread::yield_now();
    }
    assert_eq!(bench.device.lock().resets, resets, "reset under a packet on its way");
    assert!(whole(&batch) == [frame(1500, 5)]);
    rx.rx_done();
    change.join().unwrap().unwrap();
    assert!(bench.device.lock().resets > resets);
    assert_eq!(bench.port.info().mtu, 1400);
}

#[test]
fn a_closed_port_leaves_its_queues_idle() {
    let Bench { device, function, port } = bench();
    let (mut rx, mut tx) = (port.rx_queue(0).unwrap(), port.tx_queue(0).unwrap());
    drop(port);
    assert_eq!((receive(&mut *rx).len(), send(&mut *tx, &[frame(60, 0)])), (0, 0));
    assert!(device.lock().resets >= 2);
    assert_eq!(Arc::strong_count(&function), 1, "nobody keeps the function open");
}

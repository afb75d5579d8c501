//! Between two ports on the ends of a veth pair, in a network namespace of the test's own.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;

use super::*;
use crate::drivers::test_net::{await_up, frame, in_namespace, ip, veth};
use crate::packet::{BURST, Gso, Offload};
use crate::port::LinkState;
use crate::port::test_bursts::{receive_burst, send_burst};
use crate::port::test_events::Told;

fn port(name: &str, queues: u16) -> Arc<dyn Port> {
    open(&AfPacketConfig { name: name.into(), queues, bypass_qdisc: false }).unwrap()
}

/// Receives `count` frames.
fn receive(rx: &mut dyn RxQueue, count: usize) -> Vec<Vec<u8>> {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut frames = Vec::new();
    while frames.len() < count {
        assert!(Instant::now() < deadline, "{} of {count}, drops {:?}", frames.len(), drops(rx));
        frames.extend(receive_burst(rx).into_iter().map(|(bytes, _)| bytes));
    }
    frames
}

fn drops(rx: &dyn RxQueue) -> Vec<(DropReason, u64)> {
    rx.counters().drops.nonzero().collect()
}

#[test]
fn frames_of_every_size_cross_unchanged() {
    in_namespace(|| {
        veth("a", "b", 9004);
        let (one, other) = (port("a", 1), port("b", 1));
        await_up(&*one);
        let (mut rx, mut tx) = (one.rx_queue(0).unwrap(), other.tx_queue(0).unwrap());
        for sizes in (60..=9018).collect::<Vec<_>>().chunks(BURST) {
            let frames: Vec<_> = sizes.iter().map(|&len| frame(len, len as u32)).collect();
            assert_eq!(send_burst(&mut *tx, &frames, Offload::default()), frames.len());
            assert_eq!(receive(&mut *rx, frames.len()), frames);
        }
        // The ring was made for that MTU; a device whose MTU grows later still brings every frame.
        drop((rx, tx, one, other));
        ip("link del dev a");
        veth("a", "b", 1500);
        let (one, other) = (port("a", 1), port("b", 1));
        let mut rx = one.rx_queue(0).unwrap();
        one.set_mtu(9000).unwrap();
        other.set_mtu(9000).unwrap();
        await_up(&*one);
        let mut tx = other.tx_queue(0).unwrap();
        let frames: Vec<_> =
            [60, 1514, 1969, 1970, 1971, 1972, 2048, 9000, 61].map(|len| frame(len, 1)).into();
        assert_eq!(send_burst(&mut *tx, &frames, Offload::default()), frames.len());
        assert_eq!(receive(&mut *rx, frames.len()), frames);
        assert_eq!(drops(&*rx), []);
        // One that is too long for the device is refused, and those beside it are not.
        let frames = [frame(60, 0), frame(9030, 1), frame(61, 2)];
        assert_eq!(send_burst(&mut *tx, &frames, Offload::default()), 2);
        assert_eq!(tx.counters().drops.get(DropReason::TxTooLong), 1);
        assert_eq!(receive(&mut *rx, 2), [frames[0].clone(), frames[2].clone()]);
    });
}

#[test]
fn tags_and_large_segments_cross_as_they_are() {
    in_namespace(|| {
        veth("a", "b", 1500);
        let (one, other) = (port("a", 1), port("b", 1));
        await_up(&*one);
        let (mut rx, mut tx) = (one.rx_queue(0).unwrap(), other.tx_queue(0).unwrap());
        // The kernel takes the outer tag off; it is there again, of either type.
        let tagged = |tags: &[u8]| {
            let mut tagged = frame(100, 1);
            tagged.splice(12..12, tags.iter().copied());
            tagged
        };
        let frames = [
            tagged(&[0x81, 0, 0x60, 7]),
            tagged(&[0x88, 0xa8, 0, 9]),
            tagged(&[0x88, 0xa8, 0, 9, 0x81, 0, 0, 5]),
        ];
        assert_eq!(send_burst(&mut *tx, &frames, Offload::default()), 3);
        assert_eq!(receive(&mut *rx, 3), frames);

        // TCP of 60 KiB with its checksum still to be made, tagged and not.
        let data: Vec<u8> = (0..60_000u32).map(|i| (i * 11) as u8).collect();
        let mut plain = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 9, 0, 1], [10, 9, 0, 2], 64);
        builder.tcp(700, 701, 1, 1000).write(&mut plain, &data).unwrap();
        let mut tagged = plain.clone();
        tagged.splice(12..12, [0x81, 0, 0, 7]);
        for (large, l4) in [(plain, 34), (tagged, 38)] {
            let offload = Offload {
                needs_csum: true,
                gso: Gso::TcpV4,
                gso_size: 1448,
                hdr_len: l4 + 20,
                csum_start: l4,
                csum_offset: 16,
                ..Offload::default()
            };
            let frames = [frame(80, 1), large.clone(), frame(90, 2)];
            assert_eq!(send_burst(&mut *tx, &frames[1..2], offload), 1);
            let mut got = Vec::new();
            while got.is_empty() {
                got = receive_burst(&mut *rx);
            }
            assert!(got[0].0 == large);
            let said = got[0].1;
            assert_eq!((said.gso, said.gso_size, said.csum_start), (Gso::TcpV4, 1448, l4));
            // Between ordinary ones it keeps its place; what asks for nothing crosses in the same call.
            assert_eq!(send_burst(&mut *tx, &frames[..1], Offload::default()), 1);
            assert_eq!(send_burst(&mut *tx, &frames[1..2], offload), 1);
            assert_eq!(send_burst(&mut *tx, &frames[2..], Offload::default()), 1);
            assert!(receive(&mut *rx, 3) == frames);
        }
        assert_eq!(drops(&*rx), []);
    });
}

#[test]
fn what_the_ring_cannot_hold_is_counted() {
    in_namespace(|| {
        veth("a", "b", 1500);
        let (one, other) = (port("a", 1), port("b", 1));
        await_up(&*one);
        let (mut rx, mut tx) = (one.rx_queue(0).unwrap(), other.tx_queue(0).unwrap());
        let frames: Vec<_> = (0..BURST as u32).map(|n| frame(60, n)).collect();
        for _ in 0..80 {
            assert_eq!(send_burst(&mut *tx, &frames, Offload::default()), BURST);
        }
        // The ring has 2048 slots.
        assert_eq!(receive(&mut *rx, 2048).len(), 2048);
        assert_eq!(send_burst(&mut *tx, &frames, Offload::default()), BURST);
        assert_eq!(receive(&mut *rx, BURST), frames);
        assert_eq!(drops(&*rx), [(DropReason::RxRingFull, (80 * BURST - 2048) as u64)]);
        // A queue that is handed back and taken again goes on where it was.
        assert_eq!(send_burst(&mut *tx, &frames, Offload::default()), BURST);
        assert!(one.rx_queue(0).err().unwrap().to_string().contains("in use"));
        drop(rx);
        let mut rx = one.rx_queue(0).unwrap();
        assert_eq!(rx.arm(), Armed::Work);
        assert_eq!(receive(&mut *rx, BURST), frames);
        assert_eq!(rx.arm(), Armed::Idle);
    });
}

#[test]
fn queues_share_the_flows_of_a_device() {
    in_namespace(|| {
        veth("a", "b", 1500);
        let (one, other) = (port("a", 3), port("b", 1));
        await_up(&*one);
        let mut tx = other.tx_queue(0).unwrap();
        let mut rxs: Vec<_> = (0..3).map(|index| one.rx_queue(index).unwrap()).collect();
        let mut sent: Vec<Vec<u8>> = (0..96u16)
            .map(|n| {
                let mut frame = Vec::new();
                let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 9, 0, 1], [10, 9, 0, 2], 64);
                builder.udp(1000 + n, 7).write(&mut frame, &n.to_be_bytes()).unwrap();
                frame
            })
            .collect();
        for frames in sent.chunks(BURST) {
            assert_eq!(send_burst(&mut *tx, frames, Offload::default()), frames.len());
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut got = vec![Vec::new(); 3];
        while got.iter().map(Vec::len).sum::<usize>() < sent.len() {
            assert!(Instant::now() < deadline);
            for (rx, got) in rxs.iter_mut().zip(&mut got) {
                got.extend(receive_burst(&mut **rx).into_iter().map(|(bytes, _)| bytes));
            }
        }
        assert!(got.iter().all(|got| !got.is_empty()), "a queue got nothing");
        let mut all: Vec<_> = got.into_iter().flatten().collect();
        all.sort();
        sent.sort();
        assert!(all == sent);
    });
}

#[test]
fn what_happens_to_the_device_is_told() {
    in_namespace(|| {
        let missing = open(&AfPacketConfig { name: "a".into(), queues: 1, bypass_qdisc: false });
        let error = missing.err().unwrap().to_string();
        assert!(error.contains("network device a") && error.contains("ip link"), "{error}");
        veth("a", "b", 1500);
        // With a carrier from the start, changes can be counted.
        await_up(&*port("a", 1));
        let port = port("a", 2);
        let (sender, told) = mpsc::channel();
        port.subscribe(Arc::new(Told(sender)));
        let until = |done: &dyn Fn(&PortInfo) -> bool| {
            while !done(&port.info()) {
                told.recv_timeout(Duration::from_secs(30)).expect("a change to be told");
            }
        };
        assert_eq!(port.info().link, LinkState::Up);
        let (mut rx, mut tx) = (port.rx_queue(0).unwrap(), port.tx_queue(0).unwrap());
        ip("link set dev b down");
        // Counted, too: a state that lasts shorter than it takes to look was never there.
        until(&|info| info.link == LinkState::Down && info.link_resets == 1);
        ip("link set dev a down");
        assert_eq!(send_burst(&mut *tx, &[frame(60, 1)], Offload::default()), 0);
        assert_eq!(tx.counters().drops.get(DropReason::TxLinkDown), 1);
        ip("link set dev a name other mtu 1400");
        until(&|info| info.mtu == 1400 && info.status.iter().any(|(_, value)| value == "other"));
        ip("link set dev b up");
        ip("link set dev other up");
        until(&|info| info.link == LinkState::Up && info.link_resets >= 2);
        assert_eq!(send_burst(&mut *tx, &[frame(60, 1)], Offload::default()), 1);
        ip("link del dev other");
        until(&|info| info.gone && info.error.as_ref().is_some_and(|error| error.contains("a was deleted")));
        // The queues of a device that is gone do nothing, and do not keep their worker awake.
        assert!(receive_burst(&mut *rx).is_empty());
        assert_eq!(rx.arm(), Armed::Idle);
        assert_eq!(send_burst(&mut *tx, &[frame(60, 1)], Offload::default()), 0);
    });
}

#[test]
fn without_the_right_the_error_says_so() {
    in_namespace(|| {
        veth("a", "b", 1500);
        ip("tuntap add dev raw mode tun");
        let error = open(&AfPacketConfig { name: "raw".into(), queues: 1, bypass_qdisc: false });
        assert!(error.err().unwrap().to_string().contains("raw carries no Ethernet frames"));
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65534)).unwrap();
        let error = open(&AfPacketConfig { name: "a".into(), queues: 1, bypass_qdisc: false });
        let error = error.err().unwrap().to_string();
        assert!(error.contains("a: opening a packet socket") && error.contains("CAP_NET_RAW"), "{error}");
    });
}

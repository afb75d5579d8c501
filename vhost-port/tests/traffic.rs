//! Frames through a vhost-user port, with the driver side of the rings as guest.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests; the lint only exempts functions marked as such"
)]

mod guest;

use std::sync::Arc;
use std::time::{Duration, Instant};

use guest::{Guest, MODERN, RING_SIZE, burst, wait_for};
use pmd::packet::{BatchStorage, Gso, Offload, OffloadCaps, Span};
use pmd::port::{Armed, DropReason, LinkState, Offloads, Port, RxQueue, TxQueue, Waker};
use pmd::virtio::NetHeader;
use pmd::virtio::features::*;
use proptest::prelude::*;
use vhost::VhostBackend;
use vhost_port::{Mode, VhostConfig, VhostPort};

fn port(dir: &tempfile::TempDir) -> (Arc<dyn Port>, std::path::PathBuf) {
    let path = dir.path().join("p");
    let port = VhostPort::open(VhostConfig::new("p", Mode::Listen(path.clone()))).unwrap();
    (port, path)
}

fn setup(features: u64, rings: usize) -> (tempfile::TempDir, Arc<dyn Port>, Guest) {
    let dir = tempfile::tempdir().unwrap();
    let (port, path) = port(&dir);
    let guest = Guest::connect(&path, features, rings);
    wait_for(&port, |info| info.link == LinkState::Up && info.rx_queues as usize == rings / 2);
    (dir, port, guest)
}

fn send(txq: &mut dyn TxQueue, frame: &[u8], offload: Offload) -> usize {
    let mut storage = BatchStorage::new();
    let mut batch = storage.begin();
    assert!(batch.receive(Span::from_slice(frame)));
    batch.packet_mut(0).offload = offload;
    let sent = txq.tx_burst(&batch, &[0]);
    // Somebody else may have the ring just now.
    while !txq.notify() {
        std::thread::yield_now();
    }
    sent
}

/// What says of which kind the rings are.
const KINDS: [u64; 4] =
    [0, VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED | VIRTIO_F_IN_ORDER];

/// Features of rings of any kind, with and without event indexes.
fn any_rings() -> impl Strategy<Value = u64> {
    let kinds = KINDS.into_iter().flat_map(|kind| [kind, kind | VIRTIO_F_EVENT_IDX]);
    prop::sample::select(kinds.collect::<Vec<_>>())
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

#[test]
fn port_tells_what_it_negotiated() {
    let (_dir, port, mut guest) = setup(MODERN, 4);
    assert_eq!(port.driver(), "vhost-user");
    let status = |key: &str| port.info().status.into_iter().find(|(k, _)| k == key).map(|(_, v)| v);
    assert_eq!(status("status").as_deref(), Some("connected"));
    assert_eq!(status("num_of_vrings").as_deref(), Some("4"));
    assert_eq!(status("vring_3_size").as_deref(), Some("64"));
    assert_eq!(status("features").as_deref(), Some(format!("{MODERN:#018x}").as_str()));
    guest.enable(3, false);
    assert_eq!(port.info().rx_queues, 1);
    guest.enable(3, true);
    assert_eq!(port.info().rx_queues, 2);
    drop(guest);
    wait_for(&port, |info| info.link == LinkState::Down);
    assert_eq!(status("status").as_deref(), Some("disconnected"));
}

#[test]
fn queue_is_taken_once_and_comes_back() {
    let (_dir, port, _guest) = setup(MODERN, 2);
    let rxq = port.rx_queue(0).unwrap();
    assert!(port.rx_queue(0).is_err());
    assert!(port.rx_queue(16).is_err());
    drop(rxq);
    port.rx_queue(0).unwrap();
}

/// A frame of 4000 bytes of TCP or UDP payload with the claim that goes with it, and how long the pieces are that it is cut into.
fn large(gso: Gso) -> (Vec<u8>, Offload, Vec<usize>) {
    let (v6, protocol) = match gso {
        Gso::TcpV4 => (false, 6),
        Gso::TcpV6 => (true, 6),
        _ => (false, 17),
    };
    let l4 = if v6 { 54 } else { 34 };
    let header = if protocol == 6 { 20 } else { 8 };
    let mut frame = vec![0u8; l4 + header];
    if v6 {
        frame[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
        frame[20] = protocol;
    } else {
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        frame[22..24].copy_from_slice(&[64, protocol]);
    }
    if protocol == 6 {
        frame[l4 + 12] = 0x50;
    }
    frame.extend(pattern(4000, 3));
    let offload = Offload {
        needs_csum: true,
        gso,
        gso_size: 1000,
        hdr_len: (l4 + header) as u16,
        csum_start: l4 as u16,
        csum_offset: if protocol == 6 { 16 } else { 6 },
        ..Offload::default()
    };
    // Fragments repeat the IP header alone, and begin with the UDP header.
    let pieces = if gso == Gso::Udp { vec![1034, 1034, 1034, 1034, 42] } else { vec![l4 + header + 1000; 4] };
    (frame, offload, pieces)
}

/// What a guest says that gives and takes each kind of large frame.
const KINDS_OF_SEGMENTATION: [(Gso, u64, u64); 4] = [
    (Gso::TcpV4, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_HOST_TSO4),
    (Gso::TcpV6, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_TSO6),
    (Gso::UdpL4, VIRTIO_NET_F_GUEST_USO4 | VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_HOST_USO),
    (Gso::Udp, VIRTIO_NET_F_GUEST_UFO, VIRTIO_NET_F_HOST_UFO),
];

#[test]
fn segmentation_passes_or_is_done_here() {
    for (gso, takes, _) in KINDS_OF_SEGMENTATION {
        let (frame, offload, pieces) = large(gso);
        let (_dir, port, mut guest) = setup(MODERN | takes, 2);
        (0..8).for_each(|_| guest.post(0, &[1526]));
        let mut txq = port.tx_queue(0).unwrap();
        assert_eq!(send(&mut *txq, &frame, offload), 1);
        let (header, bytes) = guest.receive(0).unwrap();
        assert_eq!((header.num_buffers, header.gso_size, bytes == frame), (3, 1000, true), "{gso:?}");
        assert_eq!(header.to_offload(bytes.len()).unwrap().gso, gso);
        assert_eq!(txq.counters().snapshot().segmented, 0);

        // Of UDP segmentation half is not enough: the frame does not say of which IP version it is.
        let without = takes & !VIRTIO_NET_F_GUEST_USO6 | VIRTIO_NET_F_GUEST_CSUM;
        let (_dir, port, mut guest) = setup(MODERN & !without, 2);
        (0..8).for_each(|_| guest.post(0, &[1526]));
        let mut txq = port.tx_queue(0).unwrap();
        assert_eq!(send(&mut *txq, &frame, offload), 1);
        let received: Vec<_> = pieces.iter().map(|_| guest.receive(0).unwrap()).collect();
        let plain = NetHeader { num_buffers: 1, ..NetHeader::default() };
        assert!(received.iter().all(|(header, _)| *header == plain));
        assert_eq!(received.iter().map(|(_, bytes)| bytes.len()).collect::<Vec<_>>(), pieces, "{gso:?}");
        assert!(guest.receive(0).is_none());
        let done = txq.counters().snapshot();
        assert_eq!((done.packets, done.segmented, done.segments), (1, 1, pieces.len() as u64));
    }
}

#[test]
fn what_is_switched_off_is_done_here_while_the_port_runs() {
    let features = KINDS_OF_SEGMENTATION.iter().fold(MODERN, |all, (_, takes, _)| all | takes);
    let (_dir, port, mut guest) = setup(features, 2);
    let mut txq = port.tx_queue(0).unwrap();
    assert_eq!(txq.takes().caps, OffloadCaps::default(), "nothing is known before the first burst");
    let all = Offloads::default();
    let off = [
        (Gso::TcpV4, Offloads { tso: false, ..all }, "tx_tcp_seg_offload"),
        (Gso::TcpV6, Offloads { csum: false, ..all }, "tx_tcp_csum_offload"),
        (Gso::UdpL4, Offloads { uso: false, ..all }, "tx_udp_seg_offload"),
        (Gso::Udp, Offloads { ufo: false, ..all }, "tx_udp_frag_offload"),
    ];
    for (gso, offloads, key) in off {
        let (frame, offload, pieces) = large(gso);
        let status = || port.info().status.into_iter().find(|(k, _)| k == key).map(|(_, value)| value);
        for (setting, whole) in [(all, true), (offloads, false), (all, true)] {
            port.set_offloads(setting).unwrap();
            assert_eq!(status(), Some(whole.to_string()), "{key}");
            let wanted = if whole { vec![frame.len()] } else { pieces.clone() };
            wanted.iter().for_each(|_| guest.post(0, &[5000]));
            assert_eq!(send(&mut *txq, &frame, offload), 1);
            let lens: Vec<_> =
                std::iter::from_fn(|| guest.receive(0)).map(|(_, bytes)| bytes.len()).collect();
            assert_eq!(lens, wanted, "{gso:?} {setting:?}");
        }
        port.set_offloads(offloads).unwrap();
        assert!(!txq.takes().caps.takes(&offload) && txq.takes().caps.takes(&Offload::default()));
        port.set_offloads(all).unwrap();
    }
}

#[test]
fn large_frames_of_a_guest_come_in_whole() {
    for (gso, _, gives) in KINDS_OF_SEGMENTATION {
        let (frame, offload, _) = large(gso);
        let header = NetHeader { num_buffers: 0, ..NetHeader::from_offload(&offload) };
        for features in [MODERN | gives, MODERN & !gives] {
            let (_dir, port, mut guest) = setup(features, 2);
            let mut rxq = port.rx_queue(0).unwrap();
            guest.send(1, header, &frame, &[]);
            let mut storage = BatchStorage::new();
            let mut batch = storage.begin();
            let received = rxq.rx_burst(&mut batch);
            let seen = (received == 1).then(|| batch.packet(0).offload);
            assert_eq!(seen, (features & gives != 0).then_some(offload), "{gso:?}");
        }
    }
}

#[test]
fn what_the_guest_may_not_ask_is_dropped_and_counted() {
    let (_dir, port, mut guest) = setup(MODERN & !VIRTIO_NET_F_HOST_TSO4, 2);
    let mut rxq = port.rx_queue(0).unwrap();
    let gso = NetHeader { flags: 1, gso_type: 1, gso_size: 500, csum_start: 34, ..NetHeader::default() };
    guest.send(1, gso, &pattern(900, 0), &[]);
    guest.send(1, NetHeader { flags: 1, csum_start: 899, ..NetHeader::default() }, &pattern(900, 0), &[]);
    guest.send(1, NetHeader::default(), &pattern(13, 0), &[]);
    guest.send(1, NetHeader::default(), &pattern(66_000, 0), &[]);
    guest.send(1, NetHeader::default(), &pattern(60, 0), &[]);
    assert_eq!(burst(&mut *rxq), [pattern(60, 0)]);
    assert_eq!(guest.reclaim(1), 5);
    let drops = &rxq.counters().drops;
    assert_eq!(drops.get(DropReason::RxBadOffload), 2);
    assert_eq!((drops.get(DropReason::RxTooShort), drops.get(DropReason::RxTooLong)), (1, 1));
}

#[test]
fn frame_too_long_or_ring_empty_is_dropped_and_counted() {
    let (_dir, port, mut guest) = setup(MODERN, 2);
    let mut txq = port.tx_queue(0).unwrap();
    let frame = pattern(1522, 0);
    assert_eq!(send(&mut *txq, &frame, Offload::default()), 0);
    guest.post(0, &[1000]);
    assert_eq!(send(&mut *txq, &frame, Offload::default()), 0);
    assert_eq!(txq.counters().drops.get(DropReason::TxRingFull), 2);
    assert_eq!(send(&mut *txq, &pattern(1523, 0), Offload::default()), 0);
    assert_eq!(txq.counters().drops.get(DropReason::TxTooLong), 1);
    port.set_mtu(9000).unwrap();
    guest.post(0, &[1000]);
    assert_eq!(send(&mut *txq, &pattern(1523, 0), Offload::default()), 1);
    assert_eq!(guest.receive(0).unwrap().1, pattern(1523, 0));
}

#[test]
fn notifications_are_sent_when_wanted_only() {
    for kind in KINDS.into_iter().flat_map(|kind| [kind, kind | VIRTIO_F_EVENT_IDX]) {
        let (_dir, port, mut guest) = setup(MODERN | kind, 2);
        let mut rxq = port.rx_queue(0).unwrap();
        rxq.set_waker(Waker::new().unwrap());
        let frame = pattern(60, 1);
        assert_eq!(rxq.arm(), Armed::Idle);
        assert!(guest.send(1, NetHeader::default(), &frame, &[]), "an armed device is kicked");
        assert_eq!(rxq.arm(), Armed::Work);
        rxq.disarm();
        guest.rings[1].driver.disable_interrupts();
        guest.interrupted(1);
        assert_eq!(burst(&mut *rxq).len(), 1);
        // The guest is told in the next round.
        assert_eq!(burst(&mut *rxq).len(), 0);
        assert!(!guest.interrupted(1), "interrupts are off");
        assert_eq!(guest.reclaim(1), 1);
        assert_eq!(rxq.arm(), Armed::Idle);
        rxq.disarm();
        if kind & VIRTIO_F_EVENT_IDX == 0 || kind & VIRTIO_F_RING_PACKED != 0 {
            assert!(!guest.send(1, NetHeader::default(), &frame, &[]), "a polling device is not kicked");
        } else {
            guest.send(1, NetHeader::default(), &frame, &[]);
            assert!(!guest.send(1, NetHeader::default(), &frame, &[]), "one event, one kick");
        }
        assert!(!guest.rings[1].driver.enable_interrupts());
        burst(&mut *rxq);
        assert!(!guest.interrupted(1), "the guest is told in the next round");
        burst(&mut *rxq);
        assert!(guest.interrupted(1), "interrupts are on");
    }
}

#[test]
fn whatever_ends_a_burst_tells_the_guest_of_it() {
    type End = fn(&mut Guest, Box<dyn RxQueue>);
    let ends: [End; 4] = [
        |_, rxq| drop(rxq),
        |_, mut rxq| assert_eq!(rxq.arm(), Armed::Idle),
        |guest, _rxq| assert_eq!(guest.frontend.get_vring_base(1).unwrap() & 0x7fff, 1),
        |guest, _rxq| {
            use vhost::vhost_user::VhostUserFrontend;
            let [_, second] = Guest::regions(&guest.file);
            guest.frontend.remove_mem_region(&second).unwrap();
        },
    ];
    for (end, kind) in ends.into_iter().flat_map(|end| KINDS.map(|kind| (end, kind))) {
        let (_dir, port, mut guest) = setup(MODERN | VIRTIO_F_EVENT_IDX | kind, 2);
        let mut rxq = port.rx_queue(0).unwrap();
        assert!(guest.interrupted(1), "a ring that starts may be one whose last device died before it told");
        assert!(!guest.rings[1].driver.enable_interrupts());
        guest.send(1, NetHeader::default(), &pattern(60, 1), &[]);
        assert_eq!(burst(&mut *rxq).len(), 1);
        assert!(!guest.interrupted(1));
        end(&mut guest, rxq);
        assert!(guest.interrupted(1));
    }
}

#[test]
fn ring_stops_with_its_index_and_goes_on_from_there() {
    for kind in KINDS {
        ring_stops_and_goes_on(kind);
    }
}

fn ring_stops_and_goes_on(kind: u64) {
    let (_dir, port, mut guest) = setup(MODERN | kind, 2);
    // Both halves of a packed ring's base say where it is, and that this is the first time round.
    let packed = kind & VIRTIO_F_RING_PACKED != 0;
    let (wire, base) = if packed { (0x8005_8005, 0x8005) } else { (5, 5) };
    let mut rxq = port.rx_queue(0).unwrap();
    (0..5).for_each(|i| {
        guest.send(1, NetHeader::default(), &pattern(60, i), &[]);
    });
    assert_eq!(burst(&mut *rxq).len(), 5);
    (5..7).for_each(|i| {
        guest.send(1, NetHeader::default(), &pattern(60, i), &[]);
    });
    assert_eq!(guest.frontend.get_vring_base(1).unwrap(), wire);
    assert_eq!(burst(&mut *rxq).len(), 0);
    guest.start_ring(1, base);
    assert_eq!(burst(&mut *rxq), [pattern(60, 5), pattern(60, 6)]);
}

#[test]
fn memory_slots_come_and_go_under_running_rings() {
    use vhost::vhost_user::VhostUserFrontend;
    let (_dir, port, mut guest) = setup(MODERN, 2);
    let mut rxq = port.rx_queue(0).unwrap();
    assert_eq!(guest.frontend.get_max_mem_slots().unwrap(), 509);
    let [_, second] = Guest::regions(&guest.file);
    guest.frontend.remove_mem_region(&second).unwrap();
    guest.send(1, NetHeader::default(), &pattern(300, 1), &[]);
    assert_eq!(burst(&mut *rxq), [pattern(300, 1)]);
    guest.frontend.add_mem_region(&second).unwrap();
    guest.send(1, NetHeader::default(), &pattern(300, 2), &[]);
    assert_eq!(burst(&mut *rxq), [pattern(300, 2)]);
    guest.frontend.add_mem_region(&second).unwrap_err();
    wait_for(&port, |info| info.error.as_deref().is_some_and(|e| e.contains("overlaps")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn frames_from_the_guest_arrive_whole(
        frames in prop::collection::vec((14usize..4000, prop::collection::vec(any::<usize>(), 0..6)), 1..12),
        legacy: bool,
        rings in any_rings(),
    ) {
        let base = if legacy { VHOST_USER_F_PROTOCOL_FEATURES } else { MODERN };
        let (_dir, port, mut guest) = setup(base | rings, 2);
        let mut rxq = port.rx_queue(0).unwrap();
        for round in 0..20u8 {
            let mut expected = Vec::new();
            for (i, (len, cuts)) in frames.iter().enumerate() {
                if guest.rings[1].driver.free() < cuts.len() + 1 {
                    break;
                }
                let frame = pattern(*len, round.wrapping_add(i as u8));
                guest.send(1, NetHeader::default(), &frame, cuts);
                expected.push(frame);
            }
            prop_assert_eq!(burst(&mut *rxq), &expected[..]);
            prop_assert_eq!(guest.reclaim(1), expected.len());
        }
    }

    #[test]
    fn frames_to_the_guest_arrive_whole(
        lens in prop::collection::vec(14usize..4000, 1..8),
        sizes in prop::collection::vec(prop::collection::vec(12u32..3000, 1..4), 1..8),
        rings in any_rings(),
    ) {
        let (_dir, port, mut guest) = setup(MODERN | rings, 2);
        port.set_mtu(9000).unwrap();
        let mut txq = port.tx_queue(3).unwrap();
        for round in 0..10u8 {
            for chain in sizes.iter().cycle() {
                if guest.rings[0].driver.free() < chain.len() {
                    break;
                }
                guest.post(0, chain);
            }
            for (i, &len) in lens.iter().enumerate() {
                let frame = pattern(len, round.wrapping_mul(7).wrapping_add(i as u8));
                if send(&mut *txq, &frame, Offload::default()) == 1 {
                    let (header, bytes) = guest.receive(0).unwrap();
                    prop_assert!(header.num_buffers >= 1 && header.num_buffers <= RING_SIZE);
                    prop_assert_eq!(bytes, frame);
                } else {
                    prop_assert!(guest.receive(0).is_none());
                    break;
                }
            }
        }
        prop_assert_eq!(txq.counters().drops.get(DropReason::TxBadRing), 0);
    }
}

#[test]
fn what_is_sent_by_a_disabled_ring_is_dropped_and_given_back() {
    KINDS.into_iter().for_each(dropped_and_given_back);
}

fn dropped_and_given_back(kind: u64) {
    let (_dir, port, mut guest) = setup(MODERN | kind, 4);
    let mut rxq = port.rx_queue(0).unwrap();
    let dropped = |rxq: &dyn RxQueue| rxq.counters().drops.get(DropReason::RxDisabled);
    guest.send(1, NetHeader::default(), &pattern(60, 1), &[]);
    guest.post(0, &[1000]);
    // Acknowledged messages: when the call returns, what waited has been dropped.
    guest.enable(0, false);
    guest.enable(1, false);
    assert_eq!((guest.reclaim(1), dropped(&*rxq)), (1, 1));
    assert_eq!(guest.receive(0), None, "a disabled receive ring is left alone");
    assert_eq!(rxq.arm(), Armed::Idle);
    assert!(rxq.wait_fd().is_none(), "a worker would take the kick away");

    // What comes while it is disabled goes the same way, at the guest's kick.
    guest.rings[1].driver.enable_interrupts();
    guest.interrupted(1);
    for i in 0..3 {
        if guest.send(1, NetHeader::default(), &pattern(60, i), &[]) {
            guest.rings[1].kick.write(1).unwrap();
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while !guest.interrupted(1) {
            assert!(Instant::now() < deadline, "not given back");
            std::thread::yield_now();
        }
        assert_eq!(guest.reclaim(1), 1);
    }
    assert_eq!(dropped(&*rxq), 4);

    // Enabled again it brings frames, from the index where it is.
    guest.enable(1, true);
    guest.send(1, NetHeader::default(), &pattern(60, 9), &[]);
    assert_eq!(burst(&mut *rxq), [pattern(60, 9)]);
}

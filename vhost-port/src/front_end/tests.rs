//! Against the other side of this crate: a vhost-user port of ours as back-end.

use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pmd::packet::{BURST, BatchStorage, Gso, Offload, SlotId, Span};
use pmd::port::{Armed, DropReason, LinkState, Port, RxQueue, TxQueue, Waker};

use super::{VirtioUserConfig, VirtioUserPort};
use crate::{Mode, OffloadOffer, VhostConfig, VhostPort};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn uplink(mode: Mode, pairs: u16, packed: bool) -> Arc<dyn Port> {
    let offload = OffloadOffer::default();
    VirtioUserPort::open(VirtioUserConfig { name: "up".into(), mode, pairs, packed, offload }).unwrap()
}

fn back_end(mode: Mode) -> Arc<dyn Port> {
    VhostPort::open(VhostConfig { mtu: 9000, ..VhostConfig::new("peer", mode) }).unwrap()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

fn await_up(port: &dyn Port, pairs: u16) {
    until("the link", || port.info().link == LinkState::Up && port.info().rx_queues == pairs);
}

fn frame(len: usize, number: u32) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5];
    frame.extend(number.to_be_bytes());
    frame.extend((frame.len()..len).map(|i| (i * 7 + len) as u8));
    frame
}

fn send(tx: &mut dyn TxQueue, frames: &[Vec<u8>], offload: Offload) -> usize {
    let mut storage = BatchStorage::new();
    let mut batch = storage.begin();
    for frame in frames {
        assert!(batch.receive(Span::from_slice(frame)));
        batch.packet_mut((batch.len() - 1) as SlotId).offload = offload;
    }
    let slots: Vec<SlotId> = (0..frames.len() as SlotId).collect();
    let sent = tx.tx_burst(&batch, &slots);
    tx.notify();
    sent
}

fn burst(rx: &mut dyn RxQueue) -> Vec<(Vec<u8>, Offload)> {
    let mut storage = BatchStorage::new();
    let frames = {
        let mut batch = storage.begin();
        let count = rx.rx_burst(&mut batch);
        let copy = |slot| {
            let frame = batch.frame(slot as SlotId);
            let mut bytes = vec![0; frame.len()];
            frame.copy_to(&mut bytes);
            (bytes, frame.offload)
        };
        (0..count).map(copy).collect()
    };
    rx.rx_done();
    frames
}

fn receive(rx: &mut dyn RxQueue, count: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    until("frames", || {
        frames.extend(burst(rx).into_iter().map(|(bytes, _)| bytes));
        frames.len() >= count
    });
    frames
}

/// Both ways, in small frames and large.
fn exchange(one: &dyn Port, other: &dyn Port, pair: u16) {
    let (mut rx, mut tx) = (one.rx_queue(pair).unwrap(), other.tx_queue(pair).unwrap());
    for sizes in (60..=9018).step_by(13).collect::<Vec<_>>().chunks(BURST) {
        let frames: Vec<_> = sizes.iter().map(|&len| frame(len, len as u32)).collect();
        assert_eq!(send(&mut *tx, &frames, Offload::default()), frames.len());
        assert!(receive(&mut *rx, frames.len()) == frames, "{sizes:?}");
    }
    let large = frame(65_000, 7);
    let offload = Offload {
        needs_csum: true,
        gso: Gso::TcpV4,
        gso_size: 1448,
        hdr_len: 54,
        csum_start: 34,
        csum_offset: 16,
        ..Offload::default()
    };
    for _ in 0..40 {
        assert_eq!(send(&mut *tx, &vec![large.clone(); 3], offload), 3);
        let mut got = Vec::new();
        until("large frames", || {
            got.extend(burst(&mut *rx));
            got.len() == 3
        });
        assert!(
            got.iter()
                .all(|(bytes, said)| *bytes == large && said.gso == Gso::TcpV4 && said.gso_size == 1448)
        );
    }
}

#[test]
fn frames_cross_both_ways_over_rings_of_either_kind() {
    for packed in [false, true] {
        for connects in [true, false] {
            let folder = folder();
            let path = folder.path().join("s");
            let (ours, theirs) = if connects {
                (Mode::Connect(path.clone()), Mode::Listen(path))
            } else {
                (Mode::Listen(path.clone()), Mode::Connect(path))
            };
            let (up, peer) = (uplink(ours, 1, packed), back_end(theirs));
            up.set_mtu(9000).unwrap();
            await_up(&*up, 1);
            await_up(&*peer, 1);
            let info = up.info();
            let rings = if packed { "packed" } else { "split" };
            assert!(info.status.iter().any(|(key, value)| key == "rings" && value == rings), "{info:?}");
            exchange(&*up, &*peer, 0);
            exchange(&*peer, &*up, 0);
        }
    }
}

#[test]
fn pairs_are_as_many_as_both_sides_have() {
    let folder = folder();
    let path = folder.path().join("s");
    let (up, peer) = (uplink(Mode::Connect(path.clone()), 40, false), back_end(Mode::Listen(path)));
    up.set_mtu(9000).unwrap();
    await_up(&*up, 16);
    await_up(&*peer, 16);
    for pair in [0, 1, 15] {
        exchange(&*up, &*peer, pair);
        exchange(&*peer, &*up, pair);
    }
    assert!(up.rx_queue(40).err().unwrap().to_string().contains("does not exist"));
}

#[test]
fn a_back_end_that_goes_is_found_again() {
    let folder = folder();
    let path = folder.path().join("s");
    let up = uplink(Mode::Connect(path.clone()), 1, false);
    up.set_mtu(9000).unwrap();
    let (mut rx, mut tx) = (up.rx_queue(0).unwrap(), up.tx_queue(0).unwrap());
    let waker = Waker::new().unwrap();
    rx.set_waker(waker);
    assert_eq!(send(&mut *tx, &[frame(60, 1)], Offload::default()), 0);
    assert_eq!(tx.counters().drops.get(DropReason::TxLinkDown), 1);
    for round in 0..5 {
        let peer = back_end(Mode::Listen(path.clone()));
        await_up(&*up, 1);
        await_up(&*peer, 1);
        // Workers that hold queues through it all go on with the new rings.
        let (mut their_rx, mut their_tx) = (peer.rx_queue(0).unwrap(), peer.tx_queue(0).unwrap());
        assert_eq!(send(&mut *tx, &[frame(60, round)], Offload::default()), 1);
        assert_eq!(receive(&mut *their_rx, 1), [frame(60, round)]);
        assert_eq!(send(&mut *their_tx, &[frame(70, round)], Offload::default()), 1);
        assert_eq!(receive(&mut *rx, 1), [frame(70, round)]);
        // A queue that comes back and is taken again goes on with the same rings.
        drop(rx);
        rx = up.rx_queue(0).unwrap();
        assert_eq!(send(&mut *their_tx, &[frame(80, round)], Offload::default()), 1);
        assert_eq!(receive(&mut *rx, 1), [frame(80, round)]);
        until("an idle queue", || rx.arm() == Armed::Idle || !burst(&mut *rx).is_empty());
        assert!(rx.wait_fd().is_some());
        rx.disarm();
        drop((their_rx, their_tx, peer));
        until("the link's end", || up.info().link == LinkState::Down);
        assert!(burst(&mut *rx).is_empty());
    }
    assert_eq!(up.info().link_resets, 10);
}

#[test]
fn a_back_end_that_makes_no_sense_is_left_and_said_so() {
    let folder = folder();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let up = uplink(Mode::Connect(path.clone()), 2, false);
    let (mut garbage, _) = listener.accept().unwrap();
    garbage.write_all(&[0xff; 64]).unwrap();
    until("an error", || up.info().error.is_some());
    let error = up.info().error.unwrap();
    assert!(error.contains("FEATURES"), "{error}");
    // It is tried again, and works once there is somebody.
    drop((garbage, listener));
    std::fs::remove_file(&path).unwrap();
    let peer = back_end(Mode::Listen(path.clone()));
    await_up(&*up, 2);
    assert_eq!(up.info().error, None);
    drop(peer);
    // One that takes the connection and says nothing does not keep the port from going.
    until("the link's end", || up.info().link == LinkState::Down);
    let silent = UnixListener::bind(&path).unwrap();
    let held = silent.accept().unwrap();
    drop(up);
    drop(held);
    let taken = VirtioUserPort::open(VirtioUserConfig {
        name: "up".into(),
        mode: Mode::Listen(path.clone()),
        pairs: 1,
        packed: false,
        offload: OffloadOffer::default(),
    });
    assert!(taken.err().unwrap().to_string().contains(&path_text(&path)));
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}

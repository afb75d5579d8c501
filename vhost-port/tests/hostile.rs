//! Guests that break the rules of their rings. Each time that ring stops and says why; everything else goes on.
#![expect(unsafe_code, reason = "the guest writes its memory")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests; the lint only exempts functions marked as such"
)]

mod guest;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use guest::{Guest, MEMORY, MODERN, RING_AREA, RING_SIZE, burst, wait_for};
use pmd::packet::{BatchStorage, Span};
use pmd::port::{DropReason, Port};
use pmd::virtio::NetHeader;
use pmd::virtio::features::*;
use pmd::virtio::packed::{Element, Position};
use pmd::virtio::split::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor, IDX, RING};
use proptest::prelude::*;
use vhost::VhostBackend;
use vhost_port::{Mode, VhostConfig, VhostPort};

fn setup(features: u64) -> (tempfile::TempDir, Arc<dyn Port>, Guest) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p");
    let port = VhostPort::open(VhostConfig::new("p", Mode::Listen(path.clone()))).unwrap();
    let guest = Guest::connect(&path, features, 2);
    (dir, port, guest)
}

fn transmit(port: &Arc<dyn Port>, frame: &[u8]) -> (usize, u64) {
    let mut txq = port.tx_queue(0).unwrap();
    let mut storage = BatchStorage::new();
    let mut batch = storage.begin();
    batch.receive(Span::from_slice(frame));
    let sent = txq.tx_burst(&batch, &[0]);
    (sent, txq.counters().drops.get(DropReason::TxBadRing))
}

/// Puts descriptors in the table of a ring and offers the first, whatever they say.
fn offer(guest: &Guest, ring: usize, descriptors: &[Descriptor], head: u16, idx: u16) {
    let memory = guest.rings[ring].memory;
    // SAFETY: inside the ring's memory; few descriptors.
    unsafe {
        for (i, desc) in descriptors.iter().enumerate() {
            memory.descriptors.store_descriptor(i, *desc);
        }
        memory.avail.store_u16(RING, head, Ordering::Relaxed);
        memory.avail.store_u16(IDX, idx, Ordering::Release);
    }
}

fn desc(addr: u64, len: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor { addr, len, flags, next }
}

#[test]
fn broken_ring_stops_and_comes_back_when_restarted() {
    const AT: u64 = 0x40_0000;
    let good = desc(AT, 100, 0, 0);
    let cases: Vec<(Vec<Descriptor>, u16, u16, &str)> = vec![
        (vec![good], 0, RING_SIZE + 1, "further ahead"),
        (vec![good], RING_SIZE, 1, "beyond the ring"),
        (vec![desc(AT, 100, DESC_F_NEXT, RING_SIZE)], 0, 1, "beyond the ring"),
        (vec![desc(AT, 100, DESC_F_NEXT, 0)], 0, 1, "loops"),
        (vec![desc(AT, 0, DESC_F_NEXT, 1), desc(AT, 0, DESC_F_NEXT, 0)], 0, 1, "loops"),
        (vec![desc(MEMORY, 100, 0, 0)], 0, 1, "outside guest memory"),
        (vec![desc(MEMORY - 50, 100, 0, 0)], 0, 1, "outside guest memory"),
        (vec![desc(u64::MAX - 10, 100, 0, 0)], 0, 1, "outside guest memory"),
        (vec![desc(AT, 100, DESC_F_WRITE, 0)], 0, 1, "wrong direction"),
        (vec![desc(AT, 100, DESC_F_NEXT, 1), desc(AT, 100, DESC_F_WRITE, 0)], 0, 1, "wrong direction"),
        (vec![desc(AT, u32::MAX, 0, 0)], 0, 1, "more bytes than any frame"),
        (vec![desc(AT, 9, 0, 0)], 0, 1, "shorter than the network header"),
        (vec![desc(AT, 0, 0, 0)], 0, 1, "shorter than the network header"),
        (vec![desc(AT, 24, DESC_F_INDIRECT, 0)], 0, 1, "indirect"),
        (vec![desc(AT, 0, DESC_F_INDIRECT, 0)], 0, 1, "indirect"),
        (vec![desc(AT, 16, DESC_F_INDIRECT | DESC_F_NEXT, 1)], 0, 1, "indirect"),
        (vec![desc(AT, 0xffff_fff0, DESC_F_INDIRECT, 0)], 0, 1, "indirect"),
        (vec![desc(MEMORY - 8, 16, DESC_F_INDIRECT, 0)], 0, 1, "outside guest memory"),
        // A table that lies in the ring's own descriptor table and names itself.
        (vec![desc(RING_AREA, 16, DESC_F_INDIRECT, 0)], 0, 1, "indirect"),
    ];
    let (_dir, port, mut guest) = setup(MODERN);
    let mut rxq = port.rx_queue(0).unwrap();
    for (descriptors, head, idx, words) in cases {
        let before = rxq.counters().drops.get(DropReason::RxBadDescriptor);
        offer(&guest, 1, &descriptors, head, idx);
        assert_eq!(burst(&mut *rxq).len(), 0, "{words}");
        assert_eq!(rxq.counters().drops.get(DropReason::RxBadDescriptor), before + 1, "{words}");
        wait_for(&port, |info| info.error.as_deref().is_some_and(|e| e.contains(words)));
        assert_eq!(burst(&mut *rxq).len(), 0);
        assert_eq!(rxq.counters().drops.get(DropReason::RxBadDescriptor), before + 1, "counted once");
        // The receive ring still works, and so does this one after a restart.
        guest.post(0, &[2000]);
        assert_eq!(transmit(&port, &[3; 60]), (1, 0));
        assert_eq!(guest.receive(0).unwrap().1, [3; 60]);
        assert_eq!(guest.frontend.get_vring_base(1).unwrap(), 0);
        offer(&guest, 1, &[desc(AT, 100, 0, 0)], 0, 0);
        guest.start_ring(1, 0);
    }
    guest.send(1, NetHeader::default(), &[5; 64], &[]);
    assert_eq!(burst(&mut *rxq), [[5; 64]]);
}

#[test]
fn indirect_chain_is_refused_unless_negotiated() {
    for features in [MODERN, MODERN & !VIRTIO_F_INDIRECT_DESC] {
        let (_dir, port, guest) = setup(features);
        let mut rxq = port.rx_queue(0).unwrap();
        // SAFETY: inside guest memory.
        unsafe {
            guest.at(0x50_0000).store_descriptor(0, desc(0x60_0000, 12, DESC_F_NEXT, 1));
            guest.at(0x50_0000).store_descriptor(1, desc(0x60_1000, 60, 0, 0));
            guest.at(0x60_1000).copy_in(&[8; 60]);
        }
        offer(&guest, 1, &[desc(0x50_0000, 32, DESC_F_INDIRECT, 0)], 0, 1);
        let expected: &[[u8; 60]] = if features == MODERN { &[[8; 60]] } else { &[] };
        assert_eq!(burst(&mut *rxq), expected);
    }
}

#[test]
fn receive_ring_with_a_bad_buffer_stops() {
    let (_dir, port, guest) = setup(MODERN);
    offer(&guest, 0, &[desc(MEMORY + 5, 2000, DESC_F_WRITE, 0)], 0, 1);
    assert_eq!(transmit(&port, &[3; 60]), (0, 1));
    wait_for(&port, |info| info.error.as_deref().is_some_and(|e| e.contains("ring 0 stopped")));
    offer(&guest, 0, &[desc(0x50_0000, 2000, DESC_F_WRITE, 0)], 0, 1);
    assert_eq!(transmit(&port, &[3; 60]), (0, 0), "link down until restarted");
}

#[test]
fn truncated_memory_stops_its_port_alone() {
    let (_dir, port, mut guest) = setup(MODERN);
    let (_dir2, other, mut neighbour) = setup(MODERN);
    let mut rxq = port.rx_queue(0).unwrap();
    // SAFETY: inside the mapping until the file is cut; then only the switch touches it.
    unsafe { guest.at(0x90_0000).copy_in(&[1; 400]) };
    offer(&guest, 1, &[desc(0x90_0000, 400, 0, 0)], 0, 1);
    guest.file.set_len(0x20_0000).unwrap();
    assert_eq!(burst(&mut *rxq).len(), 0);
    wait_for(&port, |info| info.error.as_deref().is_some_and(|e| e.contains("truncated")));
    assert_eq!(port.info().rx_queues, 0);
    guest.post(0, &[2000]);
    assert_eq!(transmit(&port, &[3; 60]).0, 0);
    neighbour.send(1, NetHeader::default(), &[5; 64], &[]);
    assert_eq!(burst(&mut *other.rx_queue(0).unwrap()), [[5; 64]]);
}

/// A thread that rewrites a ring, something else each time.
struct Flipper {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Flipper {
    fn start(flip: impl Fn(u64) + Send + 'static) -> Flipper {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut state = 1u64;
            while !stopped.load(Ordering::Relaxed) {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                flip(state);
            }
        });
        Flipper { stop, thread }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

#[test]
fn descriptors_that_change_while_they_are_read_harm_nobody() {
    let (_dir, port, guest) = setup(MODERN | VIRTIO_F_EVENT_IDX);
    let mut rxq = port.rx_queue(0).unwrap();
    let memory = guest.rings[1].memory;
    let flipper = Flipper::start(move |state| {
        let bad = state >> 60 == 0;
        let addr = if bad { state } else { 0x40_0000 + (state >> 48) };
        let flags = if state >> 33 & 1 == 0 { 0 } else { DESC_F_NEXT };
        let next = (state >> 20) as u16 % RING_SIZE;
        let at = usize::from((state >> 8) as u16 % RING_SIZE);
        // SAFETY: inside the table.
        unsafe { memory.descriptors.store_descriptor(at, desc(addr, (state >> 50) as u32, flags, next)) };
    });
    let mut idx = 0u16;
    for round in 0..300 {
        for _ in 0..500 {
            idx = idx.wrapping_add(16);
            // SAFETY: inside the avail ring.
            unsafe { memory.avail.store_u16(IDX, idx, Ordering::Release) };
            for frame in burst(&mut *rxq) {
                assert!(frame.len() >= 14);
            }
            if port.info().rx_queues == 0 {
                break;
            }
        }
        if round % 3 == 0 {
            idx = guest.frontend.get_vring_base(1).unwrap() as u16;
            guest.start_ring(1, idx);
        }
    }
    flipper.stop();
}

/// A second thread writes descriptors of all kinds, available or not, while the ring is read and given back.
#[test]
fn packed_descriptors_that_change_while_they_are_read_harm_nobody() {
    for order in [0, VIRTIO_F_IN_ORDER] {
        let features = MODERN | VIRTIO_F_EVENT_IDX | VIRTIO_F_RING_PACKED | order;
        let (_dir, port, guest) = setup(features);
        let mut rxq = port.rx_queue(0).unwrap();
        let memory = guest.rings[1].memory;
        let flipper = Flipper::start(move |state| {
            let bad = state >> 60 == 0;
            let addr = if bad { state } else { 0x40_0000 + (state >> 48) };
            let kind = [0, 0, 0, DESC_F_NEXT, DESC_F_NEXT, DESC_F_INDIRECT, DESC_F_WRITE, 0];
            let turn = Position::from_bits((state >> 16) as u16).avail_flags();
            let flags = kind[(state >> 33) as usize % 8] | turn;
            let element = Element { len: (state >> 50) as u32, id: (state >> 20) as u16, flags };
            let slot = usize::from((state >> 8) as u16 % RING_SIZE);
            // SAFETY: inside the ring.
            unsafe {
                memory.descriptors.store_packed_addr(slot, addr);
                memory.descriptors.store_packed_element(slot, element, Ordering::Release);
            }
        });
        let mut frames = 0;
        for _ in 0..200 {
            for _ in 0..200 {
                for frame in burst(&mut *rxq) {
                    assert!(frame.len() >= 14);
                    frames += 1;
                }
                if port.info().rx_queues == 0 {
                    break;
                }
            }
            let base = guest.frontend.get_vring_base(1).unwrap();
            assert!(base as u16 & 0x7fff < RING_SIZE && base >> 16 == base & 0xffff, "{base:#x}");
            guest.start_ring(1, base as u16);
        }
        flipper.stop();
        assert!(frames > 0, "the ring was never read");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any bytes at all in ring memory: bursts end, both ways.
    #[test]
    fn random_rings_end(table: [u64; 128], avail in prop::collection::vec(0u16..70, 66), idx in 0u16..70) {
        let (_dir, port, guest) = setup(MODERN);
        let mut rxq = port.rx_queue(0).unwrap();
        for ring in [0, 1] {
            let memory = guest.rings[ring].memory;
            // SAFETY: inside the ring's memory.
            unsafe {
                for i in 0..64usize {
                    let (addr, rest) = (table[i * 2] & 0x1ff_ffff, table[i * 2 + 1]);
                    let d = desc(addr, rest as u32 & 0xfff, (rest >> 32) as u16 & 7, (rest >> 48) as u16 & 0x3f);
                    memory.descriptors.store_descriptor(i, d);
                }
                for (i, head) in avail.iter().enumerate().take(64) {
                    memory.avail.store_u16(RING + i * 2, *head, Ordering::Relaxed);
                }
                memory.avail.store_u16(IDX, idx, Ordering::Release);
            }
        }
        for _ in 0..4 {
            prop_assert!(burst(&mut *rxq).len() <= 32);
            transmit(&port, &[3; 1500]);
        }
    }
}

#[test]
fn disabled_ring_that_is_broken_stops_alone() {
    let (_dir, port, mut guest) = setup(MODERN);
    guest.enable(1, false);
    offer(&guest, 1, &[], 0, u16::MAX / 2);
    guest.rings[1].kick.write(1).unwrap();
    wait_for(&port, |info| info.error.as_ref().is_some_and(|e| e.contains("ring 1 stopped")));
    guest.post(0, &[1000]);
    assert_eq!(transmit(&port, &[7; 60]), (1, 0));
    assert_eq!(guest.receive(0).unwrap().1, [7; 60]);
}

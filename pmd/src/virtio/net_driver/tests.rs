//! A device played by the test, which may say anything.
#![expect(unsafe_code, reason = "plays the device in ring memory")]

use core::sync::atomic::Ordering;

use super::*;
use crate::offload::Finisher;
use crate::packet::{BatchStorage, Offload, SlotId, Span};
use crate::port::{DropReason, Offloads, QueueCounters, TxBurst, TxLimits};
use crate::sys::map::SharedMap;
use crate::virtio::burst_driver::{BadDevice, Buffers, BurstRing, Direction, EitherRing};
use crate::virtio::driver_ring::RingMemory;
use crate::virtio::split::{IDX, RING};
use crate::virtio::{NetHeader, SharedPtr};

const SIZE: u16 = 8;
const CAPACITY: usize = 256;
const BUFFERS: usize = 16 << 10;

struct Device {
    map: SharedMap,
    used: u16,
}

impl Device {
    fn at(&self, offset: usize) -> SharedPtr {
        assert!(offset < self.map.len());
        // SAFETY: inside the map.
        unsafe { SharedPtr::new(self.map.start()).add(offset) }
    }

    /// Uses buffer `id` with these bytes, and claims to have written `len`.
    fn use_buffer(&mut self, id: u32, bytes: &[u8], len: u32) {
        let (_, _, used) = BurstRing::layout(SIZE);
        let slot = usize::from(self.used % SIZE);
        self.used += 1;
        // SAFETY: inside the map: ids of buffers that exist are written to only.
        unsafe {
            if id < u32::from(SIZE) {
                self.at(BUFFERS + id as usize * CAPACITY).copy_in(bytes);
            }
            let element = crate::virtio::split::UsedElement { id, len };
            self.at(used + RING + slot * 8).store_used(0, element);
            self.at(used).store_u16(IDX, self.used, Ordering::Release);
        }
    }
}

fn ring(direction: Direction) -> (EitherRing, Device) {
    let device = Device { map: SharedMap::create("net-driver-test", 1 << 21, false).unwrap(), used: 0 };
    let (_, avail, used) = BurstRing::layout(SIZE);
    let memory = RingMemory { descriptors: device.at(0), avail: device.at(avail), used: device.at(used) };
    let buffers = Buffers {
        start: device.at(BUFFERS),
        guest: 0,
        stride: CAPACITY as u32,
        headroom: 0,
        capacity: CAPACITY as u32,
        count: SIZE,
    };
    // SAFETY: all of it lies in the map, which the test keeps.
    let ring = unsafe { EitherRing::new(false, memory, SIZE, direction, buffers, false) };
    (ring.unwrap(), device)
}

fn header(num_buffers: u16) -> Vec<u8> {
    NetHeader { num_buffers, ..NetHeader::default() }.to_bytes().to_vec()
}

fn receive(ring: &mut NetRxRing, counters: &QueueCounters) -> Result<Vec<Vec<u8>>, BadDevice> {
    let mut storage = BatchStorage::new();
    let frames = {
        let mut batch = storage.begin();
        let count = ring.receive(&mut batch, counters)?;
        let copy = |slot| {
            let frame = batch.frame(slot as SlotId);
            let mut bytes = vec![0; frame.len()];
            frame.copy_to(&mut bytes);
            bytes
        };
        (0..count).map(copy).collect()
    };
    ring.give_back();
    Ok(frames)
}

#[test]
fn a_frame_is_whole_when_its_last_buffer_has_come() {
    let (ring, mut device) = ring(Direction::FromDevice);
    let mut rx = NetRxRing::new(ring, true);
    let counters = QueueCounters::default();
    let bytes: Vec<u8> = (0..=255).collect();
    for round in 0..20u32 {
        let ids = [0, 1, 2].map(|i| (round * 3 + i) % u32::from(SIZE));
        device.use_buffer(ids[0], &[header(3), bytes[..244].to_vec()].concat(), 256);
        device.use_buffer(ids[1], &bytes, 256);
        assert_eq!(receive(&mut rx, &counters).unwrap(), Vec::<Vec<u8>>::new());
        device.use_buffer(ids[2], &bytes[..100], 100);
        let whole = [&bytes[..244], &bytes[..], &bytes[..100]].concat();
        assert_eq!(receive(&mut rx, &counters).unwrap(), [whole], "round {round}");
    }
    assert_eq!(counters.drops.nonzero().count(), 0);
    assert_eq!(counters.snapshot().packets, 20);
}

#[test]
fn the_head_of_a_frame_is_together_however_it_came() {
    let (ring, mut device) = ring(Direction::FromDevice);
    let mut rx = NetRxRing::new(ring, true);
    let counters = QueueCounters::default();
    let bytes: Vec<u8> = (0..=255).collect();
    for (round, first) in [0, 1, 13, 244].into_iter().enumerate() {
        let ids = [0, 1, 2].map(|i| (round as u32 * 3 + i) % u32::from(SIZE));
        device.use_buffer(ids[0], &[&header(3)[..], &bytes[..first]].concat(), 12 + first as u32);
        device.use_buffer(ids[1], &bytes[..3], 3);
        device.use_buffer(ids[2], &bytes, 256);
        let mut storage = BatchStorage::new();
        let mut batch = storage.begin();
        assert_eq!(rx.receive(&mut batch, &counters), Ok(1));
        let (frame, whole) = (batch.frame(0), [&bytes[..first], &bytes[..3], &bytes].concat());
        let mut got = vec![0; frame.len()];
        frame.copy_to(&mut got);
        assert_eq!(got, whole);
        assert!(frame.head.len() >= 14, "{} bytes to parse", frame.head.len());
        rx.give_back();
    }
}

#[test]
fn without_mergeable_buffers_a_buffer_is_a_frame_whatever_its_header_counts() {
    let (ring, mut device) = ring(Direction::FromDevice);
    let mut rx = NetRxRing::new(ring, false);
    let counters = QueueCounters::default();
    for (id, num_buffers) in [0, 1, 2, 300, u16::MAX].into_iter().enumerate() {
        let vouched = NetHeader { flags: 2, num_buffers, ..NetHeader::default() }.to_bytes().to_vec();
        for header in [header(num_buffers), vouched] {
            device.use_buffer(id as u32, &[header, vec![id as u8; 60]].concat(), 72);
            assert_eq!(receive(&mut rx, &counters).unwrap(), [[id as u8; 60]]);
        }
    }
}

#[test]
fn what_a_device_says_of_lengths_and_counts_is_bounded() {
    let (ring, mut device) = ring(Direction::FromDevice);
    let mut rx = NetRxRing::new(ring, true);
    let counters = QueueCounters::default();
    let frame: Vec<u8> = [header(1), vec![7; 60]].concat();
    // Longer than the buffer; no header; a count that cannot be; a length below a frame's; a header that lies.
    device.use_buffer(0, &frame, CAPACITY as u32 + 1);
    device.use_buffer(1, &frame, 11);
    device.use_buffer(2, &[header(u16::MAX), vec![7; 60]].concat(), 72);
    device.use_buffer(3, &frame, 25);
    let lies = NetHeader { flags: 1, csum_start: 200, num_buffers: 1, ..NetHeader::default() };
    device.use_buffer(4, &[lies.to_bytes().to_vec(), vec![7; 60]].concat(), 72);
    device.use_buffer(5, &[header(0), vec![9; 60]].concat(), 72);
    assert_eq!(receive(&mut rx, &counters).unwrap(), [[9; 60]]);
    let count = |reason| counters.drops.get(reason);
    assert_eq!(count(DropReason::RxBadDescriptor), 3);
    assert_eq!((count(DropReason::RxTooShort), count(DropReason::RxBadOffload)), (1, 1));
    // The second of two is longer than its buffer: there is no frame.
    device.use_buffer(6, &[header(2), vec![7; 60]].concat(), 72);
    device.use_buffer(7, &frame, u32::MAX);
    device.use_buffer(0, &[header(1), vec![8; 60]].concat(), 72);
    assert_eq!(receive(&mut rx, &counters).unwrap(), [[8; 60]]);
    assert_eq!(count(DropReason::RxBadDescriptor), 4);
    device.use_buffer(99, &[], 0);
    assert_eq!(receive(&mut rx, &counters), Err(BadDevice::NoSuchBuffer { id: 99, count: SIZE }));
}

/// Frames of a burst: a head, and payload that is not in it.
type Parts<'a> = (&'a [u8], &'a [u8]);

/// Sends them as one burst, and returns how many were sent.
fn send(
    tx: &mut NetTxRing,
    frames: &[Parts<'_>],
    offload: Offload,
    max_frame: usize,
) -> (usize, QueueCounters) {
    let sent = send_and_kick(tx, frames, offload, max_frame, || ());
    assert_eq!(tx.wants_kick(), sent.0 != 0, "the device has said nothing to the contrary");
    sent
}

/// The same with something to do where the ring is full.
fn send_and_kick(
    tx: &mut NetTxRing,
    frames: &[Parts<'_>],
    offload: Offload,
    max_frame: usize,
    kick: impl FnMut(),
) -> (usize, QueueCounters) {
    let (mut storage, mut finisher, counters) =
        (BatchStorage::new(), Finisher::new(), QueueCounters::default());
    let mut batch = storage.begin();
    for (head, payload) in frames {
        let packet = batch.start_packet().unwrap();
        packet.receive_head(head.len()).copy_from_slice(head);
        packet.offload = offload;
        assert!(batch.add_span(Span::from_slice(payload)));
    }
    let slots: Vec<SlotId> = (0..frames.len() as SlotId).collect();
    let limits = TxLimits { offloads: Offloads::default(), max_frame };
    let burst =
        TxBurst { batch: &batch, slots: &slots, finisher: &mut finisher, limits, counters: &counters };
    let sent = tx.send(burst, kick);
    (sent, counters)
}

/// Header and frame that the device finds in a buffer.
fn sent(device: &Device, id: usize, len: usize) -> (Vec<u8>, Vec<u8>) {
    let mut seen = vec![0; NetHeader::LEN + len];
    // SAFETY: inside the map.
    unsafe { device.at(BUFFERS + id * CAPACITY).copy_out(&mut seen) };
    let frame = seen.split_off(NetHeader::LEN);
    (seen, frame)
}

#[test]
fn sent_frames_lie_behind_their_header_and_a_bad_device_is_noticed() {
    let (ring, mut device) = ring(Direction::ToDevice);
    let mut tx = NetTxRing::new(ring, OffloadCaps::default());
    let (head, payload, long) = (&[1u8; 60][..], &[5u8; 100][..], &[5u8; 240][..]);
    let nothing = &[][..];
    let reasons = |counters: &QueueCounters| counters.drops.nonzero().collect::<Vec<_>>();
    // Short ones and others take different ways, and stay in order.
    let mixed: [Parts<'_>; 8] =
        std::array::from_fn(|i| (&head[i..], &payload[..if i % 3 == 1 { 100 } else { 0 }]));
    let none = Offload::default();
    let (count, counters) = send(&mut tx, &mixed, none, 1514);
    assert_eq!((count, reasons(&counters)), (8, vec![]));
    assert_eq!(counters.snapshot().bytes, 8 * 60 - 28 + 3 * 100);
    for (id, (head, payload)) in mixed.iter().enumerate() {
        let (header, frame) = sent(&device, id, head.len() + payload.len());
        assert_eq!((header, frame), (vec![0; 12], [*head, *payload].concat()), "frame {id}");
    }
    let one: [Parts<'_>; 1] = [(head, payload)];
    assert_eq!(reasons(&send(&mut tx, &one, none, 1514).1), [(DropReason::TxRingFull, 1)]);
    assert_eq!(reasons(&send(&mut tx, &[(head, nothing)], none, 1514).1), [(DropReason::TxRingFull, 1)]);
    assert_eq!(reasons(&send(&mut tx, &one, none, 100).1), [(DropReason::TxTooLong, 1)]);
    assert_eq!(reasons(&send(&mut tx, &[(head, nothing)], none, 59).1), [(DropReason::TxTooLong, 1)]);
    assert_eq!(reasons(&send(&mut tx, &[(head, long)], none, 1514).1), [(DropReason::TxTooLong, 1)]);
    device.use_buffer(0, &[], 0);
    assert_eq!(send(&mut tx, &one, none, 1514).0, 1);
    device.use_buffer(8, &[], 0);
    let (count, counters) = send(&mut tx, &one, none, 1514);
    assert_eq!((count, reasons(&counters)), (0, vec![(DropReason::TxBadRing, 1)]));
    assert_eq!(tx.bad(), Some(BadDevice::NoSuchBuffer { id: 8, count: SIZE }));
    let (_, counters) = send(&mut tx, &[(head, nothing); 2], none, 1514);
    assert_eq!(reasons(&counters), [(DropReason::TxBadRing, 2)]);
}

#[test]
fn a_full_ring_is_shown_to_the_device_at_once() {
    let (ring, mut device) = ring(Direction::ToDevice);
    let mut tx = NetTxRing::new(ring, OffloadCaps::default());
    let heads: [[u8; 60]; 20] = std::array::from_fn(|i| [i as u8; 60]);
    let frames = heads.each_ref().map(|head| (&head[..], &[][..]));
    let (none, mut kicks, mut next) = (Offload::default(), 0, 0);
    // It sends when it is told: then all go, in order.
    let (count, counters) = send_and_kick(&mut tx, &frames, none, 1514, || {
        kicks += 1;
        for id in 0..SIZE {
            assert_eq!(sent(&device, id.into(), 60).1, [next; 60]);
            next += 1;
            device.use_buffer(id.into(), &[], 0);
        }
    });
    assert_eq!((count, kicks, counters.drops.nonzero().count()), (20, 2, 0));
    assert_eq!(tx.progress(), Ok((16, 4)));
    assert!(tx.wants_kick(), "of the last four");
    // It does not: it is told once, and the rest is lost.
    let mut kicks = 0;
    let (count, counters) = send_and_kick(&mut tx, &frames, none, 1514, || kicks += 1);
    assert_eq!((count, kicks, counters.drops.get(DropReason::TxRingFull)), (4, 1, 16));
    assert!(!tx.wants_kick(), "it has been told of all");
    let (count, _) = send_and_kick(&mut tx, &frames, none, 1514, || kicks += 1);
    assert_eq!((count, kicks), (0, 1), "of nothing new");
    assert_eq!(tx.progress(), Ok((16, 8)));
}

#[test]
fn a_header_is_of_its_own_frame_whatever_the_buffer_held() {
    let (ring, mut device) = ring(Direction::ToDevice);
    let mut tx = NetTxRing::new(ring, OffloadCaps { csum: true, ..OffloadCaps::default() });
    let head = [1u8; 60];
    let asks = Offload { needs_csum: true, csum_start: 34, csum_offset: 16, ..Offload::default() };
    let vouched = Offload { csum_valid: true, ..Offload::default() };
    for (turn, offload) in [asks, Offload::default(), vouched, asks].into_iter().enumerate() {
        assert_eq!(send(&mut tx, &[(&head[..], &[][..]); 8], offload, 1514).0, 8, "turn {turn}");
        for id in 0..usize::from(SIZE) {
            // What is vouched for is not said by a driver.
            let wanted = if offload.needs_csum { [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0] } else { [0; 12] };
            assert_eq!(sent(&device, id, 60), (wanted.to_vec(), head.to_vec()), "turn {turn}");
        }
        (0..u32::from(SIZE)).for_each(|id| device.use_buffer(id, &head, 0));
    }
}

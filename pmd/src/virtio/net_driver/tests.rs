//! A device played by the test, which may say anything.
#![expect(unsafe_code, reason = "plays the device in ring memory")]

use core::sync::atomic::Ordering;

use super::*;
use crate::offload::Finisher;
use crate::packet::{BatchStorage, Offload, SlotId, Span};
use crate::port::{DropReason, Offloads, QueueCounters, TxLimits};
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
    let _ = ring.give_back();
    Ok(frames)
}

#[test]
fn a_frame_is_whole_when_its_last_buffer_has_come() {
    let (ring, mut device) = ring(Direction::FromDevice);
    let (mut rx, _) = NetRxRing::new(ring);
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
fn what_a_device_says_of_lengths_and_counts_is_bounded() {
    let (ring, mut device) = ring(Direction::FromDevice);
    let (mut rx, _) = NetRxRing::new(ring);
    let counters = QueueCounters::default();
    let frame: Vec<u8> = [header(1), vec![7; 60]].concat();
    // Longer than the buffer: what is in it; no header; a count that cannot be; a length below a frame's; a header that lies.
    device.use_buffer(0, &frame, u32::MAX);
    device.use_buffer(1, &frame, 11);
    device.use_buffer(2, &[header(u16::MAX), vec![7; 60]].concat(), 72);
    device.use_buffer(3, &frame, 25);
    let lies = NetHeader { flags: 1, csum_start: 200, num_buffers: 1, ..NetHeader::default() };
    device.use_buffer(4, &[lies.to_bytes().to_vec(), vec![7; 60]].concat(), 72);
    device.use_buffer(5, &[header(0), vec![9; 60]].concat(), 72);
    let got = receive(&mut rx, &counters).unwrap();
    assert_eq!(got.iter().map(Vec::len).collect::<Vec<_>>(), [CAPACITY - 12, 60]);
    assert_eq!(got[1], [9; 60]);
    let count = |reason| counters.drops.get(reason);
    assert_eq!(count(DropReason::RxBadDescriptor), 2);
    assert_eq!((count(DropReason::RxTooShort), count(DropReason::RxBadOffload)), (1, 1));
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
    let sent = tx.send(&batch, &slots, &mut finisher, limits, &counters);
    assert!(tx.wants_kick(), "the device has said nothing to the contrary");
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

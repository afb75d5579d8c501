//! Rings of every size, filled to the last descriptor and carried round, with every byte of every frame compared.
#![allow(clippy::unwrap_used, reason = "tests; the lint only exempts functions marked as such")]
#![expect(unsafe_code, reason = "the guest lays out its memory")]

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use pmd::packet::{BURST, BatchStorage, SlotId, Span};
use pmd::port::{RxQueue, TxQueue};
use pmd::sys::map::SharedMap;
use pmd::virtio::driver_ring::{Buffer, ChainRing, DriverRing, RingMemory};
use pmd::virtio::features::*;
use pmd::virtio::packed_driver_ring::PackedDriverRing;
use pmd::virtio::{NetHeader, SharedPtr};
use vhost_port::front_end::{Region, RingPlace, Session, Wanted};
use vhost_port::{Mode, VhostConfig, VhostPort};

/// Where the front-end says it has the memory.
const USER: u64 = 0x7000_0000_0000;
/// The largest ring fits.
const RING_AREA: usize = 1 << 20;
const BUFFER: usize = 320;
const LONGEST: usize = BUFFER - NetHeader::LEN;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

struct Guest {
    memory: SharedMap,
    size: u16,
    rings: Vec<Box<dyn ChainRing>>,
    session: Session,
    /// Buffers given, by ring.
    given: [usize; 2],
}

impl Guest {
    fn connect(stream: UnixStream, features: u64, size: u16) -> Guest {
        let (packed, in_order) = (features & VIRTIO_F_RING_PACKED != 0, features & VIRTIO_F_IN_ORDER != 0);
        let len = 2 * RING_AREA + 2 * usize::from(size) * BUFFER;
        let memory = SharedMap::create("guest", len.next_multiple_of(4096), false).unwrap();
        let layout = if packed { PackedDriverRing::layout } else { DriverRing::layout };
        let (bytes, avail, used) = layout(size);
        assert!(bytes <= RING_AREA);
        let rings = [RECEIVE, TRANSMIT].map(|index| {
            let parts = [0, avail, used].map(|part| at(&memory, index * RING_AREA + part));
            let [descriptors, avail, used] = parts;
            let memory = RingMemory { descriptors, avail, used };
            // SAFETY: the parts lie in the guest's memory, which lives as long as the ring does.
            unsafe {
                if packed {
                    let ring = PackedDriverRing::new(memory, size, false, in_order).unwrap();
                    Box::new(ring) as Box<dyn ChainRing>
                } else {
                    Box::new(DriverRing::new(memory, size, false).unwrap())
                }
            }
        });
        let required =
            VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF | VHOST_USER_F_PROTOCOL_FEATURES | features;
        let mut session = Session::negotiate(stream, &Wanted { required, optional: 0, pairs: 1 }).unwrap();
        let region = Region { fd: memory.as_fd(), len: memory.len(), guest: 0, user: USER };
        let place = |index: usize| {
            let start = USER + (index * RING_AREA) as u64;
            RingPlace { size, parts: [start, start + avail as u64, start + used as u64] }
        };
        session.start(&region, place).unwrap();
        Guest { memory, size, rings: rings.into(), session, given: [0; 2] }
    }

    /// Address of the n-th buffer that a ring is given.
    fn buffer(&self, index: usize, n: usize) -> u64 {
        let size = usize::from(self.size);
        (2 * RING_AREA + (index * size + n % size) * BUFFER) as u64
    }

    /// Gives the next buffers, which hold `len` bytes. False when the ring is full.
    fn give(&mut self, index: usize, len: usize) -> bool {
        let addr = self.buffer(index, self.given[index]);
        let given =
            self.rings[index].add(&[Buffer { addr, len: len as u32, write: index == RECEIVE }]).is_some();
        self.given[index] += usize::from(given);
        given
    }

    fn publish(&mut self, index: usize) {
        if self.rings[index].publish() {
            self.session.kick(index);
        }
    }
}

fn at(memory: &SharedMap, offset: usize) -> SharedPtr {
    assert!(offset < memory.len());
    // SAFETY: inside the mapping.
    unsafe { SharedPtr::new(memory.start()).add(offset) }
}

/// Frame number `number`: bytes that follow from it, of lengths of all kinds.
fn frame(number: usize) -> Vec<u8> {
    static BYTES: [u8; 1024] = {
        let (mut bytes, mut i) = ([0; 1024], 0);
        while i < bytes.len() {
            bytes[i] = (i * 31 % 251) as u8;
            i += 1;
        }
        bytes
    };
    let mut frame = BYTES[number % 512..][..60 + number * 7919 % (LONGEST - 59)].to_vec();
    frame[..4].copy_from_slice(&(number as u32).to_be_bytes());
    frame
}

/// The guest fills its ring with `count` frames, and the port receives them.
fn from_guest(guest: &mut Guest, rx: &mut dyn RxQueue, count: usize) {
    let first = guest.given[TRANSMIT];
    for number in first..first + count {
        let body = frame(number);
        let mut bytes = vec![0; NetHeader::LEN];
        bytes.extend(&body);
        // SAFETY: inside the memory, and a buffer is longer than that.
        unsafe { at(&guest.memory, guest.buffer(TRANSMIT, number) as usize).copy_in(&bytes) };
        assert!(guest.give(TRANSMIT, bytes.len()));
    }
    guest.publish(TRANSMIT);
    let mut number = first;
    while number < first + count {
        let mut storage = BatchStorage::new();
        let mut batch = storage.begin();
        for slot in 0..rx.rx_burst(&mut batch) as SlotId {
            let received = batch.frame(slot);
            let mut bytes = vec![0; received.len()];
            received.copy_to(&mut bytes);
            assert_eq!(bytes, frame(number), "frame {number}");
            number += 1;
        }
        rx.rx_done();
    }
    for _ in 0..count {
        assert!(guest.rings[TRANSMIT].poll_used().unwrap().is_some(), "a sent buffer does not come back");
    }
    assert!(guest.rings[TRANSMIT].poll_used().unwrap().is_none());
}

/// The guest offers `count` buffers, and the port fills them, and has no room for one more frame.
fn to_guest(guest: &mut Guest, tx: &mut dyn TxQueue, count: usize) {
    let first = guest.given[RECEIVE];
    (0..count).for_each(|_| assert!(guest.give(RECEIVE, BUFFER)));
    guest.publish(RECEIVE);
    let mut sent = 0;
    while sent < count {
        let burst: Vec<_> = (first + sent..first + count).take(BURST).map(frame).collect();
        assert_eq!(send(tx, &burst), burst.len());
        sent += burst.len();
    }
    assert_eq!(send(tx, &[frame(0)]), 0, "a frame without a buffer");
    for number in first..first + count {
        let (_, len) = guest.rings[RECEIVE].poll_used().unwrap().unwrap();
        let mut bytes = vec![0; len as usize];
        // SAFETY: inside the memory; a longer length would not be that of the frame.
        unsafe { at(&guest.memory, guest.buffer(RECEIVE, number) as usize).copy_out(&mut bytes) };
        assert_eq!(bytes[NetHeader::LEN..], frame(number), "frame {number}");
    }
}

fn send(tx: &mut dyn TxQueue, frames: &[Vec<u8>]) -> usize {
    let mut storage = BatchStorage::new();
    let mut batch = storage.begin();
    frames.iter().for_each(|frame| assert!(batch.receive(Span::from_slice(frame))));
    let slots: Vec<SlotId> = (0..frames.len() as SlotId).collect();
    let sent = tx.tx_burst(&batch, &slots);
    while !tx.notify() {
        std::thread::yield_now();
    }
    sent
}

/// A ring filled to its end, and gone round.
fn carries_every_byte(features: u64, size: u16) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p");
    let port = VhostPort::open(VhostConfig::new("p", Mode::Listen(path.clone()))).unwrap();
    let mut guest = Guest::connect(UnixStream::connect(&path).unwrap(), features, size);
    let (mut rx, mut tx) = (port.rx_queue(0).unwrap(), port.tx_queue(0).unwrap());
    let all = usize::from(size);
    for count in [all, all / 2 + 1] {
        from_guest(&mut guest, &mut *rx, count);
        to_guest(&mut guest, &mut *tx, count);
    }
    assert_eq!(port.info().error, None);
}

#[test]
fn split_rings_of_every_size_carry_every_byte() {
    for (power, in_order) in (0..=15).zip([0, VIRTIO_F_IN_ORDER].into_iter().cycle()) {
        carries_every_byte(in_order, 1 << power);
    }
}

/// They need no power of two.
#[test]
fn packed_rings_of_every_size_carry_every_byte() {
    let sizes = (0..=15).map(|power| 1 << power).chain([3, 33, 1000, 32767]);
    for (size, in_order) in sizes.zip([VIRTIO_F_IN_ORDER, 0].into_iter().cycle()) {
        carries_every_byte(VIRTIO_F_RING_PACKED | in_order, size);
    }
}

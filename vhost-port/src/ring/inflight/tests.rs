//! What is in a front-end's buffer, and what is made of one that somebody else has kept. That nothing is lost at any store is in
//! [`super::super::journal`]'s tests, which play the same with such a buffer and without a journal.

use pmd::virtio::driver_ring::{Buffer, ChainRing, DriverRing, RingMemory};
use pmd::virtio::packed_driver_ring::PackedDriverRing;
use proptest::prelude::*;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::super::*;
use super::*;
use crate::memory::{MemTable, Region, RegionSpec};

const MEMORY: u64 = 1 << 20;
const RING: u64 = 0x1000;
const BUFFERS: u64 = 0x8_0000;
const SIZE: u16 = 8;

struct World {
    memory: Arc<MemTable>,
    buffer: Arc<InflightBuffer>,
    packed: bool,
}

/// A buffer for one ring.
pub(in crate::ring) fn buffer(entries: u16) -> Arc<InflightBuffer> {
    let file: File = memfd_create("in-flight", MemfdFlags::CLOEXEC).unwrap().into();
    let len = InflightBuffer::len_for(1, entries).unwrap();
    ftruncate(&file, len).unwrap();
    Arc::new(InflightBuffer::map(&file, (0, len), (1, entries), &Alarm::new().unwrap()).unwrap())
}

impl World {
    fn new(packed: bool) -> World {
        let file: File = memfd_create("world", MemfdFlags::CLOEXEC).unwrap().into();
        ftruncate(&file, MEMORY).unwrap();
        let spec = RegionSpec { gpa: 0, len: MEMORY, uva: 0, offset: 0 };
        let region = Region::map(spec, &file, &Alarm::new().unwrap()).unwrap();
        let memory = Arc::new(MemTable::default().with(region).unwrap());
        World { memory, buffer: buffer(SIZE), packed }
    }

    fn at(&self, gpa: u64) -> SharedPtr {
        self.memory.by_uva(gpa, 1).unwrap()
    }

    fn places(&self) -> [u64; 3] {
        let layout = if self.packed { PackedDriverRing::layout(SIZE) } else { DriverRing::layout(SIZE) };
        [RING, RING + layout.1 as u64, RING + layout.2 as u64]
    }

    fn parts(&self) -> RingParts {
        let [descriptors, avail, used] = self.places().map(|place| self.at(place));
        RingParts { descriptors, avail, used }
    }

    /// A driver that has given `n` chains, of one and of two descriptors in turn. Returns their ids.
    fn driver(&self, n: u64) -> (Box<dyn ChainRing>, Vec<u16>) {
        let RingParts { descriptors, avail, used } = self.parts();
        let memory = RingMemory { descriptors, avail, used };
        // SAFETY: the parts lie in the table's memory, which outlives the ring in every test.
        let mut driver: Box<dyn ChainRing> = unsafe {
            if self.packed {
                Box::new(PackedDriverRing::new(memory, SIZE, false, false).unwrap())
            } else {
                Box::new(DriverRing::new(memory, SIZE, false).unwrap())
            }
        };
        let buffer = |i| Buffer { addr: BUFFERS + i * 64, len: 20 + i as u32, write: false };
        let ids = (0..n).map(|i| driver.add(&vec![buffer(i); 1 + i as usize % 2]).unwrap()).collect();
        let _ = driver.publish();
        (driver, ids)
    }

    fn device(&self, base: u16) -> (DeviceRing, Option<BadRecord>) {
        let [descriptors, avail, used] = self.places();
        let config = RingConfig {
            size: Some(SIZE),
            addresses: Some(RingAddresses { descriptors, avail, used }),
            base,
            started: true,
            ..RingConfig::default()
        };
        let rules = RingRules { packed: self.packed, ..RingRules::default() };
        let file = Arc::new(RingFile::anonymous(1).unwrap());
        let kept = Kept { file: &file, inflight: Some(&self.buffer), index: 0 };
        let made = config.activate(&self.memory, rules, kept, Resume::ByRecord).unwrap().unwrap();
        let mut ring = made.ring;
        if ring.next_used() != base {
            ring.rewind_to_used();
        }
        (ring, made.bad_record)
    }

    fn region(&self) -> InflightRegion {
        self.buffer.region(0, self.packed, SIZE).unwrap()
    }

    /// The bytes of the region.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; stride(self.packed, SIZE) as usize];
        // SAFETY: inside the mapping.
        unsafe { self.buffer.map.at(0, bytes.len() as u64).unwrap().copy_out(&mut bytes) };
        bytes
    }

    fn set(&self, at: usize, bytes: &[u8]) {
        // SAFETY: inside the mapping.
        unsafe { self.buffer.map.at(at as u64, bytes.len() as u64).unwrap().copy_in(bytes) };
    }
}

/// Everything the driver gets back.
fn all_back(driver: &mut dyn ChainRing) -> Vec<u16> {
    std::iter::from_fn(|| driver.poll_used().unwrap()).map(|(id, _)| id).collect()
}

#[test]
fn split_region_has_the_used_index() {
    let world = World::new(false);
    let (mut driver, ids) = world.driver(3);
    let (mut device, bad) = world.device(0);
    assert_eq!(bad, None);
    assert_eq!(world.bytes()[..16], [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 8, 0, 0, 0, 0, 0]);
    assert_eq!(device.discard(), Ok(3));
    assert!(device.publish());
    assert_eq!(world.bytes()[..16], [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 8, 0, 0, 0, 3, 0]);
    assert!(world.bytes()[16..].chunks(16).all(|entry| entry[0] == 0), "nothing is in flight");
    assert_eq!(all_back(&mut *driver), ids);
    world.region().forget();
    assert_eq!(world.bytes()[8..16], [0; 8]);
}

#[test]
fn packed_region_has_the_burst_while_it_is_shown() {
    let world = World::new(true);
    let (mut driver, ids) = world.driver(3);
    let (mut device, bad) = world.device(0x8000);
    assert_eq!(bad, None);
    let mut region = world.region();
    let to = Position::START.advanced(4, SIZE);
    region.take_packed(world.parts(), Position::START, to);
    let bytes = world.bytes();
    // Version, entries, free, old free; used, old used, wrap counters.
    assert_eq!(bytes[8..22], [1, 0, 8, 0, 0, 0, 4, 0, 4, 0, 0, 0, 1, 1]);
    let entry = |at: usize| &bytes[32 + at * 32..][..32];
    // In flight, next, last, count, counter.
    assert_eq!(entry(0)[..16], [1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(entry(1)[..16], [1, 0, 2, 0, 2, 0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(entry(3)[..16], [1, 0, 4, 0, 3, 0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    // Id, flags, length, address.
    assert_eq!(entry(3)[16..24], [ids[2] as u8, 0, 0x80, 0, 22, 0, 0, 0]);
    assert_eq!(entry(3)[24..], (BUFFERS + 128).to_le_bytes());
    region.shown_packed(Position::START, to);
    assert_eq!(world.bytes()[8..22], [1, 0, 8, 0, 0, 0, 0, 0, 4, 0, 4, 0, 1, 1]);
    region.begin_packed(Position::START);
    assert_eq!(device.discard(), Ok(3));
    assert!(device.publish());
    assert_eq!(world.bytes()[8..22], [1, 0, 8, 0, 0, 0, 0, 0, 4, 0, 4, 0, 1, 1]);
    assert_eq!(all_back(&mut *driver), ids);
}

/// A back-end that completes in any order took five chains, and completed the second; it died before it had said so.
#[test]
fn split_ring_of_another_back_end_goes_on() {
    let world = World::new(false);
    let (mut driver, ids) = world.driver(5);
    world.set(8, &[1, 0, 8, 0, ids[1] as u8, 0, 0, 0]);
    // In another order than they were offered, as nothing forbids.
    for (counter, &head) in [ids[3], ids[1], ids[0], ids[2]].iter().enumerate() {
        world.set(16 + usize::from(head) * 16, &[1, 0, 0, 0, 0, 0, 0, 0, counter as u8]);
    }
    let parts = world.parts();
    // SAFETY: inside the ring.
    unsafe {
        parts.used.store_used(4, pmd::virtio::split::UsedElement { id: ids[1].into(), len: 0 });
        parts.used.store_u16(IDX, 1, Ordering::Release);
        // What it took before: the fifth is where it would go on.
        assert_eq!(parts.avail.load_u16(RING_OF_AVAIL, Ordering::Relaxed), ids[0]);
    }
    let (mut device, bad) = world.device(4);
    assert_eq!(bad, None);
    assert_eq!(device.discard(), Ok(4));
    assert!(device.publish());
    assert_eq!(all_back(&mut *driver), [ids[1], ids[3], ids[0], ids[2], ids[4]]);
    assert_eq!(driver.free(), usize::from(SIZE));
}

/// Offset of the first entry of an avail ring.
const RING_OF_AVAIL: usize = pmd::virtio::split::RING;

#[test]
fn packed_ring_of_another_back_end_goes_on() {
    let world = World::new(true);
    let (mut driver, ids) = world.driver(4);
    let (device, _) = world.device(0x8000);
    drop(device);
    // All are taken: six descriptors, in entries that are not side by side. The second chain has been given back.
    let entries = [(0, 0), (4, 1), (5, 2), (2, 3), (6, 4), (7, 5)];
    let links = [(0, 0, 1), (4, 5, 2), (2, 2, 1), (6, 7, 2)];
    for &(entry, slot) in &entries {
        let mut raw = [0; 16];
        // SAFETY: inside the ring.
        unsafe { world.at(RING + slot * 16).copy_out(&mut raw) };
        let at = 32 + entry * 32;
        world.set(at + 24, &raw[..8]);
        world.set(at + 16, &[raw[12], raw[13], raw[14], raw[15], raw[8], raw[9], raw[10], raw[11]]);
    }
    for (counter, &(first, last, count)) in links.iter().enumerate() {
        let flag = u8::from(counter != 1);
        world.set(32 + first * 32, &[flag, 0, last as u8, 0, last as u8, 0, count, 0, counter as u8]);
    }
    // Free: 4, 5, 1, 3, and no more.
    for (entry, next) in [(4usize, 5u8), (5, 1), (1, 3), (3, 8)] {
        world.set(32 + entry * 32 + 2, &[next, 0]);
    }
    world.set(8, &[1, 0, 8, 0, 4, 0, 4, 0, 2, 0, 2, 0, 1, 1]);
    // The used descriptor of two lies where the ring began.
    // SAFETY: inside the ring.
    unsafe {
        let element = Element { len: 0, id: ids[1], flags: Position::START.used_flags() };
        world.at(RING).store_packed_element(0, element, Ordering::Release);
    }
    let (mut device, bad) = world.device(0);
    assert_eq!((device.next_avail(), bad), (0x8002, None));
    assert_eq!(device.discard(), Ok(3));
    assert!(device.publish());
    assert_eq!(all_back(&mut *driver), [ids[1], ids[0], ids[2], ids[3]]);
    assert_eq!(driver.free(), usize::from(SIZE));
}

#[test]
fn buffers_that_do_not_fit_are_refused() {
    let file: File = memfd_create("in-flight", MemfdFlags::CLOEXEC).unwrap().into();
    ftruncate(&file, 4096).unwrap();
    let alarm = Alarm::new().unwrap();
    let refused = |place, shape| InflightBuffer::map(&file, place, shape, &alarm).unwrap_err().to_string();
    assert!(refused((0, 8192), (2, 8)).contains("needs 0x2000 bytes"));
    assert!(refused((8, 64), (2, 8)).contains("not aligned"));
    assert!(refused((0, 64), (0, 8)).contains("0 rings of 8"));
    assert!(refused((0, 64), (1, 40000)).contains("1 rings of 40000"));
    // Rings that there is no room for are kept nowhere.
    let buffer = Arc::new(InflightBuffer::map(&file, (0, 384), (2, 8), &alarm).unwrap());
    assert!(buffer.region(0, true, 8).is_some());
    assert!(buffer.region(1, true, 8).is_none());
    assert!(buffer.region(1, false, 8).is_some());
    assert!(buffer.region(0, false, 16).is_none());
    assert!(buffer.region(2, false, 8).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Nothing in a buffer leads outside the ring.
    #[test]
    fn any_buffer_is_harmless(
        packed: bool,
        words in prop::collection::vec((0usize..36, prop_oneof![0u64..20, any::<u64>(), Just(1 | 9 << 16 | 1 << 48)]), 0..20),
        given in 0u64..5,
    ) {
        let world = World::new(packed);
        let (_driver, _) = world.driver(given);
        let first = if packed { 0x8000 } else { 0 };
        drop(world.device(first));
        for (word, value) in words {
            if (word + 1) * 8 <= stride(packed, SIZE) as usize {
                world.set(word * 8, &value.to_le_bytes());
            }
        }
        let [_, _, used] = world.places();
        let end = used + if packed { 4 } else { 4 + 8 * u64::from(SIZE) + 2 };
        let (mut device, _) = world.device(first);
        let _ = device.discard();
        let mut bytes = [0; 64];
        // SAFETY: inside the memory.
        unsafe { world.at(end.next_multiple_of(64)).copy_out(&mut bytes) };
        prop_assert_eq!(bytes, [0; 64]);
        // SAFETY: as above.
        unsafe { world.at(RING - 64).copy_out(&mut bytes) };
        prop_assert_eq!(bytes, [0; 64]);
    }
}

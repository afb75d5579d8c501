//! Devices that are killed, at every store, and their successors: whatever was given comes back exactly once.
//!
//! The device runs in the test's thread and is ended by [`kill::run`]; its ring's memory and the record stay, as they do when a
//! process dies. A driver of ours is the guest: it finds out itself when it is given back what it has not given.

use std::collections::VecDeque;
use std::fs::File;

use pmd::sys::sigbus::Alarm;
use pmd::virtio::SharedPtr;
use pmd::virtio::driver_ring::{Buffer, ChainRing, DriverRing, RingMemory};
use pmd::virtio::packed_driver_ring::PackedDriverRing;
use proptest::prelude::*;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::super::*;
use super::*;
use crate::memory::{MemTable, Region, RegionSpec};

const MEMORY: u64 = 1 << 20;
const RING: u64 = 0x1000;
const TABLES: u64 = 0x8_0000;
const BUFFERS: u64 = 0xc_0000;

/// What a guest does, whether or not it has a device.
#[derive(Clone, Debug)]
enum Guest {
    /// Gives chains of so many pieces, through a table or not.
    Give(Vec<(usize, bool)>),
    /// Takes back up to so many.
    TakeBack(usize),
}

#[derive(Clone, Debug)]
enum Step {
    Guest(Guest),
    /// The device takes up to so many chains, in a run or each by itself; then it shows them.
    Burst(u16, bool),
    /// It sleeps, waiting for a kick.
    Sleep,
    /// The same as a burst, but it is killed at this store. Then the guest goes on, and a successor starts, which may be killed
    /// in its turn at these stores. The front-end makes up a base.
    Die {
        burst: (u16, bool),
        stores: usize,
        meanwhile: Vec<Guest>,
        starts: Vec<usize>,
        base: u16,
    },
}

fn guest() -> impl Strategy<Value = Guest> {
    let shape = (1usize..5, any::<bool>());
    prop_oneof![
        prop::collection::vec(shape, 1..12).prop_map(Guest::Give),
        (1usize..40).prop_map(Guest::TakeBack),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let burst = || (1u16..33, any::<bool>());
    let base = prop_oneof![Just(0u16), Just(0x8000), any::<u16>()];
    let die = (
        burst(),
        0usize..150,
        prop::collection::vec(guest(), 0..4),
        prop::collection::vec(0usize..20, 0..3),
        base,
    );
    let step = prop_oneof![
        4 => guest().prop_map(Step::Guest),
        2 => burst().prop_map(|(n, run)| Step::Burst(n, run)),
        1 => Just(Step::Sleep),
        3 => die.prop_map(|(burst, stores, meanwhile, starts, base)| Step::Die { burst, stores, meanwhile, starts, base }),
    ];
    prop::collection::vec(step, 1..150)
}

/// Memory of a guest with one ring, and what outlives devices.
struct World {
    memory: Arc<MemTable>,
    file: Arc<RingFile>,
    /// If so, it is this alone that outlives devices.
    buffer: Option<Arc<InflightBuffer>>,
    size: u16,
    rules: RingRules,
}

impl World {
    fn new(size: u16, rules: RingRules) -> World {
        let file = Arc::new(RingFile::anonymous(1).unwrap());
        World { memory: memory(), file, buffer: None, size, rules }
    }

    fn addresses(&self) -> RingAddresses {
        let (_, avail, used) = if self.rules.packed {
            PackedDriverRing::layout(self.size)
        } else {
            DriverRing::layout(self.size)
        };
        RingAddresses { descriptors: RING, avail: RING + avail as u64, used: RING + used as u64 }
    }

    fn at(&self, gpa: u64) -> SharedPtr {
        self.memory.by_uva(gpa, 1).unwrap()
    }

    fn driver(&self) -> Box<dyn ChainRing> {
        let RingAddresses { descriptors, avail, used } = self.addresses();
        let memory =
            RingMemory { descriptors: self.at(descriptors), avail: self.at(avail), used: self.at(used) };
        let RingRules { event_idx, in_order, .. } = self.rules;
        // SAFETY: the parts lie in the table's memory, which outlives the ring in every test.
        unsafe {
            if self.rules.packed {
                Box::new(PackedDriverRing::new(memory, self.size, event_idx, in_order).unwrap())
            } else {
                Box::new(DriverRing::new(memory, self.size, event_idx).unwrap())
            }
        }
    }

    /// Starts a device, as a session does.
    fn device(&self, base: u16) -> DeviceRing {
        self.activate(base).unwrap().0
    }

    /// The same, with what was wrong with the record. `None` when the base is none of this ring.
    fn activate(&self, base: u16) -> Option<(DeviceRing, Option<BadRecord>)> {
        let config = RingConfig {
            size: Some(self.size),
            addresses: Some(self.addresses()),
            base,
            started: true,
            ..RingConfig::default()
        };
        if self.buffer.is_some() {
            self.file.forget(0);
        }
        let kept = Kept { file: &self.file, inflight: self.buffer.as_ref(), index: 0 };
        let made = config.activate(&self.memory, self.rules, kept, Resume::ByRecord);
        let Activated { mut ring, bad_record, .. } = made.ok()?.unwrap();
        if ring.next_used() != base {
            ring.rewind_to_used();
        }
        Some((ring, bad_record))
    }

    /// What the guest's memory of the ring holds.
    fn ring_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::from(self.size) * 16 + 16];
        // SAFETY: inside the memory.
        unsafe { self.at(RING).copy_out(&mut bytes) };
        bytes
    }
}

fn memory() -> Arc<MemTable> {
    let file: File = memfd_create("world", MemfdFlags::CLOEXEC).unwrap().into();
    ftruncate(&file, MEMORY).unwrap();
    let spec = RegionSpec { gpa: 0, len: MEMORY, uva: 0, offset: 0 };
    let region = Region::map(spec, &file, &Alarm::new().unwrap()).unwrap();
    Arc::new(MemTable::default().with(region).unwrap())
}

/// A guest and its devices, and what should be.
struct Play {
    world: World,
    driver: Box<dyn ChainRing>,
    device: DeviceRing,
    write: bool,
    /// Chains that no device has taken.
    waiting: VecDeque<u16>,
    /// Chains that were taken in a burst which may or may not have happened, and their bytes.
    open: VecDeque<(u16, u32)>,
    /// Chains that the guest can take back.
    shown: VecDeque<(u16, u32)>,
    given: u64,
}

impl Play {
    fn guest(&mut self, step: &Guest) {
        match step {
            Guest::Give(shapes) => {
                for &(pieces, table) in shapes {
                    self.give(pieces, table);
                }
                let _ = self.driver.publish();
            }
            Guest::TakeBack(n) => (0..*n).for_each(|_| self.take_back()),
        }
    }

    fn give(&mut self, pieces: usize, table: bool) {
        let buffer = Buffer { addr: BUFFERS, len: 20, write: self.write };
        let added = if table {
            // More tables than there can be chains.
            let at = TABLES + self.given % 1024 * 0x100;
            for index in 0..pieces {
                self.put_table_entry(at, index, index + 1 < pieces);
            }
            self.driver.add_indirect(at, pieces as u16)
        } else {
            self.driver.add(&vec![buffer; pieces])
        };
        self.waiting.extend(added);
        self.given += 1;
    }

    fn put_table_entry(&self, table: u64, index: usize, more: bool) {
        use pmd::virtio::split::{DESC_F_NEXT, Descriptor};
        let write = if self.write { DESC_F_WRITE } else { 0 };
        // SAFETY: at most five entries of a table with room for sixteen.
        unsafe {
            let at = self.world.at(table);
            if self.world.rules.packed {
                at.store_packed_addr(index, BUFFERS);
                at.store_packed_element(index, Element { len: 20, id: 0, flags: write }, Ordering::Relaxed);
            } else {
                let flags = write | if more { DESC_F_NEXT } else { 0 };
                at.store_descriptor(
                    index,
                    Descriptor { addr: BUFFERS, len: 20, flags, next: index as u16 + 1 },
                );
            }
        }
    }

    /// A burst of which the guest sees the first chain has happened, whole.
    fn take_back(&mut self) {
        let got = self.driver.poll_used().unwrap();
        if self.shown.is_empty() && got.is_some() {
            self.shown.append(&mut self.open);
        }
        assert_eq!(got, self.shown.pop_front());
    }

    /// Whether it was killed at one of its stores.
    fn burst(&mut self, n: u16, run: bool, stores: usize) -> bool {
        let Play { device, waiting, open, write, .. } = self;
        let done = kill::run(stores, || {
            match device {
                DeviceRing::Split(ring) => take(ring, n, run, *write, waiting, open),
                DeviceRing::Packed(ring) => take(ring, n, run, *write, waiting, open),
            }
            device.publish();
        });
        if done.is_some() {
            self.shown.append(&mut self.open);
        }
        done.is_none()
    }

    /// After a death: starts a successor.
    fn restart(&mut self, starts: &[usize], base: u16) {
        for &stores in starts {
            let _ = kill::run(stores, || self.world.device(base));
        }
        self.device = self.world.device(base);
        // Now it is decided whether the burst has happened; one look tells.
        let shown = self.shown.len();
        (0..shown).for_each(|_| self.take_back());
        match self.driver.poll_used().unwrap() {
            Some(got) => {
                assert_eq!(Some(got), self.open.pop_front());
                self.shown.append(&mut self.open);
            }
            None => {
                for (chain, _) in self.open.drain(..).rev() {
                    self.waiting.push_front(chain);
                }
            }
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Guest(step) => self.guest(step),
            &Step::Burst(n, run) => assert!(!self.burst(n, run, usize::MAX)),
            Step::Sleep => {
                let _ = self.device.arm();
            }
            Step::Die { burst: (n, run), stores, meanwhile, starts, base } => {
                self.burst(*n, *run, *stores);
                meanwhile.iter().for_each(|step| self.guest(step));
                self.restart(starts, *base);
            }
        }
    }
}

/// A burst of a device, up to what shows it.
fn take<R: Ring>(
    ring: &mut R,
    n: u16,
    run: bool,
    write: bool,
    waiting: &mut VecDeque<u16>,
    open: &mut VecDeque<(u16, u32)>,
) {
    let direction = if write { Direction::Write } else { Direction::Read };
    let len = |i: u16| if write { u32::from(i) + 1 } else { 0 };
    if run {
        let (ready, fault) = ring.ready(direction, 0, n);
        assert_eq!((usize::from(ready), fault), (waiting.len().min(n.into()), None));
        ring.make_room(n);
        for ahead in 0..ready {
            let chain = ring.chain(ahead);
            let given = waiting.pop_front().unwrap();
            assert_eq!(chain.head, given);
            open.push_back((given, len(ahead)));
            if write {
                ring.write_used(ahead, chain, len(ahead));
            }
        }
        if write {
            ring.complete_run(ready)
        } else {
            ring.complete_unwritten(ready)
        }
        ring.look_ahead(direction, 0);
        return;
    }
    for i in 0..n {
        let Some(chain) = ring.peek(&mut Cursor::default()).unwrap() else { break };
        let given = waiting.pop_front().unwrap();
        assert_eq!(chain.head, given);
        open.push_back((given, len(i)));
        ring.make_room(1);
        ring.complete(chain, len(i));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn all_that_is_given_comes_back_once_whenever_devices_die(
        packed in prop::bool::weighted(0.7),
        size in prop_oneof![1u16..9, 30u16..70, Just(256u16)],
        write: bool,
        event_idx: bool,
        in_order: bool,
        buffer: bool,
        steps in steps(),
    ) {
        let size = if packed { size } else { size.next_power_of_two() };
        // One used descriptor may stand for several chains: the driver's event positions mean something else then.
        let rules = RingRules { event_idx: event_idx && !in_order, indirect: true, packed, in_order };
        let mut world = World::new(size, rules);
        world.buffer = buffer.then(|| inflight::tests::buffer(size));
        let (driver, device) = (world.driver(), world.device(if packed { 0x8000 } else { 0 }));
        let (waiting, open, shown) = Default::default();
        let mut play = Play { driver, device, world, write, waiting, open, shown, given: 0 };
        play.driver.disable_interrupts();
        steps.iter().for_each(|step| play.step(step));
        // All comes back.
        for _ in 0..size {
            play.burst(32, false, usize::MAX);
        }
        prop_assert!(play.waiting.is_empty());
        (0..play.shown.len()).for_each(|_| play.take_back());
        prop_assert_eq!(play.driver.free(), usize::from(size));
        prop_assert_eq!(play.driver.poll_used(), Ok(None));
    }

    /// The file is input: nothing in it leads outside the ring, and what makes no sense is not followed.
    #[test]
    fn any_record_is_harmless(
        size in 1u16..100,
        words in prop::collection::vec((0usize..24, any::<u64>()), 0..6),
        from: u16, count in 0u16..4, to: u16,
        notes in prop::collection::vec((any::<u16>(), any::<u64>()), 4),
    ) {
        let rules = RingRules { packed: true, ..RingRules::default() };
        let world = World::new(size, rules);
        drop(world.device(0x8000));
        let record = world.file.record(0);
        let position = |bits: u16| Position::from_bits(bits & 0x8000 | ((bits & 0x7fff) % size));
        let progress = Progress { from: position(from), count, to: position(to) };
        record.starts[0].progress.store(progress.to_word(), Ordering::Relaxed);
        for (index, (at, element)) in notes.into_iter().enumerate() {
            record.positions[index].store(at, Ordering::Relaxed);
            record.elements[index].store(element, Ordering::Relaxed);
        }
        for (index, word) in words {
            // SAFETY: the first 24 words of the record: its number, both starts.
            unsafe { AtomicU64::from_ptr(std::ptr::from_ref(record).cast_mut().cast::<u64>().add(index)) }
                .store(word, Ordering::Relaxed);
        }
        let behind = world.at(RING + u64::from(size) * 16 + 16);
        if let Some((ring, bad)) = world.activate(0x8000) {
            let at = Position::from_bits(ring.next_avail());
            prop_assert!(at.slot() < size);
            prop_assert!(bad.is_none() || at == Position::START);
        }
        let mut bytes = [0; 64];
        // SAFETY: inside the memory.
        unsafe { behind.copy_out(&mut bytes) };
        prop_assert_eq!(bytes, [0; 64]);
    }
}

const PACKED: RingRules = RingRules { event_idx: false, indirect: false, packed: true, in_order: false };
const ONE: [Buffer; 1] = [Buffer { addr: BUFFERS, len: 20, write: false }];

/// A world whose device went on by three chains and died.
fn used_world() -> (World, Box<dyn ChainRing>) {
    let world = World::new(5, PACKED);
    let mut driver = world.driver();
    (0..3).for_each(|_| assert!(driver.add(&ONE).is_some()));
    let _ = driver.publish();
    let mut device = world.device(0x8000);
    assert_eq!(device.discard(), Ok(3));
    assert!(device.publish());
    (world, driver)
}

#[test]
fn what_is_kept_is_believed_of_the_same_ring_only() {
    let (world, _) = used_world();
    assert_eq!(world.device(0).next_avail(), 0x8003, "the front-end does not know");
    // And again, from the record of the one that has done nothing.
    assert_eq!(world.device(0x8000).next_avail(), 0x8003);

    let (world, _) = used_world();
    let other = World { memory: memory(), ..world };
    assert_eq!(other.device(0x8001).next_avail(), 0x8001, "another file");

    let (world, _) = used_world();
    let other = World { size: 4, ..world };
    assert_eq!(other.device(0x8001).next_avail(), 0x8001, "another size");

    let (world, _) = used_world();
    let other = World { rules: RingRules { in_order: true, ..PACKED }, ..world };
    assert_eq!(other.device(0x8001).next_avail(), 0x8001, "other rules");

    let (world, _) = used_world();
    world.file.forget(0);
    assert_eq!(world.device(0x8001).next_avail(), 0x8001, "the front-end has been told");
}

#[test]
fn a_ring_that_its_driver_has_made_anew_is_at_its_start() {
    for armed in [false, true] {
        let (world, _) = used_world();
        let mut device = world.device(0);
        if armed {
            let _ = device.arm();
        }
        let zeros = vec![0; world.ring_bytes().len()];
        // SAFETY: inside the memory.
        unsafe { world.at(RING).copy_in(&zeros) };
        assert_eq!(world.device(0).next_avail(), 0x8000, "whatever the front-end says");
        // Also when it has filled it already.
        let mut driver = world.driver();
        (0..5).for_each(|_| assert!(driver.add(&ONE).is_some()));
        let _ = driver.publish();
        assert_eq!(world.device(0).discard(), Ok(5));
    }
}

#[test]
fn a_ring_that_another_device_has_run_meanwhile_is_left_to_the_front_end() {
    let (world, mut driver) = used_world();
    assert!(driver.add(&ONE).is_some());
    let _ = driver.publish();
    let at = Position::from_bits(0x8003);
    // SAFETY: inside the ring.
    unsafe {
        let element = Element { len: 0, id: 3, flags: at.used_flags() };
        world.at(RING).store_packed_element(3, element, Ordering::Release);
    }
    let (ring, bad) = world.activate(0x8004).unwrap();
    assert_eq!((ring.next_avail(), bad), (0x8004, Some(BadRecord::Overtaken)));
}

/// A burst of more chains than can be noted is shown in parts.
#[test]
fn bursts_of_any_length_are_shown() {
    let world = World::new(2000, PACKED);
    let mut driver = world.driver();
    (0..2000).for_each(|_| assert!(driver.add(&ONE).is_some()));
    let _ = driver.publish();
    let mut device = world.device(0x8000);
    assert_eq!(device.discard(), Ok(2000));
    assert!(device.publish() && !device.publish());
    assert_eq!(std::iter::from_fn(|| driver.poll_used().unwrap()).count(), 2000);
}

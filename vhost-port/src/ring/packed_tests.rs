//! The packed ring's device side against [`PackedDriverRing`] over the same memory: any size, any shape of chain, any order of
//! steps. Then rings that no driver makes.
#![expect(unsafe_code, reason = "the guest writes its memory")]

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use pmd::sys::sigbus::Alarm;
use pmd::virtio::SharedPtr;
use pmd::virtio::driver_ring::{Buffer, ChainRing, RingMemory};
use pmd::virtio::packed::{Element, Position};
use pmd::virtio::packed_driver_ring::PackedDriverRing;
use pmd::virtio::split::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE};
use proptest::prelude::*;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::packed::PackedRing;
use super::*;
use crate::memory::{MemTable, Region, RegionSpec};

const MEMORY: u64 = 1 << 20;
/// Where the ring lies, where indirect tables (more than there can be chains), and where buffers.
const RING: u64 = 0x1000;
const TABLES: u64 = 0x4_0000;
const TABLE: u64 = 0x100;
const BUFFERS: u64 = 0x8_0000;

struct Twin {
    memory: Arc<MemTable>,
    size: u16,
}

impl Twin {
    fn new(size: u16) -> Twin {
        let file: File = memfd_create("twin", MemfdFlags::CLOEXEC).unwrap().into();
        ftruncate(&file, MEMORY).unwrap();
        let spec = RegionSpec { gpa: 0, len: MEMORY, uva: 0, offset: 0 };
        let region = Region::map(spec, &file, &Alarm::new().unwrap()).unwrap();
        Twin { memory: Arc::new(MemTable::default().with(region).unwrap()), size }
    }

    fn at(&self, gpa: u64) -> SharedPtr {
        self.memory.by_uva(gpa, 1).unwrap()
    }

    fn addresses(&self) -> RingAddresses {
        let (_, avail, used) = PackedDriverRing::layout(self.size);
        RingAddresses { descriptors: RING, avail: RING + avail as u64, used: RING + used as u64 }
    }

    fn driver(&self, event_idx: bool, in_order: bool) -> PackedDriverRing {
        let RingAddresses { descriptors, avail, used } = self.addresses();
        let memory =
            RingMemory { descriptors: self.at(descriptors), avail: self.at(avail), used: self.at(used) };
        // SAFETY: the parts lie in the table's memory, which outlives the ring in every test.
        unsafe { PackedDriverRing::new(memory, self.size, event_idx, in_order) }.unwrap()
    }

    fn device(&self, rules: RingRules, base: Position) -> PackedRing {
        let config = RingConfig {
            size: Some(self.size),
            addresses: Some(self.addresses()),
            base: base.bits(),
            started: true,
            ..RingConfig::default()
        };
        let rules = RingRules { packed: true, ..rules };
        let DeviceRing::Packed(ring) = config.started_for_test(&self.memory, rules) else {
            panic!("a packed ring was asked for");
        };
        ring
    }

    /// Writes a descriptor as it is.
    fn put(&self, slot: u16, addr: u64, element: Element) {
        // SAFETY: the slot lies inside the ring.
        unsafe {
            let ring = self.at(RING);
            ring.store_packed_addr(slot.into(), addr);
            ring.store_packed_element(slot.into(), element, Ordering::Release);
        }
    }

    /// Writes an indirect table. The NEXT flags in it mean nothing.
    fn put_table(&self, number: u64, buffers: &[Buffer]) -> u64 {
        let at = TABLES + number % 1024 * TABLE;
        for (index, buffer) in buffers.iter().enumerate() {
            let write = if buffer.write { DESC_F_WRITE } else { 0 };
            let element = Element { len: buffer.len, id: 77, flags: write | DESC_F_NEXT };
            // SAFETY: at most sixteen entries: inside the table.
            unsafe {
                self.at(at).store_packed_addr(index, buffer.addr);
                self.at(at).store_packed_element(index, element, Ordering::Relaxed);
            }
        }
        at
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// The driver adds chains of so many pieces, through a table or not, and publishes them.
    Add(Vec<(usize, bool)>),
    /// The device takes up to so many chains, known ones in a run or each by itself.
    Take(u16, bool),
    /// The device shows what it has completed, and decides whether to interrupt.
    Publish,
    /// The driver takes up to so many used chains.
    Poll(usize),
    /// The driver wants interrupts, or not.
    Interrupts(bool),
    /// The device wants kicks, or not.
    Kicks(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let shape = (1usize..5, any::<bool>());
    let step = prop_oneof![
        3 => prop::collection::vec(shape, 1..12).prop_map(Step::Add),
        3 => (1u16..40, any::<bool>()).prop_map(|(n, run)| Step::Take(n, run)),
        2 => Just(Step::Publish),
        3 => (1usize..40).prop_map(Step::Poll),
        1 => any::<bool>().prop_map(Step::Interrupts),
        1 => any::<bool>().prop_map(Step::Kicks),
    ];
    prop::collection::vec(step, 1..300)
}

/// What a side has said of notifications, and at which chain.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Wish {
    Never,
    Always,
    /// When this descriptor is passed, counted from the ring's start; also every two rounds later, when its position comes again.
    At(u64),
}

impl Wish {
    fn new(on: bool, event_idx: bool, at: u64) -> Wish {
        match (on, event_idx) {
            (false, _) => Wish::Never,
            (true, false) => Wish::Always,
            (true, true) => Wish::At(at),
        }
    }

    fn met(self, from: u64, to: u64, size: u16) -> bool {
        match self {
            Wish::Never => false,
            Wish::Always => to > from,
            Wish::At(at) => {
                let rounds = 2 * u64::from(size);
                (from..to).any(|passed| passed % rounds == at % rounds)
            }
        }
    }
}

/// Both sides, and what should be.
struct Play {
    twin: Twin,
    driver: PackedDriverRing,
    device: PackedRing,
    direction: Direction,
    rules: RingRules,
    /// Chains that the device has not taken: id and pieces.
    waiting: VecDeque<(u16, Vec<(usize, u32)>)>,
    /// Chains that the driver has not got back: id, bytes, descriptors. Those before `shown` it can.
    used: VecDeque<(u16, u32, u16)>,
    shown: usize,
    /// Counts of descriptors: added, completed, got back; completed at the last decision.
    counts: [u64; 4],
    interrupts: Wish,
    kicks: Wish,
    /// Descriptors by id.
    descriptors: Vec<u16>,
    stamp: u64,
    /// Chains added.
    tables: u64,
}

impl Play {
    fn add(&mut self, shapes: &[(usize, bool)]) {
        let before = self.counts[0];
        for &(pieces, table) in shapes {
            let buffers: Vec<Buffer> = (0..pieces)
                .map(|_| {
                    self.stamp += 1;
                    let addr = BUFFERS + self.stamp * 64 % 0x4_0000;
                    Buffer {
                        addr,
                        len: 12 + (self.stamp % 50) as u32,
                        write: self.direction == Direction::Write,
                    }
                })
                .collect();
            let added = if table {
                let at = self.twin.put_table(self.tables, &buffers);
                self.driver.add_indirect(at, pieces as u16)
            } else {
                self.driver.add(&buffers)
            };
            let needed = if table { 1 } else { pieces as u16 };
            let Some(id) = added else { break };
            self.descriptors[usize::from(id)] = needed;
            let pieces = buffers.iter().map(|b| (self.twin.at(b.addr).addr(), b.len)).collect();
            self.waiting.push_back((id, pieces));
            self.counts[0] += u64::from(needed);
            self.tables += 1;
        }
        let kick = self.driver.publish();
        // A whole ring at once passes every position, also the one where it ends.
        let (size, moved) = (self.twin.size, self.counts[0] - before);
        if moved < u64::from(size) && moved > 0 {
            assert_eq!(kick, self.kicks.met(before, self.counts[0], size));
        }
    }

    /// Checks a chain against what was added, and notes what is written into it.
    fn check(&mut self, chain: Extent, known: Option<Chain>, len: u32) {
        let (id, expected) = self.waiting.pop_front().expect("no more than was added");
        assert_eq!(chain.head, id);
        let pieces: Vec<(usize, u32)> = match known.and_then(|known| Some((known.start?, known.len))) {
            Some((start, len)) => vec![(start.addr(), len)],
            None => {
                self.device.forget_segments();
                let bytes = self.device.walk(chain, self.direction).unwrap();
                assert_eq!(bytes, expected.iter().map(|p| p.1).sum::<u32>());
                self.device.segments().iter().map(|s| (s.start.addr(), s.len)).collect()
            }
        };
        assert_eq!(pieces, expected);
        self.used.push_back((id, len, self.descriptors[usize::from(id)]));
        self.counts[1] += u64::from(self.descriptors[usize::from(id)]);
    }

    fn take(&mut self, n: u16, run: bool) {
        let write = self.direction == Direction::Write;
        let len = |i: u16| if write { u32::from(i) + 1 } else { 0 };
        if run {
            let n = n.min(32);
            let (ready, fault) = self.device.ready(self.direction, 0, n);
            assert_eq!((usize::from(ready), fault), (self.waiting.len().min(n.into()), None));
            for ahead in 0..ready {
                let chain = self.device.chain(ahead);
                self.check(self.device.extent(ahead), Some(chain), len(ahead));
                if write {
                    self.device.write_used(ahead, chain, len(ahead));
                }
            }
            if write {
                self.device.complete_run(ready);
            } else {
                self.device.complete_unwritten(ready);
            }
            self.device.look_ahead(self.direction, 0);
            return;
        }
        // As a frame over several chains does: all are walked before the first is taken.
        let (mut cursor, mut chains) = (Cursor::default(), Vec::new());
        while chains.len() < usize::from(n)
            && let Some(chain) = self.device.peek(&mut cursor).unwrap()
        {
            chains.push(chain);
        }
        assert_eq!(chains.len(), self.waiting.len().min(n.into()));
        for (i, chain) in chains.into_iter().enumerate() {
            self.check(chain, None, len(i as u16));
            self.device.complete(chain, len(i as u16));
        }
    }

    fn publish(&mut self) {
        assert_eq!(self.device.publish(), self.shown < self.used.len());
        self.shown = self.used.len();
        let [_, completed, _, decided] = self.counts;
        let wanted = self.device.wants_notice();
        let size = self.twin.size;
        if completed - decided < u64::from(size) {
            assert_eq!(wanted, self.interrupts.met(decided, completed, size));
        }
        self.counts[3] = completed;
    }

    fn poll(&mut self, n: usize) {
        for _ in 0..n {
            let expected = (self.shown > 0).then(|| self.used[0]).map(|(id, len, _)| (id, len));
            assert_eq!(self.driver.poll_used().unwrap(), expected);
            if expected.is_none() {
                break;
            }
            let got = self.used.pop_front().map(|(_, _, descriptors)| descriptors);
            self.shown -= 1;
            self.counts[2] += u64::from(got.unwrap_or_default());
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Add(ref shapes) => self.add(shapes),
            Step::Take(n, run) => self.take(n, run),
            Step::Publish => self.publish(),
            Step::Poll(n) => self.poll(n),
            Step::Interrupts(on) => {
                if on {
                    assert_eq!(self.driver.enable_interrupts(), self.shown > 0);
                } else {
                    self.driver.disable_interrupts();
                }
                self.interrupts = Wish::new(on, self.rules.event_idx, self.counts[2]);
            }
            Step::Kicks(on) => {
                if on {
                    assert_eq!(self.device.arm(), !self.waiting.is_empty());
                } else {
                    self.device.disarm();
                }
                // It asks for the chain after those it has seen.
                let ahead = self.device.ahead.at.since(self.device.next, self.twin.size);
                let seen = self.counts[1] + u64::from(ahead);
                self.kicks = Wish::new(on, self.rules.event_idx, seen);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn device_and_driver_agree(
        size in prop_oneof![1u16..9, 30u16..70, Just(256u16), Just(1000u16)],
        write: bool,
        event_idx: bool,
        steps in steps(),
    ) {
        let rules = RingRules { event_idx, indirect: true, packed: true, in_order: false };
        play(size, write, rules, &steps);
    }

    /// One used descriptor may stand for several chains; the driver's position goes over all of them then.
    #[test]
    fn device_and_driver_agree_in_order(
        size in prop_oneof![1u16..9, 30u16..70],
        write: bool,
        steps in steps(),
    ) {
        let rules = RingRules { event_idx: false, indirect: true, packed: true, in_order: true };
        let steps: Vec<Step> = steps.into_iter().filter(|s| !matches!(s, Step::Interrupts(true))).collect();
        play(size, write, rules, &steps);
    }
}

fn play(size: u16, write: bool, rules: RingRules, steps: &[Step]) {
    let twin = Twin::new(size);
    let device = twin.device(rules, Position::START);
    let mut driver = twin.driver(rules.event_idx, rules.in_order);
    driver.disable_interrupts();
    let mut play = Play {
        driver,
        device,
        twin,
        direction: if write { Direction::Write } else { Direction::Read },
        rules,
        waiting: VecDeque::new(),
        used: VecDeque::new(),
        shown: 0,
        counts: [0; 4],
        tables: 0,
        interrupts: Wish::Never,
        kicks: Wish::Never,
        descriptors: vec![0; usize::from(size)],
        stamp: 0,
    };
    steps.iter().for_each(|step| play.step(step));
    // All comes back.
    play.take(u16::MAX, false);
    play.publish();
    play.poll(usize::MAX);
    assert_eq!(play.driver.free(), usize::from(size));
    assert!(play.used.is_empty() && play.waiting.is_empty());
    assert_eq!(play.device.next_avail(), play.driver.position().bits());
}

/// The fault of a ring of four with these descriptors: flags beyond those that make them available, and bytes.
fn fault_of(descriptors: &[(u64, u32, u16)], indirect: bool) -> Option<RingFault> {
    let twin = Twin::new(4);
    for (slot, &(addr, len, flags)) in descriptors.iter().enumerate() {
        let at = Position::START.advanced(slot as u16, 4);
        twin.put(slot as u16, addr, Element { len, id: 9, flags: flags | at.avail_flags() });
    }
    let mut ring = twin.device(RingRules { indirect, ..RingRules::default() }, Position::START);
    let (ready, fault) = ring.ready(Direction::Read, 0, 1);
    if ready == 0 {
        return fault;
    }
    let chain = ring.chain(0);
    assert_eq!(chain.head, 9, "an id is given back as it came");
    if chain.start.is_some() { None } else { ring.walk(ring.extent(0), Direction::Read).err() }
}

#[test]
fn chains_that_no_driver_makes_are_faults() {
    let good = (BUFFERS, 60, 0);
    let next = |(addr, len, flags)| (addr, len, flags | DESC_F_NEXT);
    assert_eq!(fault_of(&[good], true), None);
    assert_eq!(fault_of(&[next(good), good], true), None);
    assert_eq!(fault_of(&[next(good)], true), Some(RingFault::ChainCut));
    assert_eq!(fault_of(&[next(good); 4], true), Some(RingFault::ChainTooLong));
    assert_eq!(fault_of(&[(BUFFERS, 60, DESC_F_WRITE)], true), Some(RingFault::WrongDirection));
    assert_eq!(fault_of(&[next(good), (BUFFERS, 60, DESC_F_WRITE)], true), Some(RingFault::WrongDirection));
    assert_eq!(fault_of(&[(MEMORY - 8, 60, 0)], true), Some(RingFault::OutsideMemory));
    assert_eq!(fault_of(&[(BUFFERS, u32::MAX, 0)], true), Some(RingFault::ChainTooLarge));
    assert_eq!(fault_of(&[(u64::MAX, 1, 0)], true), Some(RingFault::OutsideMemory));
    assert_eq!(fault_of(&[next((BUFFERS, 4, 0)), (BUFFERS, 5, 0)], true), Some(RingFault::NoHeader));
    let table = |len| (TABLES, len, DESC_F_INDIRECT);
    assert_eq!(fault_of(&[table(32)], false), Some(RingFault::BadIndirect));
    assert_eq!(fault_of(&[table(0)], true), Some(RingFault::BadIndirect));
    assert_eq!(fault_of(&[table(24)], true), Some(RingFault::BadIndirect));
    assert_eq!(fault_of(&[next(table(32)), good], true), Some(RingFault::BadIndirect));
    assert_eq!(fault_of(&[next(good), table(32)], true), Some(RingFault::BadIndirect));
    // A table of zeros: buffers of no bytes.
    assert_eq!(fault_of(&[table(32)], true), Some(RingFault::NoHeader));
    assert_eq!(fault_of(&[(MEMORY - 16, 32, DESC_F_INDIRECT)], true), Some(RingFault::OutsideMemory));
}

/// DPDK's driver leaves the flag set in tables of what it sends; back-ends that look at it do not work with it.
#[test]
fn write_flags_in_the_tables_of_what_is_sent_are_ignored() {
    let twin = Twin::new(4);
    let buffers: Vec<Buffer> =
        (0..3).map(|i| Buffer { addr: BUFFERS + i * 64, len: 20, write: i != 1 }).collect();
    let at = twin.put_table(0, &buffers);
    let mut driver = twin.driver(false, false);
    driver.add_indirect(at, 3).unwrap();
    let _ = driver.publish();
    let mut ring = twin.device(RingRules { indirect: true, ..RingRules::default() }, Position::START);
    assert_eq!(ring.ready(Direction::Read, 0, 1), (1, None));
    assert_eq!(ring.walk(ring.extent(0), Direction::Read), Ok(60));
    assert_eq!(ring.walk(ring.extent(0), Direction::Write), Err(RingFault::WrongDirection));
}

#[test]
fn what_a_front_end_may_say_of_a_packed_ring() {
    for size in [1, 3, 48, 32768] {
        assert_eq!(checked_size(size, true), Ok(size as u16));
    }
    for size in [0, 32769, 65536 + 4] {
        assert!(checked_size(size, true).is_err());
    }
    assert!(checked_size(48, false).is_err());
    let twin = Twin::new(5);
    let config = |base: u16, packed_only: u64| RingConfig {
        size: Some(5),
        addresses: Some(RingAddresses { avail: RING + 0x100 + packed_only, ..twin.addresses() }),
        base,
        started: true,
        ..RingConfig::default()
    };
    let rules = RingRules { packed: true, ..RingRules::default() };
    let file = Arc::new(RingFile::anonymous(1).unwrap());
    let start = |config: RingConfig, rules| {
        config.activate(&twin.memory, rules, Kept { file: &file, inflight: None, index: 0 }, Resume::ByRecord)
    };
    assert!(start(config(0x8005, 0), rules).is_err(), "beyond the ring");
    assert!(start(config(0x8000, 2), rules).is_err(), "unaligned");
    assert!(start(config(0x8004, 0), rules).is_ok());
    // Features came after the size: five is no size of a split ring.
    assert!(start(config(0, 0), RingRules::default()).is_err());
}

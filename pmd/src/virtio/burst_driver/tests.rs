//! The burst ring against a device written the naive way, and beside the plain driver ring.

use core::ptr::NonNull;
use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::virtio::SharedPtr;
use crate::virtio::driver_ring::{Buffer, DriverRing};
use crate::virtio::split::UsedElement;

const GUEST: u64 = 0x4000_0000;
const STRIDE: u32 = 128;
const HEADROOM: u32 = 52;
const CAPACITY: u32 = 76;

/// Memory of one ring with its buffers.
struct Memory {
    bytes: Vec<[u64; 8]>,
    size: u16,
}

impl Memory {
    fn new(size: u16) -> Memory {
        let bytes = Self::buffers_at(size) + usize::from(size) * STRIDE as usize;
        Memory { bytes: vec![[0; 8]; bytes.div_ceil(64)], size }
    }

    fn buffers_at(size: u16) -> usize {
        BurstRing::layout(size).0.next_multiple_of(64)
    }

    fn at(&mut self, offset: usize) -> SharedPtr {
        assert!(offset < self.bytes.len() * 64);
        // SAFETY: inside the vector, which is never resized.
        unsafe { SharedPtr::new(NonNull::from(self.bytes.as_mut_slice()).cast()).add(offset) }
    }

    fn parts(&mut self) -> RingMemory {
        let (_, avail, used) = BurstRing::layout(self.size);
        RingMemory { descriptors: self.at(0), avail: self.at(avail), used: self.at(used) }
    }

    fn ring(&mut self, direction: Direction, count: u16, event_idx: bool) -> BurstRing {
        let buffers = Buffers {
            start: self.at(Self::buffers_at(self.size)),
            guest: GUEST,
            stride: STRIDE,
            headroom: HEADROOM,
            capacity: CAPACITY,
            count,
        };
        // SAFETY: all parts lie inside the vector, which outlives the ring in every test.
        unsafe { BurstRing::new(self.parts(), self.size, direction, buffers, event_idx) }.unwrap()
    }
}

/// A device that keeps what it was given in a list and uses it in any order.
struct Device {
    parts: RingMemory,
    size: u16,
    taken: u16,
    used: u16,
    has: VecDeque<Descriptor>,
    ids: VecDeque<u16>,
}

impl Device {
    fn new(parts: RingMemory, size: u16) -> Device {
        Device { parts, size, taken: 0, used: 0, has: VecDeque::new(), ids: VecDeque::new() }
    }

    fn take_all(&mut self) {
        // SAFETY: offsets inside the rings of the test.
        unsafe {
            let idx = self.parts.avail.load_u16(IDX, Ordering::Acquire);
            while self.taken != idx {
                let at = RING + usize::from(self.taken % self.size) * 2;
                let id = self.parts.avail.load_u16(at, Ordering::Relaxed);
                assert!(!self.ids.contains(&id), "the driver gave buffer {id} twice");
                self.ids.push_back(id);
                self.has.push_back(self.parts.descriptors.load_descriptor(usize::from(id)));
                self.taken = self.taken.wrapping_add(1);
            }
        }
    }

    /// Uses the n-th of the buffers it has.
    fn use_one(&mut self, n: usize, len: u32) -> Option<(u16, Descriptor)> {
        let n = n.checked_rem(self.ids.len())?;
        let (id, descriptor) = (self.ids.remove(n)?, self.has.remove(n)?);
        self.give(u32::from(id), len);
        Some((id, descriptor))
    }

    fn give(&mut self, id: u32, len: u32) {
        // SAFETY: offsets inside the rings of the test.
        unsafe {
            let at = RING + usize::from(self.used % self.size) * 8;
            self.parts.used.store_used(at, UsedElement { id, len });
            self.used = self.used.wrapping_add(1);
            self.parts.used.store_u16(IDX, self.used, Ordering::Release);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Send(u16),
    Use(usize),
    Take(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0u16..20).prop_map(Step::Send),
        (0usize..64).prop_map(Step::Use),
        (0u16..20).prop_map(Step::Take),
    ];
    proptest::collection::vec(step, 0..400)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever order the device uses buffers in: what is sent arrives, what comes back is what was used, in that
    /// order, and nothing is lost or given twice.
    #[test]
    fn nothing_lost_or_doubled(steps in steps(), order in 0u32..5, fewer in 0u32..3) {
        let size = 1u16 << order;
        let count = (size >> fewer).max(1);
        let mut memory = Memory::new(size);
        let parts = memory.parts();
        let mut ring = memory.ring(Direction::ToDevice, count, false);
        // The plain driver's ring goes through the same: as many fit, as many come back.
        let mut plain_memory = Memory::new(size);
        let plain_parts = plain_memory.parts();
        // SAFETY: the parts lie inside the vector above.
        let mut plain = unsafe { DriverRing::new(plain_parts, size, false) }.unwrap();
        let mut device = Device::new(parts, size);
        let mut plain_device = Device::new(plain_parts, size);
        let (mut stamp, mut sent, mut used) = (0u32, VecDeque::new(), VecDeque::new());
        for step in steps {
            match step {
                Step::Send(n) => {
                    let expected = n.min(ring.free());
                    let staged = ring.stage(n, |view| {
                        view.write(0, stamp.to_le_bytes());
                        view.set_len(4 + stamp % 64);
                        sent.push_back(stamp);
                        stamp += 1;
                    });
                    prop_assert_eq!(staged, expected);
                    for _ in 0..staged {
                        plain.add(&[Buffer { addr: GUEST, len: 1, write: false }]).unwrap();
                    }
                    let kick = plain.publish();
                    prop_assert_eq!(ring.publish(), kick && staged > 0);
                    device.take_all();
                    plain_device.take_all();
                    for (id, descriptor) in device.ids.iter().zip(&device.has).rev().take(staged.into()).rev() {
                        let stamp = sent.pop_front().unwrap();
                        let addr = GUEST + u64::from(id * STRIDE as u16) + u64::from(HEADROOM);
                        prop_assert_eq!(*descriptor, Descriptor { addr, len: 4 + stamp % 64, flags: 0, next: 0 });
                    }
                }
                Step::Use(n) => {
                    let len = stamp;
                    used.extend(device.use_one(n, len).map(|(id, _)| (id, len)));
                    plain_device.use_one(n, len);
                }
                Step::Take(n) => {
                    let before = used.len();
                    let mut seen = Vec::new();
                    let taken = ring.take_used::<1>(n, |view, len| seen.push((view.read::<4>(0), len))).unwrap();
                    prop_assert_eq!(usize::from(taken), before.min(n.into()));
                    for (_, len) in &seen {
                        let (_, expected) = used.pop_front().unwrap();
                        prop_assert_eq!(*len, expected);
                        prop_assert_eq!(plain.poll_used().unwrap().unwrap().1, expected);
                    }
                }
            }
            prop_assert_eq!(usize::from(ring.free()), usize::from(count) - device.ids.len() - used.len());
            prop_assert_eq!(usize::from(ring.outstanding()), device.ids.len() + used.len());
            prop_assert_eq!(plain.free(), usize::from(size - ring.outstanding()));
        }
    }

    /// Kicks by index are those the plain ring asks for.
    #[test]
    fn kicks_follow_the_event_index(bursts in proptest::collection::vec((1u16..8, any::<bool>()), 1..200)) {
        let size = 16;
        let (mut fast_memory, mut plain_memory) = (Memory::new(size), Memory::new(size));
        let (fast_parts, plain_parts) = (fast_memory.parts(), plain_memory.parts());
        let mut fast = fast_memory.ring(Direction::ToDevice, size, true);
        // SAFETY: the parts lie inside the vector above.
        let mut plain = unsafe { DriverRing::new(plain_parts, size, true) }.unwrap();
        let (mut fast_device, mut plain_device) =
            (Device::new(fast_parts, size), Device::new(plain_parts, size));
        for (n, wants_kick) in bursts {
            let event = if wants_kick { fast_device.taken } else { fast_device.taken.wrapping_sub(1) };
            for parts in [&fast_parts, &plain_parts] {
                // SAFETY: avail_event lies inside the used ring.
                unsafe { parts.used.store_u16(RING + usize::from(size) * 8, event, Ordering::Relaxed) };
            }
            let staged = fast.stage_unchanged(n);
            for _ in 0..staged {
                plain.add(&[Buffer { addr: GUEST, len: 1, write: false }]).unwrap();
            }
            let kick = fast.publish();
            prop_assert_eq!(kick, plain.publish());
            prop_assert_eq!(kick, wants_kick && staged > 0);
            for device in [&mut fast_device, &mut plain_device] {
                device.take_all();
                while device.use_one(0, 0).is_some() {}
            }
            prop_assert_eq!(fast.reclaim(u16::MAX), Ok(staged));
            while plain.poll_used().unwrap().is_some() {}
        }
    }
}

#[test]
fn a_device_that_keeps_order_moves_no_avail_entry() {
    let mut memory = Memory::new(8);
    let parts = memory.parts();
    let mut ring = memory.ring(Direction::FromDevice, 8, false);
    let mut device = Device::new(parts, 8);
    for _ in 0..100 {
        ring.stage_unchanged(5);
        assert!(ring.publish());
        device.take_all();
        while let Some((_, descriptor)) = device.use_one(0, 1) {
            assert_eq!((descriptor.flags, descriptor.len), (DESC_F_WRITE, CAPACITY));
        }
        assert_eq!(ring.reclaim(32), Ok(5));
        for entry in 0..8u16 {
            // SAFETY: the entry lies inside the avail ring.
            let id = unsafe { parts.avail.load_u16(RING + usize::from(entry) * 2, Ordering::Relaxed) };
            assert_eq!(id, entry);
        }
    }
}

#[test]
fn a_device_that_lies_is_found_out() {
    let mut memory = Memory::new(4);
    let parts = memory.parts();
    let mut ring = memory.ring(Direction::ToDevice, 4, false);
    let mut device = Device::new(parts, 4);
    device.give(0, 0);
    assert_eq!(ring.reclaim(4), Err(BadDevice::TooMany { returned: 1, given: 0 }));
    ring.stage_unchanged(2);
    assert!(ring.publish());
    assert_eq!(ring.reclaim(1), Ok(1));
    device.give(4, 0);
    assert_eq!(ring.reclaim(4), Err(BadDevice::NoSuchBuffer { id: 4, count: 4 }));
}

#[test]
fn a_ring_that_makes_no_sense_is_refused() {
    let mut memory = Memory::new(8);
    let start = memory.at(0);
    let good =
        Buffers { start, guest: GUEST, stride: STRIDE, headroom: HEADROOM, capacity: CAPACITY, count: 8 };
    for (size, buffers) in [
        (7, good),
        (4, good),
        (8, Buffers { count: 3, ..good }),
        (8, Buffers { count: 0, ..good }),
        (8, Buffers { capacity: 77, ..good }),
    ] {
        // SAFETY: refused before anything is written.
        let ring = unsafe { BurstRing::new(memory.parts(), size, Direction::ToDevice, buffers, false) };
        assert!(ring.is_none(), "{size} {buffers:?}");
    }
}

#[test]
#[should_panic(expected = "outside the buffer")]
fn offsets_are_checked() {
    let mut memory = Memory::new(8);
    let mut ring = memory.ring(Direction::ToDevice, 8, false);
    ring.stage(1, |view| view.write(CAPACITY as usize - 3, [0; 4]));
}

/// Asked after several bursts, the wish counts for all of them.
#[test]
fn a_wish_for_the_first_of_two_bursts_is_not_missed() {
    let mut memory = Memory::new(4);
    let mut device = Device::new(memory.parts(), 4);
    // The device's event index is zero: it waits for the first buffer.
    let mut ring = memory.ring(Direction::ToDevice, 4, true);
    for _ in 0..2 {
        ring.stage_unchanged(1);
        ring.show();
    }
    device.take_all();
    assert_eq!(device.has.len(), 2, "what was shown is there, asked or not");
    assert!(ring.wants_kick());
    assert!(!ring.wants_kick(), "nothing was shown since");
}

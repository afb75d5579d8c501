//! The packed burst ring against a device written the naive way.

use core::ptr::NonNull;
use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::virtio::SharedPtr;
use crate::virtio::packed::{EVENT_F_DESC, EVENT_FLAGS, EVENT_OFF_WRAP, Element, Position};

const GUEST: u64 = 0x4000_0000;
const STRIDE: u32 = 128;
const HEADROOM: u32 = 52;
const CAPACITY: u32 = 76;

/// Memory of one ring with its buffers, and a device on it that uses what it was given in any order.
struct Device {
    bytes: Vec<[u64; 8]>,
    size: u16,
    next: Position,
    used: Position,
    /// Id, address and bytes.
    has: Vec<(u16, u64, u32)>,
}

impl Device {
    fn new(size: u16) -> Device {
        let len = Self::buffers_at(size) + usize::from(size) * STRIDE as usize;
        let (next, used) = (Position::START, Position::START);
        Device { bytes: vec![[0; 8]; len.div_ceil(64)], size, next, used, has: Vec::new() }
    }

    fn buffers_at(size: u16) -> usize {
        PackedBurstRing::layout(size).0.next_multiple_of(64)
    }

    fn at(&mut self, offset: usize) -> SharedPtr {
        assert!(offset < self.bytes.len() * 64);
        // SAFETY: inside the vector, which is never resized.
        unsafe { SharedPtr::new(NonNull::from(self.bytes.as_mut_slice()).cast()).add(offset) }
    }

    fn driver(&mut self, direction: Direction, count: u16) -> PackedBurstRing {
        self.driver_of(direction, count, false)
    }

    fn driver_of(&mut self, direction: Direction, count: u16, event_idx: bool) -> PackedBurstRing {
        let (_, avail, used) = PackedBurstRing::layout(self.size);
        let memory = RingMemory { descriptors: self.at(0), avail: self.at(avail), used: self.at(used) };
        let start = self.at(Self::buffers_at(self.size));
        let buffers =
            Buffers { start, guest: GUEST, stride: STRIDE, headroom: HEADROOM, capacity: CAPACITY, count };
        // SAFETY: all parts lie inside the vector, which outlives the ring in every test.
        unsafe { PackedBurstRing::new(memory, self.size, direction, buffers, event_idx) }.unwrap()
    }

    /// Takes all that is available. Returns how many.
    fn take(&mut self) -> u16 {
        let (ring, mut taken) = (self.at(0), 0);
        loop {
            let slot = usize::from(self.next.slot());
            // SAFETY: the slot lies inside the ring.
            let (flags, desc) = unsafe { (ring.load_packed_flags(slot), ring.load_packed(slot)) };
            if !self.next.is_available(flags) {
                return taken;
            }
            let (id, addr, len) = (desc.element.id, desc.addr, desc.element.len);
            assert!(self.has.iter().all(|had| had.0 != id), "the driver gave buffer {id} twice");
            self.has.push((id, addr, len));
            self.next = self.next.advanced(1, self.size);
            taken += 1;
        }
    }

    /// Gives the n-th of the buffers it has back.
    fn give(&mut self, n: usize, len: u32) -> Option<u16> {
        let (id, _, _) = self.has.remove(n.checked_rem(self.has.len())?);
        self.put(id, len);
        Some(id)
    }

    fn put(&mut self, id: u16, len: u32) {
        let element = Element { len, id, flags: self.used.used_flags() };
        // SAFETY: the slot lies inside the ring.
        unsafe { self.at(0).store_packed_element(self.used.slot().into(), element, Ordering::Release) };
        self.used = self.used.advanced(1, self.size);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever order the device uses buffers in, in a ring of any size: what is sent arrives, what comes back is what was used, in
    /// that order, and nothing is lost or given twice.
    #[test]
    fn nothing_lost_or_doubled(
        steps in proptest::collection::vec((0u8..3, 0u16..20, any::<usize>()), 0..400),
        order in 0u32..5,
        more in 0u16..5,
    ) {
        let count = 1u16 << order;
        let mut device = Device::new(count + more);
        let mut ring = device.driver(Direction::ToDevice, count);
        let (mut stamp, mut used) = (0u32, VecDeque::new());
        for (what, n, pick) in steps {
            match what {
                0 => {
                    let expected = n.min(ring.free());
                    let first = stamp;
                    let staged = ring.stage(n, |view| {
                        view.write(0, stamp.to_le_bytes());
                        view.set_len(4 + stamp % 64);
                        stamp += 1;
                    });
                    prop_assert_eq!(staged, expected);
                    prop_assert_eq!(device.take(), 0, "nothing is there before it is published");
                    prop_assert_eq!(ring.publish(), staged > 0);
                    prop_assert_eq!(device.take(), staged);
                    let new = device.has.len() - usize::from(staged);
                    for (sent, &(id, addr, len)) in (first..).zip(&device.has[new..]) {
                        prop_assert_eq!(addr, GUEST + u64::from(u32::from(id) * STRIDE + HEADROOM));
                        prop_assert_eq!(len, 4 + sent % 64);
                    }
                }
                1 => used.extend(device.give(pick, stamp).map(|id| (id, stamp))),
                _ => {
                    let mut seen = Vec::new();
                    let taken = ring.take_used::<1>(n, |view, len| seen.push((view.at, len))).unwrap();
                    prop_assert_eq!(usize::from(taken), used.len().min(n.into()));
                    for (at, len) in seen {
                        let (id, expected) = used.pop_front().unwrap();
                        let offset = Device::buffers_at(device.size) + usize::from(id) * STRIDE as usize;
                        prop_assert_eq!((at, len), (device.at(offset + HEADROOM as usize), expected));
                    }
                }
            }
            prop_assert_eq!(usize::from(ring.free()), usize::from(count) - device.has.len() - used.len());
            prop_assert_eq!(usize::from(ring.outstanding()), device.has.len() + used.len());
        }
    }
}

#[test]
fn a_device_that_lies_is_found_out() {
    let mut device = Device::new(4);
    let mut ring = device.driver(Direction::FromDevice, 4);
    device.put(0, 0);
    assert_eq!(ring.reclaim(4), Ok(0), "more than was given is not looked at");
    ring.stage_unchanged(2);
    assert!(ring.publish());
    device.used = Position::START;
    device.put(4, 0);
    assert_eq!(ring.reclaim(4), Err(BadDevice::NoSuchBuffer { id: 4, count: 4 }));
}

/// Asked after several bursts, the wish counts for all of them.
#[test]
fn a_wish_for_the_first_of_two_bursts_is_not_missed() {
    let mut device = Device::new(4);
    let mut ring = device.driver_of(Direction::ToDevice, 4, true);
    let (_, _, events) = PackedBurstRing::layout(4);
    // SAFETY: the device's event area lies inside the vector.
    unsafe {
        device.at(events).store_u16(EVENT_OFF_WRAP, Position::START.bits(), Ordering::Relaxed);
        device.at(events).store_u16(EVENT_FLAGS, EVENT_F_DESC, Ordering::Relaxed);
    }
    for _ in 0..2 {
        ring.stage_unchanged(1);
        ring.show();
    }
    assert_eq!(device.take(), 2, "what was shown is there, asked or not");
    assert!(ring.wants_kick());
    assert!(!ring.wants_kick(), "nothing was shown since");
}

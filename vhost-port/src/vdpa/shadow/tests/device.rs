//! A device for tests: it takes chains out of its ring when it is told to, and uses them in any order; or breaks every rule.
//!
//! Written against the specification's layouts, not with our device side, so that the two do not share mistakes.
#![expect(unsafe_code, reason = "a device reads and writes memory that it shares")]

use std::sync::atomic::{Ordering, fence};

use pmd::virtio::SharedPtr;
use pmd::virtio::driver_ring::Buffer;
use pmd::virtio::packed::{
    self, EVENT_F_DESC, EVENT_F_ENABLE, EVENT_FLAGS, EVENT_OFF_WRAP, Element, Position, wants_event,
};
use pmd::virtio::split::{
    AVAIL_F_NO_INTERRUPT, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, IDX, RING, UsedElement, need_event,
};

use super::super::{DeviceRingAddresses, DeviceRingSpec};

/// What the device sees: guest memory from address zero on, and the space of its ring.
#[derive(Clone, Copy)]
pub(super) struct Sight {
    pub(super) guest: SharedPtr,
    pub(super) guest_len: u64,
    pub(super) space: SharedPtr,
    pub(super) space_iova: u64,
    pub(super) space_len: u64,
}

impl Sight {
    /// What lies at an I/O address. Panics where an IOMMU would fault: no device is ever told of such an address.
    pub(super) fn at(&self, iova: u64, len: u64) -> SharedPtr {
        if iova + len <= self.guest_len {
            // SAFETY: inside guest memory.
            return unsafe { self.guest.add(iova as usize) };
        }
        let offset = iova.checked_sub(self.space_iova).expect("an address that was mapped");
        assert!(offset + len <= self.space_len, "an address that was mapped");
        // SAFETY: inside the space.
        unsafe { self.space.add(offset as usize) }
    }
}

/// A chain that the device has.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub(super) id: u16,
    pub(super) pieces: Vec<Buffer>,
    descriptors: u16,
}

/// See the module.
pub(super) struct DeviceModel {
    sight: Sight,
    spec: DeviceRingSpec,
    addresses: DeviceRingAddresses,
    avail: u16,
    used: u16,
    next: Position,
    back: Position,
    pub(super) taken: Vec<Taken>,
    /// Used since the last decision to interrupt: chains, or descriptors of a packed ring.
    moved: u16,
}

impl DeviceModel {
    pub(super) fn new(sight: Sight, spec: DeviceRingSpec, addresses: DeviceRingAddresses) -> DeviceModel {
        let start = Position::START;
        DeviceModel {
            sight,
            spec,
            addresses,
            avail: 0,
            used: 0,
            next: start,
            back: start,
            taken: Vec::new(),
            moved: 0,
        }
    }

    fn descriptor(&self, table: u64, index: u16) -> (Buffer, u16, u16) {
        let entry = self.sight.at(table + u64::from(index) * 16, 16);
        // SAFETY: sixteen bytes that the device sees.
        let (addr, len, flags, other) = unsafe {
            if self.spec.packed {
                let packed = entry.load_packed(0);
                (packed.addr, packed.element.len, packed.element.flags, packed.element.id)
            } else {
                let desc = entry.load_descriptor(0);
                (desc.addr, desc.len, desc.flags, desc.next)
            }
        };
        (Buffer { addr, len, write: flags & DESC_F_WRITE != 0 }, flags, other)
    }

    /// The pieces behind a descriptor that may name a table.
    fn resolve(&self, (buffer, flags, _): (Buffer, u16, u16)) -> Vec<Buffer> {
        if flags & DESC_F_INDIRECT == 0 {
            return vec![buffer];
        }
        assert!(self.spec.indirect, "not negotiated");
        let entries: Vec<_> =
            (0..buffer.len as u16 / 16).map(|index| self.descriptor(buffer.addr, index)).collect();
        if !self.spec.packed {
            for (index, &(_, flags, next)) in entries.iter().enumerate() {
                let more = index + 1 < entries.len();
                assert_eq!((flags & DESC_F_NEXT != 0, next), (more, if more { index as u16 + 1 } else { 0 }));
            }
        }
        entries.into_iter().map(|(buffer, ..)| buffer).collect()
    }

    /// Takes the next chain out of the ring.
    pub(super) fn take(&mut self) -> bool {
        let chain = if self.spec.packed { self.next_packed() } else { self.next_split() };
        self.taken.extend(chain.clone());
        chain.is_some()
    }

    /// Takes so many, if there are.
    pub(super) fn take_up_to(&mut self, chains: usize) {
        let _ = (0..chains).all(|_| self.take());
    }

    fn next_split(&mut self) -> Option<Taken> {
        let avail = self.sight.at(self.addresses.avail, 4);
        // SAFETY: the index lies in the avail ring.
        if unsafe { avail.load_u16(IDX, Ordering::Acquire) } == self.avail {
            return None;
        }
        let slot = usize::from(self.avail % self.spec.size);
        // SAFETY: the slot lies in the avail ring.
        let head = unsafe { avail.load_u16(RING + slot * 2, Ordering::Relaxed) };
        self.avail = self.avail.wrapping_add(1);
        let (mut pieces, mut at, mut descriptors) = (Vec::new(), head, 0);
        loop {
            let entry = self.descriptor(self.addresses.descriptors, at);
            pieces.extend(self.resolve(entry));
            descriptors += 1;
            if entry.1 & DESC_F_NEXT == 0 {
                return Some(Taken { id: head, pieces, descriptors });
            }
            at = entry.2;
        }
    }

    fn next_packed(&mut self) -> Option<Taken> {
        let (mut pieces, mut descriptors) = (Vec::new(), 0);
        loop {
            let entry = self.descriptor(self.addresses.descriptors, self.next.slot());
            if !self.next.is_available(entry.1) {
                assert!(pieces.is_empty(), "a chain appears at once");
                return None;
            }
            pieces.extend(self.resolve(entry));
            descriptors += 1;
            self.next = self.next.advanced(1, self.spec.size);
            if entry.1 & DESC_F_NEXT == 0 {
                return Some(Taken { id: entry.2, pieces, descriptors });
            }
        }
    }

    /// The bytes of a chain it may read.
    pub(super) fn read(&self, chain: &Taken) -> Vec<u8> {
        let mut bytes = Vec::new();
        for piece in &chain.pieces {
            assert!(!piece.write);
            let mut part = vec![0; piece.len as usize];
            // SAFETY: the piece is in memory that the device sees.
            unsafe { self.sight.at(piece.addr, piece.len.into()).copy_out(&mut part) };
            bytes.extend(part);
        }
        bytes
    }

    /// Writes bytes into a chain.
    pub(super) fn write(&self, chain: &Taken, mut bytes: &[u8]) {
        for piece in &chain.pieces {
            assert!(piece.write);
            let (now, later) = bytes.split_at(bytes.len().min(piece.len as usize));
            // SAFETY: as in `read`.
            unsafe { self.sight.at(piece.addr, now.len() as u64).copy_in(now) };
            bytes = later;
        }
        assert!(bytes.is_empty());
    }

    /// Gives back the chain at `index` of those it has.
    pub(super) fn give_back(&mut self, index: usize, len: u32) {
        let Taken { id, descriptors, .. } = self.taken.remove(index);
        self.claim(id, len, descriptors);
    }

    /// Says that it has used a chain of this name, whether it has it or not.
    pub(super) fn claim(&mut self, id: u16, len: u32, descriptors: u16) {
        // SAFETY: slots below the ring's size lie inside its parts.
        unsafe {
            if self.spec.packed {
                let element = Element { len, id, flags: self.back.used_flags() };
                let ring =
                    self.sight.at(self.addresses.descriptors, packed::descriptors_len(self.spec.size) as u64);
                ring.store_packed_element(self.back.slot().into(), element, Ordering::Release);
                self.back = self.back.advanced(descriptors, self.spec.size);
                self.moved += descriptors;
            } else {
                let used = self.sight.at(self.addresses.used, 4);
                let slot = usize::from(self.used % self.spec.size);
                used.store_used(RING + slot * 8, UsedElement { id: id.into(), len });
                self.jump(1);
                self.moved += 1;
            }
        }
    }

    /// Asks for a kick at the next chain. True when one is there.
    pub(super) fn wants_kicks(&mut self) -> bool {
        let taken = self.taken.len();
        // SAFETY: the event of a split ring, or the event area of a packed one, lies in the part that the device writes.
        unsafe {
            let own = self.sight.at(self.addresses.used, 4);
            if self.spec.packed {
                own.store_u16(EVENT_OFF_WRAP, self.next.bits(), Ordering::Relaxed);
                let flags = if self.spec.event_idx { EVENT_F_DESC } else { EVENT_F_ENABLE };
                own.store_u16(EVENT_FLAGS, flags, Ordering::Release);
            } else if self.spec.event_idx {
                own.store_u16(RING + usize::from(self.spec.size) * 8, self.avail, Ordering::Relaxed);
            }
        }
        fence(Ordering::SeqCst);
        self.take_up_to(1);
        self.taken.len() > taken
    }

    /// Whether the driver wants an interrupt for what was used since this was asked last.
    pub(super) fn owes_interrupt(&mut self) -> bool {
        fence(Ordering::SeqCst);
        let moved = std::mem::take(&mut self.moved);
        if moved == 0 {
            return false;
        }
        // SAFETY: flags and event of the driver lie in the part that it writes.
        unsafe {
            let driver = self.sight.at(self.addresses.avail, 4);
            if self.spec.packed {
                let flags = driver.load_u16(EVENT_FLAGS, Ordering::Acquire);
                let at = driver.load_u16(EVENT_OFF_WRAP, Ordering::Relaxed);
                wants_event(at, flags, self.spec.event_idx, self.back, moved, self.spec.size)
            } else if self.spec.event_idx {
                let event = driver.load_u16(RING + usize::from(self.spec.size) * 2, Ordering::Relaxed);
                need_event(event, self.used, self.used.wrapping_sub(moved))
            } else {
                driver.load_u16(0, Ordering::Relaxed) & AVAIL_F_NO_INTERRUPT == 0
            }
        }
    }

    /// Moves the used index of a split ring.
    pub(super) fn jump(&mut self, by: u16) {
        self.used = self.used.wrapping_add(by);
        // SAFETY: the index lies in the used ring.
        unsafe { self.sight.at(self.addresses.used, 4).store_u16(IDX, self.used, Ordering::Release) };
    }

    /// Takes all there is, and writes nonsense over the descriptors: no one has to read them any more.
    pub(super) fn scribble(&mut self) {
        while self.take() {}
        if !self.spec.packed {
            let junk = vec![0xa5; usize::from(self.spec.size) * 16];
            // SAFETY: the descriptor table.
            unsafe { self.sight.at(self.addresses.descriptors, junk.len() as u64).copy_in(&junk) };
        }
    }
}

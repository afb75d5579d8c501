//! The driver side of a packed ring: what a guest's driver does.
//!
//! The counterpart of [`DriverRing`](super::driver_ring::DriverRing) for packed rings: chains of any length, indirect tables,
//! event areas, completion in any order or in order. Tests and slow paths stand on it; what has to be fast stands on
//! [`burst_driver`](super::burst_driver).
//!
//! A chain's descriptors are written back to front as far as the device can tell: the flags of the first unpublished one, which
//! is where the device looks next, are held back until [`PackedDriverRing::publish`]. So everything added since appears at once.
#![expect(unsafe_code, reason = "ring memory is shared with a device")]

use core::sync::atomic::{Ordering, fence};
use std::collections::VecDeque;

use super::driver_ring::{BadUsed, Buffer, ChainRing, RingMemory};
use super::packed::{
    EVENT_F_DESC, EVENT_F_DISABLE, EVENT_F_ENABLE, EVENT_FLAGS, EVENT_LEN, EVENT_OFF_WRAP, Element, Position,
    descriptors_len, valid_size, wants_event,
};
use super::split::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE};

/// Driver side of a packed ring.
pub struct PackedDriverRing {
    memory: RingMemory,
    size: u16,
    event_idx: bool,
    /// Chains come back in the order in which they were added, and one used descriptor may stand for several.
    in_order: bool,
    /// Where the next descriptor goes.
    next: Position,
    /// The first descriptor that the device has not been shown, but for its address.
    held: Option<(usize, Element)>,
    /// Descriptors published since the last decision to kick.
    moved: u16,
    /// Descriptors added since the last publication.
    added: u16,
    /// Where the device's next used descriptor appears.
    used: Position,
    /// Free descriptors.
    free: u16,
    /// Free ids, as a stack.
    ids: Vec<u16>,
    /// Descriptors of the chain with this id; none when the device does not have it.
    chains: Vec<u16>,
    /// Ids in the order in which they were added; only with `in_order`.
    order: VecDeque<u16>,
    /// Last chain of the batch that is being taken; only with `in_order`.
    batch: Option<(u16, u32)>,
}

impl PackedDriverRing {
    /// Bytes of a ring of `size` descriptors laid out one part after the other, and the offsets of the driver's and the device's
    /// event area in it.
    pub const fn layout(size: u16) -> (usize, usize, usize) {
        let driver = descriptors_len(size);
        (driver + 2 * EVENT_LEN, driver, driver + EVENT_LEN)
    }

    /// Starts a ring in zeroed memory; [`RingMemory::avail`] and [`RingMemory::used`] are the driver's and the device's event
    /// areas. `None` when `size` is no valid ring size.
    ///
    /// # Safety
    /// The three parts are mapped, writable, aligned ([`super::packed::ALIGN`]), and stay so while the ring lives.
    pub unsafe fn new(
        memory: RingMemory,
        size: u16,
        event_idx: bool,
        in_order: bool,
    ) -> Option<PackedDriverRing> {
        valid_size(size).then(|| PackedDriverRing {
            memory,
            size,
            event_idx,
            in_order,
            next: Position::START,
            held: None,
            moved: 0,
            added: 0,
            used: Position::START,
            free: size,
            ids: (0..size).rev().collect(),
            chains: vec![0; usize::from(size)],
            order: VecDeque::new(),
            batch: None,
        })
    }

    /// Where the next chain will begin.
    pub fn position(&self) -> Position {
        self.next
    }

    /// Writes the next descriptor.
    fn write(&mut self, addr: u64, len: u32, id: u16, flags: u16) {
        let slot = usize::from(self.next.slot());
        let element = Element { len, id, flags: flags | self.next.avail_flags() };
        // SAFETY: slot < size, inside the ring (contract of `new`).
        unsafe {
            self.memory.descriptors.store_packed_addr(slot, addr);
            if self.held.is_none() {
                self.held = Some((slot, element));
            } else {
                self.memory.descriptors.store_packed_element(slot, element, Ordering::Relaxed);
            }
        }
        self.next = self.next.advanced(1, self.size);
    }

    fn offer(&mut self, id: u16, descriptors: u16) -> u16 {
        self.free -= descriptors;
        self.added += descriptors;
        self.chains[usize::from(id)] = descriptors;
        if self.in_order {
            self.order.push_back(id);
        }
        id
    }

    /// Takes back a chain that the device has used.
    fn take_back(&mut self, id: u16) -> Option<u16> {
        let descriptors = self.chains.get_mut(usize::from(id)).map(core::mem::take).filter(|&n| n > 0)?;
        self.free += descriptors;
        self.ids.push(id);
        self.used = self.used.advanced(descriptors, self.size);
        Some(id)
    }
}

impl ChainRing for PackedDriverRing {
    fn size(&self) -> u16 {
        self.size
    }

    fn free(&self) -> usize {
        usize::from(self.free)
    }

    fn add(&mut self, buffers: &[Buffer]) -> Option<u16> {
        if buffers.is_empty() || buffers.len() > self.free() {
            return None;
        }
        let id = self.ids.pop()?;
        for (i, buffer) in buffers.iter().enumerate() {
            let next = if i + 1 < buffers.len() { DESC_F_NEXT } else { 0 };
            self.write(buffer.addr, buffer.len, id, next | if buffer.write { DESC_F_WRITE } else { 0 });
        }
        Some(self.offer(id, buffers.len() as u16))
    }

    fn add_indirect(&mut self, table: u64, count: u16) -> Option<u16> {
        if self.free == 0 {
            return None;
        }
        let id = self.ids.pop()?;
        self.write(table, u32::from(count) * 16, id, DESC_F_INDIRECT);
        Some(self.offer(id, 1))
    }

    fn publish(&mut self) -> bool {
        if let Some((slot, element)) = self.held.take() {
            // SAFETY: slot < size, inside the ring (contract of `new`). Release: all other descriptors before this one.
            unsafe { self.memory.descriptors.store_packed_element(slot, element, Ordering::Release) };
        }
        self.moved = self.moved.saturating_add(core::mem::take(&mut self.added));
        fence(Ordering::SeqCst);
        // SAFETY: both words lie inside the device's event area (contract of `new`).
        let (flags, off_wrap) = unsafe {
            let flags = self.memory.used.load_u16(EVENT_FLAGS, Ordering::Acquire);
            (flags, self.memory.used.load_u16(EVENT_OFF_WRAP, Ordering::Relaxed))
        };
        let moved = core::mem::take(&mut self.moved);
        wants_event(off_wrap, flags, self.event_idx, self.next, moved, self.size)
    }

    fn poll_used(&mut self) -> Result<Option<(u16, u32)>, BadUsed> {
        if self.batch.is_none() {
            let slot = usize::from(self.used.slot());
            // SAFETY: slot < size, inside the ring (contract of `new`).
            let (flags, element) = unsafe {
                let flags = self.memory.descriptors.load_packed_flags(slot);
                (flags, self.memory.descriptors.load_packed(slot).element)
            };
            if !self.used.is_used(flags) {
                return Ok(None);
            }
            if !self.in_order {
                let bad = BadUsed::NotGiven(element.id.into());
                return self.take_back(element.id).ok_or(bad).map(|id| Some((id, element.len)));
            }
            self.batch = Some((element.id, element.len));
        }
        let Some((last, len)) = self.batch else { return Ok(None) };
        let bad = BadUsed::NotGiven(last.into());
        let id = self.order.pop_front().and_then(|id| self.take_back(id)).ok_or(bad)?;
        if id == last {
            self.batch = None;
            return Ok(Some((id, len)));
        }
        // Nothing was written into the chains before the last of a batch.
        Ok(Some((id, 0)))
    }

    fn enable_interrupts(&mut self) -> bool {
        let (flags, slot) =
            (if self.event_idx { EVENT_F_DESC } else { EVENT_F_ENABLE }, usize::from(self.used.slot()));
        // SAFETY: the words lie inside the driver's event area, slot inside the ring (contract of `new`).
        unsafe {
            self.memory.avail.store_u16(EVENT_OFF_WRAP, self.used.bits(), Ordering::Relaxed);
            self.memory.avail.store_u16(EVENT_FLAGS, flags, Ordering::Release);
            fence(Ordering::SeqCst);
            self.used.is_used(self.memory.descriptors.load_packed_flags(slot))
        }
    }

    fn disable_interrupts(&mut self) {
        // SAFETY: the word lies inside the driver's event area (contract of `new`).
        unsafe { self.memory.avail.store_u16(EVENT_FLAGS, EVENT_F_DISABLE, Ordering::Relaxed) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::SharedPtr;
    use core::ptr::NonNull;

    const SIZE: u16 = 5;

    fn ring(memory: &mut [u128], in_order: bool) -> (PackedDriverRing, RingMemory) {
        let (len, driver, device) = PackedDriverRing::layout(SIZE);
        assert!(memory.len() * 16 >= len);
        let base = SharedPtr::new(NonNull::from(memory).cast());
        // SAFETY: all offsets are inside `memory`, which outlives the test's ring.
        unsafe {
            let parts = RingMemory { descriptors: base, avail: base.add(driver), used: base.add(device) };
            (PackedDriverRing::new(parts, SIZE, false, in_order).unwrap(), parts)
        }
    }

    const ONE: [Buffer; 1] = [Buffer { addr: 0x1000, len: 12, write: false }];

    #[test]
    fn chains_appear_together_and_come_back() {
        let mut memory = vec![0u128; 8];
        let (mut ring, parts) = ring(&mut memory, false);
        let two =
            [Buffer { addr: 0x1000, len: 12, write: false }, Buffer { addr: 0x2000, len: 9, write: true }];
        let (a, b) = (ring.add(&two).unwrap(), ring.add(&ONE).unwrap());
        let at = |slot: u16| Position::START.advanced(slot, SIZE);
        // SAFETY: slots inside the ring made above.
        let flags = |slot| unsafe { parts.descriptors.load_packed_flags(slot) };
        assert!(
            !at(0).is_available(flags(0)) && at(1).is_available(flags(1)) && at(2).is_available(flags(2))
        );
        assert!(ring.publish());
        assert!(at(0).is_available(flags(0)));
        assert_eq!(ring.free(), 2);
        assert_eq!(ring.poll_used(), Ok(None));
        // The device gives the second back before the first, where the first began.
        for (slot, id, next) in [(0, b, 1), (1, a, 3)] {
            let element = Element { len: 7, id, flags: at(slot).used_flags() };
            // SAFETY: as above.
            unsafe { parts.descriptors.store_packed_element(slot.into(), element, Ordering::Release) };
            assert_eq!(ring.poll_used(), Ok(Some((id, 7))));
            assert_eq!(ring.used, at(next));
        }
        assert_eq!(ring.free(), usize::from(SIZE));
    }

    #[test]
    fn one_used_descriptor_stands_for_a_batch() {
        let mut memory = vec![0u128; 8];
        let (mut ring, parts) = ring(&mut memory, true);
        let ids: Vec<u16> = (0..3).map(|_| ring.add(&ONE).unwrap()).collect();
        assert!(ring.publish());
        let element = Element { len: 0, id: ids[2], flags: Position::START.used_flags() };
        // SAFETY: inside the ring made above.
        unsafe { parts.descriptors.store_packed_element(0, element, Ordering::Release) };
        for id in ids {
            assert_eq!(ring.poll_used(), Ok(Some((id, 0))));
        }
        assert_eq!(ring.poll_used(), Ok(None));
    }

    #[test]
    fn device_that_lies_is_found_out() {
        let mut memory = vec![0u128; 8];
        let (mut ring, parts) = ring(&mut memory, false);
        let element = Element { len: 0, id: 900, flags: Position::START.used_flags() };
        // SAFETY: inside the ring made above.
        unsafe { parts.descriptors.store_packed_element(0, element, Ordering::Release) };
        assert_eq!(ring.poll_used(), Err(BadUsed::NotGiven(900)));
    }
}

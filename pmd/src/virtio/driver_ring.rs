//! The driver side of a split ring: what a guest's driver does.
//!
//! Used as the peer in tests of the device side and by traffic generators; a virtio PMD can stand on it too.
//! The memory is the driver's own, so a device that lies can at worst make [`DriverRing::poll_used`] return an
//! error: heads are checked against what was really handed out.
//!
//! Cost: one descriptor write per buffer; indexes are published once per [`DriverRing::publish`].
#![expect(unsafe_code, reason = "ring memory is shared with a device")]

use core::sync::atomic::{Ordering, fence};

use super::shared_ptr::SharedPtr;
use super::split::{
    AVAIL_F_NO_INTERRUPT, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor, IDX, RING,
    USED_F_NO_NOTIFY, avail_len, descriptors_len, need_event, used_len, valid_size,
};

/// A buffer of a chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Buffer {
    /// Guest physical address.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// The device writes it.
    pub write: bool,
}

/// Where a ring's three parts lie.
#[derive(Clone, Copy, Debug)]
pub struct RingMemory {
    /// Descriptor table, 16-aligned, `descriptors_len(size)` bytes.
    pub descriptors: SharedPtr,
    /// Avail ring, 2-aligned, `avail_len(size)` bytes.
    pub avail: SharedPtr,
    /// Used ring, 4-aligned, `used_len(size)` bytes.
    pub used: SharedPtr,
}

impl RingMemory {
    /// Asks for an interrupt at the used element `used_idx`. True when it is there already.
    ///
    /// # Safety
    /// The parts are those of a ring of `size`, mapped and writable.
    pub(super) unsafe fn enable_interrupts(&self, size: u16, event_idx: bool, used_idx: u16) -> bool {
        // SAFETY: flags, used_event and idx lie inside their rings.
        unsafe {
            if event_idx {
                self.avail.store_u16(RING + usize::from(size) * 2, used_idx, Ordering::Relaxed);
            } else {
                self.avail.store_u16(0, 0, Ordering::Relaxed);
            }
            fence(Ordering::SeqCst);
            self.used.load_u16(IDX, Ordering::Acquire) != used_idx
        }
    }

    /// Wants no interrupts; the next used element is `used_idx`.
    ///
    /// # Safety
    /// As [`RingMemory::enable_interrupts`].
    pub(super) unsafe fn disable_interrupts(&self, size: u16, event_idx: bool, used_idx: u16) {
        // SAFETY: flags and used_event lie inside the avail ring.
        unsafe {
            if event_idx {
                // Just passed, so it takes a whole turn of the index to pass it again.
                let offset = RING + usize::from(size) * 2;
                self.avail.store_u16(offset, used_idx.wrapping_sub(1), Ordering::Relaxed);
            } else {
                self.avail.store_u16(0, AVAIL_F_NO_INTERRUPT, Ordering::Relaxed);
            }
        }
    }
}

/// The device returned a head that it does not have.
#[derive(thiserror::Error, Clone, Copy, PartialEq, Eq, Debug)]
#[error("the device returned chain {0}, which it was not given")]
pub struct BadUsed(
    /// Head it named.
    pub u32,
);

/// What a driver does with a ring of either kind, split ([`DriverRing`]) or packed
/// ([`PackedDriverRing`](super::packed_driver_ring::PackedDriverRing)).
pub trait ChainRing {
    /// Descriptors of the ring.
    fn size(&self) -> u16;

    /// Free descriptors.
    fn free(&self) -> usize;

    /// Adds a chain; the device sees it after [`ChainRing::publish`]. Returns what it will be called when it comes back. `None`,
    /// and nothing done, when `buffers` is empty or does not fit the free descriptors.
    fn add(&mut self, buffers: &[Buffer]) -> Option<u16>;

    /// Adds a chain through an indirect table that the caller has written at guest address `table` with `count`
    /// descriptors.
    fn add_indirect(&mut self, table: u64, count: u16) -> Option<u16>;

    /// Shows added chains to the device. Returns whether the device wants a kick for them.
    fn publish(&mut self) -> bool;

    /// Takes the next chain the device has used: its name, and the bytes written.
    ///
    /// # Errors
    /// The device returned something that it does not have; the ring is of no more use.
    fn poll_used(&mut self) -> Result<Option<(u16, u32)>, BadUsed>;

    /// Asks for an interrupt at the next used chain. True when one waits already.
    fn enable_interrupts(&mut self) -> bool;

    /// Wants no interrupts.
    fn disable_interrupts(&mut self);
}

impl ChainRing for DriverRing {
    fn size(&self) -> u16 {
        self.size()
    }

    fn free(&self) -> usize {
        self.free()
    }

    fn add(&mut self, buffers: &[Buffer]) -> Option<u16> {
        self.add(buffers)
    }

    fn add_indirect(&mut self, table: u64, count: u16) -> Option<u16> {
        self.add_indirect(table, count)
    }

    fn publish(&mut self) -> bool {
        self.publish()
    }

    fn poll_used(&mut self) -> Result<Option<(u16, u32)>, BadUsed> {
        self.poll_used()
    }

    fn enable_interrupts(&mut self) -> bool {
        self.enable_interrupts()
    }

    fn disable_interrupts(&mut self) {
        self.disable_interrupts();
    }
}

/// Driver side of a split ring.
pub struct DriverRing {
    memory: RingMemory,
    size: u16,
    event_idx: bool,
    /// Free descriptors, as a stack.
    free: Vec<u16>,
    /// Descriptors of the chain that starts here; empty when the device does not have it.
    chains: Vec<Vec<u16>>,
    /// Next avail index, and the one published last.
    avail_idx: u16,
    published: u16,
    /// Avail index at the last decision to kick.
    kicked: u16,
    /// Next used index to look at.
    used_idx: u16,
}

impl DriverRing {
    /// Bytes of a ring of `size` entries laid out one part after the other, and the offsets of avail and used in it.
    pub const fn layout(size: u16) -> (usize, usize, usize) {
        let avail = descriptors_len(size);
        let used = (avail + avail_len(size)).next_multiple_of(4);
        (used + used_len(size), avail, used)
    }

    /// Starts a ring in zeroed memory. `None` when `size` is no valid ring size.
    ///
    /// # Safety
    /// The three parts are mapped, writable, aligned, and stay so while the ring lives.
    pub unsafe fn new(memory: RingMemory, size: u16, event_idx: bool) -> Option<DriverRing> {
        valid_size(size).then(|| DriverRing {
            memory,
            size,
            event_idx,
            free: (0..size).rev().collect(),
            chains: vec![Vec::new(); usize::from(size)],
            avail_idx: 0,
            published: 0,
            kicked: 0,
            used_idx: 0,
        })
    }

    /// Entries of the ring.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Free descriptors.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    fn mask(&self, index: u16) -> usize {
        usize::from(index & (self.size - 1))
    }

    /// Adds a chain; the device sees it after [`DriverRing::publish`]. `None`, and nothing done, when `buffers` is empty
    /// or does not fit the free descriptors.
    pub fn add(&mut self, buffers: &[Buffer]) -> Option<u16> {
        if buffers.is_empty() || buffers.len() > self.free.len() {
            return None;
        }
        let chain = self.free.split_off(self.free.len() - buffers.len());
        for (i, (buffer, &index)) in buffers.iter().zip(&chain).enumerate() {
            let next = chain.get(i + 1).copied();
            let flags = if buffer.write { DESC_F_WRITE } else { 0 } | next.map_or(0, |_| DESC_F_NEXT);
            let desc = Descriptor { addr: buffer.addr, len: buffer.len, flags, next: next.unwrap_or(0) };
            // SAFETY: index < size, inside the table (contract of `new`).
            unsafe { self.memory.descriptors.store_descriptor(usize::from(index), desc) };
        }
        self.offer(chain)
    }

    /// Adds a chain through an indirect table that the caller has written at guest address `table` with `count`
    /// descriptors.
    pub fn add_indirect(&mut self, table: u64, count: u16) -> Option<u16> {
        let index = self.free.pop()?;
        let len = u32::from(count) * 16;
        // SAFETY: index < size, inside the table (contract of `new`).
        unsafe {
            self.memory.descriptors.store_descriptor(
                usize::from(index),
                Descriptor { addr: table, len, flags: DESC_F_INDIRECT, next: 0 },
            );
        }
        self.offer(vec![index])
    }

    fn offer(&mut self, chain: Vec<u16>) -> Option<u16> {
        let head = *chain.first()?;
        let offset = RING + self.mask(self.avail_idx) * 2;
        // SAFETY: the masked index lies inside the avail ring (contract of `new`).
        unsafe { self.memory.avail.store_u16(offset, head, Ordering::Relaxed) };
        self.avail_idx = self.avail_idx.wrapping_add(1);
        self.chains[usize::from(head)] = chain;
        Some(head)
    }

    /// Shows added chains to the device. Returns whether the device wants a kick for them.
    pub fn publish(&mut self) -> bool {
        // SAFETY: idx, flags and avail_event lie inside their rings (contract of `new`).
        unsafe {
            self.memory.avail.store_u16(IDX, self.avail_idx, Ordering::Release);
            self.published = self.avail_idx;
            fence(Ordering::SeqCst);
            if self.event_idx {
                let event = self.memory.used.load_u16(RING + usize::from(self.size) * 8, Ordering::Relaxed);
                let kick = need_event(event, self.avail_idx, self.kicked);
                self.kicked = self.avail_idx;
                kick
            } else {
                self.memory.used.load_u16(0, Ordering::Relaxed) & USED_F_NO_NOTIFY == 0
            }
        }
    }

    /// Takes the next chain the device has used: its head, and the bytes written.
    pub fn poll_used(&mut self) -> Result<Option<(u16, u32)>, BadUsed> {
        // SAFETY: the index lies inside the used ring (contract of `new`).
        if unsafe { self.memory.used.load_u16(IDX, Ordering::Acquire) } == self.used_idx {
            return Ok(None);
        }
        let offset = RING + self.mask(self.used_idx) * 8;
        // SAFETY: the masked index lies inside the used ring (contract of `new`).
        let element = unsafe { self.memory.used.load_used(offset) };
        let chain = self.chains.get_mut(element.id as usize).map(core::mem::take).unwrap_or_default();
        if chain.is_empty() {
            return Err(BadUsed(element.id));
        }
        self.free.extend(chain.iter().rev());
        self.used_idx = self.used_idx.wrapping_add(1);
        Ok(Some((element.id as u16, element.len)))
    }

    /// Asks for an interrupt at the next used chain. True when one waits already.
    pub fn enable_interrupts(&mut self) -> bool {
        // SAFETY: the parts are those of a ring of this size (contract of `new`).
        unsafe { self.memory.enable_interrupts(self.size, self.event_idx, self.used_idx) }
    }

    /// Wants no interrupts.
    pub fn disable_interrupts(&mut self) {
        // SAFETY: the parts are those of a ring of this size (contract of `new`).
        unsafe { self.memory.disable_interrupts(self.size, self.event_idx, self.used_idx) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr::NonNull;

    fn ring(memory: &mut [u64], size: u16, event_idx: bool) -> (DriverRing, RingMemory) {
        let (len, avail, used) = DriverRing::layout(size);
        assert!(memory.len() * 8 >= len);
        let base = SharedPtr::new(NonNull::from(memory).cast());
        // SAFETY: all offsets are inside `memory`, which outlives the test's ring.
        unsafe {
            let parts = RingMemory { descriptors: base, avail: base.add(avail), used: base.add(used) };
            (DriverRing::new(parts, size, event_idx).unwrap(), parts)
        }
    }

    #[test]
    fn chain_goes_out_and_comes_back() {
        let mut memory = vec![0u64; 1024];
        let (mut ring, parts) = ring(&mut memory, 4, false);
        let buffers =
            [Buffer { addr: 0x1000, len: 12, write: false }, Buffer { addr: 0x2000, len: 60, write: false }];
        let head = ring.add(&buffers).unwrap();
        assert!(ring.publish());
        assert_eq!(ring.free(), 2);
        assert_eq!(ring.poll_used(), Ok(None));
        // SAFETY: offsets inside the rings made above.
        unsafe {
            let first = parts.descriptors.load_descriptor(usize::from(head));
            assert_eq!((first.addr, first.len, first.flags), (0x1000, 12, DESC_F_NEXT));
            parts.used.store_used(RING, super::super::split::UsedElement { id: u32::from(head), len: 5 });
            parts.used.store_u16(IDX, 1, Ordering::Release);
        }
        assert_eq!(ring.poll_used(), Ok(Some((head, 5))));
        assert_eq!(ring.free(), 4);
    }

    #[test]
    fn device_that_lies_is_found_out() {
        let mut memory = vec![0u64; 1024];
        let (mut ring, parts) = ring(&mut memory, 4, true);
        // SAFETY: offsets inside the rings made above.
        unsafe {
            parts.used.store_used(RING, super::super::split::UsedElement { id: 900, len: 5 });
            parts.used.store_u16(IDX, 1, Ordering::Release);
        }
        assert_eq!(ring.poll_used(), Err(BadUsed(900)));
    }
}

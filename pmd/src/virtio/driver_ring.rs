//! The driver side of a split ring: what a guest's driver does.
//!
//! Used by control queues, by relays that put a guest's chains into a device's ring, and as the peer in tests of the device side.
//! The memory is the driver's own, but the device may write all of it. So nothing that counts is read back from there: which descriptors
//! a chain has stands in private lists, and a device that lies can at worst make [`DriverRing::poll_used`] return an
//! error: heads are checked against what was really handed out, and the index against how much that was.
//!
//! Cost: one descriptor write per buffer and no allocation; indexes are published once per [`DriverRing::publish`], and read when what
//! was seen before has been taken.
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

/// The device returned what it does not have. The ring is of no more use.
#[derive(thiserror::Error, Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadUsed {
    /// A chain, by what it is called.
    #[error("the device returned chain {0}, which it was not given")]
    NotGiven(u32),
    /// More chains than it was shown.
    #[error("the device says that it has used {used} more chains, but it had {given}")]
    TooMany {
        /// Chains it says it used since it was looked at last.
        used: u16,
        /// Chains it had then.
        given: u16,
    },
}

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
    /// What follows each descriptor, in its chain or in the list of free ones.
    links: Vec<u16>,
    /// The first free descriptor, and how many there are.
    first_free: u16,
    free: u16,
    /// How many descriptors the chain has that starts here, and its last one; none when the device does not have it.
    chains: Vec<(u16, u16)>,
    /// Next avail index, and the one published last.
    avail_idx: u16,
    published: u16,
    /// Avail index at the last decision to kick.
    kicked: u16,
    /// Next used index to look at, and the device's as loaded last.
    used_idx: u16,
    used_seen: u16,
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
            links: (1..=size).collect(),
            first_free: 0,
            free: size,
            chains: vec![(0, 0); usize::from(size)],
            avail_idx: 0,
            published: 0,
            kicked: 0,
            used_idx: 0,
            used_seen: 0,
        })
    }

    /// Entries of the ring.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Free descriptors.
    pub fn free(&self) -> usize {
        usize::from(self.free)
    }

    fn mask(&self, index: u16) -> usize {
        usize::from(index & (self.size - 1))
    }

    /// Adds a chain; the device sees it after [`DriverRing::publish`]. `None`, and nothing done, when `buffers` is empty
    /// or does not fit the free descriptors.
    pub fn add(&mut self, buffers: &[Buffer]) -> Option<u16> {
        let count = u16::try_from(buffers.len()).ok().filter(|&count| count > 0 && count <= self.free)?;
        let head = self.first_free;
        let mut last = head;
        for (buffer, left) in buffers.iter().zip((0..count).rev()) {
            last = self.first_free;
            self.first_free = self.links[usize::from(last)];
            let more = if left > 0 { DESC_F_NEXT } else { 0 };
            let flags = if buffer.write { DESC_F_WRITE } else { 0 } | more;
            let next = if left > 0 { self.first_free } else { 0 };
            let desc = Descriptor { addr: buffer.addr, len: buffer.len, flags, next };
            // SAFETY: the list of free descriptors has those of the table (contract of `new`).
            unsafe { self.memory.descriptors.store_descriptor(usize::from(last), desc) };
        }
        self.free -= count;
        Some(self.offer(head, (count, last)))
    }

    /// Adds a chain through an indirect table that the caller has written at guest address `table` with `count`
    /// descriptors.
    pub fn add_indirect(&mut self, table: u64, count: u16) -> Option<u16> {
        self.free = self.free.checked_sub(1)?;
        let index = self.first_free;
        self.first_free = self.links[usize::from(index)];
        let desc = Descriptor { addr: table, len: u32::from(count) * 16, flags: DESC_F_INDIRECT, next: 0 };
        // SAFETY: as in `add`.
        unsafe { self.memory.descriptors.store_descriptor(usize::from(index), desc) };
        Some(self.offer(index, (1, index)))
    }

    fn offer(&mut self, head: u16, chain: (u16, u16)) -> u16 {
        let offset = RING + self.mask(self.avail_idx) * 2;
        // SAFETY: the masked index lies inside the avail ring (contract of `new`).
        unsafe { self.memory.avail.store_u16(offset, head, Ordering::Relaxed) };
        self.avail_idx = self.avail_idx.wrapping_add(1);
        self.chains[usize::from(head)] = chain;
        head
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
        if self.used_seen == self.used_idx {
            // SAFETY: the index lies inside the used ring (contract of `new`).
            let seen = unsafe { self.memory.used.load_u16(IDX, Ordering::Acquire) };
            let (used, given) =
                (seen.wrapping_sub(self.used_idx), self.published.wrapping_sub(self.used_idx));
            if used == 0 {
                return Ok(None);
            }
            if used > given {
                return Err(BadUsed::TooMany { used, given });
            }
            self.used_seen = seen;
        }
        let offset = RING + self.mask(self.used_idx) * 8;
        // SAFETY: the masked index lies inside the used ring (contract of `new`).
        let element = unsafe { self.memory.used.load_used(offset) };
        let chain = self.chains.get_mut(element.id as usize).map(core::mem::take);
        let Some((count @ 1.., last)) = chain else { return Err(BadUsed::NotGiven(element.id)) };
        // The chain goes before the other free ones as it is.
        self.links[usize::from(last)] = self.first_free;
        (self.first_free, self.free) = (element.id as u16, self.free + count);
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
        assert_eq!(ring.poll_used(), Err(BadUsed::TooMany { used: 1, given: 0 }));
        let head = ring.add(&[Buffer { addr: 0x1000, len: 12, write: false }; 2]).unwrap();
        let _ = ring.publish();
        assert_eq!(ring.poll_used(), Err(BadUsed::NotGiven(900)));
        // The second descriptor of a chain is no chain.
        for (id, is_one) in [(head + 1, false), (head, true)] {
            // SAFETY: as above.
            unsafe {
                parts.used.store_used(RING, super::super::split::UsedElement { id: id.into(), len: 5 });
            }
            assert_eq!(ring.poll_used().is_ok(), is_one);
        }
    }

    /// Chains of all lengths, which come back in any order: no descriptor is in two chains.
    #[test]
    fn descriptors_are_in_one_chain_at_a_time() {
        let mut memory = vec![0u64; 1024];
        let (mut ring, parts) = ring(&mut memory, 16, false);
        let (mut with_device, mut used, mut random) = (Vec::<(u16, Vec<u16>)>::new(), 0u16, 7u32);
        for _ in 0..2000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let pick = (random >> 16) as usize;
            if pick.is_multiple_of(2) {
                let buffers = vec![Buffer { addr: 0x1000, len: 12, write: false }; pick / 2 % 6 + 1];
                if let Some(head) = ring.add(&buffers) {
                    let mut chain = vec![head];
                    for _ in 1..buffers.len() {
                        // SAFETY: inside the table made above.
                        let desc =
                            unsafe { parts.descriptors.load_descriptor((*chain.last().unwrap()).into()) };
                        assert_eq!(desc.flags, DESC_F_NEXT);
                        chain.push(desc.next);
                    }
                    let taken = |slot: &u16| with_device.iter().any(|(_, other)| other.contains(slot));
                    assert!(!chain.iter().any(taken));
                    with_device.push((head, chain));
                    let _ = ring.publish();
                }
            } else if !with_device.is_empty() {
                let (head, _) = with_device.swap_remove(pick / 2 % with_device.len());
                let element = super::super::split::UsedElement { id: head.into(), len: 0 };
                // SAFETY: offsets inside the rings made above.
                unsafe {
                    parts.used.store_used(RING + usize::from(used % 16) * 8, element);
                    used = used.wrapping_add(1);
                    parts.used.store_u16(IDX, used, Ordering::Release);
                }
                assert_eq!(ring.poll_used(), Ok(Some((head, 0))));
            }
            let out: usize = with_device.iter().map(|(_, chain)| chain.len()).sum();
            assert_eq!(ring.free() + out, 16);
        }
    }
}

//! The driver side of a packed ring, for speed: the counterpart of [`BurstRing`](super::BurstRing), used in the same way.
//!
//! One descriptor per buffer, as there. A packed ring has no lists beside its descriptors; which buffer is free is noted in private
//! memory, by position:
//!
//! ```text
//!   position     used             published        next                    used + count
//!   ring       ────┼──────────────────┼──────────────┼────────────────────────┼────
//!                  │  with the device │    staged    │   free: `ids` says which
//! ```
//!
//! A used descriptor's buffer becomes free `count` positions on. With as many buffers as descriptors and a device that keeps
//! order, that is where it was: then no address is ever written again.
//!
//! # A burst appears at once
//!
//! The flags of the first staged descriptor, where the device looks next, are held back until [`PackedBurstRing::publish`]; those after it
//! are written as they are staged. So the device finds nothing until it finds everything, and lines change hands once.
//!
//! # Cost
//!
//! Per buffer one store to stage it and two loads to take it back, all in a quarter of a cache line that travels to the device and
//! back. Per burst one full fence and one load of the device's wish.
//!
//! What a device can do to it is what it can do to a split ring: see [`super`].

use core::sync::atomic::{Ordering, fence};

use super::{BadDevice, BufferView, Buffers, Direction};
use crate::prefetch::{LINE, prefetch, prefetch_to_write};
use crate::virtio::driver_ring::RingMemory;
use crate::virtio::packed::{
    EVENT_F_DISABLE, EVENT_F_ENABLE, EVENT_FLAGS, EVENT_LEN, EVENT_OFF_WRAP, Element, Position,
    descriptors_len, valid_size, wants_event,
};
use crate::virtio::shared_ptr::SharedPtr;
use crate::virtio::split::{DESC_F_WRITE, Descriptor};

/// Descriptors in a cache line.
const DESCRIPTORS_PER_LINE: u16 = (LINE / size_of::<Descriptor>()) as u16;

/// Driver side of a packed ring. See the module.
#[derive(Debug)]
pub struct PackedBurstRing {
    memory: RingMemory,
    buffers: Buffers,
    size: u16,
    event_idx: bool,
    /// What a buffer's descriptor is to say, by id. [`BufferView::set_len`] writes there; shared with no device.
    _wanted: Vec<Descriptor>,
    /// The same, as views name it.
    templates: SharedPtr,
    /// Id of the buffer that the descriptor in a slot names, by its address; where one is free, that is the free one.
    ids: Box<[u16]>,
    /// DESC_F_WRITE or nothing.
    direction: u16,
    /// Where the next buffer is staged.
    next: Position,
    /// First staged descriptor that the device has not been shown.
    held: Option<(usize, Element)>,
    /// Where the next used descriptor appears.
    used: Position,
    /// Buffers staged and not taken back; of these, not published.
    out: u16,
    staged: u16,
    /// Buffers published since the device was asked whether it wants a kick.
    moved: u16,
}

// SAFETY: `templates` points into `_wanted`, which moves with it.
unsafe impl Send for PackedBurstRing {}

impl PackedBurstRing {
    /// Bytes of a ring of `size` descriptors, and the offsets of the driver's and the device's event area in it: each on a cache line
    /// of its own.
    pub const fn layout(size: u16) -> (usize, usize, usize) {
        let driver = descriptors_len(size).next_multiple_of(LINE);
        (driver + LINE + EVENT_LEN, driver, driver + LINE)
    }

    /// Starts a ring in zeroed memory, with all buffers free. Interrupts are off. [`RingMemory::avail`] and [`RingMemory::used`] are
    /// the event areas. `None` when `size` is no valid ring size, `buffers` overlap, or their count is no power of two up
    /// to `size`.
    ///
    /// # Safety
    /// As for [`BurstRing::new`](super::BurstRing::new).
    pub unsafe fn new(
        memory: RingMemory,
        size: u16,
        direction: Direction,
        buffers: Buffers,
        event_idx: bool,
    ) -> Option<PackedBurstRing> {
        if !valid_size(size) || buffers.count > size || !buffers.sound() {
            return None;
        }
        let template = |id| Descriptor {
            addr: buffers.guest_address(id),
            len: buffers.capacity,
            ..Descriptor::default()
        };
        let mut wanted: Vec<Descriptor> = (0..buffers.count).map(template).collect();
        let templates = SharedPtr::new(core::ptr::NonNull::from(wanted.as_mut_slice()).cast());
        // All slots name a buffer: the one that comes there as long as the device keeps order.
        let ids: Box<[u16]> = (0..size).map(|slot| slot % buffers.count).collect();
        for (slot, &id) in ids.iter().enumerate() {
            // SAFETY: slot < size: inside the ring (contract).
            unsafe { memory.descriptors.store_packed_addr(slot, buffers.guest_address(id)) };
        }
        let mut ring = PackedBurstRing {
            memory,
            buffers,
            size,
            event_idx,
            _wanted: wanted,
            templates,
            ids,
            direction: if direction == Direction::FromDevice { DESC_F_WRITE } else { 0 },
            next: Position::START,
            held: None,
            used: Position::START,
            out: 0,
            staged: 0,
            moved: 0,
        };
        ring.disable_interrupts();
        Some(ring)
    }

    /// Descriptors of the ring.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Buffers that can be staged.
    #[inline]
    pub fn free(&self) -> u16 {
        self.buffers.count - self.out
    }

    /// Buffers the device has been shown and that have not been taken back.
    #[inline]
    pub fn outstanding(&self) -> u16 {
        self.out - self.staged
    }

    /// Buffers staged that the device has not been shown.
    #[inline]
    pub fn staged(&self) -> u16 {
        self.staged
    }

    #[inline(always)]
    fn view(&self, id: u16) -> BufferView<'_> {
        // SAFETY: what `new` was given, and made: a template for each buffer.
        unsafe { self.buffers.view(id, self.templates) }
    }

    /// Shows every buffer to `each`, wherever it is: to write what never changes. Meant for a ring whose buffers are all free.
    pub fn for_each_buffer(&mut self, mut each: impl FnMut(BufferView<'_>)) {
        for id in 0..self.buffers.count {
            each(self.view(id));
        }
    }

    /// Stages up to `n` free buffers in the order in which they became free, and shows each to `each` to be filled. Returns how
    /// many. The device sees them after [`PackedBurstRing::publish`].
    #[inline(always)]
    pub fn stage(&mut self, n: u16, mut each: impl FnMut(BufferView<'_>)) -> u16 {
        let n = n.min(self.free());
        for _ in 0..n {
            let slot = usize::from(self.next.slot());
            let id = self.ids[slot] & (self.buffers.count - 1);
            each(self.view(id));
            // SAFETY: a template of ours.
            let len = unsafe { self.templates.load_descriptor(usize::from(id)) }.len;
            let element = Element { len, id, flags: self.next.avail_flags() | self.direction };
            if self.held.is_none() {
                self.held = Some((slot, element));
            } else {
                // SAFETY: slot < size: inside the ring (contract of `new`).
                unsafe { self.memory.descriptors.store_packed_element(slot, element, Ordering::Relaxed) };
            }
            self.next = self.next.advanced(1, self.size);
        }
        self.out += n;
        self.staged += n;
        n
    }

    /// Stages up to `n` free buffers as they are. Returns how many.
    #[inline]
    pub fn stage_unchanged(&mut self, n: u16) -> u16 {
        self.stage(n, |_| ())
    }

    /// Shows staged buffers to the device. Returns whether it wants a kick for them.
    #[inline]
    #[must_use = "a device that asked for a kick sleeps until it gets one"]
    pub fn publish(&mut self) -> bool {
        self.show();
        self.wants_kick()
    }

    /// Shows staged buffers to the device, which may sleep: [`PackedBurstRing::wants_kick`] is to be asked soon.
    #[inline]
    pub fn show(&mut self) {
        if let Some((slot, element)) = self.held.take() {
            // SAFETY: slot < size: inside the ring (contract of `new`). Release: contents and the other descriptors before it.
            unsafe { self.memory.descriptors.store_packed_element(slot, element, Ordering::Release) };
        }
        self.moved = self.moved.saturating_add(core::mem::take(&mut self.staged));
    }

    /// As [`BurstRing::wants_kick`](super::BurstRing::wants_kick).
    #[inline]
    #[must_use = "a device that asked for a kick sleeps until it gets one"]
    pub fn wants_kick(&mut self) -> bool {
        let moved = core::mem::take(&mut self.moved).min(self.size);
        // As in a split ring: shown before the wish is read.
        fence(Ordering::SeqCst);
        // SAFETY: both words lie inside the device's event area (contract of `new`).
        let (flags, off_wrap) = unsafe {
            let flags = self.memory.used.load_u16(EVENT_FLAGS, Ordering::Acquire);
            (flags, self.memory.used.load_u16(EVENT_OFF_WRAP, Ordering::Relaxed))
        };
        moved > 0 && wants_event(off_wrap, flags, self.event_idx, self.next, moved, self.size)
    }

    /// As [`BurstRing::prefetch_free`](super::BurstRing::prefetch_free), and for the lines of their descriptors.
    #[inline]
    pub fn prefetch_free<const LINES: usize>(&self, n: u16, skip: usize) {
        let mut at = self.next;
        for k in 0..n.min(self.free()) {
            let buffer = self.view(self.ids[usize::from(at.slot())]).at.addr() + skip;
            for line in 0..LINES {
                prefetch_to_write(buffer + line * LINE);
            }
            if k % DESCRIPTORS_PER_LINE == 0 {
                prefetch_to_write(
                    self.memory.descriptors.addr() + usize::from(at.slot()) * size_of::<Descriptor>(),
                );
            }
            at = at.advanced(1, self.size);
        }
    }

    /// How many used descriptors follow each other from the next position on, at most `max`.
    #[inline(always)]
    fn ready(&self, max: u16) -> u16 {
        let (mut at, mut ready) = (self.used, 0);
        let max = max.min(self.outstanding());
        while ready < max {
            // SAFETY: slots lie inside the ring (contract of `new`).
            let flags = unsafe { self.memory.descriptors.load_packed_flags(usize::from(at.slot())) };
            if !at.is_used(flags) {
                break;
            }
            at = at.advanced(1, self.size);
            ready += 1;
        }
        ready
    }

    /// Takes the used descriptor at the next position: its buffer becomes free.
    #[inline(always)]
    fn take(&mut self) -> Result<(u16, u32), BadDevice> {
        let count = self.buffers.count;
        let slot = usize::from(self.used.slot());
        // SAFETY: slots lie inside the ring (contract of `new`).
        let Element { len, id, .. } = unsafe { self.memory.descriptors.load_packed(slot) }.element;
        if id >= count {
            return Err(BadDevice::NoSuchBuffer { id: id.into(), count });
        }
        // Where it will be staged again, which no one uses until then.
        let free = usize::from(self.used.advanced(count, self.size).slot());
        if self.ids[free] != id {
            self.ids[free] = id;
            // SAFETY: as above.
            unsafe { self.memory.descriptors.store_packed_addr(free, self.buffers.guest_address(id)) };
        }
        self.used = self.used.advanced(1, self.size);
        self.out -= 1;
        Ok((id, len))
    }

    /// Takes up to `max` buffers that the device has used, oldest first: as
    /// [`BurstRing::take_used`](super::BurstRing::take_used).
    ///
    /// # Errors
    /// The device breaks the rules; buffers before the bad one have been shown.
    #[inline(always)]
    pub fn take_used<const LINES: usize>(
        &mut self,
        max: u16,
        mut each: impl FnMut(BufferView<'_>, u32),
    ) -> Result<u16, BadDevice> {
        let n = self.ready(max);
        if LINES > 0 {
            let mut at = self.used;
            for _ in 0..n {
                // SAFETY: slots lie inside the ring (contract of `new`).
                let id = unsafe { self.memory.descriptors.load_packed(usize::from(at.slot())) }.element.id;
                let buffer = self.view(id).at;
                for line in 0..LINES {
                    prefetch(buffer.addr() + line * LINE);
                }
                at = at.advanced(1, self.size);
            }
        }
        for _ in 0..n {
            let (id, len) = self.take()?;
            each(self.view(id), len);
        }
        Ok(n)
    }

    /// Takes back up to `max` used buffers without looking at them: what a transmit ring does. Returns how many.
    ///
    /// # Errors
    /// As [`PackedBurstRing::take_used`].
    #[inline]
    pub fn reclaim(&mut self, max: u16) -> Result<u16, BadDevice> {
        let n = self.ready(max);
        for _ in 0..n {
            self.take()?;
        }
        Ok(n)
    }

    /// Asks for an interrupt at the next used buffer. True when one waits already.
    pub fn enable_interrupts(&mut self) -> bool {
        // SAFETY: the words lie inside the driver's event area (contract of `new`).
        unsafe {
            self.memory.avail.store_u16(EVENT_FLAGS, EVENT_F_ENABLE, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        self.ready(1) > 0
    }

    /// Wants no interrupts.
    pub fn disable_interrupts(&mut self) {
        // SAFETY: the word lies inside the driver's event area (contract of `new`).
        unsafe { self.memory.avail.store_u16(EVENT_FLAGS, EVENT_F_DISABLE, Ordering::Relaxed) };
    }
}

//! The driver side of a split ring, for speed: what a poll-mode driver or a traffic generator stands on.
//!
//! [`DriverRing`](super::driver_ring::DriverRing) can do everything a ring can (chains, indirect tables) and writes every
//! descriptor anew. This one does what the fast path of a network driver needs and nothing else: **one descriptor per buffer, and buffer
//! and descriptor belong together for good.** Descriptor `i` always names buffer `i`, so the descriptor table is written once,
//! its cache lines stay shared, and the device finds them in its own cache.
//!
//! # The avail ring is the free list
//!
//! ```text
//!   position        used_idx          published      avail_idx            used_idx + count
//!   avail ring  ────────┼──────────────────┼──────────────┼────────────────────────┼────
//!                       │  with the device │    staged    │   free, ready to stage │
//! ```
//!
//! Entries beyond the published index are none of the device's business, so the ids of free buffers wait right there, in the
//! order in which they came back. Taking a used element writes its id at `used_idx + count`; staging a buffer moves one index.
//! There is no other list. The write is left out when the entry already says so, and with a device that uses buffers in order
//! (all do, mostly) that is always: the avail ring's lines do not move between processors either, only its index does.
//!
//! # Cost
//!
//! Per used element about 18 instructions (11 more to prefetch its buffer), and an eighth of a cache line from the device (8 bytes of used ring). Per staged
//! buffer nothing that is not the caller's own. Per burst one load of the used index, one store of the avail index,
//! one full fence and one load of the device's wish for kicks. [`BurstRing::take_used`] prefetches the buffers of a burst before the
//! first is looked at, because they come from the device's cache.
//!
//! # What a device can do
//!
//! Name a buffer that does not exist, or return more than it was given: both are errors ([`BadDevice`]), after which the ring is of no
//! more use. Name a buffer twice, or scribble over the avail ring: then frames are wrong, but every id is
//! bounded before it is used, so accesses stay inside the memory named at the start.
//!
//! [`PackedBurstRing`] is the same for packed rings, [`EitherRing`] one of the two.
//!
//! Not thread-safe: one owner (`Send`, no `Sync` needed). Specification: VIRTIO 1.2, section 2.7.
#![expect(unsafe_code, reason = "ring memory is shared with a device")]

mod buffers;
mod either;
mod packed;
#[cfg(test)]
mod packed_tests;
#[cfg(test)]
mod tests;

use core::sync::atomic::{Ordering, fence};

pub use buffers::{BufferView, Buffers};
pub use either::EitherRing;
pub use packed::PackedBurstRing;

use super::driver_ring::RingMemory;
use super::split::{
    DESC_F_WRITE, Descriptor, IDX, RING, USED_F_NO_NOTIFY, avail_len, descriptors_len, need_event, used_len,
    valid_size,
};
use crate::prefetch::{LINE, prefetch, prefetch_to_write};

/// A device that does not keep to the rules; the ring must be started anew.
#[derive(thiserror::Error, Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadDevice {
    /// It returned a buffer that does not exist.
    #[error("the device returned buffer {id}, but the ring has {count}")]
    NoSuchBuffer {
        /// Id it named.
        id: u32,
        /// Buffers there are.
        count: u16,
    },
    /// Its used index ran ahead of what it was given.
    #[error("the device returned {returned} buffers, but was given {given}")]
    TooMany {
        /// Buffers it says it returned.
        returned: u16,
        /// Buffers it had.
        given: u16,
    },
}

/// Which way a ring's buffers go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// The device reads them: a transmit ring.
    ToDevice,
    /// The device writes them: a receive ring.
    FromDevice,
}

/// Driver side of a split ring whose buffers are paired with its descriptors. See the module.
#[derive(Debug)]
pub struct BurstRing {
    memory: RingMemory,
    buffers: Buffers,
    size: u16,
    event_idx: bool,
    /// Next position to stage.
    avail_idx: u16,
    /// Position up to which the device knows.
    published: u16,
    /// Position up to which it was asked whether it wants a kick.
    asked: u16,
    /// Next position of the used ring to take.
    used_idx: u16,
    /// The used index as loaded last.
    used_seen: u16,
}

impl BurstRing {
    /// Bytes of a ring of `size` entries laid out the classic way, and the offsets of avail and used ring in it: avail right behind the
    /// descriptors, used on the next page, so that no cache line is written by both sides.
    pub const fn layout(size: u16) -> (usize, usize, usize) {
        let avail = descriptors_len(size);
        let used = (avail + avail_len(size)).next_multiple_of(4096);
        (used + used_len(size), avail, used)
    }

    /// Starts a ring in zeroed memory: writes all descriptors, and has all buffers free. Interrupts are off. `None` when
    /// `size` is no valid ring size, `buffers` overlap, or their count is no power of two up to `size`.
    ///
    /// # Safety
    /// The three parts of `memory`, and [`Buffers::extent`] bytes from `buffers.start`, are mapped, writable, aligned, and stay
    /// so while the ring lives.
    pub unsafe fn new(
        memory: RingMemory,
        size: u16,
        direction: Direction,
        buffers: Buffers,
        event_idx: bool,
    ) -> Option<BurstRing> {
        if !valid_size(size) || buffers.count > size || !buffers.sound() {
            return None;
        }
        let flags = if direction == Direction::FromDevice { DESC_F_WRITE } else { 0 };
        for id in 0..buffers.count {
            let desc = Descriptor { addr: buffers.guest_address(id), len: buffers.capacity, flags, next: 0 };
            // SAFETY: id < size: inside the table and the avail ring (contract).
            unsafe {
                memory.descriptors.store_descriptor(usize::from(id), desc);
                memory.avail.store_u16(RING + usize::from(id) * 2, id, Ordering::Relaxed);
            }
        }
        let mut ring = BurstRing {
            memory,
            buffers,
            size,
            event_idx,
            avail_idx: 0,
            published: 0,
            asked: 0,
            used_idx: 0,
            used_seen: 0,
        };
        ring.disable_interrupts();
        Some(ring)
    }

    /// Entries of the ring.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Buffers that can be staged.
    #[inline]
    pub fn free(&self) -> u16 {
        self.buffers.count - self.avail_idx.wrapping_sub(self.used_idx)
    }

    /// Buffers the device has been shown and that have not been taken back.
    #[inline]
    pub fn outstanding(&self) -> u16 {
        self.published.wrapping_sub(self.used_idx)
    }

    /// Buffers staged that the device has not been shown.
    #[inline]
    pub fn staged(&self) -> u16 {
        self.avail_idx.wrapping_sub(self.published)
    }

    #[inline(always)]
    fn masked(&self, position: u16) -> usize {
        usize::from(position & (self.size - 1))
    }

    #[inline(always)]
    fn view(&self, id: u16) -> BufferView<'_> {
        // SAFETY: what `new` was given; there are no fewer descriptors than buffers.
        unsafe { self.buffers.view(id, self.memory.descriptors) }
    }

    /// Shows every buffer to `each`, wherever it is: to write what never changes. Meant for a ring whose buffers are all free.
    pub fn for_each_buffer(&mut self, mut each: impl FnMut(BufferView<'_>)) {
        for id in 0..self.buffers.count {
            each(self.view(id));
        }
    }

    /// Stages up to `n` free buffers in the order in which they became free, and shows each to `each` to be filled. Returns how
    /// many. The device sees them after [`BurstRing::publish`].
    #[inline(always)]
    pub fn stage(&mut self, n: u16, mut each: impl FnMut(BufferView<'_>)) -> u16 {
        let n = n.min(self.free());
        for k in 0..n {
            let offset = RING + self.masked(self.avail_idx.wrapping_add(k)) * 2;
            // SAFETY: the masked position lies inside the avail ring (contract of `new`).
            let id = unsafe { self.memory.avail.load_u16(offset, Ordering::Relaxed) };
            each(self.view(id));
        }
        self.avail_idx = self.avail_idx.wrapping_add(n);
        n
    }

    /// Stages up to `n` free buffers as they are. Returns how many. Costs the same for one as for all.
    #[inline]
    pub fn stage_unchanged(&mut self, n: u16) -> u16 {
        let n = n.min(self.free());
        self.avail_idx = self.avail_idx.wrapping_add(n);
        n
    }

    /// Shows staged buffers to the device. Returns whether it wants a kick for them.
    #[inline]
    #[must_use = "a device that asked for a kick sleeps until it gets one"]
    pub fn publish(&mut self) -> bool {
        self.show();
        self.wants_kick()
    }

    /// Shows staged buffers to the device, which may sleep: [`BurstRing::wants_kick`] is to be asked soon.
    #[inline]
    pub fn show(&mut self) {
        self.published = self.avail_idx;
        // SAFETY: the index lies inside the avail ring (contract of `new`).
        unsafe { self.memory.avail.store_u16(IDX, self.avail_idx, Ordering::Release) };
    }

    /// Whether the device wants a kick for what it was shown since this was asked last. Costs a full fence, which waits for every store before
    /// it: cheap a little later, dear right after a burst was written to lines that the device's processor holds.
    #[inline]
    #[must_use = "a device that asked for a kick sleeps until it gets one"]
    pub fn wants_kick(&mut self) -> bool {
        let old = core::mem::replace(&mut self.asked, self.published);
        // The index must be out before the wish is read, or both sides wait for each other (section 2.7.7.2).
        fence(Ordering::SeqCst);
        // SAFETY: flags and avail_event lie inside the used ring (contract of `new`).
        unsafe {
            if self.event_idx {
                let event = self.memory.used.load_u16(RING + usize::from(self.size) * 8, Ordering::Relaxed);
                need_event(event, self.published, old)
            } else {
                old != self.published
                    && self.memory.used.load_u16(0, Ordering::Relaxed) & USED_F_NO_NOTIFY == 0
            }
        }
    }

    /// Asks for the first `LINES` lines of the next buffers to be staged, up to `n`, with the right to write them: a transmit ring's, a burst ahead.
    /// `skip` is what of a buffer the frame does not begin with.
    #[inline]
    pub fn prefetch_free<const LINES: usize>(&self, n: u16, skip: usize) {
        for k in 0..n.min(self.free()) {
            let offset = RING + self.masked(self.avail_idx.wrapping_add(k)) * 2;
            // SAFETY: as in `stage`.
            let id = unsafe { self.memory.avail.load_u16(offset, Ordering::Relaxed) };
            let at = self.view(id).at.addr() + skip;
            for line in 0..LINES {
                prefetch_to_write(at + line * LINE);
            }
        }
    }

    /// How many used elements can be taken, at most `max`. The device's index is loaded only when those seen before do not suffice.
    #[inline(always)]
    fn ready(&mut self, max: u16) -> Result<u16, BadDevice> {
        let mut ready = self.used_seen.wrapping_sub(self.used_idx);
        if ready < max {
            // SAFETY: the index lies inside the used ring (contract of `new`).
            self.used_seen = unsafe { self.memory.used.load_u16(IDX, Ordering::Acquire) };
            ready = self.used_seen.wrapping_sub(self.used_idx);
            let given = self.outstanding();
            if ready > given {
                self.used_seen = self.used_idx;
                return Err(BadDevice::TooMany { returned: ready, given });
            }
        }
        Ok(ready.min(max))
    }

    /// Takes the used element at the next position: its id becomes free.
    #[inline(always)]
    fn take(&mut self) -> Result<(u16, u32), BadDevice> {
        let count = self.buffers.count;
        // SAFETY: the masked positions lie inside their rings (contract of `new`). The device has used `used_idx + 1` buffers,
        // so it has read that many entries of the avail ring; the one written here is `count` on, at most one turn of the ring.
        unsafe {
            let element = self.memory.used.load_used(RING + self.masked(self.used_idx) * 8);
            if element.id >= u32::from(count) {
                return Err(BadDevice::NoSuchBuffer { id: element.id, count });
            }
            let id = element.id as u16;
            let entry = RING + self.masked(self.used_idx.wrapping_add(count)) * 2;
            if self.memory.avail.load_u16(entry, Ordering::Relaxed) != id {
                self.memory.avail.store_u16(entry, id, Ordering::Relaxed);
            }
            self.used_idx = self.used_idx.wrapping_add(1);
            Ok((id, element.len))
        }
    }

    /// Takes up to `max` buffers that the device has used, oldest first, and shows each to `each` with the bytes that the device says it
    /// wrote (which may be more than the buffer holds: it is the device's word). They are free afterwards. The first `LINES`
    /// cache lines of every buffer are prefetched before the first call. Returns how many were taken.
    ///
    /// # Errors
    /// The device breaks the rules; elements before the bad one have been shown.
    #[inline(always)]
    pub fn take_used<const LINES: usize>(
        &mut self,
        max: u16,
        mut each: impl FnMut(BufferView<'_>, u32),
    ) -> Result<u16, BadDevice> {
        let n = self.ready(max)?;
        if LINES > 0 {
            for k in 0..n {
                let offset = RING + self.masked(self.used_idx.wrapping_add(k)) * 8;
                // SAFETY: the masked position lies inside the used ring (contract of `new`).
                let element = unsafe { self.memory.used.load_used(offset) };
                let at = self.view(element.id as u16).at;
                for line in 0..LINES {
                    prefetch(at.addr() + line * LINE);
                }
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
    /// As [`BurstRing::take_used`].
    #[inline]
    pub fn reclaim(&mut self, max: u16) -> Result<u16, BadDevice> {
        let n = self.ready(max)?;
        for _ in 0..n {
            self.take()?;
        }
        Ok(n)
    }

    /// Asks for an interrupt at the next used buffer. True when one waits already.
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

//! A running split ring, device side.
//!
//! The three parts were found and checked whole when the ring started, so an access here is one load or store at a
//! masked offset. Indexes the device owns are kept privately; the guest's avail index is read once per look and checked
//! against the ring's size.
//!
//! Completion is in order: the used index never runs ahead of, and after a burst never behind, what was taken. So a
//! front-end that lost us (kill -9) can restart the ring from the used index it sees, and nothing is lost or done twice
//! but the burst that was under way.
//!
//! Cost per chain of one descriptor: a load from the avail ring, two from the descriptor table, a store to the used ring. Per
//! burst: a load of the avail index, a store of the used index, one full fence.
#![expect(unsafe_code, reason = "ring memory is shared with a guest")]

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use pmd::virtio::SharedPtr;
use pmd::virtio::split::{
    AVAIL_F_NO_INTERRUPT, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, IDX, RING, USED_F_NO_NOTIFY,
    UsedElement, need_event,
};

use super::chain::{Direction, MAX_CHAIN_BYTES, MAX_SEGMENTS, Segment, Table, Walk};
use super::fault::RingFault;
use crate::memory::{MemTable, RegionCache};

/// Where the parts of a ring lie; each wholly inside one region, aligned.
#[derive(Clone, Copy)]
pub(crate) struct RingParts {
    pub(crate) descriptors: SharedPtr,
    pub(crate) avail: SharedPtr,
    pub(crate) used: SharedPtr,
}

/// What was negotiated that a ring must follow.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct RingRules {
    pub(crate) event_idx: bool,
    pub(crate) indirect: bool,
}

/// A chain that waits, as a look at the ring found it.
#[derive(Clone, Copy)]
pub(crate) struct Chain {
    pub(crate) head: u16,
    /// Its buffer, if it is a single one, of the right direction, in the region used last: nearly always. Everything else is
    /// for [`SplitRing::walk`].
    pub(crate) single: Option<Segment>,
}

impl Chain {
    /// Fills arrays.
    pub(crate) const NONE: Chain = Chain { head: 0, single: None };
}

/// A running ring.
pub(crate) struct SplitRing {
    parts: RingParts,
    mask: u16,
    rules: RingRules,
    /// Next avail entry to take.
    next_avail: u16,
    /// Avail index as last read.
    avail_idx: u16,
    /// Next used entry to write; entries up to here are written, but visible only up to `published`.
    next_used: u16,
    published: u16,
    /// Used index at the last decision to notify.
    decided: u16,
    cache: RegionCache,
    /// Pieces of the chain walked last.
    pub(crate) segments: Vec<Segment>,
    memory: Arc<MemTable>,
    call: Option<Arc<OwnedFd>>,
}

impl SplitRing {
    pub(super) fn new(
        memory: Arc<MemTable>,
        parts: RingParts,
        size: u16,
        base: u16,
        rules: RingRules,
        call: Option<Arc<OwnedFd>>,
    ) -> SplitRing {
        // SAFETY: idx lies inside the checked used ring.
        let used = unsafe { parts.used.load_u16(IDX, Ordering::Acquire) };
        let mut ring = SplitRing {
            parts,
            mask: size - 1,
            rules,
            next_avail: base,
            avail_idx: base,
            next_used: used,
            published: used,
            decided: used,
            cache: RegionCache::EMPTY,
            segments: Vec::with_capacity(MAX_SEGMENTS),
            memory,
            call,
        };
        ring.disarm();
        ring
    }

    /// Next avail index, as the front-end wants to know it when the ring stops.
    pub(crate) fn next_avail(&self) -> u16 {
        self.next_avail
    }

    /// Used index the ring continues from. It equals [`SplitRing::next_avail`] between bursts, unless the front-end gave
    /// another base.
    pub(crate) fn next_used(&self) -> u16 {
        self.next_used
    }

    /// Goes on from the used index the guest sees.
    pub(crate) fn rewind_to_used(&mut self) {
        self.next_avail = self.next_used;
        self.avail_idx = self.next_used;
    }

    /// Replaces the interrupt descriptor.
    pub(crate) fn set_call(&mut self, call: Option<Arc<OwnedFd>>) {
        self.call = call;
    }

    /// Interrupt descriptor.
    pub(crate) fn call(&self) -> Option<&Arc<OwnedFd>> {
        self.call.as_ref()
    }

    /// Chains that can be taken now. Reads the guest's index.
    #[inline]
    pub(crate) fn refresh(&mut self) -> Result<u16, RingFault> {
        // SAFETY: idx lies inside the checked avail ring. Acquire: what the driver wrote before it is seen after.
        self.avail_idx = unsafe { self.parts.avail.load_u16(IDX, Ordering::Acquire) };
        let waiting = self.avail_idx.wrapping_sub(self.next_avail);
        if waiting > self.mask.wrapping_add(1) { Err(RingFault::AvailIndex) } else { Ok(waiting) }
    }

    /// Chains that can be taken by what was last read.
    #[inline]
    pub(crate) fn waiting(&self) -> u16 {
        self.avail_idx.wrapping_sub(self.next_avail)
    }

    /// Head of the chain `ahead` of the next one. Only heads below [`SplitRing::waiting`] mean anything.
    #[inline]
    pub(crate) fn head(&self, ahead: u16) -> Result<u16, RingFault> {
        let index = self.next_avail.wrapping_add(ahead) & self.mask;
        // SAFETY: the masked index lies inside the checked avail ring. Ordered after the index by `refresh`.
        let head = unsafe { self.parts.avail.load_u16(RING + usize::from(index) * 2, Ordering::Relaxed) };
        if head > self.mask { Err(RingFault::DescriptorIndex) } else { Ok(head) }
    }

    /// Looks at the next `chains.len()` chains, of which there must be as many waiting, and takes none. Returns how many
    /// it could name, and the fault that the one after them has.
    ///
    /// All before the first is worked on: so the loads of their descriptors overlap, and of each buffer the lines from
    /// `offset` on are on their way when its turn comes. They were last touched by another processor, so each is a miss of some
    /// hundred cycles; asked for together they cost little more than one.
    #[inline]
    pub(crate) fn look(
        &self,
        direction: Direction,
        offset: usize,
        chains: &mut [Chain],
    ) -> (usize, Option<RingFault>) {
        for (ahead, chain) in chains.iter_mut().enumerate() {
            let head = match self.head(ahead as u16) {
                Ok(head) => head,
                Err(fault) => return (ahead, Some(fault)),
            };
            let single = self.single(head, direction);
            if let Some(segment) = &single {
                prefetch_buffer(segment.start.addr(), offset, direction);
            }
            *chain = Chain { head, single };
        }
        (chains.len(), None)
    }

    /// The chain at `head` if it is a single buffer of this direction in the region used last: nearly always.
    #[inline]
    pub(super) fn single(&self, head: u16, direction: Direction) -> Option<Segment> {
        // SAFETY: head <= mask (from `head`), inside the checked table.
        let desc = unsafe { self.parts.descriptors.load_descriptor(usize::from(head & self.mask)) };
        if desc.flags & (DESC_F_NEXT | DESC_F_INDIRECT | DESC_F_WRITE) != direction.flag()
            || desc.len > MAX_CHAIN_BYTES
        {
            return None;
        }
        self.cache.get(desc.addr, desc.len).map(|start| Segment { start, len: desc.len })
    }

    /// Appends the pieces of the chain at `head` to [`SplitRing::segments`] and returns its bytes.
    pub(crate) fn walk(&mut self, head: u16, direction: Direction) -> Result<u32, RingFault> {
        let table = Table { start: self.parts.descriptors, len: u32::from(self.mask) + 1 };
        let walk =
            Walk { memory: &self.memory, cache: &mut self.cache, indirect: self.rules.indirect, direction };
        walk.chain(table, head, &mut self.segments)
    }

    /// Takes the next chain and writes its used element: `len` bytes were written into it. The guest sees it after
    /// [`SplitRing::publish`].
    #[inline]
    pub(crate) fn complete(&mut self, head: u16, len: u32) {
        let index = self.next_used & self.mask;
        let element = UsedElement { id: u32::from(head), len };
        // SAFETY: the masked index lies inside the checked used ring.
        unsafe { self.parts.used.store_used(RING + usize::from(index) * 8, element) };
        self.next_used = self.next_used.wrapping_add(1);
        self.next_avail = self.next_avail.wrapping_add(1);
    }

    /// Takes all that waits and gives it back unread. Returns how many chains.
    pub(crate) fn discard(&mut self) -> Result<u16, RingFault> {
        let waiting = self.refresh()?;
        for _ in 0..waiting {
            let head = self.head(0)?;
            self.complete(head, 0);
        }
        Ok(waiting)
    }

    /// Takes the next chains, which a look found, with nothing written into them.
    #[inline]
    pub(crate) fn complete_unwritten(&mut self, chains: &[Chain]) {
        let mut next = self.next_used;
        for chain in chains {
            let element = UsedElement { id: u32::from(chain.head), len: 0 };
            // SAFETY: the masked index lies inside the checked used ring.
            unsafe { self.parts.used.store_used(RING + usize::from(next & self.mask) * 8, element) };
            next = next.wrapping_add(1);
        }
        self.next_used = next;
        self.next_avail = self.next_avail.wrapping_add(chains.len() as u16);
    }

    /// Shows completed chains to the guest. True when it wants to be told.
    #[inline]
    pub(crate) fn publish(&mut self) -> Option<bool> {
        if self.published == self.next_used {
            return None;
        }
        // SAFETY: idx, flags and used_event lie inside their checked rings. Release: payload and elements before the
        // index.
        unsafe {
            self.parts.used.store_u16(IDX, self.next_used, Ordering::Release);
            self.published = self.next_used;
            // The driver sets its event and then looks at our index; we do it the other way round. A full fence on
            // both sides lets at least one of us see the other.
            fence(Ordering::SeqCst);
            let wanted = if self.rules.event_idx {
                let at = RING + (usize::from(self.mask) + 1) * 2;
                let event = self.parts.avail.load_u16(at, Ordering::Relaxed);
                need_event(event, self.next_used, self.decided)
            } else {
                self.parts.avail.load_u16(0, Ordering::Relaxed) & AVAIL_F_NO_INTERRUPT == 0
            };
            self.decided = self.next_used;
            Some(wanted)
        }
    }

    /// Asks the guest to kick at the next chain it adds. True when one waits already.
    pub(crate) fn arm(&mut self) -> bool {
        // SAFETY: flags, avail_event and idx lie inside their checked rings.
        unsafe {
            if self.rules.event_idx {
                let at = RING + (usize::from(self.mask) + 1) * 8;
                self.parts.used.store_u16(at, self.next_avail, Ordering::Relaxed);
            } else {
                self.parts.used.store_u16(0, 0, Ordering::Relaxed);
            }
            fence(Ordering::SeqCst);
            self.parts.avail.load_u16(IDX, Ordering::Acquire) != self.next_avail
        }
    }

    /// Tells the guest that kicks are not needed.
    pub(crate) fn disarm(&mut self) {
        // With event indexes there is no "never": the event set last stays behind the index and is passed once
        // in 65536 chains.
        if !self.rules.event_idx {
            // SAFETY: flags lie inside the checked used ring.
            unsafe { self.parts.used.store_u16(0, USED_F_NO_NOTIFY, Ordering::Relaxed) };
        }
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Asks the processor for a frame of up to a line, which is on two when it does not begin on one, `offset` bytes into the
/// buffer at `start`.
#[inline]
fn prefetch_buffer(start: usize, offset: usize, direction: Direction) {
    let first = start.wrapping_add(offset);
    let last = first.wrapping_add(LINE - 1);
    match direction {
        Direction::Read => {
            prefetch(first);
            prefetch(last);
        }
        Direction::Write => {
            prefetch_to_write(first);
            prefetch_to_write(last);
            // What stands before is compared first and mostly left as it is.
            prefetch(start);
        }
    }
}

/// Brings the line at `addr` into the first cache; any address will do.
#[inline]
fn prefetch(addr: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch has no effect but on caches and never faults.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::without_provenance(addr));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = addr;
}

/// Like [`prefetch`], and asks for the right to write the line.
#[inline]
fn prefetch_to_write(addr: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch has no effect but on caches and never faults.
    unsafe {
        // Not the intrinsic: for a processor of the x86-64 baseline it becomes a prefetch for reading, which costs a second
        // trip when the store comes. The instruction itself is known to, or ignored by, every 64-bit processor.
        core::arch::asm!("prefetchw [{}]", in(reg) addr, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = addr;
}

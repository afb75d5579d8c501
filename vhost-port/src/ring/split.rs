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
use pmd::virtio::split::{AVAIL_F_NO_INTERRUPT, IDX, RING, USED_F_NO_NOTIFY, UsedElement, need_event};

use super::ahead::LookAhead;
use super::chain::{Direction, MAX_SEGMENTS, Segment, Table, Tables, Walk};
use super::device::Cursor;
use super::fault::RingFault;
use super::inflight::InflightRegion;
use super::kill;
use super::ring_log::RingLog;
use crate::memory::{DirtyLog, MemTable, RegionCache, Window};

/// Where the parts of a ring lie; each wholly inside one region, aligned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct RingParts {
    pub(crate) descriptors: SharedPtr,
    pub(crate) avail: SharedPtr,
    pub(crate) used: SharedPtr,
}

impl RingParts {
    /// Head of the chain at an avail index, which must be below the guest's.
    #[inline(always)]
    pub(super) fn head(self, index: u16, mask: u16) -> Result<u16, RingFault> {
        let at = RING + usize::from(index & mask) * 2;
        // SAFETY: the masked index lies inside the checked avail ring. Ordered after the guest's index by `refresh`.
        let head = unsafe { self.avail.load_u16(at, Ordering::Relaxed) };
        if head > mask { Err(RingFault::DescriptorIndex) } else { Ok(head) }
    }
}

/// What was negotiated that a ring must follow.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct RingRules {
    pub(crate) event_idx: bool,
    pub(crate) indirect: bool,
    pub(crate) packed: bool,
    pub(crate) in_order: bool,
}

/// A running ring.
pub(crate) struct SplitRing {
    pub(super) parts: RingParts,
    pub(super) mask: u16,
    rules: RingRules,
    /// Next avail entry to take.
    pub(super) next_avail: u16,
    /// Avail index as last read.
    avail_idx: u16,
    /// Next used entry to write; entries up to here are written, but visible only up to `published`.
    pub(super) next_used: u16,
    published: u16,
    /// Used index at the last decision to notify.
    decided: u16,
    pub(super) cache: RegionCache,
    tables: Tables,
    pub(super) ahead: LookAhead,
    /// Pieces of the chain walked last.
    pub(crate) segments: Vec<Segment>,
    pub(super) memory: Arc<MemTable>,
    /// What holds the parts together, if they are in pieces.
    pub(super) windows: Vec<Arc<Window>>,
    pub(super) call: Option<Arc<OwnedFd>>,
    /// While the guest is being migrated.
    log: Option<RingLog>,
    /// If the front-end wants to have it kept.
    pub(super) inflight: Option<InflightRegion>,
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
            tables: Tables::default(),
            ahead: LookAhead::new(base),
            segments: Vec::with_capacity(MAX_SEGMENTS),
            memory,
            windows: Vec::new(),
            call,
            log: None,
            inflight: None,
        };
        ring.disarm();
        ring
    }

    /// As [`super::device::DeviceRing::log_to`].
    pub(super) fn log_to(&mut self, log: &Arc<DirtyLog>, used_at: Option<u64>) {
        self.log.insert(RingLog::new(log, &self.memory, self.parts, &self.windows, used_at)).said();
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
        self.ahead = LookAhead::new(self.next_used);
    }

    /// Goes on with other addresses, between bursts: the ring itself has stayed where it is.
    pub(crate) fn set_memory(&mut self, memory: Arc<MemTable>) {
        self.memory = memory;
        self.cache = RegionCache::EMPTY;
        self.tables.cache = RegionCache::EMPTY;
        self.ahead.forget(self.next_avail);
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
        self.parts.head(self.next_avail.wrapping_add(ahead), self.mask)
    }

    /// Appends the pieces of the chain at `head` to [`SplitRing::segments`] and returns its bytes.
    pub(crate) fn walk(&mut self, head: u16, direction: Direction) -> Result<u32, RingFault> {
        let table = Table { start: self.parts.descriptors, len: u32::from(self.mask) + 1 };
        let (cache, tables) = (&mut self.cache, &mut self.tables);
        let walk = Walk { memory: &self.memory, cache, tables, indirect: self.rules.indirect, direction };
        walk.chain(table, head, &mut self.segments)
    }

    /// Takes the next chain and writes its used element: `len` bytes were written into it. The guest sees it after
    /// [`SplitRing::publish`].
    #[inline]
    pub(crate) fn complete(&mut self, head: u16, len: u32) {
        self.write_used(0, head, len);
        self.next_used = self.next_used.wrapping_add(1);
        self.pass_one();
    }

    /// Writes the used element of the chain `ahead` of the next one. It counts after [`SplitRing::complete_run`].
    #[inline(always)]
    pub(crate) fn write_used(&self, ahead: u16, head: u16, len: u32) {
        let index = self.next_used.wrapping_add(ahead) & self.mask;
        let element = UsedElement { id: u32::from(head), len };
        kill::point();
        // SAFETY: the masked index lies inside the checked used ring.
        unsafe { self.parts.used.store_used(RING + usize::from(index) * 8, element) };
    }

    /// Takes the next `chains` chains, of which [`SplitRing::ready`] knew and whose used elements have been written.
    #[inline(always)]
    pub(crate) fn complete_run(&mut self, chains: u16) {
        self.next_used = self.next_used.wrapping_add(chains);
        self.pass(chains);
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

    /// Takes the next `chains` chains, of which [`SplitRing::ready`] knew, with nothing written into them.
    #[inline]
    pub(crate) fn complete_unwritten(&mut self, chains: u16) {
        for ahead in 0..chains {
            self.write_used(ahead, self.chain(ahead).head, 0);
        }
        self.complete_run(chains);
    }

    /// As [`super::device::DeviceRing::publish`].
    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        if self.published == self.next_used {
            return false;
        }
        kill::point();
        // SAFETY: idx lies inside the checked used ring. Release: payload and elements before the index.
        unsafe { self.parts.used.store_u16(IDX, self.next_used, Ordering::Release) };
        if let Some(log) = &self.log {
            log.used_elements(self.published, self.next_used, self.mask);
        }
        if let Some(region) = &self.inflight {
            region.shown_split(self.next_used);
        }
        self.published = self.next_used;
        true
    }

    /// Whether the guest wants to be told of what was published since this was asked last.
    ///
    /// The driver sets its event and then looks at our index; we do it the other way round, and a full fence on both sides lets
    /// at least one of us see the other. The fence waits until every store before it has reached the cache, and right after a
    /// burst those go to lines that the guest holds: some hundred cycles. A little later they are there, and it costs twenty.
    #[inline]
    pub(super) fn wants_notice(&mut self) -> bool {
        fence(Ordering::SeqCst);
        // SAFETY: flags and used_event lie inside the checked avail ring.
        let wanted = unsafe {
            if self.rules.event_idx {
                let at = RING + (usize::from(self.mask) + 1) * 2;
                let event = self.parts.avail.load_u16(at, Ordering::Relaxed);
                need_event(event, self.published, self.decided)
            } else {
                self.parts.avail.load_u16(0, Ordering::Relaxed) & AVAIL_F_NO_INTERRUPT == 0
            }
        };
        self.decided = self.published;
        wanted
    }

    /// Asks the guest to kick at the next chain it adds. True when one waits already.
    pub(crate) fn arm(&mut self) -> bool {
        self.arm_at(&Cursor::default())
    }

    /// The same for the chain after those that a walk has passed.
    pub(super) fn arm_at(&mut self, cursor: &Cursor) -> bool {
        let size = usize::from(self.mask) + 1;
        let next = self.next_avail.wrapping_add(cursor.chains);
        // SAFETY: flags, avail_event and idx lie inside their checked rings.
        unsafe {
            if self.rules.event_idx {
                self.parts.used.store_u16(RING + size * 8, next, Ordering::Relaxed);
            } else {
                self.parts.used.store_u16(0, 0, Ordering::Relaxed);
            }
            if let Some(log) = &self.log {
                if self.rules.event_idx { log.said_behind(size) } else { log.said() }
            }
            fence(Ordering::SeqCst);
            self.parts.avail.load_u16(IDX, Ordering::Acquire) != next
        }
    }

    /// Tells the guest that kicks are not needed.
    pub(crate) fn disarm(&mut self) {
        // With event indexes there is no "never": the event set last stays behind the index and is passed once
        // in 65536 chains.
        if !self.rules.event_idx {
            // SAFETY: flags lie inside the checked used ring.
            unsafe { self.parts.used.store_u16(0, USED_F_NO_NOTIFY, Ordering::Relaxed) };
            if let Some(log) = &self.log {
                log.said();
            }
        }
    }
}

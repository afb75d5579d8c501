//! A running packed ring, device side (virtio 1.2, 2.8).
//!
//! One ring of descriptors, which both sides write in turn: the driver makes one available by its flags, we make it used by
//! writing over it. We complete in order and at once, so the next descriptor to take is also the next to use: one
//! [`Position`] is all the state there is, and a chain is given back where it began.
//!
//! # A burst appears at once
//!
//! Used descriptors are noted in the ring's [`Journal`] as chains are completed, and written into the ring by
//! [`PackedRing::publish`], the first one last and with Release. The driver looks for them one after the other: it finds nothing
//! until it finds everything, and lines go back and forth once. The journal is why this holds even if we are killed in between. With
//! IN_ORDER the chains of a burst from the guest are all given back by one descriptor.
//!
//! # What a guest can do
//!
//! A descriptor is read for use once, into private memory. That of a chain of several descriptors there are so many, and what its id is, is
//! known from the look ([`super::packed_ahead`]); where its buffers are, from the walk. Neither is believed twice, so it does not
//! matter if the guest changes them in between. An id is only ever given back: it means nothing to us.
//!
//! Cost per chain of one descriptor: one load of the flags, two of the rest, one store; all to the same line, of which
//! a descriptor has a quarter; and a note in the journal. Per burst: two loads of the guest's wishes, one full fence.
#![expect(unsafe_code, reason = "ring memory is shared with a guest")]

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use pmd::virtio::packed::{
    EVENT_F_DESC, EVENT_F_DISABLE, EVENT_F_ENABLE, EVENT_FLAGS, EVENT_OFF_WRAP, Element, Position,
    wants_event,
};
use pmd::virtio::split::{DESC_F_INDIRECT, DESC_F_WRITE, Descriptor};

use super::ahead::Chain;
use super::chain::{Direction, MAX_SEGMENTS, Segment, Tables, Walk};
use super::device::{Cursor, Extent, Ring};
use super::fault::RingFault;
use super::inflight::InflightRegion;
use super::journal::Journal;
use super::packed_ahead::PackedAhead;
use super::ring_log::RingLog;
use super::split::{RingParts, RingRules};
use crate::memory::{DirtyLog, MemTable, RegionCache, Window};

/// A running packed ring. Of its [`RingParts`], avail is the driver's event area and used the device's.
pub(crate) struct PackedRing {
    pub(super) parts: RingParts,
    pub(super) size: u16,
    pub(super) rules: RingRules,
    /// Next chain to take, and where it is given back.
    pub(super) next: Position,
    /// Used descriptors that the guest has not been shown.
    journal: Journal,
    /// Position up to which the guest can see.
    published: Position,
    /// Something was published that [`PackedRing::publish`] has not reported.
    shown: bool,
    /// Descriptors published since the last decision to notify, at most a ring's.
    moved: u16,
    pub(super) cache: RegionCache,
    tables: Tables,
    pub(super) ahead: PackedAhead,
    segments: Vec<Segment>,
    pub(super) memory: Arc<MemTable>,
    /// What holds the parts together, if they are in pieces.
    pub(super) windows: Vec<Arc<Window>>,
    pub(super) call: Option<Arc<OwnedFd>>,
    /// While the guest is being migrated.
    log: Option<RingLog>,
    /// If the front-end wants to have it kept.
    pub(super) inflight: Option<InflightRegion>,
}

impl PackedRing {
    /// A ring that goes on at `base`, which is inside it, and where the journal was begun.
    pub(super) fn new(
        memory: Arc<MemTable>,
        parts: RingParts,
        size: u16,
        (base, journal): (Position, Journal),
        rules: RingRules,
        call: Option<Arc<OwnedFd>>,
    ) -> PackedRing {
        let mut ring = PackedRing {
            parts,
            size,
            rules,
            next: base,
            journal,
            published: base,
            shown: false,
            moved: 0,
            cache: RegionCache::EMPTY,
            tables: Tables::default(),
            ahead: PackedAhead::new(base),
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
        let log = self.log.insert(RingLog::new(log, &self.memory, self.parts, &self.windows, used_at));
        log.said();
        // A device that died may have written any of it without noting so.
        log.used_descriptors(self.next, self.next.advanced(self.size, self.size), self.size);
    }

    /// Where it would go on, as the front-end is told when the ring stops.
    #[inline]
    pub(crate) fn next_avail(&self) -> u16 {
        self.next.bits()
    }

    /// The same: nothing in the ring's memory says where the guest believes us to be.
    pub(crate) fn next_used(&self) -> u16 {
        self.next.bits()
    }

    /// Nothing to do: see [`PackedRing::next_used`].
    pub(crate) fn rewind_to_used(&mut self) {}

    /// Goes on with other addresses, between bursts: the ring itself has stayed where it is.
    pub(crate) fn set_memory(&mut self, memory: Arc<MemTable>) {
        self.memory = memory;
        self.cache = RegionCache::EMPTY;
        self.tables.cache = RegionCache::EMPTY;
        self.ahead.forget(self.next);
    }

    /// Notes a used descriptor of one or more chains.
    #[inline(always)]
    fn note(&mut self, at: Position, element: Element) {
        self.journal.note(0, at, element);
        self.journal.pass(1);
    }

    /// Notes that the next chains, which are known, have been used with nothing written into them, each by itself.
    #[inline(always)]
    fn note_unwritten(&mut self, chains: u16) {
        let (ahead, journal, from) = (&self.ahead, &mut self.journal, self.next);
        let unwritten =
            |chain, at: Position, flags| (at, Element { len: 0, id: ahead.chain(chain).head, flags });
        let last = ahead.position(chains - 1);
        if last.since(from, self.size) + 1 != chains {
            return journal.note_all((0..chains).map(|chain| {
                let at = ahead.position(chain);
                unwritten(chain, at, at.used_flags())
            }));
        }
        // One descriptor each, mostly: then flags change only where the ring ends.
        let here = chains.min(self.size - from.slot());
        for (first, at, count) in [(0, from, here), (here, from.advanced(here, self.size), chains - here)] {
            let flags = at.used_flags();
            let place = |index| Position::from_bits(at.bits() + index);
            journal.note_all((0..count).map(|index| unwritten(first + index, place(index), flags)));
        }
    }

    /// Shows the guest what was noted.
    #[inline(always)]
    fn show(&mut self) {
        if let Some(region) = &mut self.inflight {
            region.take_packed(self.parts, self.published, self.next);
        }
        self.journal.carry_out(self.parts, self.size, self.published, self.next);
        if let Some(region) = &self.inflight {
            region.shown_packed(self.published, self.next);
        }
        if let Some(log) = &self.log {
            log.used_descriptors(self.published, self.next, self.size);
        }
        let moved = self.next.since(self.published, self.size);
        self.moved = self.moved.saturating_add(moved).min(self.size);
        self.published = self.next;
        self.shown = true;
    }

    /// The same in the middle of a burst.
    #[cold]
    #[inline(never)]
    fn show_early(&mut self) {
        self.show();
    }

    /// Takes all that waits and gives it back unread. Returns how many chains.
    pub(crate) fn discard(&mut self) -> Result<u16, RingFault> {
        let mut chains = 0;
        // A guest that makes more available meanwhile has to wait.
        while chains < self.size
            && let Some(chain) = self.peek(&mut Cursor::default())?
        {
            self.make_room(1);
            self.complete(chain, 0);
            chains += 1;
        }
        Ok(chains)
    }

    /// Whether the guest wants to be told of what was published since this was asked last. For the fence see
    /// [`super::split::SplitRing::wants_notice`].
    #[inline]
    pub(super) fn wants_notice(&mut self) -> bool {
        if self.moved == 0 {
            return false;
        }
        fence(Ordering::SeqCst);
        // SAFETY: both words lie inside the checked event area. Acquire: the position was written before the flags.
        let (flags, off_wrap) = unsafe {
            let flags = self.parts.avail.load_u16(EVENT_FLAGS, Ordering::Acquire);
            (flags, self.parts.avail.load_u16(EVENT_OFF_WRAP, Ordering::Relaxed))
        };
        let moved = std::mem::take(&mut self.moved);
        wants_event(off_wrap, flags, self.rules.event_idx, self.published, moved, self.size)
    }

    /// Asks the guest to kick at the next chain it adds. True when one waits already.
    pub(crate) fn arm(&mut self) -> bool {
        // For the chains looked at before that the guest will not kick.
        self.arm_for(self.ahead.at) || self.known() > 0
    }

    /// The same for the chain after those that a walk has passed.
    pub(super) fn arm_at(&mut self, cursor: &Cursor) -> bool {
        self.arm_for(cursor.at.unwrap_or(self.ahead.at)) || cursor.chains < self.known()
    }

    /// Asks for a kick at `next`. True when a chain is there already.
    fn arm_for(&mut self, next: Position) -> bool {
        // Without event indexes the position says nothing to the driver.
        let (event, flags) =
            if self.rules.event_idx { (next.bits(), EVENT_F_DESC) } else { (u16::MAX, EVENT_F_ENABLE) };
        // SAFETY: the words lie inside the checked event area, the position inside the checked ring.
        unsafe {
            self.parts.used.store_u16(EVENT_OFF_WRAP, event, Ordering::Relaxed);
            self.parts.used.store_u16(EVENT_FLAGS, flags, Ordering::Release);
            if let Some(log) = &self.log {
                log.said();
            }
            fence(Ordering::SeqCst);
            next.is_available(self.parts.descriptors.load_packed_flags(usize::from(next.slot())))
        }
    }

    /// Tells the guest that kicks are not needed.
    ///
    /// Here as in [`PackedRing::arm`], the event area is at no moment all zero: that is how a ring that a device has run on is told
    /// from one that its driver has just made ([`super::journal`]).
    pub(crate) fn disarm(&mut self) {
        // SAFETY: the word lies inside the checked event area.
        unsafe { self.parts.used.store_u16(EVENT_FLAGS, EVENT_F_DISABLE, Ordering::Relaxed) };
        if let Some(log) = &self.log {
            log.said();
        }
    }

    /// As [`super::device::DeviceRing::publish`].
    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        if !self.journal.is_empty() {
            self.show();
        }
        std::mem::take(&mut self.shown)
    }

    /// Takes the next chains, which are known.
    #[inline(always)]
    fn pass(&mut self, chains: u16) {
        if chains > 0 {
            self.next = self.after(self.extent(chains - 1));
            self.ahead.pass(chains);
        }
    }

    /// The position after a chain.
    #[inline(always)]
    fn after(&self, chain: Extent) -> Position {
        chain.at.advanced(chain.descriptors, self.size)
    }

    /// Appends the pieces of a descriptor of the ring, `alone` or one of several of a chain.
    fn walk_descriptor(
        &mut self,
        at: Position,
        alone: bool,
        direction: Direction,
        total: u32,
    ) -> Result<u32, RingFault> {
        // SAFETY: positions stay inside the checked ring. Ordered after its flags by the look.
        let packed = unsafe { self.parts.descriptors.load_packed(usize::from(at.slot())) };
        let Element { len, flags, .. } = packed.element;
        let desc = Descriptor { addr: packed.addr, len, flags, next: 0 };
        let indirect = self.rules.indirect;
        let (cache, tables) = (&mut self.cache, &mut self.tables);
        let mut walk = Walk { memory: &self.memory, cache, tables, indirect, direction };
        if flags & DESC_F_INDIRECT == 0 {
            return walk.buffer(&desc, total, &mut self.segments);
        }
        if !indirect || !alone {
            return Err(RingFault::BadIndirect);
        }
        // All entries of the table, one after the other; their NEXT flags say nothing (2.8.7).
        let table = walk.indirect_table(&desc)?;
        let mut total = total;
        // DPDK's driver (24.11) leaves WRITE set in the tables of what it sends. Reading what we were asked to write harms nobody.
        let ignored = if direction == Direction::Read { DESC_F_WRITE } else { 0 };
        for index in 0..table.len {
            let mut desc = table.get_packed(index)?;
            if desc.flags & DESC_F_INDIRECT != 0 {
                return Err(RingFault::BadIndirect);
            }
            desc.flags &= !ignored;
            total = walk.buffer(&desc, total, &mut self.segments)?;
        }
        Ok(total)
    }
}

impl Ring for PackedRing {
    #[inline(always)]
    fn ready(&mut self, direction: Direction, offset: usize, wanted: u16) -> (u16, Option<RingFault>) {
        if self.known() >= wanted { (wanted, None) } else { self.look_now(direction, offset, wanted) }
    }

    #[inline(always)]
    fn chain(&self, ahead: u16) -> Chain {
        self.ahead.chain(ahead)
    }

    #[inline(always)]
    fn extent(&self, ahead: u16) -> Extent {
        let Chain { start, len, head } = self.chain(ahead);
        let descriptors = if start.is_some() { 1 } else { len as u16 };
        Extent { head, at: self.ahead.position(ahead), descriptors }
    }

    fn peek(&mut self, cursor: &mut Cursor) -> Result<Option<Extent>, RingFault> {
        let chain = if cursor.chains < self.known() {
            self.extent(cursor.chains)
        } else {
            let at = cursor.at.unwrap_or(self.ahead.at);
            let Some(chain) = self.chain_at(at)? else { return Ok(None) };
            cursor.at = Some(self.after(chain));
            chain
        };
        cursor.chains += 1;
        Ok(Some(chain))
    }

    fn walk(&mut self, chain: Extent, direction: Direction) -> Result<u32, RingFault> {
        let count = chain.descriptors;
        let (mut at, mut total) = (chain.at, 0);
        for _ in 0..count {
            total = self.walk_descriptor(at, count == 1, direction, total)?;
            at = at.advanced(1, self.size);
        }
        if (total as usize) < pmd::virtio::NetHeader::LEGACY_LEN {
            Err(RingFault::NoHeader)
        } else {
            Ok(total)
        }
    }

    #[inline]
    fn segments(&self) -> &[Segment] {
        &self.segments
    }

    #[inline]
    fn forget_segments(&mut self) {
        self.segments.clear();
    }

    #[inline(always)]
    fn make_room(&mut self, chains: u16) {
        if !self.journal.has_room(chains) {
            self.show_early();
        }
    }

    #[inline(always)]
    fn write_used(&mut self, ahead: u16, chain: Chain, len: u32) {
        let at = self.ahead.position(ahead);
        let element = Element { len, id: chain.head, flags: at.used_flags() | DESC_F_WRITE };
        self.journal.note(ahead, at, element);
    }

    #[inline(always)]
    fn complete_run(&mut self, chains: u16) {
        self.journal.pass(chains);
        self.pass(chains);
    }

    #[inline]
    fn complete_unwritten(&mut self, chains: u16) {
        if chains == 0 {
            return;
        }
        if self.rules.in_order {
            // Where the first began, with the id of the last (2.8.5).
            let (at, id) = (self.next, self.chain(chains - 1).head);
            self.note(at, Element { len: 0, id, flags: at.used_flags() });
        } else {
            self.note_unwritten(chains);
        }
        self.pass(chains);
    }

    fn complete(&mut self, chain: Extent, len: u32) {
        let at = chain.at;
        let written = if len > 0 { DESC_F_WRITE } else { 0 };
        self.note(at, Element { len, id: chain.head, flags: at.used_flags() | written });
        self.next = self.after(chain);
        if self.known() > 0 {
            self.ahead.pass(1);
        } else {
            self.ahead.at = self.next;
        }
    }

    #[inline(always)]
    fn look_ahead(&mut self, direction: Direction, offset: usize) {
        self.look_at_next_burst(direction, offset);
    }
}

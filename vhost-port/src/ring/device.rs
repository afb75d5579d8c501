//! A running ring of either kind: what a burst does with it, and the kind, told apart once per burst.
//!
//! The functions that move frames are generic over [`Ring`], so there is one copy of each per kind of ring and no choice inside a
//! burst. Whoever holds a [`DeviceRing`] matches on it once and calls the copy.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use pmd::packet::BURST;
use pmd::virtio::packed::Position;

use super::ahead::Chain;
use super::chain::{Direction, Segment};
use super::fault::RingFault;
use super::inflight::InflightRegion;
#[cfg(doc)]
use super::journal::MOST_NOTES;
use super::packed::PackedRing;
use super::split::{RingParts, SplitRing};
use crate::memory::{DirtyLog, MemTable, Window};

/// Which descriptors a chain is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    /// What the guest knows it by.
    pub(super) head: u16,
    /// Of a packed ring: where it begins, and how many descriptors it has. Else nothing.
    pub(super) at: Position,
    pub(super) descriptors: u16,
}

impl Extent {
    /// Descriptors of a packed ring that it takes; none are counted in a split one.
    pub(crate) fn descriptors(&self) -> u16 {
        self.descriptors
    }
}

/// How far a walk over waiting chains has come, without taking any. The default stands at the next chain.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cursor {
    /// Chains passed.
    pub(super) chains: u16,
    /// Where the next chain begins in a packed ring, once beyond those that were looked at.
    pub(super) at: Option<Position>,
}

impl Cursor {
    /// The chain passed first was completed.
    pub(crate) fn completed_one(&mut self) {
        self.chains = self.chains.saturating_sub(1);
    }
}

/// What a burst does with a ring. Guests are told, and rings started and stopped, through [`DeviceRing`].
pub(crate) trait Ring {
    /// Sees to it that of the next `wanted` chains (at most a burst) all that wait have been looked at. Returns how many, and
    /// the fault of the one after them, if that is why there are no more. `offset` is where in a buffer the bytes begin that
    /// will be touched.
    fn ready(&mut self, direction: Direction, offset: usize, wanted: u16) -> (u16, Option<RingFault>);

    /// The chain `ahead` of the next one; it says something only below what [`Ring::ready`] returned.
    fn chain(&self, ahead: u16) -> Chain;

    /// Which descriptors [`Ring::chain`] `ahead` is.
    fn extent(&self, ahead: u16) -> Extent;

    /// The chain at a cursor, known or not; the cursor moves past it. `None` when no more wait.
    fn peek(&mut self, cursor: &mut Cursor) -> Result<Option<Extent>, RingFault>;

    /// Appends the pieces of a chain to [`Ring::segments`] and returns its bytes.
    fn walk(&mut self, chain: Extent, direction: Direction) -> Result<u32, RingFault>;

    /// Pieces of the chains walked since [`Ring::forget_segments`].
    fn segments(&self) -> &[Segment];

    /// Empties [`Ring::segments`].
    fn forget_segments(&mut self);

    /// Sees to it that so many chains, no more than [`MOST_NOTES`], can be completed before [`DeviceRing::publish`], which this does
    /// if it must.
    fn make_room(&mut self, chains: u16);

    /// Writes that `len` bytes were put into `chain`, which is `ahead` of the next one. It counts after [`Ring::complete_run`].
    fn write_used(&mut self, ahead: u16, chain: Chain, len: u32);

    /// Takes the next `chains` chains, of which [`Ring::ready`] knew and for each of which [`Ring::write_used`] was called.
    fn complete_run(&mut self, chains: u16);

    /// Takes the next `chains` chains, of which [`Ring::ready`] knew, with nothing written into them.
    fn complete_unwritten(&mut self, chains: u16);

    /// Takes the next chain, known or not, with `len` bytes put into it. The guest sees it after
    /// [`DeviceRing::publish`].
    fn complete(&mut self, chain: Extent, len: u32);

    /// At the end of a burst: looks at the next one, so that what it needs is on its way.
    fn look_ahead(&mut self, direction: Direction, offset: usize);
}

/// The chain of a split ring that starts at `head`.
fn split_extent(head: u16) -> Extent {
    Extent { head, at: Position::START, descriptors: 0 }
}

impl Ring for SplitRing {
    #[inline(always)]
    fn ready(&mut self, direction: Direction, offset: usize, wanted: u16) -> (u16, Option<RingFault>) {
        self.ready(direction, offset, wanted)
    }

    #[inline(always)]
    fn chain(&self, ahead: u16) -> Chain {
        self.chain(ahead)
    }

    #[inline]
    fn extent(&self, ahead: u16) -> Extent {
        split_extent(self.chain(ahead).head)
    }

    #[inline]
    fn peek(&mut self, cursor: &mut Cursor) -> Result<Option<Extent>, RingFault> {
        let ahead = cursor.chains;
        if ahead >= self.waiting() && ahead >= self.refresh()? {
            return Ok(None);
        }
        cursor.chains += 1;
        self.head(ahead).map(|head| Some(split_extent(head)))
    }

    #[inline]
    fn walk(&mut self, chain: Extent, direction: Direction) -> Result<u32, RingFault> {
        self.walk(chain.head, direction)
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
    fn make_room(&mut self, _: u16) {}

    #[inline(always)]
    fn write_used(&mut self, ahead: u16, chain: Chain, len: u32) {
        SplitRing::write_used(self, ahead, chain.head, len);
    }

    #[inline(always)]
    fn complete_run(&mut self, chains: u16) {
        self.complete_run(chains);
    }

    #[inline(always)]
    fn complete_unwritten(&mut self, chains: u16) {
        self.complete_unwritten(chains);
    }

    #[inline(always)]
    fn complete(&mut self, chain: Extent, len: u32) {
        self.complete(chain.head, len);
    }

    #[inline(always)]
    fn look_ahead(&mut self, direction: Direction, offset: usize) {
        self.look_ahead(direction, offset);
    }
}

/// A running ring.
pub(crate) enum DeviceRing {
    /// Three parts, with indexes (virtio 1.2, 2.7).
    Split(SplitRing),
    /// One part, with flags (virtio 1.2, 2.8).
    Packed(PackedRing),
}

/// The same for either kind.
macro_rules! either {
    ($self:expr, $ring:ident => $what:expr) => {
        match $self {
            DeviceRing::Split($ring) => $what,
            DeviceRing::Packed($ring) => $what,
        }
    };
}

impl DeviceRing {
    /// Where it would go on, as the front-end is told when it stops. It moves with every chain taken.
    #[inline]
    pub(crate) fn next_avail(&self) -> u16 {
        either!(self, ring => ring.next_avail())
    }

    /// Where the guest sees that it has come. It equals [`DeviceRing::next_avail`] between bursts, unless the front-end gave
    /// another base.
    pub(crate) fn next_used(&self) -> u16 {
        either!(self, ring => ring.next_used())
    }

    /// Goes on from [`DeviceRing::next_used`].
    pub(crate) fn rewind_to_used(&mut self) {
        either!(self, ring => ring.rewind_to_used());
    }

    /// Goes on with other addresses, if the ring itself lies at the same place. False, and nothing is done, if it does not.
    pub(crate) fn readdress(&mut self, parts: RingParts, memory: &Arc<MemTable>) -> bool {
        let same = either!(self, ring => ring.parts == parts);
        if same {
            either!(self, ring => ring.set_memory(Arc::clone(memory))); // tidy: once per translation, by the control thread
        }
        same
    }

    /// The memory it finds buffers in.
    pub(crate) fn memory(&self) -> &Arc<MemTable> {
        either!(self, ring => &ring.memory)
    }

    /// Descriptors, or entries.
    pub(crate) fn size(&self) -> u16 {
        match self {
            DeviceRing::Split(ring) => ring.mask + 1,
            DeviceRing::Packed(ring) => ring.size,
        }
    }

    /// Keeps what its parts are seen through, as long as it lives.
    pub(crate) fn keep(&mut self, windows: Vec<Arc<Window>>) {
        either!(self, ring => ring.windows = windows);
    }

    /// From now on keeps in this region of the front-end's what is in flight.
    pub(super) fn keep_inflight(&mut self, region: Option<InflightRegion>) {
        either!(self, ring => ring.inflight = region);
    }

    /// What its parts are seen through.
    pub(crate) fn windows(&self) -> &[Arc<Window>] {
        either!(self, ring => &ring.windows)
    }

    /// Looks at what waits, without taking anything, so that addresses without a translation are reported.
    pub(crate) fn survey(&mut self, direction: Direction) {
        // A fault is for whoever takes the chain.
        let _ = either!(self, ring => Ring::ready(ring, direction, 0, BURST as u16));
    }

    /// Replaces the interrupt descriptor.
    pub(crate) fn set_call(&mut self, call: Option<Arc<OwnedFd>>) {
        either!(self, ring => ring.call = call);
    }

    /// From now on notes what it writes of itself in a dirty log: its used ring at the guest address `used_at`, if the front-end
    /// gave one.
    pub(crate) fn log_to(&mut self, log: &Arc<DirtyLog>, used_at: Option<u64>) {
        either!(self, ring => ring.log_to(log, used_at));
    }

    /// Takes all that waits and gives it back unread. Returns how many chains.
    pub(crate) fn discard(&mut self) -> Result<u16, RingFault> {
        either!(self, ring => ring.discard())
    }

    /// Shows completed chains to the guest. True when there were any; then [`DeviceRing::interrupt`] is to be called, later
    /// rather than sooner.
    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        either!(self, ring => ring.publish())
    }

    /// Interrupts the guest, if it wants to be told of what was published. True if it was.
    #[inline]
    pub(crate) fn interrupt(&mut self) -> bool {
        either!(self, ring => ring.wants_notice() && send_interrupt(ring.call.as_ref()))
    }

    /// Asks the guest to kick at the next chain it adds. True when one waits already.
    pub(crate) fn arm(&mut self) -> bool {
        either!(self, ring => ring.arm())
    }

    /// The same for a walk that has come further: at the next chain after those it passed. True when one waits there already.
    pub(crate) fn arm_at(&mut self, cursor: &Cursor) -> bool {
        either!(self, ring => ring.arm_at(cursor))
    }

    /// Tells the guest that kicks are not needed.
    pub(crate) fn disarm(&mut self) {
        either!(self, ring => ring.disarm());
    }
}

/// Interrupts the guest by its eventfd. False when there is none.
#[inline]
fn send_interrupt(call: Option<&Arc<OwnedFd>>) -> bool {
    let Some(call) = call else { return false };
    // The descriptor is a non-blocking eventfd (checked when it came); if its counter is full, an interrupt is pending
    // already.
    let _ = rustix::io::write(call, &1u64.to_ne_bytes());
    true
}

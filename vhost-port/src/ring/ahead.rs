//! Reading a split ring ahead of its turn.
//!
//! What the guest wrote last lies in another processor's cache: its avail entries, its descriptors, the frames. Fetched
//! when they are needed, these lines come one after the other, some hundred cycles each, because each tells where the next
//! is. So a burst ends with a look at the chains of the next one, and asks for their buffers; the lines are here when that
//! burst comes. One burst further ahead, the descriptors themselves are asked for.
//!
//! ```text
//!   avail index:   next_avail ........ looked ............. avail_idx
//!                  │  looked at, buffers   │  descriptors on     │  not there yet
//!                  │  on their way         │  their way          │
//! ```
//!
//! Only chains below the avail index as last read are touched, which the guest has finished with: a prefetch beyond it
//! would take a line from under the guest's pen. A descriptor is still read exactly once; a guest that changes it after it
//! was offered harms itself.
//!
//! Invariant: `looked` is at least `next_avail` and at most [`AHEAD`] beyond it.
//!
//! Cost: a descriptor table read from the other cache costs a quarter of a line per chain either way; what changes is
//! that nobody waits for it.
#![expect(unsafe_code, reason = "ring memory is shared with a guest")]

use pmd::packet::BURST;
use pmd::prefetch::{LINE, prefetch, prefetch_to_write};
use pmd::virtio::SharedPtr;
use pmd::virtio::split::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, RING};

use super::chain::{Direction, MAX_CHAIN_BYTES};
use super::fault::RingFault;
use super::split::{RingParts, SplitRing};
use crate::memory::{MemTable, RegionCache};

/// Most chains looked at beyond the next one: the burst under way, and one more.
const AHEAD: usize = 2 * BURST;
/// A burst as a number of chains.
const BURST_CHAINS: u16 = BURST as u16;

/// A chain that waits, as a look at the ring found it.
#[derive(Clone, Copy)]
pub(crate) struct Chain {
    /// Where its buffer lies, if it is a single one, of the right direction, all in one region: nearly always. Everything
    /// else is for [`SplitRing::walk`].
    pub(crate) start: Option<SharedPtr>,
    /// Bytes of that buffer; in a packed ring, if `start` is none, how many descriptors the chain has.
    pub(crate) len: u32,
    /// Head in a split ring, id in a packed one: what the guest knows it by.
    pub(crate) head: u16,
}

/// What is known of chains that wait.
pub(super) struct LookAhead {
    /// By avail index, modulo [`AHEAD`].
    chains: [Chain; AHEAD],
    /// Avail index up to which chains have been looked at.
    looked: u16,
    /// What is wrong with the chain at `looked`.
    fault: Option<RingFault>,
}

impl LookAhead {
    /// Nothing is known of what waits from the avail index `base` on.
    pub(super) fn new(base: u16) -> LookAhead {
        LookAhead { chains: [Chain { start: None, len: 0, head: 0 }; AHEAD], looked: base, fault: None }
    }

    /// As [`LookAhead::new`], for one that knew something.
    pub(super) fn forget(&mut self, base: u16) {
        (self.looked, self.fault) = (base, None);
    }
}

impl SplitRing {
    /// Chains looked at and not yet taken.
    #[inline(always)]
    fn known(&self) -> u16 {
        self.ahead.looked.wrapping_sub(self.next_avail)
    }

    /// Sees to it that of the next `wanted` chains (at most [`BURST`]) all that wait have been looked at. Returns how many,
    /// and the fault of the one after them, if that is why there are no more.
    ///
    /// `offset` is where in a buffer the bytes begin that will be touched.
    #[inline]
    pub(crate) fn ready(
        &mut self,
        direction: Direction,
        offset: usize,
        wanted: u16,
    ) -> (u16, Option<RingFault>) {
        let known = self.known();
        if known >= wanted { (wanted, None) } else { self.look_now(direction, offset, wanted) }
    }

    #[inline(never)]
    fn look_now(&mut self, direction: Direction, offset: usize, wanted: u16) -> (u16, Option<RingFault>) {
        if self.waiting() < wanted
            && let Err(fault) = self.refresh()
        {
            return (0, Some(fault));
        }
        self.look(direction, offset, self.waiting().min(wanted));
        let known = self.known().min(wanted);
        (known, if known < wanted { self.ahead.fault } else { None })
    }

    /// The chain `ahead` of the next one; it says something only below what [`SplitRing::ready`] returned.
    #[inline(always)]
    pub(crate) fn chain(&self, ahead: u16) -> Chain {
        self.ahead.chains[usize::from(self.next_avail.wrapping_add(ahead)) % AHEAD]
    }

    /// Takes the next chains, of which [`SplitRing::ready`] knew, after their used elements were written.
    #[inline(always)]
    pub(super) fn pass(&mut self, chains: u16) {
        self.next_avail = self.next_avail.wrapping_add(chains);
    }

    /// The next chain is taken, looked at or not.
    #[inline]
    pub(super) fn pass_one(&mut self) {
        if self.known() == 0 {
            self.ahead.looked = self.ahead.looked.wrapping_add(1);
        }
        self.next_avail = self.next_avail.wrapping_add(1);
    }

    /// At the end of a burst: looks at the next one, and asks for the descriptors of the one after that and for the used
    /// elements to be written.
    #[inline(never)]
    pub(crate) fn look_ahead(&mut self, direction: Direction, offset: usize) {
        let waiting = self.waiting();
        if waiting == 0 {
            return;
        }
        self.look(direction, offset, waiting.min(BURST_CHAINS));
        self.prefetch_used();
        if waiting > BURST_CHAINS {
            self.prefetch_descriptors(usize::from(waiting - BURST_CHAINS).min(BURST));
        }
    }

    /// Looks at chains until `wanted` are known, of which as many must be waiting, or until one is wrong.
    ///
    /// All before the first is worked on, so the loads of their descriptors overlap, and so do their buffers' lines.
    #[inline(always)]
    fn look(&mut self, direction: Direction, offset: usize, wanted: u16) {
        // In registers, since for all the compiler knows a store to the list of chains could change them.
        let (parts, mask) = (self.parts, self.mask);
        let (mut looked, mut cache) = (self.ahead.looked, self.cache.wanting(direction.access()));
        for _ in self.known()..wanted {
            let chain = match parts.head(looked, mask) {
                Ok(head) => parts.chain(head, mask, direction, &mut cache, &self.memory),
                Err(fault) => {
                    self.ahead.fault = Some(fault);
                    break;
                }
            };
            if let Some(start) = chain.start {
                prefetch_buffer(start.addr(), offset, direction);
            }
            self.ahead.chains[usize::from(looked) % AHEAD] = chain;
            looked = looked.wrapping_add(1);
        }
        (self.ahead.looked, self.cache) = (looked, cache);
    }

    /// The chain at `head`.
    #[cfg(test)]
    pub(super) fn look_at(&mut self, head: u16, direction: Direction) -> Chain {
        self.cache = self.cache.wanting(direction.access());
        self.parts.chain(head, self.mask, direction, &mut self.cache, &self.memory)
    }

    /// Used elements of the next burst, which the guest has read since they were written last.
    #[inline]
    fn prefetch_used(&self) {
        const ELEMENTS: u16 = (LINE / 8) as u16;
        let used = self.parts.used.addr() + RING;
        for line in 0..BURST_CHAINS / ELEMENTS {
            let index = self.next_used.wrapping_add(line * ELEMENTS) & self.mask;
            prefetch_to_write(used + usize::from(index) * 8);
        }
    }

    /// Avail entries and descriptors of the next `chains` chains that nobody has looked at.
    ///
    /// Where those descriptors are is a guess: drivers hand them out in the order of the table, as long as they get them
    /// back in order, which they do.
    #[inline]
    fn prefetch_descriptors(&self, chains: usize) {
        const DESCRIPTORS: usize = LINE / 16;
        let last = self.ahead.looked.wrapping_add(BURST_CHAINS - 1) & self.mask;
        prefetch(self.parts.avail.addr() + RING + usize::from(last) * 2);
        let before = self.ahead.chains[usize::from(self.ahead.looked.wrapping_sub(1)) % AHEAD].head;
        let table = self.parts.descriptors.addr();
        for index in (0..chains).step_by(DESCRIPTORS) {
            let at = (usize::from(before) + 1 + index) & usize::from(self.mask);
            prefetch(table + at * 16);
        }
    }
}

impl RingParts {
    /// The chain at `head`, which is not above `mask`.
    #[inline(always)]
    fn chain(
        self,
        head: u16,
        mask: u16,
        direction: Direction,
        cache: &mut RegionCache,
        memory: &MemTable,
    ) -> Chain {
        // SAFETY: the masked index lies inside the checked table.
        let desc = unsafe { self.descriptors.load_descriptor(usize::from(head & mask)) };
        let plain = desc.flags & (DESC_F_NEXT | DESC_F_INDIRECT | DESC_F_WRITE) == direction.flag();
        let start = if plain && desc.len <= MAX_CHAIN_BYTES {
            cache.get(desc.addr, desc.len).or_else(|| look_up(memory, desc.addr, desc.len, cache))
        } else {
            None
        };
        Chain { start, len: desc.len, head }
    }
}

/// Where a buffer lies whose region is not the one used last. `None` when it lies in several, or outside, or is not translated; all
/// of it that is not is reported. What is wanted there the cache says: as an argument it would take a register of the loop
/// around the call, where there is none left.
#[cold]
#[inline(never)]
pub(super) fn look_up(memory: &MemTable, addr: u64, len: u32, cache: &mut RegionCache) -> Option<SharedPtr> {
    let access = cache.access();
    let (start, here) = memory.lookup(addr, len, access, cache)?;
    if here < len {
        memory.report_missing(addr, len, access);
        return None;
    }
    Some(start)
}

/// Asks the processor for a frame of up to a line, which is on two when it does not begin on one, `offset` bytes into the
/// buffer at `start`.
#[inline(always)]
pub(super) fn prefetch_buffer(start: usize, offset: usize, direction: Direction) {
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

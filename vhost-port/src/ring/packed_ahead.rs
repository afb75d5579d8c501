//! Reading a packed ring ahead of its turn: what [`super::ahead`] does for split rings, for the same reasons.
//!
//! ```text
//!   position:     next ............... at
//!                 │  looked at, buffers │  not available when it was looked at last,
//!                 │  on their way       │  or not looked at yet
//! ```
//!
//! Whether a chain is there only its own flags say. So a look ends at the first descriptor that is not available, and begins there the next time.
//! That descriptor's line is read while the driver writes it, once per burst at most; no line beyond it is touched.
//!
//! A chain's first descriptor becomes available last (2.8.14), so all of it is there when that one is. A chain that
//! goes on at a descriptor which is not available is a fault.
//!
//! Invariant: the chains looked at begin at `next`, follow each other, and end at `at`; at most [`AHEAD`] are known.
#![expect(unsafe_code, reason = "ring memory is shared with a guest")]

use pmd::packet::BURST;
use pmd::prefetch::{LINE, prefetch_to_write};
use pmd::virtio::packed::{DESC_F_AVAIL, DESC_F_USED, Position};
use pmd::virtio::split::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE};

use super::ahead::{Chain, look_up, prefetch_buffer};
use super::chain::{Direction, MAX_CHAIN_BYTES, MAX_SEGMENTS};
use super::device::Extent;
use super::fault::RingFault;
use super::packed::PackedRing;
use super::split::RingParts;

/// Most chains known: the burst under way, and one more.
const AHEAD: usize = 2 * BURST;
/// A burst as a number of chains.
const BURST_CHAINS: u16 = BURST as u16;

/// What is known of chains that wait.
pub(super) struct PackedAhead {
    /// By number, modulo [`AHEAD`].
    chains: [Chain; AHEAD],
    /// Where each begins.
    positions: [Position; AHEAD],
    /// Number of the next chain to take, and of the next to look at. They wrap.
    taken: u16,
    looked: u16,
    /// Where the next chain to look at begins.
    pub(super) at: Position,
    /// What is wrong with that chain.
    fault: Option<RingFault>,
}

impl PackedAhead {
    /// Nothing is known of what waits from `base` on.
    pub(super) fn new(base: Position) -> PackedAhead {
        let none = Chain { start: None, len: 0, head: 0 };
        PackedAhead {
            chains: [none; AHEAD],
            positions: [base; AHEAD],
            taken: 0,
            looked: 0,
            at: base,
            fault: None,
        }
    }

    /// Forgets all that waits, from `next` on.
    pub(super) fn forget(&mut self, next: Position) {
        (self.looked, self.at, self.fault) = (self.taken, next, None);
    }

    /// The chain `ahead` of the next one.
    #[inline(always)]
    pub(super) fn chain(&self, ahead: u16) -> Chain {
        self.chains[usize::from(self.taken.wrapping_add(ahead)) % AHEAD]
    }

    /// Where the chain `ahead` of the next one begins.
    #[inline(always)]
    pub(super) fn position(&self, ahead: u16) -> Position {
        self.positions[usize::from(self.taken.wrapping_add(ahead)) % AHEAD]
    }

    /// Forgets the next `chains` chains, which are known.
    #[inline(always)]
    pub(super) fn pass(&mut self, chains: u16) {
        self.taken = self.taken.wrapping_add(chains);
    }
}

impl PackedRing {
    /// Chains looked at and not yet taken.
    #[inline(always)]
    pub(super) fn known(&self) -> u16 {
        self.ahead.looked.wrapping_sub(self.ahead.taken)
    }

    #[inline(never)]
    pub(super) fn look_now(
        &mut self,
        direction: Direction,
        offset: usize,
        wanted: u16,
    ) -> (u16, Option<RingFault>) {
        self.look(direction, offset, wanted);
        let known = self.known().min(wanted);
        (known, if known < wanted { self.ahead.fault } else { None })
    }

    /// At the end of a burst: looks at the next one, and asks for its used descriptors to be written.
    #[inline(never)]
    pub(super) fn look_at_next_burst(&mut self, direction: Direction, offset: usize) {
        const DESCRIPTORS: usize = LINE / 16;
        self.look(direction, offset, BURST_CHAINS);
        if direction == Direction::Read && self.rules.in_order {
            // One used descriptor for all: the rest of the lines stay as they are.
            return;
        }
        // Lines of available descriptors only: the driver waits for them and writes none.
        let count = usize::from(self.ahead.at.since(self.next, self.size));
        let table = self.parts.descriptors.addr();
        for index in (0..count.min(BURST)).step_by(DESCRIPTORS) {
            let slot = usize::from(self.next.slot()) + index;
            if slot < usize::from(self.size) {
                prefetch_to_write(table + slot * 16);
            }
        }
    }

    /// Looks at chains until `wanted` are known, none more is available, or one is wrong.
    ///
    /// All before the first is worked on, so the loads of their descriptors overlap, and so do their buffers' lines.
    #[inline(always)]
    fn look(&mut self, direction: Direction, offset: usize, wanted: u16) {
        const SHAPE: u16 = DESC_F_AVAIL | DESC_F_USED | DESC_F_NEXT | DESC_F_INDIRECT | DESC_F_WRITE;
        // In registers, since for all the compiler knows a store to the list of chains could change them.
        let (mut looked, mut at) = (self.ahead.looked, self.ahead.at);
        let (parts, size, mut cache) = (self.parts, self.size, self.cache.wanting(direction.access()));
        // Flags of a single descriptor of this direction that is available: nearly all are so.
        let mut plain = at.avail_flags() | direction.flag();
        self.ahead.fault = None;
        for _ in self.known()..wanted {
            let slot = usize::from(at.slot());
            // SAFETY: positions stay inside the checked ring.
            let flags = unsafe { parts.descriptors.load_packed_flags(slot) };
            if flags & SHAPE != plain {
                let Extent { head, descriptors, .. } = match parts.packed_chain(at, size) {
                    Ok(Some(chain)) => chain,
                    Ok(None) => break,
                    Err(fault) => {
                        self.ahead.fault = Some(fault);
                        break;
                    }
                };
                let index = usize::from(looked) % AHEAD;
                self.ahead.chains[index] = Chain { start: None, len: descriptors.into(), head };
                self.ahead.positions[index] = at;
                at = at.advanced(descriptors, size);
                plain = at.avail_flags() | direction.flag();
                looked = looked.wrapping_add(1);
                continue;
            }
            // SAFETY: as above.
            let desc = unsafe { parts.descriptors.load_packed(slot) };
            let (len, head) = (desc.element.len, desc.element.id);
            let start = if len <= MAX_CHAIN_BYTES {
                cache.get(desc.addr, len).or_else(|| look_up(&self.memory, desc.addr, len, &mut cache))
            } else {
                None
            };
            let chain = match start {
                Some(start) => {
                    prefetch_buffer(start.addr(), offset, direction);
                    Chain { start: Some(start), len, head }
                }
                None => Chain { start: None, len: 1, head },
            };
            let index = usize::from(looked) % AHEAD;
            self.ahead.chains[index] = chain;
            self.ahead.positions[index] = at;
            let (next, turned) = at.next(size);
            at = next;
            if turned {
                plain ^= DESC_F_AVAIL | DESC_F_USED;
            }
            looked = looked.wrapping_add(1);
        }
        (self.ahead.looked, self.ahead.at, self.cache) = (looked, at, cache);
    }

    /// The chain that begins at `at`, of any shape; `None` when it is not available.
    pub(super) fn chain_at(&self, at: Position) -> Result<Option<Extent>, RingFault> {
        self.parts.packed_chain(at, self.size)
    }
}

impl RingParts {
    /// The extent of the chain that begins at `at`, and its id, which its last descriptor says. `None` when it is not available.
    #[inline(never)]
    fn packed_chain(self, at: Position, size: u16) -> Result<Option<Extent>, RingFault> {
        let most = size.min(MAX_SEGMENTS as u16);
        let (mut here, mut count) = (at, 0);
        loop {
            let slot = usize::from(here.slot());
            // SAFETY: positions stay inside the checked ring.
            let flags = unsafe { self.descriptors.load_packed_flags(slot) };
            if !here.is_available(flags) {
                return if count == 0 { Ok(None) } else { Err(RingFault::ChainCut) };
            }
            count += 1;
            if flags & DESC_F_NEXT == 0 {
                // SAFETY: as above.
                let head = unsafe { self.descriptors.load_packed(slot) }.element.id;
                return Ok(Some(Extent { head, at, descriptors: count }));
            }
            if count == most {
                return Err(RingFault::ChainTooLong);
            }
            here = here.advanced(1, size);
        }
    }
}

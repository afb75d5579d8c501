//! What the device has of a guest, in the order in which the guest gave it.
//!
//! ```text
//!   numbers   first ........................................ next
//!             │ done │ with device │ done │ with device │ waiting │
//!             └─ may be shown      └─ waits for those before it
//! ```
//!
//! A chain enters at the end when it is taken from the guest and leaves at the front when it is given back, so both chains and their
//! pieces lie in queues, and nothing is allocated once these have grown. A first piece, which mostly is all, lies with its chain. The pieces are our copy: neither the guest nor the device can
//! change what a chain was checked to be.
//!
//! Invariant: all chains before [`Flights::unissued`] are done or with the device, all from it on wait.

use std::collections::VecDeque;

use pmd::virtio::driver_ring::Buffer;

use crate::ring::Extent;

/// How a chain stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stand {
    /// The device has not been given it.
    Waiting,
    /// The device has it.
    Out,
    /// The device gave it back, with so many bytes written.
    Done(u32),
}

/// A chain.
struct Flight {
    extent: Extent,
    stand: Stand,
    /// Bytes of it.
    capacity: u32,
    first: Buffer,
    /// Number of the second piece, modulo 2^32, and how many there are from there.
    second: u32,
    more: u16,
}

/// A chain that has been done and leaves.
pub(super) struct Landed {
    pub(super) extent: Extent,
    pub(super) len: u32,
}

/// See the module.
#[derive(Default)]
pub(super) struct Flights {
    chains: VecDeque<Flight>,
    /// All pieces but the first of each chain.
    pieces: VecDeque<Buffer>,
    /// Number of the first chain, and of the first of those pieces, modulo 2^32.
    first: u64,
    first_piece: u32,
    /// Number of the first chain that has not been given to the device.
    unissued: u64,
    /// Descriptors of a packed ring that the chains take.
    descriptors: u32,
}

impl Flights {
    /// Chains.
    pub(super) fn len(&self) -> usize {
        self.chains.len()
    }

    /// Pieces of them all.
    pub(super) fn pieces(&self) -> usize {
        self.chains.len() + self.pieces.len()
    }

    /// Descriptors of a packed ring that they take.
    pub(super) fn descriptors(&self) -> u32 {
        self.descriptors
    }

    /// Takes a chain in, whose pieces are these, at least one. Returns its number.
    pub(super) fn push(&mut self, extent: Extent, capacity: u32, pieces: &[Buffer]) -> Option<u64> {
        let (&first, others) = pieces.split_first()?;
        let number = self.first + self.chains.len() as u64;
        let second = self.first_piece.wrapping_add(self.pieces.len() as u32);
        if !others.is_empty() {
            self.pieces.extend(others);
        }
        // A walk ends at 1024 pieces.
        let more = others.len() as u16;
        self.chains.push_back(Flight { extent, stand: Stand::Waiting, capacity, first, second, more });
        self.descriptors += u32::from(extent.descriptors());
        Some(number)
    }

    /// The number of the chain that waits first for the device; its pieces are put into `pieces`. `None` when none waits.
    #[inline]
    pub(super) fn next_unissued(&self, pieces: &mut Vec<Buffer>) -> Option<u64> {
        self.chains.get(self.index(self.unissued)?)?;
        pieces.clear();
        pieces.extend(self.pieces_of(self.unissued));
        Some(self.unissued)
    }

    /// The device has been given a chain.
    pub(super) fn issued(&mut self, number: u64) {
        if let Some(index) = self.index(number)
            && let Some(chain) = self.chains.get_mut(index)
        {
            chain.stand = Stand::Out;
            self.unissued = self.unissued.max(number + 1);
        }
    }

    /// Bytes of a chain, if the device has it.
    pub(super) fn capacity(&self, number: u64) -> Option<u32> {
        let chain = self.chains.get(self.index(number)?)?;
        (chain.stand == Stand::Out).then_some(chain.capacity)
    }

    /// Whether the device has given back all chains before this one.
    pub(super) fn in_turn(&self, number: u64) -> bool {
        // Those before that one were in turn, too.
        let before = self.index(number).and_then(|index| index.checked_sub(1));
        before
            .and_then(|before| self.chains.get(before))
            .is_none_or(|chain| matches!(chain.stand, Stand::Done(_)))
    }

    /// The device has given a chain back, with `len` bytes written.
    pub(super) fn done(&mut self, number: u64, len: u32) {
        if let Some(index) = self.index(number)
            && let Some(chain) = self.chains.get_mut(index)
        {
            chain.stand = Stand::Done(len);
        }
    }

    /// The pieces of a chain, in order.
    pub(super) fn pieces_of(&self, number: u64) -> impl Iterator<Item = Buffer> + '_ {
        let chain = self.index(number).and_then(|index| self.chains.get(index));
        let (start, count) = chain.map_or((0, 0), |chain| {
            (chain.second.wrapping_sub(self.first_piece) as usize, usize::from(chain.more))
        });
        let others = if count > 0 { self.pieces.range(start..start + count) } else { self.pieces.range(..0) };
        chain.map(|chain| chain.first).into_iter().chain(others.copied())
    }

    /// The first chain, if it is done: it leaves.
    pub(super) fn land(&mut self) -> Option<Landed> {
        let &Flight { extent, stand: Stand::Done(len), .. } = self.chains.front()? else { return None };
        self.leave();
        Some(Landed { extent, len })
    }

    /// The first chain leaves, however it stands: with what was written into it, or else nothing. True with it if it was done.
    pub(super) fn force(&mut self) -> Option<(Landed, bool)> {
        let &Flight { extent, stand, .. } = self.chains.front()?;
        self.leave();
        let (len, done) = match stand {
            Stand::Done(len) => (len, true),
            Stand::Out | Stand::Waiting => (0, false),
        };
        Some((Landed { extent, len }, done))
    }

    fn leave(&mut self) {
        if let Some(chain) = self.chains.pop_front() {
            if chain.more > 0 {
                self.pieces.drain(..usize::from(chain.more));
                self.first_piece = self.first_piece.wrapping_add(chain.more.into());
            }
            self.descriptors -= u32::from(chain.extent.descriptors());
            self.first += 1;
            self.unissued = self.unissued.max(self.first);
        }
    }

    /// How many chains there are up to the last one that is done, and how many of all are done.
    pub(super) fn up_to_last_done(&self) -> (usize, usize) {
        let done = |chain: &&Flight| matches!(chain.stand, Stand::Done(_));
        let last = self.chains.iter().rposition(|chain| done(&chain)).map_or(0, |last| last + 1);
        (last, self.chains.iter().filter(done).count())
    }

    /// Numbers of all chains that are not done.
    pub(super) fn undone(&self) -> impl Iterator<Item = u64> + '_ {
        let undone = |&(_, chain): &(u64, &Flight)| !matches!(chain.stand, Stand::Done(_));
        (self.first..).zip(&self.chains).filter(undone).map(|(number, _)| number)
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        while self.force().is_some() {}
    }

    fn index(&self, number: u64) -> Option<usize> {
        usize::try_from(number.checked_sub(self.first)?).ok()
    }
}

//! Receiving: two rings of buffers and one of completions.
//!
//! The first buffer of a frame comes from the ring of heads, all others from the ring of bodies, so no descriptor is passed over. Descriptor
//! `i` of either has buffer `i`, for good. The card completes the buffers of a ring in their order; one that it left out is
//! given back with the others.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::Arc;

use super::area::Area;
use super::descriptors::{LEN, Received, rx_word};
use super::registers::{IMR, NEXT, RX_PRODUCERS};
use crate::memory::DmaArena;
use crate::nic::{Fault, Parts, RxRing};
use crate::packet::{BURST, Batch, Offload};
use crate::pci::Bar;
use crate::port::{Armed, DropCounters, DropReason};

/// Bytes of a buffer.
pub(super) const BUFFER: usize = 2048;
/// Most buffers of a frame; the card is told.
pub(super) const MOST_PARTS: u16 = 16;
/// Fewest descriptors of a ring.
const FEWEST: u16 = 32;
/// Most descriptors of a ring.
const MOST: u16 = 4096;
/// Descriptors never given, so that a full ring is told from an empty one. A whole cache line of them.
const GAP: u16 = 4;

/// Where everything of a receive queue lies in its memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Descriptors of the rings of heads and bodies, powers of two.
    sizes: [u16; 2],
    longest: usize,
}

impl Layout {
    /// For frames of at most `longest` bytes, with as many bodies as `heads` frames of that length need.
    pub(super) fn new(heads: u16, longest: usize) -> Layout {
        let bodies = usize::from(heads) * (longest.div_ceil(BUFFER) - 1);
        let bodies = bodies.next_power_of_two().clamp(FEWEST.into(), MOST.into()) as u16;
        Layout { sizes: [heads, bodies], longest }
    }

    /// Completions: as many as there are buffers.
    fn completions(&self) -> usize {
        self.sizes.iter().copied().map(usize::from).sum()
    }

    /// Offsets of heads, bodies and completions.
    fn rings(&self) -> [usize; 3] {
        let [heads, bodies] = self.sizes.map(|size| usize::from(size) * LEN);
        [0, heads, heads + bodies]
    }

    /// Offset of the buffers of either ring.
    fn buffers(&self) -> [usize; 2] {
        let first = (2 * self.completions() * LEN).next_multiple_of(4096);
        [first, first + usize::from(self.sizes[0]) * BUFFER]
    }

    /// Bytes of everything.
    pub(super) fn bytes(&self) -> usize {
        self.buffers()[0] + self.completions() * BUFFER
    }

    /// Addresses and sizes of the rings, as the card is told.
    pub(super) fn describe(&self, arena: &DmaArena) -> ([u64; 3], [u32; 3]) {
        let [heads, bodies] = self.sizes.map(u32::from);
        (self.rings().map(|at| arena.iova(at)), [heads, bodies, self.completions() as u32])
    }
}

/// A ring of buffers.
struct Buffers {
    /// Offset of the descriptors and of the buffers.
    at: usize,
    buffers: usize,
    size: u16,
    is_body: bool,
    /// Next descriptor the card will fill.
    next: u16,
    /// First descriptor that the card does not have, and the generation it gets.
    tail: u16,
    generation: bool,
    /// Descriptors filled and not given again; of these, of a frame that has not ended.
    taken: u16,
    open: u16,
}

impl Buffers {
    /// Gives the card all but the gap.
    fn new(at: usize, buffers: usize, size: u16, is_body: bool, arena: &DmaArena) -> Buffers {
        let mut ring =
            Buffers { at, buffers, size, is_body, next: 0, tail: 0, generation: true, taken: size, open: 0 };
        ring.give(arena, size - GAP);
        ring.taken = 0;
        ring
    }

    /// Takes the descriptor that was filled: where its buffer is. `None` if the card does not have it.
    #[inline]
    fn take(&mut self, index: u16) -> Option<usize> {
        let passed_over = index.wrapping_sub(self.next) & (self.size - 1);
        let held = self.size - GAP - self.taken;
        if index >= self.size || passed_over >= held {
            return None;
        }
        self.taken += passed_over + 1;
        self.open += passed_over + 1;
        self.next = (index + 1) & (self.size - 1);
        Some(self.buffers + usize::from(index) * BUFFER)
    }

    /// Gives the card `n` descriptors.
    fn give(&mut self, arena: &DmaArena, n: u16) {
        for _ in 0..n {
            let at = self.at + usize::from(self.tail) * LEN;
            let buffer = arena.iova(self.buffers + usize::from(self.tail) * BUFFER);
            arena.store_u64(at, buffer, Relaxed);
            arena.store_u64(at + 8, rx_word(BUFFER, self.is_body, self.generation), Release);
            self.tail += 1;
            if self.tail == self.size {
                self.tail = 0;
                self.generation = !self.generation;
            }
        }
        self.taken -= n;
    }

    /// Gives back what is free, in whole cache lines, once there is enough of it.
    #[inline]
    fn refill(&mut self, arena: &DmaArena) -> bool {
        let free = self.taken - self.open;
        let due = free >= (BURST as u16).min(self.size / 4);
        if due {
            self.give(arena, free & !3);
        }
        due
    }
}

/// Receive ring. See the module.
pub(super) struct VmxRx {
    arena: Arc<DmaArena>,
    bar: Arc<Bar>,
    area: Area,
    /// Offset of this queue's descriptor in the area.
    queue_at: usize,
    index: u16,
    /// Number of the ring of bodies.
    bodies: u16,
    rings: [Buffers; 2],
    completions_at: usize,
    completions: usize,
    /// Next completion, and the generation that says it is there.
    next: usize,
    generation: bool,
    longest: usize,
    /// Register that masks this queue's vector.
    mask: Option<usize>,
    parts: Parts,
    broken: bool,
}

impl VmxRx {
    /// Receive queue `index` of `queues`, in zeroed memory of the layout's length. `vector` is its own, if it has one.
    pub(super) fn new(
        arena: Arc<DmaArena>,
        bar: Arc<Bar>,
        area: Area,
        layout: Layout,
        (index, queues): (u16, u16),
        vector: Option<u8>,
    ) -> VmxRx {
        let ([heads_at, bodies_at, completions_at], buffers) = (layout.rings(), layout.buffers());
        let rings = [
            Buffers::new(heads_at, buffers[0], layout.sizes[0], false, &arena),
            Buffers::new(bodies_at, buffers[1], layout.sizes[1], true, &arena),
        ];
        VmxRx {
            arena,
            bar,
            queue_at: area.rx_queue(index),
            area,
            index,
            bodies: index + queues,
            rings,
            completions_at,
            completions: layout.completions(),
            next: 0,
            generation: true,
            longest: layout.longest,
            mask: vector.map(|vector| IMR + usize::from(vector) * NEXT),
            parts: Parts::new(MOST_PARTS.into()),
            broken: false,
        }
    }

    /// Tells the card how far its rings are filled.
    pub(super) fn show(&self) {
        for (ring, register) in self.rings.iter().zip(RX_PRODUCERS) {
            self.bar.write32(register + usize::from(self.index) * NEXT, ring.tail.into());
        }
    }

    fn look(&self) -> Option<Received> {
        let at = self.completions_at + self.next * LEN;
        let second = self.arena.load_u64(at + 8, Acquire);
        Received::from_words(|| self.arena.load_u64(at, Relaxed), second, self.generation)
    }

    /// Takes the buffer of a completion into the frame that is coming in.
    fn take(&mut self, got: &Received) -> Result<(), Fault> {
        let is_head = got.ring == self.index;
        let begins = self.parts.count() == 0;
        if (!is_head && got.ring != self.bodies) || is_head != got.first || begins != got.first {
            return Err(Fault::BadDescriptor);
        }
        let ring = &mut self.rings[usize::from(!is_head)];
        let buffer = ring.take(got.index).ok_or(Fault::BadDescriptor)?;
        if got.len > BUFFER || !self.parts.push(buffer, got.len) {
            return Err(Fault::BadDescriptor);
        }
        self.broken |= got.broken;
        self.next += 1;
        if self.next == self.completions {
            self.next = 0;
            self.generation = !self.generation;
        }
        Ok(())
    }
}

impl RxRing for VmxRx {
    fn arena(&self) -> &Arc<DmaArena> {
        &self.arena
    }

    fn receive<'q>(
        &mut self,
        arena: &'q DmaArena,
        batch: &mut Batch<'q>,
        drops: &DropCounters,
    ) -> Result<u64, Fault> {
        let mut bytes = 0;
        while batch.len() < BURST {
            let Some(got) = self.look() else { break };
            self.take(&got)?;
            if !got.last {
                continue;
            }
            let offload = if std::mem::take(&mut self.broken) {
                Err(DropReason::RxBadDescriptor)
            } else if self.parts.total() > self.longest {
                Err(DropReason::RxTooLong)
            } else {
                Ok(Offload { csum_valid: got.checksum_good, ..Offload::default() })
            };
            bytes += self.parts.end(arena, batch, offload, drops);
            self.rings.iter_mut().for_each(|ring| ring.open = 0);
        }
        Ok(bytes)
    }

    fn release(&mut self) -> bool {
        let [heads, bodies] = &mut self.rings;
        let refilled = [heads.refill(&self.arena), bodies.refill(&self.arena)];
        let tell = refilled.contains(&true) && self.area.wants_producer(self.queue_at);
        if tell {
            self.show();
        }
        tell
    }

    fn arm(&mut self) -> Armed {
        let Some(mask) = self.mask else { return Armed::Work };
        self.bar.write32(mask, 0);
        if self.look().is_some() { Armed::Work } else { Armed::Idle }
    }

    fn disarm(&mut self) {
        if let Some(mask) = self.mask {
            self.bar.write32(mask, 1);
        }
    }
}

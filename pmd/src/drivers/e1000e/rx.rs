//! Receiving: descriptor `i` names buffer `i`, for good; a long frame fills several.

use core::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::Arc;

use super::descriptors::{LEN, Received};
use super::registers::{CAUSE_RX_QUEUE_0, IMC, IMS, QUEUE, RX_TAIL};
use crate::memory::DmaArena;
use crate::nic::{Fault, Parts, RxRing};
use crate::packet::{BURST, Batch, Offload};
use crate::pci::Bar;
use crate::port::{Armed, DropCounters, DropReason};

/// Bytes of a buffer, as RCTL says.
pub(super) const BUFFER: usize = 2048;
/// Most buffers of one frame: more than the card's longest frame fills.
const MOST_PARTS: usize = 16;
/// Descriptors given back together: a multiple of the four that share a cache line.
const REFILL: u16 = BURST as u16;
/// Descriptors never given, so that a full ring is told from an empty one. A whole line of them.
const GAP: u16 = 4;

pub(super) struct E1000eRx {
    arena: Arc<DmaArena>,
    bar: Arc<Bar>,
    index: u16,
    size: u16,
    buffers: usize,
    has_vector: bool,
    /// Next descriptor the card will write back.
    next: u16,
    /// First descriptor that the card does not have.
    tail: u16,
    /// Descriptors written back and not given again; of these, of a frame that has not ended.
    taken: u16,
    parts: Parts,
    broken: bool,
}

impl E1000eRx {
    /// Bytes of memory of a ring.
    pub(super) fn bytes(size: u16) -> usize {
        Self::buffers_at(size) + usize::from(size) * BUFFER
    }

    fn buffers_at(size: u16) -> usize {
        (usize::from(size) * LEN).next_multiple_of(4096)
    }

    /// A ring in memory of [`E1000eRx::bytes`], all descriptors written.
    pub(super) fn new(
        arena: Arc<DmaArena>,
        bar: Arc<Bar>,
        index: u16,
        size: u16,
        has_vector: bool,
    ) -> E1000eRx {
        let ring = E1000eRx {
            arena,
            bar,
            index,
            size,
            buffers: Self::buffers_at(size),
            has_vector,
            next: 0,
            tail: size - GAP,
            taken: 0,
            parts: Parts::new(MOST_PARTS),
            broken: false,
        };
        (0..size).for_each(|slot| ring.write(slot));
        ring
    }

    /// Gives the card its first descriptors, when it runs.
    pub(super) fn kick(&self) {
        self.bar.write32(RX_TAIL + usize::from(self.index) * QUEUE, self.tail.into());
    }

    fn write(&self, slot: u16) {
        let at = usize::from(slot) * LEN;
        let buffer = self.arena.iova(self.buffers + usize::from(slot) * BUFFER);
        self.arena.store_u64(at, buffer, Relaxed);
        self.arena.store_u64(at + 8, 0, Relaxed);
    }

    fn cause(&self) -> u32 {
        CAUSE_RX_QUEUE_0 << self.index
    }

    fn look(&self) -> Option<Received> {
        Received::from_word(self.arena.load_u64(usize::from(self.next) * LEN + 8, Acquire))
    }
}

impl RxRing for E1000eRx {
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
        // A card that has no descriptors writes none back: more than there are is a card that lies.
        while batch.len() < BURST && self.taken < self.size - GAP {
            let Some(got) = self.look() else { break };
            let buffer = self.buffers + usize::from(self.next) * BUFFER;
            if got.len > BUFFER || !self.parts.push(buffer, got.len) {
                return Err(Fault::BadDescriptor);
            }
            self.broken |= got.broken;
            self.next = (self.next + 1) & (self.size - 1);
            self.taken += 1;
            if !got.last {
                continue;
            }
            let offload = Offload { csum_valid: got.checksum_good, ..Offload::default() };
            let result = match self.broken {
                true => Err(DropReason::RxBadDescriptor),
                false => self.parts.deliver(arena, batch, offload),
            };
            match result {
                Ok(()) => bytes += self.parts.total() as u64,
                Err(reason) => drops.add(reason, 1),
            }
            self.parts.clear();
            self.broken = false;
        }
        Ok(bytes)
    }

    fn release(&mut self) -> bool {
        let free = self.taken - self.parts.count() as u16;
        if free < REFILL {
            return false;
        }
        // Whole cache lines only.
        let free = free & !3;
        for k in 0..free {
            self.write((self.tail + k) & (self.size - 1));
        }
        self.tail = (self.tail + free) & (self.size - 1);
        self.taken -= free;
        self.kick();
        true
    }

    fn arm(&mut self) -> Armed {
        if !self.has_vector {
            return Armed::Work;
        }
        self.bar.write32(IMS, self.cause());
        if self.look().is_some() { Armed::Work } else { Armed::Idle }
    }

    fn disarm(&mut self) {
        if self.has_vector {
            self.bar.write32(IMC, self.cause());
        }
    }
}

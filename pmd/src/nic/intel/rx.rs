//! Receiving: descriptor `i` names buffer `i`, for good; a long frame fills several.
//!
//! What cards write back is the same in the extended descriptors of the 82574 (datasheet, 7.1.5) and the advanced ones of the 82576 (7.1.5 there).

use core::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::Arc;

use super::DESCRIPTOR as LEN;
use crate::memory::DmaArena;
use crate::nic::{Fault, Parts, RxRing};
use crate::packet::{BURST, Batch, Offload, SlotId};
use crate::pci::Bar;
use crate::port::{Armed, DropCounters, DropReason};

/// Bytes of a buffer.
pub const BUFFER: usize = 2048;
/// Most buffers of one frame: more than the card's longest frame fills.
const MOST_PARTS: usize = 16;
/// Descriptors given back together: a multiple of the four that share a cache line.
const REFILL: u16 = BURST as u16;
/// The type of a VLAN tag (IEEE 802.1Q), of those that cards take out.
const TAGGED: u16 = 0x8100;
/// Descriptors never given, so that a full ring is told from an empty one. A whole line of them.
const GAP: u16 = 4;

/// What the card writes back into the second word of a receive descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// Bytes in the buffer.
    pub len: usize,
    /// The frame ends here.
    pub last: bool,
    /// The transport checksum was looked at and is right.
    pub checksum_good: bool,
    /// The frame arrived broken.
    pub broken: bool,
    /// The tag that was taken out, of a card that does that; of one that does not, whatever.
    pub tag: Option<u16>,
}

/// Done; last of a frame; UDP checksum looked at; TCP or UDP checksum looked at.
const RX_DONE: u64 = 1;
const RX_LAST: u64 = 1 << 1;
/// The tag was taken out and stands in the upper 16 bits.
const RX_TAGGED: u64 = 1 << 3;
const RX_UDP_SEEN: u64 = 1 << 4;
const RX_TRANSPORT_SEEN: u64 = 1 << 5;
/// Transport checksum wrong; frame broken in one of several ways (CRC, symbol, sequence, carrier, data).
const RX_TRANSPORT_BAD: u64 = 1 << 29;
const RX_BROKEN: u64 = 1 << 24 | 1 << 25 | 1 << 26 | 1 << 28 | 1 << 31;

impl Received {
    /// Reads the second word. `None` while the card has not written it.
    #[inline]
    pub fn from_word(word: u64) -> Option<Received> {
        if word & RX_DONE == 0 {
            return None;
        }
        Some(Received {
            len: usize::from((word >> 32) as u16),
            last: word & RX_LAST != 0,
            checksum_good: word & (RX_TRANSPORT_SEEN | RX_UDP_SEEN) != 0 && word & RX_TRANSPORT_BAD == 0,
            broken: word & RX_BROKEN != 0,
            tag: (word & RX_TAGGED != 0).then_some((word >> 48) as u16),
        })
    }

    /// The word that says this, as a card writes it.
    #[cfg(test)]
    pub(crate) fn to_word(self) -> u64 {
        let bit = |set: bool, bits: u64| if set { bits } else { 0 };
        RX_DONE
            | bit(self.last, RX_LAST)
            | bit(self.checksum_good, RX_TRANSPORT_SEEN)
            | bit(self.broken, 1 << 24)
            | self.tag.map_or(0, |tag| RX_TAGGED | u64::from(tag) << 48)
            | (self.len as u64) << 32
    }
}

/// Registers that let one ring interrupt, or not.
#[derive(Clone, Copy, Debug)]
pub struct Interrupt {
    /// Written to ask for interrupts.
    pub set: usize,
    /// Written to want none.
    pub clear: usize,
    /// What is written.
    pub bits: u32,
}

/// Receive ring. See the module.
pub struct IntelRx {
    arena: Arc<DmaArena>,
    bar: Arc<Bar>,
    /// Register of the tail.
    tail_at: usize,
    size: u16,
    buffers: usize,
    interrupt: Option<Interrupt>,
    /// Tags are taken out by the card, and put back here.
    takes_tags: bool,
    /// Next descriptor the card will write back.
    next: u16,
    /// First descriptor that the card does not have.
    tail: u16,
    /// Descriptors written back and not given again; of these, of a frame that has not ended.
    taken: u16,
    parts: Parts,
    broken: bool,
}

impl IntelRx {
    /// Bytes of memory of a ring.
    pub fn bytes(size: u16) -> usize {
        Self::buffers_at(size) + usize::from(size) * BUFFER
    }

    fn buffers_at(size: u16) -> usize {
        (usize::from(size) * LEN).next_multiple_of(4096)
    }

    /// A ring in memory of [`IntelRx::bytes`], all descriptors written.
    pub fn new(
        arena: Arc<DmaArena>,
        bar: Arc<Bar>,
        tail_at: usize,
        size: u16,
        interrupt: Option<Interrupt>,
    ) -> IntelRx {
        let ring = IntelRx {
            arena,
            bar,
            tail_at,
            size,
            buffers: Self::buffers_at(size),
            interrupt,
            takes_tags: false,
            next: 0,
            tail: size - GAP,
            taken: 0,
            parts: Parts::new(MOST_PARTS),
            broken: false,
        };
        (0..size).for_each(|slot| ring.write(slot));
        ring
    }

    /// The card takes tags out of frames, whether we want it or not: they are put back.
    pub fn put_tags_back(mut self) -> IntelRx {
        self.takes_tags = true;
        self
    }

    /// Gives the card its first descriptors, when it runs.
    pub fn kick(&self) {
        self.bar.write32(self.tail_at, self.tail.into());
    }

    fn write(&self, slot: u16) {
        let at = usize::from(slot) * LEN;
        let buffer = self.arena.iova(self.buffers + usize::from(slot) * BUFFER);
        self.arena.store_u64(at, buffer, Relaxed);
        self.arena.store_u64(at + 8, 0, Relaxed);
    }

    fn look(&self) -> Option<Received> {
        Received::from_word(self.arena.load_u64(usize::from(self.next) * LEN + 8, Acquire))
    }
}

impl RxRing for IntelRx {
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
            let offload = match std::mem::take(&mut self.broken) {
                true => Err(DropReason::RxBadDescriptor),
                false => Ok(Offload { csum_valid: got.checksum_good, ..Offload::default() }),
            };
            let delivered = self.parts.end(arena, batch, offload, drops);
            bytes += delivered;
            if let Some(tag) = got.tag.filter(|_| self.takes_tags && delivered != 0) {
                batch.packet_mut((batch.len() - 1) as SlotId).insert_tag(TAGGED, tag);
                bytes += 4;
            }
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
        let Some(Interrupt { set, bits, .. }) = self.interrupt else { return Armed::Work };
        self.bar.write32(set, bits);
        if self.look().is_some() { Armed::Work } else { Armed::Idle }
    }

    fn disarm(&mut self) {
        if let Some(Interrupt { clear, bits, .. }) = self.interrupt {
            self.bar.write32(clear, bits);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn received_words() {
        assert_eq!(Received::from_word(0x0600_0000_0000), None, "not done");
        let got = Received::from_word(1514 << 32 | 0x23).unwrap();
        let wanted = Received { len: 1514, last: true, checksum_good: true, broken: false, tag: None };
        assert_eq!(got, wanted);
        let tagged = Received { tag: Some(0x2007), ..got };
        assert_eq!(Received::from_word(tagged.to_word()), Some(tagged));
        assert_eq!(Received::from_word(got.to_word()), Some(got));
        assert!(!Received::from_word(1 << 29 | 0x23).unwrap().checksum_good);
        assert!(Received::from_word(1 << 24 | 0x3).unwrap().broken);
    }
}

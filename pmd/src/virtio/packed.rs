//! Packed ring layouts (section 2.8).
//!
//! ```text
//!   descriptor ring        16 bytes each, written by both sides in turn
//!   driver event area      off_wrap flags      driver writes: when it wants interrupts
//!   device event area      off_wrap flags      device writes: when it wants kicks
//! ```
//!
//! There are no indexes: whose turn a descriptor is says the pair of its AVAIL and USED flags, whose sense changes each time
//! round. Each side keeps a [`Position`] for what it reads and writes next.

use super::split;

/// Equal to the driver's wrap counter, and unlike [`DESC_F_USED`]: the descriptor is available.
pub const DESC_F_AVAIL: u16 = 1 << 7;
/// Both equal to the device's wrap counter: the descriptor is used.
pub const DESC_F_USED: u16 = 1 << 15;

/// In an event area's flags: tell me of everything.
pub const EVENT_F_ENABLE: u16 = 0;
/// In an event area's flags: tell me of nothing.
pub const EVENT_F_DISABLE: u16 = 1;
/// In an event area's flags: tell me once the position in `off_wrap` is passed. Only with `VIRTIO_F_EVENT_IDX`.
pub const EVENT_F_DESC: u16 = 2;

/// Byte offset of the position in an event area.
pub const EVENT_OFF_WRAP: usize = 0;
/// Byte offset of the flags in an event area.
pub const EVENT_FLAGS: usize = 2;
/// Bytes of an event area.
pub const EVENT_LEN: usize = 4;

/// Largest ring: positions have 15 bits.
pub const MAX_SIZE: u16 = 32768;

/// Required alignment of the descriptor ring, the driver's and the device's event area.
pub const ALIGN: (usize, usize, usize) = (16, 4, 4);

/// Bytes of a descriptor ring.
pub const fn descriptors_len(size: u16) -> usize {
    size as usize * 16
}

/// Whether a ring may have this many descriptors (section 2.8.10.1: any number, not only powers of two).
pub const fn valid_size(size: u16) -> bool {
    0 < size && size <= MAX_SIZE
}

/// The half of a descriptor that changes hands: all but the address.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Element {
    /// Bytes of the buffer, or written into it.
    pub len: u32,
    /// What the driver knows the chain by. It means nothing to a device.
    pub id: u16,
    /// `DESC_F_*` of this module and of [`split`].
    pub flags: u16,
}

impl Element {
    /// As one little-endian number, the way it stands in a descriptor.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        self.len as u64 | (self.id as u64) << 32 | (self.flags as u64) << 48
    }

    /// The element that [`Element::to_word`] made the number of.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Element {
        Element { len: word as u32, id: (word >> 32) as u16, flags: (word >> 48) as u16 }
    }
}

/// A descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Descriptor {
    /// Guest physical address of the buffer.
    pub addr: u64,
    /// The rest.
    pub element: Element,
}

/// A place in a ring and the wrap counter that goes with it, as the event areas and vhost-user's ring bases write them: the
/// descriptor's number in the low 15 bits, the counter above.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position(u16);

impl Position {
    /// Where both sides of a fresh ring stand: the first descriptor, counters one.
    pub const START: Position = Position(0x8000);

    /// The position that these bits write. Whether the ring has such a descriptor is for the caller to check.
    pub const fn from_bits(bits: u16) -> Position {
        Position(bits)
    }

    /// The bits.
    #[inline(always)]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Number of the descriptor.
    #[inline(always)]
    pub const fn slot(self) -> u16 {
        self.0 & 0x7fff
    }

    /// The wrap counter.
    #[inline(always)]
    pub const fn wrap(self) -> bool {
        self.0 & 0x8000 != 0
    }

    /// The position `descriptors` on, at most `size` of them, in a ring of `size`.
    #[inline(always)]
    #[must_use]
    pub const fn advanced(self, descriptors: u16, size: u16) -> Position {
        let slot = self.slot() + descriptors;
        if slot >= size {
            Position((self.0 & 0x8000 ^ 0x8000) | (slot - size))
        } else {
            Position(self.0 + descriptors)
        }
    }

    /// The next position, in a ring of `size`, and whether the counter turned over.
    #[inline(always)]
    pub const fn next(self, size: u16) -> (Position, bool) {
        let turn = self.0 & 0x8000;
        let next = self.0.wrapping_add(1);
        if next == turn.wrapping_add(size) {
            (Position(turn ^ 0x8000), true)
        } else {
            (Position(next), false)
        }
    }

    /// Descriptors from `earlier` to here, at most a ring's.
    #[inline]
    pub const fn since(self, earlier: Position, size: u16) -> u16 {
        let forth = self.slot().wrapping_sub(earlier.slot());
        if self.wrap() == earlier.wrap() { forth } else { forth.wrapping_add(size) }
    }

    /// Flags of a descriptor made available here.
    #[inline(always)]
    pub const fn avail_flags(self) -> u16 {
        if self.wrap() { DESC_F_AVAIL } else { DESC_F_USED }
    }

    /// Flags of a descriptor used here.
    #[inline(always)]
    pub const fn used_flags(self) -> u16 {
        // The counter's bit, spread: no choice to make.
        (self.0.cast_signed() >> 15).cast_unsigned() & (DESC_F_AVAIL | DESC_F_USED)
    }

    /// Whether a descriptor here with these flags is available.
    #[inline(always)]
    pub const fn is_available(self, flags: u16) -> bool {
        flags & (DESC_F_AVAIL | DESC_F_USED) == self.avail_flags()
    }

    /// Whether a descriptor here with these flags is used.
    #[inline(always)]
    pub const fn is_used(self, flags: u16) -> bool {
        flags & (DESC_F_AVAIL | DESC_F_USED) == self.used_flags()
    }

    /// Whether moving here over the last `moved` descriptors of a ring of `size` has passed `event`, so that the other side wants
    /// to be told (section 2.8.10).
    #[inline]
    pub const fn passed(self, event: Position, moved: u16, size: u16) -> bool {
        if moved >= size {
            return true;
        }
        let lap = if event.wrap() == self.wrap() { 0 } else { size };
        split::need_event(event.slot().wrapping_sub(lap), self.slot(), self.slot().wrapping_sub(moved))
    }
}

/// Whether the owner of an event area with this content wants to be told of a move to `to` over `moved` descriptors. Flags
/// that do not exist count as "always": a notification too many does no harm.
#[inline]
pub const fn wants_event(
    off_wrap: u16,
    flags: u16,
    event_idx: bool,
    to: Position,
    moved: u16,
    size: u16,
) -> bool {
    match flags {
        EVENT_F_DISABLE => false,
        EVENT_F_DESC if event_idx => to.passed(Position::from_bits(off_wrap), moved, size),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_go_round_and_turn_over() {
        let size = 5;
        let mut at = Position::START;
        for step in 0..20u16 {
            assert_eq!((at.slot(), at.wrap()), (step % size, step / size % 2 == 0));
            assert_eq!(at.next(size), (at.advanced(1, size), (step + 1) % size == 0));
            assert_eq!(at.advanced(3, size).since(at, size), 3);
            assert_eq!(at.advanced(size, size).since(at, size), size);
            at = at.advanced(1, size);
        }
        let last = Position::from_bits(32767);
        assert_eq!(last.advanced(MAX_SIZE, MAX_SIZE).bits(), 0x8000 | 32767);
        assert_eq!(last.next(MAX_SIZE), (Position::START, true));
        assert_eq!(Position::from_bits(0xffff).next(MAX_SIZE), (Position::from_bits(0), true));
    }

    #[test]
    fn a_descriptor_is_one_sides_at_a_time() {
        for at in [Position::START, Position::from_bits(0)] {
            assert!(at.is_available(at.avail_flags()) && !at.is_used(at.avail_flags()));
            assert!(at.is_used(at.used_flags()) && !at.is_available(at.used_flags()));
            // A round later what is used now is neither.
            let later = at.advanced(1, 1);
            assert!(!later.is_available(at.used_flags()) && !later.is_used(at.used_flags()));
            assert!(!later.is_available(at.avail_flags()));
        }
        // Fresh memory is neither available nor used.
        assert!(!Position::START.is_available(0) && !Position::START.is_used(0));
    }

    /// Against counting step by step.
    #[test]
    fn events_are_passed_by_moving_over_them() {
        for size in [1u16, 2, 3, 7, 8] {
            for start in 0..2 * size {
                let from = Position::START
                    .advanced(start.min(size), size)
                    .advanced(start.saturating_sub(size), size);
                for moved in 0..size {
                    let to = from.advanced(moved, size);
                    // Events within half a turn behind and ahead.
                    for event_at in 0..2 * size {
                        let event = (0..event_at).fold(from, |at, _| at.advanced(1, size));
                        assert_eq!(
                            to.passed(event, moved, size),
                            event_at < moved,
                            "{size} {start} {moved} {event_at}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn wishes() {
        let to = Position::START.advanced(3, 8);
        let at = |slot| Position::START.advanced(slot, 8).bits();
        assert!(wants_event(0, EVENT_F_ENABLE, true, to, 1, 8));
        assert!(!wants_event(0, EVENT_F_DISABLE, true, to, 1, 8));
        assert!(wants_event(at(2), EVENT_F_DESC, true, to, 1, 8));
        assert!(!wants_event(at(3), EVENT_F_DESC, true, to, 1, 8));
        // Not negotiated: any flag but "nothing" is "everything".
        assert!(wants_event(at(3), EVENT_F_DESC, false, to, 1, 8));
    }
}

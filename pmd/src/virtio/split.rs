//! Split ring layouts (section 2.7).
//!
//! ```text
//!   descriptor table   16 bytes each          driver writes
//!   avail ring         flags idx ring[n] used_event      driver writes
//!   used ring          flags idx ring[n] avail_event     device writes
//! ```

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The chain goes on at `next`.
pub const DESC_F_NEXT: u16 = 1;
/// The device writes this buffer.
pub const DESC_F_WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub const DESC_F_INDIRECT: u16 = 4;
/// In the avail ring's flags: the driver wants no interrupts.
pub const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// In the used ring's flags: the device wants no kicks.
pub const USED_F_NO_NOTIFY: u16 = 1;

/// Largest ring: a power of two whose indexes still tell full from empty.
pub const MAX_SIZE: u16 = 32768;

/// A descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Descriptor {
    /// Guest physical address of the buffer.
    pub addr: u64,
    /// Bytes in it.
    pub len: u32,
    /// `DESC_F_*`.
    pub flags: u16,
    /// Index of the next descriptor if [`DESC_F_NEXT`].
    pub next: u16,
}

/// An element of the used ring.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UsedElement {
    /// Head of the chain that was used.
    pub id: u32,
    /// Bytes the device wrote into it.
    pub len: u32,
}

const _: () = assert!(size_of::<Descriptor>() == 16);
const _: () = assert!(size_of::<UsedElement>() == 8);

/// Byte offset of the index in the avail and the used ring.
pub const IDX: usize = 2;
/// Byte offset of the first element in the avail and the used ring.
pub const RING: usize = 4;

/// Required alignment of the descriptor table, avail ring, and used ring.
pub const ALIGN: (usize, usize, usize) = (16, 2, 4);

/// Bytes of a descriptor table.
pub const fn descriptors_len(size: u16) -> usize {
    size as usize * 16
}

/// Bytes of an avail ring with its `used_event`.
pub const fn avail_len(size: u16) -> usize {
    RING + size as usize * 2 + 2
}

/// Bytes of a used ring with its `avail_event`.
pub const fn used_len(size: u16) -> usize {
    RING + size as usize * 8 + 2
}

/// Whether a ring may have this many entries (section 2.7: a power of two).
pub const fn valid_size(size: u16) -> bool {
    size.is_power_of_two() && size <= MAX_SIZE
}

/// Whether moving an index from `old` to `new` passes `event`, so that the other side wants to be told
/// (section 2.7.7.2). All arithmetic wraps.
#[inline]
pub const fn need_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_passed_only_by_moving_over_it() {
        assert!(need_event(0, 1, 0));
        assert!(!need_event(1, 1, 0));
        assert!(!need_event(0, 0, 0));
        assert!(need_event(0xffff, 2, 0xfff0));
        assert!(!need_event(5, 5, 0));
    }

    #[test]
    fn extents() {
        assert_eq!((descriptors_len(256), avail_len(256), used_len(256)), (4096, 518, 2054));
        assert!(valid_size(1) && valid_size(32768) && !valid_size(0) && !valid_size(3));
    }
}

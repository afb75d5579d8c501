//! The device's ring: memory of ours that the device sees, and the driver side over it.
//!
//! A chain goes into the ring piece by piece. One that has more pieces than the ring goes through an indirect table, of which each ring has
//! [`TABLES`]; they are for the rare chain, since most have one or two pieces.
//!
//! The device may write all of this memory. Nothing that counts is read back from it: which chain an id means, where its descriptors are, and
//! which table it has, stand in private lists here and in the driver side.
#![expect(unsafe_code, reason = "the ring lies in memory shared with the device")]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pmd::memory::Arena;
use pmd::virtio::SharedPtr;
use pmd::virtio::driver_ring::{BadUsed, Buffer, ChainRing, DriverRing, RingMemory};
use pmd::virtio::features::{VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED};
use pmd::virtio::packed::{self, Element};
use pmd::virtio::packed_driver_ring::PackedDriverRing;
use pmd::virtio::split::{self, DESC_F_NEXT, DESC_F_WRITE, Descriptor};

use crate::ring::MAX_SEGMENTS;

/// Indirect tables of a ring.
const TABLES: u16 = 4;
/// Bytes of one: any chain fits.
const TABLE: usize = MAX_SEGMENTS * 16;
/// What both sides write lies on lines, and rings on pages, of their own.
const LINE: usize = 64;
const PAGE: usize = 4096;

/// What kind of ring the device is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DeviceRingSpec {
    /// Descriptors.
    pub(crate) size: u16,
    pub(crate) packed: bool,
    pub(crate) event_idx: bool,
    pub(crate) indirect: bool,
}

/// Where the device finds the parts of its ring; of a packed one, the two event areas are the driver's and its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DeviceRingAddresses {
    pub(crate) descriptors: u64,
    pub(crate) avail: u64,
    pub(crate) used: u64,
}

/// Offsets of a ring's parts.
struct Layout {
    avail: usize,
    used: usize,
    tables: usize,
    end: usize,
}

impl DeviceRingSpec {
    /// By the features negotiated with the device, which may be others than those of the guest's ring.
    pub(crate) fn new(size: u16, features: u64) -> DeviceRingSpec {
        let has = |bit| features & bit != 0;
        DeviceRingSpec {
            size,
            packed: has(VIRTIO_F_RING_PACKED),
            event_idx: has(VIRTIO_F_EVENT_IDX),
            indirect: has(VIRTIO_F_INDIRECT_DESC),
        }
    }

    fn layout(&self) -> Layout {
        let (descriptors, avail_len, used_len) = if self.packed {
            (packed::descriptors_len(self.size), packed::EVENT_LEN, packed::EVENT_LEN)
        } else {
            (split::descriptors_len(self.size), split::avail_len(self.size), split::used_len(self.size))
        };
        let avail = descriptors.next_multiple_of(LINE);
        let used = (avail + avail_len).next_multiple_of(LINE);
        let tables = (used + used_len).next_multiple_of(PAGE);
        let end = if self.indirect { tables + usize::from(TABLES) * TABLE } else { tables };
        Layout { avail, used, tables, end }
    }

    /// Bytes of memory that the ring needs, whole pages.
    pub(crate) fn bytes(&self) -> usize {
        self.layout().end
    }
}

/// Where a ring may lie: zeroed memory, [`DeviceRingSpec::bytes`] of it, on a page border.
pub(crate) struct RingSpace {
    pub(crate) arena: Arc<Arena>,
    /// Offset in the arena.
    pub(crate) offset: usize,
    /// Where the device sees the byte at that offset.
    pub(crate) iova: u64,
}

/// What became of a chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Issued {
    /// The device gets it under this name.
    As(u16),
    /// Not now: the device has to give something back first.
    NoRoom,
    /// It fits no ring of this kind.
    Never,
}

/// The driver side of either kind.
enum Side {
    Split(DriverRing),
    Packed(PackedDriverRing),
}

macro_rules! side {
    ($self:expr, $ring:ident => $what:expr) => {
        match $self {
            Side::Split($ring) => $what,
            Side::Packed($ring) => $what,
        }
    };
}

/// See the module.
pub(crate) struct DeviceQueue {
    ring: Side,
    spec: DeviceRingSpec,
    space: RingSpace,
    start: SharedPtr,
    /// Tables that are free, and those of chains, by the chain's name.
    tables: Vec<u16>,
    table_of: Vec<Option<u16>>,
    /// The device has not been shown all of them.
    added: bool,
}

impl DeviceQueue {
    /// A fresh ring, which wants no interrupts. `None` when `spec` has no valid size, or `space` is not large enough.
    pub(crate) fn new(spec: DeviceRingSpec, space: RingSpace) -> Option<DeviceQueue> {
        let layout = spec.layout();
        if space.offset.checked_add(layout.end)? > space.arena.len() || !space.offset.is_multiple_of(PAGE) {
            return None;
        }
        // SAFETY: all offsets are below `offset + end`, which lies inside the arena; it lives as long as `space`.
        let (start, ring) = unsafe {
            let start = SharedPtr::new(space.arena.start()).add(space.offset);
            start_zeroed(start, layout.tables);
            let memory = RingMemory {
                descriptors: start,
                avail: start.add(layout.avail),
                used: start.add(layout.used),
            };
            let ring = if spec.packed {
                Side::Packed(PackedDriverRing::new(memory, spec.size, spec.event_idx, false)?)
            } else {
                Side::Split(DriverRing::new(memory, spec.size, spec.event_idx)?)
            };
            (start, ring)
        };
        let tables = if spec.indirect { (0..TABLES).collect() } else { Vec::new() };
        let table_of = vec![None; usize::from(spec.size)];
        let mut queue = DeviceQueue { ring, spec, space, start, tables, table_of, added: false };
        queue.disable_interrupts();
        Some(queue)
    }

    /// Where the device finds it.
    pub(crate) fn addresses(&self) -> DeviceRingAddresses {
        let (layout, iova) = (self.spec.layout(), self.space.iova);
        DeviceRingAddresses {
            descriptors: iova,
            avail: iova + layout.avail as u64,
            used: iova + layout.used as u64,
        }
    }

    /// What kind of ring it is.
    pub(crate) fn spec(&self) -> DeviceRingSpec {
        self.spec
    }

    /// Puts a chain of at least one piece into the ring. The device sees it after [`DeviceQueue::publish`].
    pub(super) fn issue(&mut self, pieces: &[Buffer]) -> Issued {
        let free = side!(&self.ring, ring => ring.free());
        let id = if pieces.len() <= free {
            side!(&mut self.ring, ring => ring.add(pieces))
        } else if pieces.len() <= usize::from(self.spec.size) {
            return Issued::NoRoom;
        } else if !self.spec.indirect || pieces.len() > MAX_SEGMENTS {
            return Issued::Never;
        } else {
            self.issue_by_table(pieces, free)
        };
        let Some(id) = id else { return Issued::NoRoom };
        self.added = true;
        Issued::As(id)
    }

    #[cold]
    fn issue_by_table(&mut self, pieces: &[Buffer], free: usize) -> Option<u16> {
        let &table = self.tables.last().filter(|_| free > 0)?;
        let offset = self.spec.layout().tables + usize::from(table) * TABLE;
        // SAFETY: the table lies inside the space, and has room for as many pieces as a chain may have.
        unsafe { write_table(self.start.add(offset), pieces, self.spec.packed) };
        let at = self.space.iova + offset as u64;
        let id = side!(&mut self.ring, ring => ring.add_indirect(at, pieces.len() as u16))?;
        self.tables.pop();
        *self.table_of.get_mut(usize::from(id))? = Some(table);
        Some(id)
    }

    /// Shows the device what was added. True when it wants to be kicked for it.
    pub(super) fn publish(&mut self) -> bool {
        std::mem::take(&mut self.added) && side!(&mut self.ring, ring => ring.publish())
    }

    /// Takes the next chain that the device has used: its name, and the bytes that it says it wrote.
    pub(super) fn poll_used(&mut self) -> Result<Option<(u16, u32)>, BadUsed> {
        let used = side!(&mut self.ring, ring => ring.poll_used())?;
        if let Some((id, _)) = used {
            self.tables.extend(self.table_of.get_mut(usize::from(id)).and_then(Option::take));
        }
        Ok(used)
    }

    /// Asks for an interrupt at the next used chain. True when one waits already.
    pub(super) fn enable_interrupts(&mut self) -> bool {
        side!(&mut self.ring, ring => ring.enable_interrupts())
    }

    /// Wants no interrupts.
    pub(super) fn disable_interrupts(&mut self) {
        side!(&mut self.ring, ring => ring.disable_interrupts());
    }
}

/// Zeroes `len` bytes.
///
/// # Safety
/// They are mapped and writable.
unsafe fn start_zeroed(start: SharedPtr, len: usize) {
    // SAFETY: forwarded. No device runs on the ring yet.
    unsafe { start.as_non_null().write_bytes(0, len) };
}

/// Writes an indirect table.
///
/// # Safety
/// There is room for the pieces at `table`, which is 16-aligned.
unsafe fn write_table(table: SharedPtr, pieces: &[Buffer], packed: bool) {
    for (index, piece) in pieces.iter().enumerate() {
        let write = if piece.write { DESC_F_WRITE } else { 0 };
        // SAFETY: forwarded.
        unsafe {
            if packed {
                table.store_packed_addr(index, piece.addr);
                let element = Element { len: piece.len, id: 0, flags: write };
                table.store_packed_element(index, element, Ordering::Relaxed);
            } else {
                let more = index + 1 < pieces.len();
                let (flags, next) = if more { (write | DESC_F_NEXT, index as u16 + 1) } else { (write, 0) };
                let desc = Descriptor { addr: piece.addr, len: piece.len, flags, next };
                table.store_descriptor(index, desc);
            }
        }
    }
}

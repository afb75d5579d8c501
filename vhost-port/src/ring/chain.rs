//! The walk of one descriptor chain: bounded, each descriptor read once.

use pmd::virtio::split::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor};
use pmd::virtio::{NetHeader, SharedPtr};

use super::fault::RingFault;
use crate::memory::{Access, MemTable, RegionCache};

/// Most bytes a chain may name. A frame is at most about 64 KiB; the rest is slack for buffers made too large.
pub(crate) const MAX_CHAIN_BYTES: u32 = 1 << 20;

/// Most pieces of a chain, whatever the ring's size. Linux uses 19.
pub(crate) const MAX_SEGMENTS: usize = 1024;

/// A piece of a chain, in host memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) start: SharedPtr,
    pub(crate) len: u32,
}

/// What the device does with a chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    /// The guest sent it.
    Read,
    /// The guest waits for it to be filled.
    Write,
}

impl Direction {
    /// The descriptor's WRITE bit in this direction.
    #[inline]
    pub(crate) fn flag(self) -> u16 {
        match self {
            Direction::Read => 0,
            Direction::Write => DESC_F_WRITE,
        }
    }

    /// What the device needs to do with buffers in this direction.
    #[inline]
    pub(crate) fn access(self) -> Access {
        match self {
            Direction::Read => Access::READ,
            Direction::Write => Access::WRITE,
        }
    }
}

/// Where descriptors of a walk come from.
#[derive(Clone, Copy)]
pub(super) struct Table {
    /// First descriptor.
    pub(super) start: SharedPtr,
    /// Number of descriptors, all inside one mapping.
    pub(super) len: u32,
}

impl Table {
    /// Reads descriptor `index`.
    #[inline]
    #[expect(unsafe_code, reason = "index checked against the table")]
    pub(super) fn get(&self, index: u32) -> Result<Descriptor, RingFault> {
        if index >= self.len {
            return Err(RingFault::DescriptorIndex);
        }
        // SAFETY: index < len, and all len descriptors are mapped.
        Ok(unsafe { self.start.load_descriptor(index as usize) })
    }

    /// Reads entry `index` of a packed ring's indirect table: the same, but that id and flags have changed places and there is
    /// no `next`.
    #[inline]
    pub(super) fn get_packed(&self, index: u32) -> Result<Descriptor, RingFault> {
        let Descriptor { addr, len, next: flags, .. } = self.get(index)?;
        Ok(Descriptor { addr, len, flags, next: 0 })
    }
}

/// What a ring keeps for indirect tables.
#[derive(Default)]
pub(super) struct Tables {
    /// Where one was last: often not where buffers are, and it takes another access to read it.
    pub(super) cache: RegionCache,
    /// One that lies in several pieces, put together.
    gathered: Vec<u8>,
}

/// A guest's memory as a walk needs it.
pub(super) struct Walk<'a> {
    pub(super) memory: &'a MemTable,
    /// Where buffers of this direction were last.
    pub(super) cache: &'a mut RegionCache,
    pub(super) tables: &'a mut Tables,
    pub(super) indirect: bool,
    pub(super) direction: Direction,
}

impl Walk<'_> {
    /// Appends the pieces of the chain that starts at `head` to `segments`, and returns its bytes.
    pub(super) fn chain(
        mut self,
        table: Table,
        head: u16,
        segments: &mut Vec<Segment>,
    ) -> Result<u32, RingFault> {
        let mut total = 0u32;
        let first = table.get(u32::from(head))?;
        // A chain is either all in the ring, or one indirect descriptor, or ring descriptors that end in one.
        let (mut table, mut desc, mut nested) = (table, first, false);
        let mut left = table.len;
        loop {
            if desc.flags & DESC_F_INDIRECT != 0 {
                if nested || !self.indirect || desc.flags & DESC_F_NEXT != 0 {
                    return Err(RingFault::BadIndirect);
                }
                table = self.indirect_table(&desc)?;
                (desc, nested, left) = (table.get(0)?, true, table.len);
                continue;
            }
            total = self.buffer(&desc, total, segments)?;
            if desc.flags & DESC_F_NEXT == 0 {
                break;
            }
            left = left.checked_sub(1).filter(|&n| n > 0).ok_or(RingFault::ChainTooLong)?;
            desc = table.get(u32::from(desc.next))?;
        }
        if (total as usize) < NetHeader::LEGACY_LEN { Err(RingFault::NoHeader) } else { Ok(total) }
    }

    pub(super) fn indirect_table(&mut self, desc: &Descriptor) -> Result<Table, RingFault> {
        let len = desc.len / size_of::<Descriptor>() as u32;
        if desc.len == 0
            || !(desc.len as usize).is_multiple_of(size_of::<Descriptor>())
            || len as usize > MAX_SEGMENTS
        {
            return Err(RingFault::BadIndirect);
        }
        let start = match self.tables.cache.get(desc.addr, desc.len) {
            Some(start) => start,
            None => match self.find(desc.addr, desc.len, Access::READ, true)? {
                (start, here) if here == desc.len => start,
                _ => self.gather(desc)?,
            },
        };
        Ok(Table { start, len })
    }

    /// Copies a table that lies in several pieces to private memory.
    #[cold]
    #[inline(never)]
    #[expect(unsafe_code, reason = "reads guest memory")]
    fn gather(&mut self, desc: &Descriptor) -> Result<SharedPtr, RingFault> {
        let mut gathered = std::mem::take(&mut self.tables.gathered);
        gathered.resize(desc.len as usize, 0);
        let mut done = 0;
        while let Some(rest) = gathered.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = desc.addr.checked_add(done as u64).ok_or(RingFault::OutsideMemory)?;
            let (start, here) = self.find(at, rest.len() as u32, Access::READ, true)?;
            let here = (here as usize).min(rest.len());
            // SAFETY: `here` bytes from `start` are mapped.
            unsafe { start.copy_out(&mut rest[..here]) };
            done += here;
        }
        self.tables.gathered = gathered;
        // It stays until the ring gathers the next, which is after this walk: tables are not nested.
        Ok(SharedPtr::new(std::ptr::NonNull::from(self.tables.gathered.as_mut_slice()).cast()))
    }

    /// Where guest memory is that the caches do not know: as [`MemTable::lookup`].
    #[cold]
    #[inline(never)]
    fn find(
        &mut self,
        addr: u64,
        len: u32,
        access: Access,
        table: bool,
    ) -> Result<(SharedPtr, u32), RingFault> {
        let cache = if table { &mut self.tables.cache } else { &mut *self.cache };
        let absent =
            if self.memory.translates() { RingFault::Untranslated } else { RingFault::OutsideMemory };
        self.memory.lookup(addr, len, access, cache).ok_or(absent)
    }

    /// Appends the pieces of one buffer to `segments`; the chain has `total` bytes before it. Returns those with it.
    pub(super) fn buffer(
        &mut self,
        desc: &Descriptor,
        total: u32,
        segments: &mut Vec<Segment>,
    ) -> Result<u32, RingFault> {
        if desc.flags & DESC_F_WRITE != self.direction.flag() {
            return Err(RingFault::WrongDirection);
        }
        let total = total.checked_add(desc.len).filter(|&n| n <= MAX_CHAIN_BYTES);
        let total = total.ok_or(RingFault::ChainTooLarge)?;
        let (mut gpa, mut left) = (desc.addr, desc.len);
        while left > 0 {
            if segments.len() >= MAX_SEGMENTS {
                return Err(RingFault::ChainTooLong);
            }
            // A buffer may run over the border of two regions that lie side by side in the guest.
            let (start, here) = match self.cache.get(gpa, left) {
                Some(start) => (start, left),
                None => self.find(gpa, left, self.direction.access(), false)?,
            };
            segments.push(Segment { start, len: here });
            left -= here;
            if left > 0 {
                gpa = gpa.checked_add(u64::from(here)).ok_or(RingFault::OutsideMemory)?;
            }
        }
        Ok(total)
    }
}

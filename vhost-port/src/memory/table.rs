//! The immutable set of a guest's regions, and translation of its addresses.
//!
//! A table either takes addresses for guest physical ones, or translates them first, when the guest has an IOMMU. Those who hold it need
//! not know: what a translating table does not find is reported to the control thread by the table itself.

use std::sync::Arc;

use pmd::sys::sigbus::Alarm;
use pmd::virtio::SharedPtr;

use super::MemoryError;
use super::iotlb::{Access, Entry, Translation, find};
use super::misses::{MissQueue, PAGE};
use super::page_log::HostRange;
use super::region::{Region, RegionSpec};
use super::window::{Piece, Window};
use crate::vdpa::{DmaMapping, HostMemory};

/// Most regions of a guest; QEMU's own limit of memory slots.
pub(crate) const MAX_REGIONS: usize = 509;

/// A guest's memory at one moment, sorted by guest physical address.
#[derive(Default)]
pub(crate) struct MemTable {
    regions: Vec<Arc<Region>>,
    /// What the guest's IOMMU maps, if it has one.
    iommu: Option<Iommu>,
}

/// Why a part of a ring has no place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unplaced {
    /// It is not inside one memory region.
    Outside,
    /// Some of it has no translation yet.
    Untranslated,
}

/// Where a part of a ring is.
pub(crate) enum RingPart {
    /// In one piece, which begins here.
    Whole(SharedPtr),
    /// In several, which a [`Window`] may make one.
    Pieces(Vec<Piece>),
}

/// A guest's IOMMU as a table knows it.
struct Iommu {
    /// Sorted by address, without overlap; all in the table's regions, or in what is kept here.
    entries: Box<[Entry]>,
    misses: Arc<MissQueue>,
    /// Memory that is of no region.
    keep: Vec<HostMemory>,
    /// Addresses are the guest's, and what has no translation has not arrived. Those of rings are the front-end's, as ever.
    pages: bool,
}

/// The region, or mapping, a ring used last: nearly every address is in it. With it goes the access it was looked up for.
#[derive(Clone, Copy)]
pub(crate) struct RegionCache {
    gpa: u64,
    len: u64,
    host: Option<SharedPtr>,
    access: Access,
}

impl RegionCache {
    /// Matches nothing.
    pub(crate) const EMPTY: RegionCache = RegionCache { gpa: 0, len: 0, host: None, access: Access::READ };

    /// The same, for who wants this access: a ring does the same with all its buffers.
    #[inline]
    pub(crate) fn wanting(self, access: Access) -> RegionCache {
        RegionCache { access, ..self }
    }

    /// The access wanted.
    pub(crate) fn access(&self) -> Access {
        self.access
    }

    /// Host address of `len` bytes at `gpa`, if all lie in the cached region.
    #[inline]
    #[expect(unsafe_code, reason = "offset checked against the region")]
    pub(crate) fn get(&self, gpa: u64, len: u32) -> Option<SharedPtr> {
        // An address below the region wraps to a huge offset, and fails for its end.
        let offset = gpa.wrapping_sub(self.gpa);
        if offset.checked_add(u64::from(len))? > self.len {
            return None;
        }
        // SAFETY: offset <= len of a mapped region, which the table that filled this cache keeps mapped.
        Some(unsafe { self.host?.add(offset as usize) })
    }
}

impl Default for RegionCache {
    fn default() -> RegionCache {
        RegionCache::EMPTY
    }
}

impl MemTable {
    /// Guest address and length of each region.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.regions.iter().map(|region| (region.spec.gpa, region.spec.len))
    }

    /// The table with one more region.
    pub(crate) fn with(&self, region: Region) -> Result<MemTable, MemoryError> {
        let RegionSpec { gpa, len, uva, .. } = region.spec;
        if self.regions.len() >= MAX_REGIONS {
            return Err(MemoryError::TooMany);
        }
        // Ends cannot overflow: Region::map checked them.
        let overlaps = |a: u64, b: u64, b_len: u64| a < b + b_len && b < a + len;
        if self
            .regions
            .iter()
            .any(|r| overlaps(gpa, r.spec.gpa, r.spec.len) || overlaps(uva, r.spec.uva, r.spec.len))
        {
            return Err(MemoryError::Overlaps { gpa });
        }
        let mut regions = self.regions.clone();
        let at = regions.partition_point(|r| r.spec.gpa < gpa);
        regions.insert(at, Arc::new(region));
        Ok(MemTable { regions, iommu: None })
    }

    /// The table without the region that starts at both addresses and has this length.
    pub(crate) fn without(&self, gpa: u64, uva: u64, len: u64) -> Result<MemTable, MemoryError> {
        let same = |r: &RegionSpec| r.gpa == gpa && r.uva == uva && r.len == len;
        let at =
            self.regions.iter().position(|r| same(&r.spec)).ok_or(MemoryError::Unknown { gpa, uva, len })?;
        let mut regions = self.regions.clone();
        regions.remove(at);
        Ok(MemTable { regions, iommu: None })
    }

    /// Whether there is no memory at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.regions.is_empty() && self.iommu.as_ref().is_none_or(|iommu| iommu.keep.is_empty())
    }

    /// The same regions, taken for what they are.
    pub(crate) fn same(&self) -> MemTable {
        MemTable { regions: self.regions.clone(), iommu: None }
    }

    /// The table with all addresses translated by `entries`, which are sorted and lie in its regions. If they are `pages` that have arrived,
    /// rings lie where the front-end says.
    pub(crate) fn translated(&self, entries: &[Entry], misses: &Arc<MissQueue>, pages: bool) -> MemTable {
        let iommu = Iommu { entries: entries.into(), misses: Arc::clone(misses), keep: Vec::new(), pages };
        MemTable { regions: self.regions.clone(), iommu: Some(iommu) }
    }

    /// Memory as a device sees it: its addresses are I/O addresses. For models of devices.
    pub(crate) fn of_device(mappings: &[DmaMapping], alarm: &Arc<Alarm>) -> MemTable {
        let mut mappings = mappings.to_vec();
        mappings.sort_by_key(|mapping| mapping.iova);
        let entries = mappings.iter().filter_map(|DmaMapping { iova, memory }| {
            let len = memory.len();
            let told = Translation { iova: *iova, len, uva: 0, access: Access::BOTH };
            Some(Entry { told, host: memory.at(0, len)? })
        });
        let entries = entries.collect();
        let misses = Arc::new(MissQueue::new(Arc::clone(alarm)));
        let keep = mappings.into_iter().map(|mapping| mapping.memory).collect();
        MemTable { regions: Vec::new(), iommu: Some(Iommu { entries, misses, keep, pages: false }) }
    }

    /// Whether addresses are translated.
    pub(crate) fn translates(&self) -> bool {
        self.iommu.is_some()
    }

    /// Host address of `len` bytes at the front-end's address `uva`, all in one region.
    pub(crate) fn by_uva(&self, uva: u64, len: u64) -> Option<SharedPtr> {
        self.regions.iter().find_map(|r| r.host(uva.checked_sub(r.spec.uva)?, len))
    }

    /// The regions, by guest address.
    pub(crate) fn regions(&self) -> &[Arc<Region>] {
        &self.regions
    }

    /// Guest address of `len` bytes at the front-end's address `uva`, all in one region.
    pub(crate) fn gpa_of_uva(&self, uva: u64, len: u64) -> Option<u64> {
        self.regions.iter().find_map(|r| {
            let offset = uva.checked_sub(r.spec.uva)?;
            r.host(offset, len)?;
            Some(r.spec.gpa + offset)
        })
    }

    /// Which byte of which file lies at this host address: the file's device and inode number, and the offset in it.
    pub(crate) fn file_place(&self, host: SharedPtr) -> Option<((u64, u64), u64)> {
        self.regions.iter().find_map(|r| {
            let start = r.host(0, r.spec.len)?;
            let offset =
                (host.addr() as u64).checked_sub(start.addr() as u64).filter(|&at| at < r.spec.len)?;
            Some((r.file(), r.spec.offset + offset))
        })
    }

    /// The region that holds a host address.
    #[cold]
    pub(crate) fn by_host(&self, addr: usize) -> Option<HostRange> {
        self.regions.iter().find_map(|r| {
            let Region { spec: RegionSpec { gpa, len, .. }, .. } = **r;
            let (host, len) = (r.host(0, len)?.addr(), usize::try_from(len).ok()?);
            (addr.wrapping_sub(host) < len).then_some(HostRange { host, len, gpa })
        })
    }

    /// The guest address after the last byte of memory.
    pub(crate) fn end(&self) -> u64 {
        self.regions.last().map_or(0, |r| r.spec.gpa + r.spec.len)
    }

    /// Host address of the bytes at the device's address `addr`, for this access: of all `len` if they lie in one region or mapping, else
    /// of as many as it has. `None` when there is no byte. Fills the cache.
    #[cold]
    #[inline(never)]
    pub(crate) fn lookup(
        &self,
        addr: u64,
        len: u32,
        access: Access,
        cache: &mut RegionCache,
    ) -> Option<(SharedPtr, u32)> {
        if let Some(iommu) = &self.iommu {
            return iommu.lookup(addr, len, access, cache);
        }
        let after = self.regions.partition_point(|r| r.spec.gpa <= addr);
        let region = self.regions.get(after.checked_sub(1)?)?;
        let offset = addr - region.spec.gpa;
        let here = region.spec.len.checked_sub(offset).filter(|&n| n > 0)?.min(u64::from(len));
        let host = region.host(offset, here)?;
        let RegionSpec { gpa, len, .. } = region.spec;
        *cache = RegionCache { gpa, len, host: region.host(0, len), access };
        Some((host, here as u32))
    }
}

impl MemTable {
    /// Reports what of a range has no translation, so that it can be asked for before it is needed.
    pub(crate) fn report_missing(&self, addr: u64, len: u32, access: Access) {
        if let Some(iommu) = &self.iommu {
            iommu.report(addr, len, access);
        }
    }

    /// Shows pieces of the memory side by side.
    pub(crate) fn window(&self, pieces: &[Piece]) -> std::io::Result<Window> {
        let alarm = self.iommu.as_ref().map(|iommu| iommu.misses.alarm());
        Window::new(pieces, alarm.ok_or(std::io::ErrorKind::Unsupported)?)
    }

    /// Where `len` bytes of a ring are. Ring addresses are the front-end's, or the device's if they are translated; what is
    /// missing then is reported.
    pub(crate) fn ring_part(&self, addr: u64, len: u64, access: Access) -> Result<RingPart, Unplaced> {
        match &self.iommu {
            None => self.by_uva(addr, len).map(RingPart::Whole).ok_or(Unplaced::Outside),
            Some(iommu) if iommu.pages => {
                let gpa = self.gpa_of_uva(addr, len).ok_or(Unplaced::Outside)?;
                iommu.ring_part(gpa, len, access)
            }
            Some(iommu) => iommu.ring_part(addr, len, access),
        }
    }
}

impl Iommu {
    /// The mapping that has `iova` for this access.
    fn find(&self, iova: u64, access: Access) -> Option<&Entry> {
        find(&self.entries, iova).filter(|m| m.told.access.allows(access))
    }

    /// As [`MemTable::lookup`].
    fn lookup(
        &self,
        iova: u64,
        len: u32,
        access: Access,
        cache: &mut RegionCache,
    ) -> Option<(SharedPtr, u32)> {
        let Some(mapping) = self.find(iova, access) else {
            self.report(iova, len, access);
            return None;
        };
        let here = (mapping.end() - iova).min(u64::from(len)) as u32;
        let Translation { iova: gpa, len: whole, .. } = mapping.told;
        *cache = RegionCache { gpa, len: whole, host: Some(mapping.host), access };
        cache.get(iova, here).map(|host| (host, here))
    }

    /// Reports all pages of a range that have no translation.
    fn report(&self, iova: u64, len: u32, access: Access) {
        let end = iova.saturating_add(u64::from(len));
        let mut at = iova;
        while at < end {
            at = match self.find(at, access) {
                Some(mapping) => mapping.end(),
                None => {
                    self.misses.report(at, access);
                    (at | (PAGE - 1)).saturating_add(1)
                }
            };
        }
    }

    /// As [`MemTable::ring_part`].
    fn ring_part(&self, iova: u64, len: u64, access: Access) -> Result<RingPart, Unplaced> {
        let end = iova.checked_add(len).ok_or(Unplaced::Outside)?;
        let mut pieces: Vec<Piece> = Vec::new();
        let mut at = iova;
        while at < end {
            let Some(mapping) = self.find(at, access) else {
                self.report(at, u32::try_from(end - at).unwrap_or(u32::MAX), access);
                return Err(Unplaced::Untranslated);
            };
            let next = mapping.end().min(end);
            let part = mapping.part(at, next - at);
            match pieces.last_mut() {
                Some((start, len)) if start.addr() as u64 + *len == part.host.addr() as u64 => {
                    *len += next - at
                }
                _ => pieces.push((part.host, next - at)),
            }
            at = next;
        }
        match pieces[..] {
            [] => Err(Unplaced::Outside),
            [(start, _)] => Ok(RingPart::Whole(start)),
            _ => Ok(RingPart::Pieces(pieces)),
        }
    }
}

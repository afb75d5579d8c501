//! The immutable set of a guest's regions, and translation of its addresses.

use std::sync::Arc;

use pmd::virtio::SharedPtr;

use super::MemoryError;
use super::page_log::HostRange;
use super::region::{Region, RegionSpec};

/// Most regions of a guest; QEMU's own limit of memory slots.
pub(crate) const MAX_REGIONS: usize = 509;

/// A guest's memory at one moment, sorted by guest physical address.
#[derive(Default)]
pub(crate) struct MemTable {
    regions: Vec<Arc<Region>>,
}

/// The region a ring used last: nearly every address is in it.
#[derive(Clone, Copy)]
pub(crate) struct RegionCache {
    gpa: u64,
    len: u64,
    host: Option<SharedPtr>,
}

impl RegionCache {
    /// Matches nothing.
    pub(crate) const EMPTY: RegionCache = RegionCache { gpa: 0, len: 0, host: None };

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

impl MemTable {
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
        Ok(MemTable { regions })
    }

    /// The table without the region that starts at both addresses and has this length.
    pub(crate) fn without(&self, gpa: u64, uva: u64, len: u64) -> Result<MemTable, MemoryError> {
        let same = |r: &RegionSpec| r.gpa == gpa && r.uva == uva && r.len == len;
        let at =
            self.regions.iter().position(|r| same(&r.spec)).ok_or(MemoryError::Unknown { gpa, uva, len })?;
        let mut regions = self.regions.clone();
        regions.remove(at);
        Ok(MemTable { regions })
    }

    /// Number of regions.
    pub(crate) fn len(&self) -> usize {
        self.regions.len()
    }

    /// Host address of `len` bytes at the front-end's address `uva`, all in one region.
    pub(crate) fn by_uva(&self, uva: u64, len: u64) -> Option<SharedPtr> {
        self.regions.iter().find_map(|r| r.host(uva.checked_sub(r.spec.uva)?, len))
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

    /// Host address of the bytes at guest address `gpa`: of all `len` if they lie in one region, else of as many as the
    /// region has. `None` when there is no byte. Fills the cache.
    #[cold]
    #[inline(never)]
    pub(crate) fn lookup(&self, gpa: u64, len: u32, cache: &mut RegionCache) -> Option<(SharedPtr, u32)> {
        let after = self.regions.partition_point(|r| r.spec.gpa <= gpa);
        let region = self.regions.get(after.checked_sub(1)?)?;
        let offset = gpa - region.spec.gpa;
        let here = region.spec.len.checked_sub(offset).filter(|&n| n > 0)?.min(u64::from(len));
        let host = region.host(offset, here)?;
        *cache =
            RegionCache { gpa: region.spec.gpa, len: region.spec.len, host: region.host(0, region.spec.len) };
        Some((host, here as u32))
    }
}

//! One region of guest memory, mapped from the file the front-end sent.
#![expect(unsafe_code, reason = "maps guest memory")]

use std::fs::File;
use std::ptr::NonNull;
use std::sync::Arc;

use pmd::sys::sigbus::{Alarm, Guard};
use pmd::virtio::SharedPtr;
use rustix::fs::FileType;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

use super::MemoryError;

/// A region as the front-end describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RegionSpec {
    /// Guest physical address.
    pub(crate) gpa: u64,
    /// Bytes.
    pub(crate) len: u64,
    /// Address in the front-end's process: ring addresses come in this space.
    pub(crate) uva: u64,
    /// Where the region starts in its file.
    pub(crate) offset: u64,
}

/// A mapped region. Unmapped when dropped.
pub(crate) struct Region {
    pub(crate) spec: RegionSpec,
    /// Host address of the region's first byte.
    host: SharedPtr,
    map: NonNull<u8>,
    map_len: usize,
    /// Dropped before the mapping goes, see `Drop`.
    guard: Option<Guard>,
}

// SAFETY: a mapping is an address range; it may be used and unmapped from any thread.
unsafe impl Send for Region {}
// SAFETY: as above; nothing in it changes after construction.
unsafe impl Sync for Region {}

impl Region {
    /// Checks and maps a region. `alarm` goes off when its file shrinks under us.
    pub(crate) fn map(spec: RegionSpec, file: &File, alarm: &Arc<Alarm>) -> Result<Region, MemoryError> {
        let RegionSpec { gpa, len, uva, offset } = spec;
        let wraps = MemoryError::Wraps { gpa, len, offset };
        if len == 0 {
            return Err(MemoryError::Empty { gpa });
        }
        let file_end = offset.checked_add(len);
        let (Some(file_end), Some(_), Some(_)) = (file_end, gpa.checked_add(len), uva.checked_add(len))
        else {
            return Err(wraps);
        };
        let system = |what, e: rustix::io::Errno| MemoryError::System { gpa, what, source: e.into() };
        let stat = rustix::fs::fstat(file).map_err(|e| system("fstat", e))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(MemoryError::NoFile { gpa });
        }
        let file_len = u64::try_from(stat.st_size).unwrap_or(0);
        if file_end > file_len {
            return Err(MemoryError::FileTooShort { gpa, needed: file_end, len: file_len });
        }
        // The block size of a hugetlbfs file is its page size; mappings must keep to it.
        let page =
            u64::try_from(stat.st_blksize).ok().filter(|p| p.is_power_of_two()).unwrap_or(4096).max(4096);
        let map_offset = offset & !(page - 1);
        let map_len = (file_end - map_offset).checked_next_multiple_of(page);
        let Some(map_len) = map_len.and_then(|len| usize::try_from(len).ok()) else { return Err(wraps) };
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice; it aliases nothing of ours.
        let map = unsafe {
            mmap(std::ptr::null_mut(), map_len, ProtFlags::READ | ProtFlags::WRITE, flags, file, map_offset)
        }
        .map_err(|e| system("mmap", e))?;
        let Some(map) = NonNull::new(map.cast::<u8>()) else {
            return Err(system("mmap", rustix::io::Errno::FAULT));
        };
        let inner = usize::try_from(offset - map_offset).unwrap_or(0);
        // SAFETY: offset - map_offset < page <= map_len.
        let host = SharedPtr::new(unsafe { map.add(inner) });
        let mut region = Region { spec, host, map, map_len, guard: None };
        // SAFETY: the range is the mapping made above. Guest memory does not belong into a core dump; failure is harmless.
        let _ = unsafe { madvise(map.as_ptr().cast(), map_len, Advice::LinuxDontDump) };
        let guard = Guard::new(map.as_ptr().expose_provenance(), map_len, alarm);
        region.guard =
            Some(guard.map_err(|source| MemoryError::System { gpa, what: "SIGBUS guard", source })?);
        Ok(region)
    }

    /// Host address of the byte `offset` into the region, if `len` bytes from there lie inside.
    pub(crate) fn host(&self, offset: u64, len: u64) -> Option<SharedPtr> {
        if offset.checked_add(len)? > self.spec.len {
            return None;
        }
        // SAFETY: offset <= spec.len, which lies inside the mapping.
        Some(unsafe { self.host.add(usize::try_from(offset).ok()?) })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.guard = None;
        // SAFETY: the range was mapped in `map`, and whoever could reach it held this region.
        let _ = unsafe { munmap(self.map.as_ptr().cast(), self.map_len) };
    }
}

//! A stretch of a file that the front-end sent, mapped and guarded: a region of guest memory, or a dirty log.
#![expect(unsafe_code, reason = "maps files of the front-end")]

use std::fs::File;
use std::ptr::NonNull;
use std::sync::Arc;

use pmd::sys::sigbus::{Alarm, Guard};
use pmd::virtio::SharedPtr;
use rustix::fs::FileType;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

/// Why a file could not be mapped.
#[derive(thiserror::Error, Debug)]
pub(crate) enum MapError {
    #[error("is empty")]
    Empty,
    #[error("(length {len:#x}, offset {offset:#x}) wraps around")]
    Wraps { len: u64, offset: u64 },
    #[error("is backed by something that is no regular file")]
    NoFile,
    #[error("needs {needed:#x} bytes of its file, which has {len:#x}")]
    FileTooShort { needed: u64, len: u64 },
    #[error("cannot be mapped: {what}: {source}")]
    System { what: &'static str, source: std::io::Error },
}

/// The mapping, shared with whoever else has the file. Unmapped when dropped.
pub(crate) struct Mapping {
    /// Device and inode number of the file.
    pub(super) file: (u64, u64),
    /// The first byte asked for, somewhere in the first page.
    start: SharedPtr,
    len: u64,
    map: NonNull<u8>,
    map_len: usize,
    /// Dropped before the mapping goes, see `Drop`.
    guard: Option<Guard>,
}

// SAFETY: a mapping is an address range; it may be used and unmapped from any thread.
unsafe impl Send for Mapping {}
// SAFETY: as above; nothing in it changes after construction.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes from `offset` of a file that is really that long. `alarm` goes off when it shrinks under us.
    pub(crate) fn new(file: &File, offset: u64, len: u64, alarm: &Arc<Alarm>) -> Result<Mapping, MapError> {
        let wraps = MapError::Wraps { len, offset };
        if len == 0 {
            return Err(MapError::Empty);
        }
        let Some(file_end) = offset.checked_add(len) else { return Err(wraps) };
        let system = |what, e: rustix::io::Errno| MapError::System { what, source: e.into() };
        let stat = rustix::fs::fstat(file).map_err(|e| system("fstat", e))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(MapError::NoFile);
        }
        let file_len = u64::try_from(stat.st_size).unwrap_or(0);
        if file_end > file_len {
            return Err(MapError::FileTooShort { needed: file_end, len: file_len });
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
        let start = SharedPtr::new(unsafe { map.add(inner) });
        let mut mapping = Mapping { file: (stat.st_dev, stat.st_ino), start, len, map, map_len, guard: None };
        // SAFETY: the range is the mapping made above. Guest memory does not belong into a core dump; failure is harmless.
        let _ = unsafe { madvise(map.as_ptr().cast(), map_len, Advice::LinuxDontDump) };
        let guard = Guard::new(map.as_ptr().expose_provenance(), map_len, alarm);
        mapping.guard = Some(guard.map_err(|source| MapError::System { what: "SIGBUS guard", source })?);
        Ok(mapping)
    }

    /// Host address of the byte at `offset`, if `len` bytes from there lie inside.
    #[inline]
    pub(crate) fn at(&self, offset: u64, len: u64) -> Option<SharedPtr> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: offset <= len, which lies inside the mapping.
        Some(unsafe { self.start.add(usize::try_from(offset).ok()?) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.guard = None;
        // SAFETY: the range was mapped in `new`, and whoever could reach it held this mapping.
        let _ = unsafe { munmap(self.map.as_ptr().cast(), self.map_len) };
    }
}

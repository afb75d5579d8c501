//! Memory that can be shared by descriptor: memfd, file, and their mapping.
#![expect(unsafe_code, reason = "mmap and munmap")]

use core::ptr::NonNull;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

/// A shared mapping of a memfd or another file, unmapped when dropped.
#[derive(Debug)]
pub struct SharedMap {
    fd: OwnedFd,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is an address range that stays valid until drop, on any thread.
unsafe impl Send for SharedMap {}
// SAFETY: as above; this type itself never reads or writes the bytes.
unsafe impl Sync for SharedMap {}

impl SharedMap {
    /// Makes and maps `len` zero bytes, in huge pages of 2 MiB if `huge` (then `len` must be a multiple of that, and the
    /// pages must be free: they are reserved here).
    pub fn create(name: &str, len: usize, huge: bool) -> io::Result<SharedMap> {
        let flags = if huge { MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB } else { MemfdFlags::empty() };
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | flags)?;
        ftruncate(&fd, len as u64)?;
        // Whoever is given the descriptor cannot take the memory away under us.
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let map = SharedMap::of(fd, len)?;
        if !huge {
            // SAFETY: the range is the mapping just made; the advice changes no content. Without it pages stay small.
            let _ = unsafe { madvise(map.start.as_ptr().cast(), len, Advice::LinuxHugepage) };
        }
        Ok(map)
    }

    /// Maps the first `len` bytes of a file that has so many, for reading and writing.
    pub fn of(fd: OwnedFd, len: usize) -> io::Result<SharedMap> {
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let start = unsafe {
            mmap(core::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &fd, 0)?
        };
        let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(SharedMap { fd, start, len })
    }

    /// First byte. Valid for reads and writes of [`SharedMap::len`] bytes until drop.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Bytes mapped.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is mapped; never so.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl AsFd for SharedMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for SharedMap {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `create` and nobody uses it after the owner is gone.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_can_take_it_away() {
        let map = SharedMap::create("sealed", 1 << 21, false).unwrap();
        assert_eq!(ftruncate(&map, 4096), Err(rustix::io::Errno::PERM));
        assert_eq!(rustix::fs::fstat(&map).unwrap().st_size, 1 << 21);
    }
}

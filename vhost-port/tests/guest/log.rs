//! A front-end's dirty log: it hands it over, and takes bits while the port sets them.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use vhost::vhost_user::Frontend;
use vhost::{VhostBackend, VhostUserDirtyLogRegion};

use super::{Guest, MEMORY};

/// Bytes of guest memory for which there is a bit.
pub(crate) const PAGE: u64 = 4096;
/// Where in its file the log begins.
const OFFSET: u64 = 4096;

/// A log for so many bytes of memory. Its mapping stays for the life of the process.
pub(crate) struct Log {
    pub(crate) file: File,
    words: NonNull<AtomicU64>,
    len: u64,
}

// SAFETY: the words are atomic, and stay mapped.
unsafe impl Sync for Log {}

impl Log {
    pub(crate) fn new(memory: u64) -> Log {
        let len = (memory / PAGE / 8).next_multiple_of(8);
        let file: File = memfd_create("log", MemfdFlags::CLOEXEC).unwrap().into();
        ftruncate(&file, OFFSET + len).unwrap();
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping.
        let map = unsafe { mmap(std::ptr::null_mut(), len as usize, prot, MapFlags::SHARED, &file, OFFSET) };
        Log { file, words: NonNull::new(map.unwrap().cast()).unwrap(), len }
    }

    /// Hands it over, as a log of `len` bytes.
    pub(crate) fn give_as(&self, frontend: &Frontend, len: u64) -> vhost::Result<()> {
        let region = VhostUserDirtyLogRegion {
            mmap_size: len,
            mmap_offset: OFFSET,
            mmap_handle: self.file.as_raw_fd(),
        };
        frontend.set_log_base(0, Some(region))
    }

    /// Hands it over; returns when the port has answered.
    pub(crate) fn give(&self, frontend: &Frontend) {
        self.give_as(frontend, self.len).unwrap();
    }

    /// Takes the numbers of the pages that were written since last asked.
    pub(crate) fn take(&self) -> BTreeSet<u64> {
        let mut pages = BTreeSet::new();
        for index in 0..self.len / 8 {
            // SAFETY: inside the mapping.
            let word = unsafe { self.words.add(index as usize).as_ref() };
            if word.load(Ordering::Relaxed) != 0 {
                let bits = word.swap(0, Ordering::SeqCst);
                pages.extend((0..64).filter(|bit| bits >> bit & 1 != 0).map(|bit| index * 64 + bit));
            }
        }
        pages
    }

    /// Runs what the device does and holds the log against what has changed: every page that differs has its bit. Returns the pages
    /// that were logged.
    pub(crate) fn observed(&self, guest: &mut Guest, device: impl FnOnce(&mut Guest)) -> BTreeSet<u64> {
        let before = guest.read(0, MEMORY as usize);
        device(guest);
        let after = guest.read(0, MEMORY as usize);
        let logged = self.take();
        let pages = before.chunks(PAGE as usize).zip(after.chunks(PAGE as usize));
        let changed = (0..).zip(pages).filter(|(_, (before, after))| before != after).map(|(page, _)| page);
        for page in changed {
            assert!(logged.contains(&page), "page {page:#x} has changed and is not in the log: {logged:x?}");
        }
        logged
    }
}

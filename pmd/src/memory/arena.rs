//! One arena.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;

use crate::port::PmdError;
use crate::sys::map::SharedMap;

const HUGE_PAGE: usize = 2 << 20;

/// Memory backed by a memfd.
#[derive(Debug)]
pub struct Arena {
    map: SharedMap,
    huge: bool,
}

impl Arena {
    /// Maps at least `len` bytes, zero. Pages are taken when first touched, but for huge pages, which are reserved at once.
    /// Says in the log, once, when it falls back to ordinary pages.
    pub fn create(name: &str, len: usize) -> Result<Arena, PmdError> {
        let rounded = len.div_ceil(HUGE_PAGE) * HUGE_PAGE;
        let pages = rounded / HUGE_PAGE;
        let free = free_huge_pages();
        if free >= pages
            && let Ok(map) = SharedMap::create(name, rounded, true)
        {
            return Ok(Arena { map, huge: true });
        }
        log::info!(
            "{name}: {free} of {pages} huge pages free, using ordinary pages (for fewer TLB misses: sysctl vm.nr_hugepages={pages})"
        );
        let map = SharedMap::create(name, rounded, false).map_err(|source| {
            PmdError::system(format!("mapping {} MiB for {name}", rounded >> 20), "free some memory", source)
        })?;
        Ok(Arena { map, huge: false })
    }

    /// First byte. Valid for reads and writes of [`Arena::len`] bytes while the arena lives.
    pub fn start(&self) -> NonNull<u8> {
        self.map.start()
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether it has no bytes; never so.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Whether huge pages back it.
    pub fn is_huge(&self) -> bool {
        self.huge
    }
}

impl AsFd for Arena {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}

/// Free huge pages of 2 MiB.
fn free_huge_pages() -> usize {
    let text = fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    text.ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_rounded_up_and_shareable() {
        let arena = Arena::create("test", 1).unwrap();
        assert_eq!(arena.len(), HUGE_PAGE);
        assert_eq!(rustix::fs::fstat(&arena).unwrap().st_size as usize, HUGE_PAGE);
    }

    /// Kilobytes of the pages that map the memfd of this name, as the kernel tells.
    fn page_kib(name: &str) -> usize {
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = smaps.lines().skip_while(|line| !line.contains(&format!("/memfd:{name}")));
        let size = lines.find_map(|line| line.strip_prefix("KernelPageSize:")).unwrap();
        size.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn says_truly_whether_pages_are_huge() {
        let small = Arena::create("arena-one-page", 1).unwrap();
        assert_eq!(page_kib("arena-one-page") == 2048, small.is_huge());
        // More than there are: ordinary pages, and none of them taken before it is touched.
        let large = Arena::create("arena-too-large", (free_huge_pages() + 64) * HUGE_PAGE).unwrap();
        assert!(!large.is_huge());
        assert_eq!(page_kib("arena-too-large"), 4);
        assert_eq!(rustix::fs::fstat(&large).unwrap().st_blocks, 0);
    }
}

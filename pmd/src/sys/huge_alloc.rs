//! The system's allocator, but that large memory comes in huge pages and grows without being copied.
//!
//! Flow tables are walked at random: with a million flows nearly every packet needs lines from pages that the processor's
//! TLB does not know, and a page walk in front of each cache miss makes the miss twice as long. Debian's kernels give transparent
//! huge pages to those who ask (`madvise`). And a table that grows must not stop its worker: copying 64 MB takes as long as a ring
//! of 1024 lasts at 100 000 packets per second, moving its page tables does not.
//!
//! So memory of 2 MiB and more is a mapping of its own, aligned to a huge page, and the rest is as ever. Huge pages are for threads that
//! say so ([`wanted_here`], [`wanted_in`]): clearing 2 MiB at the first touch takes its time, for memory that is walked through once it is lost. It is
//! the whole process's allocator because tables grow by the standard library's rules; a program turns it on by
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: pmd::sys::huge_alloc::HugeAlloc = pmd::sys::huge_alloc::HugeAlloc;
//! ```
//!
//! Cost: some system calls for each large allocation. Memory that is never touched is not there; memory that is touched here and there
//! may take 2 MiB where it took 4 KiB.
#![expect(unsafe_code, reason = "implements an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::null_mut;

use rustix::mm::{Advice, MapFlags, MremapFlags, ProtFlags, madvise, mmap_anonymous, mremap_fixed, munmap};

/// Bytes of a huge page, and of the smallest allocation that is given some.
const HUGE: usize = 2 << 20;

thread_local! {
    static WANTED: Cell<bool> = const { Cell::new(false) };
}

/// From here on what the calling thread allocates, if it is large, asks for huge pages.
pub fn wanted_here() {
    WANTED.set(true);
}

/// What `make` allocates, if it is large, asks for huge pages.
pub fn wanted_in<T>(make: impl FnOnce() -> T) -> T {
    let before = WANTED.replace(true);
    let made = make();
    WANTED.set(before);
    made
}

/// See the module.
pub struct HugeAlloc;

/// Whether memory of this layout is a mapping of its own.
#[inline]
fn is_large(layout: Layout) -> bool {
    layout.size() >= HUGE && layout.align() <= HUGE
}

/// Bytes mapped for an allocation of so many, or `None` when there is no such number.
#[inline]
fn whole_pages(size: usize) -> Option<usize> {
    size.checked_next_multiple_of(HUGE)
}

// SAFETY: small memory comes from `System` and goes back to it as the caller asked. Large memory is a private mapping that begins
// at a multiple of every alignment accepted and is as long as was asked. Which of the two it is follows from its layout alone.
unsafe impl GlobalAlloc for HugeAlloc {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_large(layout) {
            return map(layout.size());
        }
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_large(layout) {
            return map(layout.size());
        }
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if is_large(layout) {
            // SAFETY: `map` made it, and the caller has done with it.
            return unsafe { unmap(memory, layout.size()) };
        }
        // SAFETY: as above; it came from `System`.
        unsafe { System.dealloc(memory, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller sees to it that the new size is one for a layout.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (is_large(layout), is_large(wanted)) {
            // SAFETY: as above; it came from `System`.
            (false, false) => unsafe { System.realloc(memory, layout, size) },
            // SAFETY: `map` made it.
            (true, true) => unsafe { remap(memory, layout.size(), size) },
            // SAFETY: both are at least as long as what is copied, and apart; the old one is not used again.
            _ => unsafe {
                let new = self.alloc(wanted);
                if !new.is_null() {
                    new.copy_from_nonoverlapping(memory, layout.size().min(size));
                    self.dealloc(memory, layout);
                }
                new
            },
        }
    }
}

/// Zeroed memory, or null.
#[cold]
fn map(size: usize) -> *mut u8 {
    let Some(len) = whole_pages(size) else { return null_mut() };
    // Longer by a huge page, so that somewhere in it an aligned one begins; what is left over goes back.
    let Some(reserved) = len.checked_add(HUGE) else { return null_mut() };
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let Ok(start) = (unsafe { mmap_anonymous(null_mut(), reserved, protection, flags) }) else {
        return null_mut();
    };
    let start = start.cast::<u8>();
    let before = start.addr().next_multiple_of(HUGE) - start.addr();
    // SAFETY: before <= HUGE, so the three parts lie in the mapping just made, and nobody knows of it. What does not go back costs
    // address space only. A kernel without huge pages refuses the advice, and nothing is lost.
    unsafe {
        let memory = start.add(before);
        if before != 0 {
            let _ = munmap(start.cast(), before);
        }
        if before != HUGE {
            let _ = munmap(memory.add(len).cast(), HUGE - before);
        }
        if WANTED.get() {
            let _ = madvise(memory.cast(), len, Advice::LinuxHugepage);
        }
        memory
    }
}

/// # Safety
/// [`map`] or [`remap`] made `memory` for `size` bytes, and nobody uses it any more.
#[cold]
unsafe fn unmap(memory: *mut u8, size: usize) {
    // SAFETY: the caller's promise. Failure leaks it, which is all that can be done about it.
    let _ = unsafe { munmap(memory.cast(), whole_pages(size).unwrap_or(size)) };
}

/// Makes large memory longer or shorter, by moving pages and not bytes. Null, with nothing changed, when that is not possible.
///
/// # Safety
/// [`map`] or [`remap`] made `memory` for `old` bytes, and nobody uses it any more.
#[cold]
unsafe fn remap(memory: *mut u8, old: usize, new: usize) -> *mut u8 {
    let (Some(old_len), Some(new_len)) = (whole_pages(old), whole_pages(new)) else { return null_mut() };
    if new_len == old_len {
        return memory;
    }
    if new_len < old_len {
        // SAFETY: the tail of what `map` made, which nobody uses any more.
        let _ = unsafe { munmap(memory.add(new_len).cast(), old_len - new_len) };
        return memory;
    }
    // An aligned place; the pages are moved over it.
    let place = map(new);
    if place.is_null() {
        return null_mut();
    }
    // SAFETY: both are whole mappings of ours that nobody else knows or uses.
    match unsafe { mremap_fixed(memory.cast(), old_len, new_len, MremapFlags::MAYMOVE, place.cast()) } {
        Ok(moved) => moved.cast(),
        Err(_) => {
            // SAFETY: nothing was moved there.
            unsafe { unmap(place, new) };
            null_mut()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the mapping in which an address lies asks for huge pages.
    fn asks_for_huge_pages(address: usize) -> bool {
        let hex = |text| usize::from_str_radix(text, 16);
        let mut here = false;
        for line in std::fs::read_to_string("/proc/self/smaps").unwrap().lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            if let Some((Ok(start), Ok(end))) = range.map(|(start, end)| (hex(start), hex(end))) {
                here = (start..end).contains(&address);
            } else if here && line.starts_with("VmFlags:") {
                return line.split(' ').any(|flag| flag == "hg");
            }
        }
        panic!("{address:#x} is in no mapping");
    }

    #[test]
    fn memory_keeps_its_bytes_whatever_it_becomes() {
        let offered =
            std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
        let sizes = [100, HUGE - 1, HUGE, HUGE + 1, 5 * HUGE, 40 * HUGE, 3 * HUGE + 5, HUGE, 4096, 3 * HUGE];
        // SAFETY: layouts are not empty, and memory is touched within what was asked for last.
        let work = |wanted: bool| unsafe {
            let mut layout = Layout::from_size_align(sizes[0], 64).unwrap();
            let mut memory = HugeAlloc.alloc_zeroed(layout);
            for (round, &size) in sizes.iter().enumerate().skip(1) {
                // The last byte of what both have.
                let kept = layout.size().min(size) - 1;
                memory.add(kept).write(round as u8);
                memory = HugeAlloc.realloc(memory, layout, size);
                layout = Layout::from_size_align(size, 64).unwrap();
                assert!(!memory.is_null() && memory.addr().is_multiple_of(64), "{size}");
                assert_eq!(memory.add(kept).read(), round as u8, "{size}");
                memory.add(size - 1).write(0xaa);
                if size >= HUGE {
                    assert!(memory.addr().is_multiple_of(HUGE), "{size}");
                    let asks = asks_for_huge_pages(memory.addr() + size - 1);
                    assert_eq!(asks, wanted && offered.contains("madvise"), "{size}");
                }
            }
            HugeAlloc.dealloc(memory, layout);
        };
        work(false);
        wanted_in(|| work(true));
        work(false);
        wanted_here();
        work(true);
    }

    #[test]
    fn what_does_not_exist_is_refused() {
        let layout = Layout::from_size_align(isize::MAX as usize - HUGE, 8).unwrap();
        // SAFETY: the layout is not empty.
        assert!(unsafe { HugeAlloc.alloc(layout) }.is_null());
        let small = Layout::from_size_align(2 * HUGE, 8).unwrap();
        // SAFETY: the layout is not empty; memory is given back with the layout it has, since it could not grow.
        unsafe {
            let memory = HugeAlloc.alloc(small);
            memory.write(7);
            assert!(HugeAlloc.realloc(memory, small, layout.size()).is_null());
            assert_eq!(memory.read(), 7);
            HugeAlloc.dealloc(memory, small);
        }
    }
}

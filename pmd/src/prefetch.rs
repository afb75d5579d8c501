//! Asking the processor for cache lines before they are needed.
//!
//! Rings and buffers are shared with another processor, so the first touch of a line is a wait of some hundred cycles.
//! Asked for early, and many together, they cost little more than one. A prefetch changes nothing but caches and never faults,
//! so any address will do.
#![expect(unsafe_code, reason = "prefetch instructions")]

/// Bytes of a cache line.
pub const LINE: usize = 64;

/// Brings the line at `addr` near, to be read.
#[inline(always)]
pub fn prefetch(addr: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch has no effect but on caches and never faults.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(core::ptr::without_provenance(addr));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = addr;
}

/// Like [`prefetch`], and asks for the right to write the line.
#[inline(always)]
pub fn prefetch_to_write(addr: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch has no effect but on caches and never faults.
    unsafe {
        // Not the intrinsic: for a processor of the x86-64 baseline it becomes a prefetch for reading, which costs a second
        // trip when the store comes. The instruction itself is known to, or ignored by, every 64-bit processor.
        core::arch::asm!("prefetchw [{}]", in(reg) addr, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = addr;
}

/// Lets go of the lines of `len` bytes at `addr`: they move to the cache that all processors share, where the one that needs them next finds them
/// sooner than in ours. For what was just written for another processor, or was read and will be written by it. A hint; processors without `cldemote`
/// take the instruction for none.
#[inline(always)]
pub fn demote(addr: usize, len: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (addr & !(LINE - 1)..addr.saturating_add(len)).step_by(LINE) {
        // SAFETY: as a prefetch: nothing but caches changes, and it never faults.
        unsafe {
            core::arch::asm!("cldemote [{}]", in(reg) line, options(nostack, preserves_flags, readonly));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (addr, len);
}

/// All lines of `len` bytes at `addr`, with the right to write them.
#[inline]
pub fn prefetch_bulk_to_write(addr: usize, len: usize) {
    for line in (addr & !(LINE - 1)..addr.saturating_add(len)).step_by(LINE) {
        prefetch_to_write(line);
    }
}

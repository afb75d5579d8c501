//! Asking for a cache line before it is needed.
#![expect(unsafe_code, reason = "the prefetch instruction is an intrinsic")]

/// Asks the processor to bring the line in which a value begins into its first-level cache, and does not wait for it.
///
/// A table of a million flows does not fit any cache. A burst's packets do not depend on each other, so the lines they need
/// are asked for together and the waits overlap. Does nothing on a processor for which we know no instruction.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch changes nothing but caches and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(value).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

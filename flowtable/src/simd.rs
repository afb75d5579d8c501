//! Instructions the language has no word for: the only unsafe code of this crate.
//!
//! Each has a form for every processor, and on x86-64 one of its baseline, so nothing is chosen at run time.
#![expect(unsafe_code, reason = "intrinsics")]

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

/// Bitmap of the lanes that equal `wanted`: lane `i` is bit `2 i`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn lanes_with(lanes: [u16; 8], wanted: u16) -> u32 {
    use core::arch::x86_64::{_mm_cmpeq_epi16, _mm_movemask_epi8, _mm_set_epi64x, _mm_set1_epi16};
    let [low, high]: [i64; 2] = zerocopy::transmute!(lanes);
    // SAFETY: the instructions are SSE2, which every x86-64 processor has.
    let same = unsafe {
        _mm_movemask_epi8(_mm_cmpeq_epi16(_mm_set_epi64x(high, low), _mm_set1_epi16(wanted as i16)))
    };
    same as u32 & 0x5555
}

/// Bitmap of the lanes that equal `wanted`: lane `i` is bit `2 i`.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(crate) fn lanes_with(lanes: [u16; 8], wanted: u16) -> u32 {
    lanes_one_by_one(lanes, wanted)
}

/// The form for every processor.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn lanes_one_by_one(lanes: [u16; 8], wanted: u16) -> u32 {
    lanes.iter().enumerate().fold(0, |same, (i, lane)| same | u32::from(*lane == wanted) << (2 * i))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn both_forms_agree(lanes in prop::array::uniform8(prop_oneof![0u16..3, any::<u16>()]), other in 0u16..3) {
            for wanted in lanes.into_iter().chain([other]) {
                prop_assert_eq!(lanes_with(lanes, wanted), lanes_one_by_one(lanes, wanted));
            }
        }
    }
}

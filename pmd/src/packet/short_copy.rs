//! Copies of frames, most of which are short.
#![expect(unsafe_code, reason = "a copy between raw addresses")]

/// Copies `len` bytes. A short frame takes two overlapping copies of fixed size, which become a few vector moves in
/// place; `memcpy` would do the same behind a call that makes the caller save its registers.
///
/// # Safety
/// `from` is readable and `to` writable for `len` bytes, and the two do not overlap. Someone else may write `from`
/// meanwhile: the copy then holds old and new bytes.
#[inline(always)]
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    const HALF: usize = 32;
    // SAFETY: forwarded; in the first branch HALF <= len, so both copies stay inside.
    unsafe {
        if (HALF..=2 * HALF).contains(&len) {
            core::ptr::copy_nonoverlapping(from, to, HALF);
            core::ptr::copy_nonoverlapping(from.add(len - HALF), to.add(len - HALF), HALF);
        } else {
            core::ptr::copy_nonoverlapping(from, to, len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::copy;

    #[test]
    fn every_length_is_copied_and_nothing_beside() {
        let from: Vec<u8> = (1..=200).collect();
        for len in 0..=200 {
            let mut to = [0u8; 202];
            // SAFETY: both are longer than len.
            unsafe { copy(from.as_ptr(), to[1..].as_mut_ptr(), len) };
            assert_eq!((to[0], &to[1..=len], to[len + 1]), (0, &from[..len], 0));
        }
    }
}

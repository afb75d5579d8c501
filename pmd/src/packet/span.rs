//! A run of bytes in memory that someone else may write at any time.
#![expect(
    unsafe_code,
    reason = "raw copies out of guest and device memory; the only way such bytes are read"
)]

use core::marker::PhantomData;
use core::ptr::NonNull;

use super::short_copy;

/// A piece of a frame's payload where it lies: guest memory, a device buffer, or a pool chunk.
///
/// Never turned into a reference: its owner may change the bytes while we read them. A torn read gives the
/// reader garbage payload, which is the sender's loss alone.
#[derive(Clone, Copy)]
pub struct Span<'q> {
    start: NonNull<u8>,
    len: u32,
    borrow: PhantomData<&'q [u8]>,
}

impl<'q> Span<'q> {
    /// Names `len` bytes from `start`.
    ///
    /// # Safety
    /// The bytes must stay mapped and readable for `'q`.
    #[inline]
    pub unsafe fn new(start: NonNull<u8>, len: u32) -> Span<'q> {
        Span { start, len, borrow: PhantomData }
    }

    /// Names the bytes of a slice that nobody writes for `'q`.
    ///
    /// Bytes beyond `u32::MAX` are left out; no frame is that long.
    pub fn from_slice(bytes: &'q [u8]) -> Span<'q> {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        Span { start: NonNull::from(bytes).cast(), len, borrow: PhantomData }
    }

    /// Bytes in the span.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the span has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// First byte, for a driver that copies or gathers by address. Valid for reads of `len()` bytes for `'q`.
    pub fn as_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }

    /// The span without its first `skip` bytes and cut to at most `len`.
    #[inline]
    pub fn slice(&self, skip: usize, len: usize) -> Span<'q> {
        let skip = skip.min(self.len());
        let len = len.min(self.len() - skip);
        // SAFETY: skip <= self.len, so the result points into, or one past, the mapped range.
        let start = unsafe { self.start.add(skip) };
        Span { start, len: u32::try_from(len).unwrap_or(u32::MAX), borrow: PhantomData }
    }

    /// Copies from `skip` into `dst` and returns how many bytes were copied: the shorter of the two.
    #[inline]
    pub fn copy_to(&self, skip: usize, dst: &mut [u8]) -> usize {
        let from = self.slice(skip, dst.len());
        // SAFETY: `from` is mapped and readable for 'q (contract of `new`) and no longer than dst; dst is
        // private memory, so the two do not overlap. Bytes changing meanwhile are plain data of a byte copy.
        unsafe { short_copy::copy(from.as_ptr(), dst.as_mut_ptr(), from.len()) };
        from.len()
    }
}

// SAFETY: a span is an address and a length; the contract of `new` holds on any thread for 'q.
unsafe impl Send for Span<'_> {}

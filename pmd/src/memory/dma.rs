//! Memory a device reads and writes.
//!
//! Rings and buffers of a NIC queue lie in one [`DmaArena`]: a memfd of ours that the IOMMU lets the device see at addresses of its own
//! (`iova`). Offsets count from the start of the arena, for us as for the device.
//!
//! Every access is checked to lie inside: an offset comes from our own arithmetic, but some of that starts at what a device wrote back.
//! Words are loaded and stored whole, so that a device that writes meanwhile cannot make us see half of one.
#![expect(unsafe_code, reason = "loads and stores of memory that a device shares")]

use core::any::Any;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;

use super::Arena;
use crate::packet::{Span, short_copy};
use crate::virtio::SharedPtr;

impl Arena {
    /// Whether the bytes lie inside. Panics if not: see the module.
    #[inline]
    fn check(&self, offset: usize, len: usize) {
        assert!(offset <= self.len() && len <= self.len() - offset, "outside the arena");
    }

    /// Copies bytes out.
    #[inline]
    pub fn copy_out(&self, offset: usize, bytes: &mut [u8]) {
        self.check(offset, bytes.len());
        // SAFETY: checked to lie inside the mapping; the slice is private memory, which it does not overlap.
        unsafe { short_copy::copy(self.start().add(offset).as_ptr(), bytes.as_mut_ptr(), bytes.len()) };
    }

    /// Copies bytes in.
    #[inline]
    pub fn copy_in(&self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        // SAFETY: as above.
        unsafe { short_copy::copy(bytes.as_ptr(), self.start().add(offset).as_ptr(), bytes.len()) };
    }
}

/// An arena that a device sees. Its pages are locked while it lives; it leaves the device's view when dropped.
pub struct DmaArena {
    // Before the memory: the device loses it first.
    _mapping: Box<dyn Any + Send + Sync>,
    arena: Arc<Arena>,
    iova: u64,
}

macro_rules! words {
    ($($load:ident $store:ident $type:ty, $atomic:ty);+) => {$(
        #[doc = concat!("Loads the little-endian `", stringify!($type), "` at an aligned offset.")]
        #[inline]
        pub fn $load(&self, offset: usize, order: Ordering) -> $type {
            <$type>::from_le(self.word::<$type>(offset, |at| {
                // SAFETY: `word` has checked place and alignment.
                unsafe { <$atomic>::from_ptr(at) }.load(order)
            }))
        }

        #[doc = concat!("Stores a little-endian `", stringify!($type), "` at an aligned offset.")]
        #[inline]
        pub fn $store(&self, offset: usize, value: $type, order: Ordering) {
            self.word::<$type>(offset, |at| {
                // SAFETY: `word` has checked place and alignment.
                unsafe { <$atomic>::from_ptr(at) }.store(value.to_le(), order);
                0
            });
        }
    )+};
}

impl DmaArena {
    /// An arena that a device sees from `iova` on, for as long as `mapping` lives.
    pub(crate) fn new(arena: Arc<Arena>, iova: u64, mapping: Box<dyn Any + Send + Sync>) -> DmaArena {
        DmaArena { _mapping: mapping, arena, iova }
    }

    /// Where the device finds the byte at `offset`.
    #[inline]
    pub fn iova(&self, offset: usize) -> u64 {
        self.iova + offset as u64
    }

    /// Bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.arena.len()
    }

    /// Whether it has no bytes; never so.
    pub fn is_empty(&self) -> bool {
        self.arena.is_empty()
    }

    /// The address of a byte, for code that has its own rules for shared memory.
    pub fn shared(&self, offset: usize) -> SharedPtr {
        self.arena.check(offset, 0);
        // SAFETY: inside, or one past, the mapping.
        SharedPtr::new(unsafe { self.arena.start().add(offset) })
    }

    /// Names bytes as payload of a packet.
    #[inline]
    pub fn span(&self, offset: usize, len: usize) -> Span<'_> {
        self.arena.check(offset, len);
        // SAFETY: checked to lie inside the mapping, which lives as long as the borrow. No frame is longer than 4 GiB.
        unsafe { Span::new(self.arena.start().add(offset), len as u32) }
    }

    /// Copies bytes out.
    #[inline]
    pub fn copy_out(&self, offset: usize, bytes: &mut [u8]) {
        self.arena.copy_out(offset, bytes);
    }

    /// Copies bytes in.
    #[inline]
    pub fn copy_in(&self, offset: usize, bytes: &[u8]) {
        self.arena.copy_in(offset, bytes);
    }

    /// Copies a piece of another packet in, as many as `most` bytes of it.
    #[inline]
    pub fn copy_span(&self, offset: usize, from: Span<'_>, most: usize) {
        let len = from.len().min(most);
        self.arena.check(offset, len);
        // SAFETY: the destination is inside the mapping, the source mapped (contract of `Span`). A buffer to send is never payload of a
        // packet, so they do not overlap.
        unsafe { short_copy::copy(from.as_ptr(), self.arena.start().add(offset).as_ptr(), len) };
    }

    #[inline]
    fn word<T>(&self, offset: usize, access: impl FnOnce(*mut T) -> T) -> T {
        self.arena.check(offset, size_of::<T>());
        assert!(offset.is_multiple_of(size_of::<T>()), "not aligned");
        // SAFETY: inside the mapping, which begins on a page.
        access(unsafe { self.arena.start().add(offset) }.as_ptr().cast())
    }

    words!(load_u32 store_u32 u32, AtomicU32; load_u64 store_u64 u64, AtomicU64);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arena() -> DmaArena {
        DmaArena::new(Arc::new(Arena::create("dma-test", 4096).unwrap()), 0x1000_0000, Box::new(()))
    }

    #[test]
    fn words_and_bytes_are_the_same_memory() {
        let arena = arena();
        arena.store_u64(16, 0x0807_0605_0403_0201, Ordering::Relaxed);
        let mut bytes = [0; 9];
        arena.copy_out(16, &mut bytes);
        assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 8, 0]);
        assert_eq!(arena.load_u32(20, Ordering::Relaxed), 0x0807_0605);
        assert_eq!(arena.iova(16), 0x1000_0010);
        let mut out = [0; 3];
        arena.span(17, 3).copy_to(0, &mut out);
        assert_eq!(out, [2, 3, 4]);
        arena.copy_span(100, arena.span(16, 8), 2);
        assert_eq!(arena.load_u32(100, Ordering::Relaxed), 0x0201);
    }

    #[test]
    #[should_panic(expected = "outside the arena")]
    fn nothing_beyond_the_end() {
        let arena = arena();
        arena.copy_in(arena.len() - 1, &[0; 2]);
    }
}

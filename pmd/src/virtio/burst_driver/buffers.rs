//! The buffers of a burst ring: an array in shared memory, one slot per descriptor.
//!
//! ```text
//!   slot i   |<- headroom ->|<--------- capacity --------->|   ... next slot `stride` bytes after this one
//!                           ^ descriptor i points here, for good
//! ```
//!
//! Bytes are read and written through [`BufferView`], which checks offsets: a wrong offset is a mistake of the program,
//! never something a device can cause, so it panics.

use core::marker::PhantomData;

use crate::packet::{Span, short_copy};
use crate::virtio::shared_ptr::SharedPtr;

/// Where the buffers lie and how they are cut.
#[derive(Clone, Copy, Debug)]
pub struct Buffers {
    /// The first slot, as we see it.
    pub start: SharedPtr,
    /// The first slot, as the device is told.
    pub guest: u64,
    /// Bytes from slot to slot.
    pub stride: u32,
    /// Bytes of a slot before its buffer. Twelve less than a multiple of 64 puts a virtio-net header at the end of one
    /// cache line and the frame at the start of the next, as DPDK does.
    pub headroom: u32,
    /// Bytes of a buffer: what the device may read or write.
    pub capacity: u32,
    /// Slots.
    pub count: u16,
}

impl Buffers {
    /// Bytes of shared memory from [`Buffers::start`] on that the buffers occupy.
    pub const fn extent(&self) -> usize {
        self.count as usize * self.stride as usize
    }

    /// Whether slots do not overlap and there is a power of two of them.
    pub(super) const fn sound(&self) -> bool {
        self.count.is_power_of_two() && self.headroom as u64 + self.capacity as u64 <= self.stride as u64
    }

    /// The buffer of `id`, which is bounded first.
    ///
    /// # Safety
    /// For `'a`, [`Buffers::extent`] bytes from [`Buffers::start`] are mapped, and from `descriptors` one descriptor for each buffer.
    #[expect(unsafe_code, reason = "the bytes are shared with a device")]
    #[inline(always)]
    pub(super) unsafe fn view<'a>(&self, id: u16, descriptors: SharedPtr) -> BufferView<'a> {
        let id = usize::from(id & (self.count - 1));
        let offset = id * self.stride as usize + self.headroom as usize;
        // SAFETY: id < count, so both lie inside what the caller vouches for.
        let (at, descriptor) =
            unsafe { (self.start.add(offset), descriptors.add(id * size_of::<super::Descriptor>())) };
        BufferView { at, descriptor, capacity: self.capacity, ring: PhantomData }
    }

    /// Guest address of buffer `id`.
    pub(super) const fn guest_address(&self, id: u16) -> u64 {
        self.guest + id as u64 * self.stride as u64 + self.headroom as u64
    }
}

/// A buffer that the driver has in hand, and its descriptor.
#[derive(Debug)]
pub struct BufferView<'a> {
    pub(super) at: SharedPtr,
    pub(super) descriptor: SharedPtr,
    pub(super) capacity: u32,
    pub(super) ring: PhantomData<&'a ()>,
}

#[expect(unsafe_code, reason = "the bytes are shared with a device")]
impl BufferView<'_> {
    /// Bytes of the buffer.
    #[inline(always)]
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// Where its first byte is, as a number: to find out which part of a larger piece of memory it is.
    #[inline(always)]
    pub fn addr(&self) -> usize {
        self.at.addr()
    }

    #[inline(always)]
    fn check(&self, offset: usize, len: usize) {
        assert!(offset <= self.capacity() && len <= self.capacity() - offset, "outside the buffer");
    }

    /// Reads `N` bytes at `offset`.
    #[inline(always)]
    pub fn read<const N: usize>(&self, offset: usize) -> [u8; N] {
        self.check(offset, N);
        // SAFETY: checked to lie inside the buffer, which is mapped (contract of `BurstRing::new`).
        unsafe { self.at.add(offset).read_bytes() }
    }

    /// Writes `N` bytes at `offset`.
    #[inline(always)]
    pub fn write<const N: usize>(&self, offset: usize, bytes: [u8; N]) {
        self.check(offset, N);
        // SAFETY: as in `read`.
        unsafe { self.at.add(offset).write_bytes(bytes) };
    }

    /// Writes `N` bytes at `offset`, unless they are there.
    #[inline(always)]
    pub fn write_unless_equal<const N: usize>(&self, offset: usize, bytes: [u8; N]) {
        self.check(offset, N);
        // SAFETY: as in `read`.
        unsafe { self.at.add(offset).write_unless_equal(bytes) };
    }

    /// Copies `dst.len()` bytes out, from `offset` on.
    pub fn copy_out(&self, offset: usize, dst: &mut [u8]) {
        self.check(offset, dst.len());
        // SAFETY: as in `read`.
        unsafe { self.at.add(offset).copy_out(dst) };
    }

    /// Copies bytes in, from `offset` on.
    #[inline(always)]
    pub fn copy_in(&self, offset: usize, src: &[u8]) {
        self.check(offset, src.len());
        // SAFETY: as in `read`.
        unsafe { self.at.add(offset).copy_in(src) };
    }

    /// Copies payload in, from `offset` on.
    pub fn copy_from(&self, offset: usize, src: Span<'_>) {
        self.check(offset, src.len());
        // SAFETY: as in `read`; the span is readable, and lies in other memory than a buffer that is being filled.
        unsafe { short_copy::copy(src.as_ptr(), self.at.add(offset).as_non_null().as_ptr(), src.len()) };
    }

    /// The first byte, for who lends the buffer while it is not staged.
    pub fn start(&self) -> SharedPtr {
        self.at
    }

    /// Says how many bytes of the buffer the device is to see; at most its capacity. The descriptor is written only when
    /// that changes, so that its cache line stays where it is.
    #[inline]
    pub fn set_len(&self, len: u32) {
        // SAFETY: the descriptor of this buffer lies inside the table (contract of `BurstRing::new`).
        unsafe {
            let old = self.descriptor.load_descriptor(0);
            let len = len.min(self.capacity);
            if old.len != len {
                self.descriptor.store_descriptor(0, super::Descriptor { len, ..old });
            }
        }
    }
}

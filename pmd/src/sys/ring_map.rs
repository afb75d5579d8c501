//! Ring memory that the kernel made for a socket, mapped: packet(7) rings and those of AF_XDP.
#![expect(unsafe_code, reason = "mmap, munmap and access to memory shared with the kernel")]

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::io;
use std::os::fd::AsFd;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::packet::Span;
use crate::prefetch::prefetch;

/// A mapping of a socket's ring, unmapped when dropped. The kernel keeps the memory as long as it is mapped, whatever becomes
/// of the socket.
///
/// Offsets are checked on every access. One that is not inside is a fault of ours, since the kernel's own numbers are checked
/// before they become offsets, and panics.
#[derive(Debug)]
pub struct RingMap {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is an address range that stays valid until drop, on any thread.
unsafe impl Send for RingMap {}
// SAFETY: as above; words are atomic, and bytes are only ever copied.
unsafe impl Sync for RingMap {}

impl RingMap {
    /// Maps `len` bytes of the socket's memory from `offset` on.
    pub fn of(socket: impl AsFd, offset: u64, len: usize) -> io::Result<RingMap> {
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let start = unsafe {
            mmap(core::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags, socket, offset)?
        };
        let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(RingMap { start, len })
    }

    /// Bytes mapped.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is mapped; never so.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline(always)]
    fn at(&self, offset: usize, len: usize) -> NonNull<u8> {
        assert!(offset <= self.len && len <= self.len - offset, "outside the ring");
        // SAFETY: inside the mapping, as just checked.
        unsafe { self.start.add(offset) }
    }

    /// The word at `offset`, which must be a multiple of four.
    #[inline(always)]
    pub fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4), "a word between words");
        // SAFETY: mapped while `self` is borrowed, aligned, and a word that both sides access atomically.
        unsafe { self.at(offset, 4).cast().as_ref() }
    }

    /// The double word at `offset`, which must be a multiple of eight.
    #[inline(always)]
    pub fn load_u64(&self, offset: usize) -> u64 {
        self.double(offset).load(Ordering::Relaxed)
    }

    /// Writes the double word at `offset`, which must be a multiple of eight.
    #[inline(always)]
    pub fn store_u64(&self, offset: usize, value: u64) {
        self.double(offset).store(value, Ordering::Relaxed);
    }

    #[inline(always)]
    fn double(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8), "a double word between double words");
        // SAFETY: as in `word`.
        unsafe { self.at(offset, 8).cast().as_ref() }
    }

    /// Reads `N` bytes at `offset`.
    #[inline(always)]
    pub fn read<const N: usize>(&self, offset: usize) -> [u8; N] {
        // SAFETY: inside the mapping; a byte array has no alignment and no invalid values.
        unsafe { self.at(offset, N).cast::<[u8; N]>().read_unaligned() }
    }

    /// Asks for the cache line at `offset`, to be read soon.
    #[inline(always)]
    pub fn prefetch(&self, offset: usize) {
        prefetch(self.at(offset, 1).as_ptr().addr());
    }

    /// Names `len` bytes at `offset`, as a piece of a packet.
    #[inline(always)]
    pub fn span(&self, offset: usize, len: u32) -> Span<'_> {
        // SAFETY: inside the mapping, which stays while `self` is borrowed.
        unsafe { Span::new(self.at(offset, len as usize), len) }
    }
}

impl Drop for RingMap {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `of` and nobody uses it after the owner is gone.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

//! The door to ring memory: loads and stores of memory that the other side writes at the same time.
#![expect(unsafe_code, reason = "raw access to memory shared with a peer")]

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering};

use super::packed;
use super::split::{Descriptor, UsedElement};
use crate::packet::short_copy;

/// An address in shared memory. Never a reference: the peer may change every byte at any time, so each access is
/// a single atomic load or store, or a byte copy whose result is only ever data.
///
/// Every access is `unsafe` for one reason: the caller must know that the range lies inside one mapping that
/// stays mapped. Rings check their whole extent once and then only compute offsets inside it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SharedPtr(NonNull<u8>);

// SAFETY: an address; each access states its own contract.
unsafe impl Send for SharedPtr {}
// SAFETY: as above.
unsafe impl Sync for SharedPtr {}

impl SharedPtr {
    /// Names an address.
    pub const fn new(start: NonNull<u8>) -> SharedPtr {
        SharedPtr(start)
    }

    /// The address as a number.
    pub fn addr(self) -> usize {
        self.0.as_ptr().addr()
    }

    /// The address as a pointer.
    #[inline]
    pub fn as_non_null(self) -> NonNull<u8> {
        self.0
    }

    /// The address `offset` bytes on.
    ///
    /// # Safety
    /// Stays inside, or one past the end of, the same mapping.
    #[inline]
    pub unsafe fn add(self, offset: usize) -> SharedPtr {
        // SAFETY: forwarded.
        SharedPtr(unsafe { self.0.add(offset) })
    }

    /// Loads a little-endian u16 at `offset`.
    ///
    /// # Safety
    /// The two bytes are mapped, readable, and 2-aligned.
    #[inline]
    pub unsafe fn load_u16(self, offset: usize, order: Ordering) -> u16 {
        // SAFETY: forwarded; both sides access ring words atomically.
        u16::from_le(unsafe { AtomicU16::from_ptr(self.0.as_ptr().add(offset).cast()) }.load(order))
    }

    /// Stores a little-endian u16 at `offset`.
    ///
    /// # Safety
    /// The two bytes are mapped, writable, and 2-aligned.
    #[inline]
    pub unsafe fn store_u16(self, offset: usize, value: u16, order: Ordering) {
        // SAFETY: forwarded.
        unsafe { AtomicU16::from_ptr(self.0.as_ptr().add(offset).cast()) }.store(value.to_le(), order);
    }

    /// Sees to it that `bits` of the byte here are set, and writes it only if they are not. True when it was written.
    ///
    /// # Safety
    /// The byte is mapped and writable.
    #[inline]
    pub unsafe fn set_bits(self, bits: u8) -> bool {
        // SAFETY: forwarded; both sides change such bytes atomically.
        let byte = unsafe { AtomicU8::from_ptr(self.0.as_ptr()) };
        byte.load(Ordering::Relaxed) & bits != bits && byte.fetch_or(bits, Ordering::Release) & bits != bits
    }

    /// Loads the descriptor at `index` of a table: once, so what is checked is what is used.
    ///
    /// # Safety
    /// The 16 bytes are mapped and readable; the table need only be byte-aligned.
    #[inline]
    pub unsafe fn load_descriptor(self, index: usize) -> Descriptor {
        // SAFETY: forwarded. Two volatile loads; a descriptor changed in between is the driver's loss, since only
        // the copy is looked at.
        let (addr, rest) = unsafe {
            let at = self.0.as_ptr().add(index * size_of::<Descriptor>()).cast::<Unaligned<[u64; 2]>>();
            let Unaligned([addr, rest]) = at.read_volatile();
            (u64::from_le(addr), u64::from_le(rest))
        };
        Descriptor { addr, len: rest as u32, flags: (rest >> 32) as u16, next: (rest >> 48) as u16 }
    }

    /// Stores a descriptor.
    ///
    /// # Safety
    /// The 16 bytes are mapped, writable and 8-aligned.
    #[inline]
    pub unsafe fn store_descriptor(self, index: usize, desc: Descriptor) {
        let rest = u64::from(desc.len) | u64::from(desc.flags) << 32 | u64::from(desc.next) << 48;
        // SAFETY: forwarded.
        unsafe {
            let at = self.0.as_ptr().add(index * size_of::<Descriptor>()).cast::<u64>();
            AtomicU64::from_ptr(at).store(desc.addr.to_le(), Ordering::Relaxed);
            AtomicU64::from_ptr(at.add(1)).store(rest.to_le(), Ordering::Relaxed);
        }
    }

    /// Loads an element of a used ring at byte `offset`.
    ///
    /// # Safety
    /// The 8 bytes are mapped, readable, and 4-aligned.
    #[inline]
    pub unsafe fn load_used(self, offset: usize) -> UsedElement {
        // SAFETY: forwarded.
        let [id, len] = unsafe { self.0.as_ptr().add(offset).cast::<[u32; 2]>().read_volatile() };
        UsedElement { id: u32::from_le(id), len: u32::from_le(len) }
    }

    /// Stores an element of a used ring at byte `offset`.
    ///
    /// # Safety
    /// The 8 bytes are mapped, writable, and 4-aligned.
    #[inline]
    pub unsafe fn store_used(self, offset: usize, element: UsedElement) {
        let both = u64::from(element.id) | u64::from(element.len) << 32;
        // SAFETY: forwarded; the wrapper has alignment 1.
        unsafe {
            self.0.as_ptr().add(offset).cast::<Unaligned<u64>>().write_volatile(Unaligned(both.to_le()))
        };
    }

    /// Loads the flags of the descriptor at `index` of a packed ring. What the other side wrote before them is seen after.
    ///
    /// # Safety
    /// The 16 bytes are mapped and readable, and the ring is 16-aligned.
    #[inline(always)]
    pub unsafe fn load_packed_flags(self, index: usize) -> u16 {
        // SAFETY: forwarded.
        unsafe { self.load_u16(index * 16 + 14, Ordering::Acquire) }
    }

    /// Loads the descriptor at `index` of a packed ring, once. Its flags need not be those that
    /// [`SharedPtr::load_packed_flags`] has seen, if the other side does not keep to the rules.
    ///
    /// # Safety
    /// As for [`SharedPtr::load_packed_flags`].
    #[inline(always)]
    pub unsafe fn load_packed(self, index: usize) -> packed::Descriptor {
        // SAFETY: forwarded.
        let [addr, rest] = unsafe { self.0.as_ptr().add(index * 16).cast::<[u64; 2]>().read_volatile() };
        let element = packed::Element::from_word(u64::from_le(rest));
        packed::Descriptor { addr: u64::from_le(addr), element }
    }

    /// Stores the address of the descriptor at `index` of a packed ring.
    ///
    /// # Safety
    /// As for [`SharedPtr::load_packed_flags`], and writable.
    #[inline(always)]
    pub unsafe fn store_packed_addr(self, index: usize, addr: u64) {
        // SAFETY: forwarded.
        unsafe { AtomicU64::from_ptr(self.0.as_ptr().add(index * 16).cast()) }
            .store(addr.to_le(), Ordering::Relaxed);
    }

    /// Stores all but the address of the descriptor at `index` of a packed ring, at once.
    ///
    /// # Safety
    /// As for [`SharedPtr::store_packed_addr`].
    #[inline(always)]
    pub unsafe fn store_packed_element(self, index: usize, element: packed::Element, order: Ordering) {
        let word = element.to_word().to_le();
        // SAFETY: forwarded.
        unsafe { AtomicU64::from_ptr(self.0.as_ptr().add(index * 16 + 8).cast()) }.store(word, order);
    }

    /// Copies `dst.len()` bytes out.
    ///
    /// # Safety
    /// That many bytes from here are mapped and readable.
    #[inline]
    pub unsafe fn copy_out(self, dst: &mut [u8]) {
        // SAFETY: forwarded; dst is private, so the two do not overlap.
        unsafe { core::ptr::copy_nonoverlapping(self.0.as_ptr(), dst.as_mut_ptr(), dst.len()) };
    }

    /// Reads a few bytes into registers. Unlike [`SharedPtr::copy_out`], of a fixed length: no call, and no overlapping stores
    /// that later loads of parts could not be served from.
    ///
    /// # Safety
    /// That many bytes from here are mapped and readable.
    #[inline]
    pub unsafe fn read_bytes<const N: usize>(self) -> [u8; N] {
        // SAFETY: forwarded; a byte array has no alignment and no invalid values.
        unsafe { self.0.cast::<[u8; N]>().read_unaligned() }
    }

    /// Writes a few bytes from registers.
    ///
    /// # Safety
    /// That many bytes from here are mapped and writable.
    #[inline]
    pub unsafe fn write_bytes<const N: usize>(self, bytes: [u8; N]) {
        // SAFETY: forwarded; a byte array has no alignment.
        unsafe { self.0.cast::<[u8; N]>().write_unaligned(bytes) };
    }

    /// Writes a few bytes, unless they are there: their line can then stay in both processors' caches.
    ///
    /// # Safety
    /// As for [`SharedPtr::write_bytes`], and readable.
    #[inline(always)]
    pub unsafe fn write_unless_equal<const N: usize>(self, bytes: [u8; N]) {
        // SAFETY: forwarded.
        unsafe {
            if self.read_bytes::<N>() != bytes {
                self.write_bytes(bytes);
            }
        }
    }

    /// Copies `src` in.
    ///
    /// # Safety
    /// That many bytes from here are mapped and writable.
    #[inline]
    pub unsafe fn copy_in(self, src: &[u8]) {
        // SAFETY: forwarded; src is private, so the two do not overlap.
        unsafe { short_copy::copy(src.as_ptr(), self.0.as_ptr(), src.len()) };
    }
}

/// A value that may lie anywhere: an indirect table has no alignment, a used element only half of one.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Unaligned<T>(T);

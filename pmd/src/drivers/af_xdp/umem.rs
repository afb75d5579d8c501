//! The memory of one socket (UMEM): a part of the port's arena, in chunks that the kernel and we hand to and fro.
//!
//! The lower half of the chunks is for receiving, the upper for sending, so that neither can starve the other. A chunk belongs to the
//! kernel from when its number is shown in a ring until it comes back in another.
#![expect(unsafe_code, reason = "chunks are named by address, and filled while they are ours")]

use std::sync::Arc;

use crate::memory::Arena;
use crate::packet::{Frame, Span};
use crate::prefetch::prefetch;

/// Bytes of a chunk. A received frame lies behind 256 bytes that the kernel wants free; one that does not fit goes on in other chunks.
///
/// Half as much would do for ordinary frames, but not for zero-copy: Intel's cards count buffers in units of a KiB, so the 1792 bytes that would be
/// left of 2 KiB are 1024 to them, and `igb` hands over the first 1024 of a longer frame as if they were all of it.
pub(super) const CHUNK: usize = 4096;

/// Longest frame that a driver with zero-copy brings in one chunk: what the headroom leaves, in whole KiB.
pub(super) const ONE_CHUNK: usize = (CHUNK - 256) / 1024 * 1024;

/// Chunks for receiving, and as many for sending: what each ring has room for.
pub(super) const CHUNKS: u32 = 1024;

/// A part of an arena.
#[derive(Clone)]
pub(super) struct Umem {
    arena: Arc<Arena>,
    start: usize,
}

impl Umem {
    /// Bytes of each.
    pub(super) const LEN: usize = 2 * CHUNKS as usize * CHUNK;

    /// Part number `index`. `None` when the arena is too small for it.
    pub(super) fn of(arena: &Arc<Arena>, index: usize) -> Option<Umem> {
        let start = index * Self::LEN;
        (start + Self::LEN <= arena.len()).then(|| Umem { arena: arena.clone(), start })
    }

    /// Its first byte, for the kernel.
    pub(super) fn address(&self) -> u64 {
        (self.arena.start().as_ptr().addr() + self.start) as u64
    }

    /// Chunks for receiving, by offset.
    pub(super) fn to_receive() -> impl Iterator<Item = u64> {
        (0..u64::from(CHUNKS)).map(|index| index * CHUNK as u64)
    }

    /// Chunks for sending.
    pub(super) fn to_send() -> impl Iterator<Item = u64> {
        Self::to_receive().map(|offset| offset + (Self::LEN / 2) as u64)
    }

    /// The offset of the chunk that an offset lies in.
    #[inline]
    pub(super) fn chunk_of(addr: u64) -> u64 {
        addr & !(CHUNK as u64 - 1)
    }

    /// Names received bytes. `None` when they are not all inside one chunk for receiving.
    #[inline]
    pub(super) fn received(&self, addr: u64, len: u32) -> Option<Span<'_>> {
        let inside = addr.checked_sub(Self::chunk_of(addr))? + u64::from(len) <= CHUNK as u64;
        if !inside || addr >= (Self::LEN / 2) as u64 {
            return None;
        }
        // SAFETY: inside this part of the arena (checked above and in `of`), which is mapped while `self` is borrowed.
        Some(unsafe { Span::new(self.arena.start().add(self.start + addr as usize), len) })
    }

    /// Asks for the first cache line of what was received there. Any number is harmless.
    #[inline]
    pub(super) fn prefetch(&self, addr: u64) {
        prefetch(self.arena.start().as_ptr().addr().wrapping_add(self.start).wrapping_add(addr as usize));
    }

    /// Copies a frame into chunks for sending, in order; `chunks` are enough for it, and ours.
    #[inline]
    pub(super) fn fill(&mut self, chunks: &[u64], frame: &Frame<'_>) {
        let mut at = 0;
        let mut copy = |span: Span<'_>| {
            let mut done = 0;
            while done < span.len() {
                let Some(&chunk) = chunks.get(at / CHUNK) else { return };
                let within = at % CHUNK;
                let piece = span.slice(done, CHUNK - within);
                let Some(to) = self.chunk_mut(chunk).get_mut(within..within + piece.len()) else { return };
                done += piece.copy_to(0, to);
                at += piece.len();
            }
        };
        copy(Span::from_slice(frame.head));
        frame.for_each_payload(copy);
    }

    /// A chunk for sending that is not in any ring.
    #[inline]
    fn chunk_mut(&mut self, chunk: u64) -> &mut [u8] {
        // The remainder keeps any offset inside the upper half.
        let half = Self::LEN / 2;
        let offset = half + Self::chunk_of(chunk) as usize % half;
        // SAFETY: inside this part of the arena, mapped while `self` is borrowed. Chunks for sending are named by the one sender of this
        // part alone, which shows a chunk to the kernel only when it is filled, and the kernel only reads them.
        unsafe { std::slice::from_raw_parts_mut(self.arena.start().add(self.start + offset).as_ptr(), CHUNK) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Offload;

    fn umem() -> Umem {
        let arena = Arc::new(Arena::create("umem-test", Umem::LEN).unwrap());
        assert!(Umem::of(&arena, 1).is_none());
        Umem::of(&arena, 0).unwrap()
    }

    #[test]
    fn offsets_outside_name_nothing() {
        let umem = umem();
        let half = (Umem::LEN / 2) as u64;
        assert_eq!(umem.received(256, 3840).unwrap().len(), 3840);
        assert_eq!(umem.received(half - 4096, 4096).unwrap().len(), 4096);
        for (addr, len) in [(256, 3841), (half, 1), (u64::MAX, 1), (4095, 2), (0, u32::MAX)] {
            assert!(umem.received(addr, len).is_none(), "{addr} {len}");
        }
    }

    #[test]
    fn frames_fill_chunks_in_order() {
        let mut umem = umem();
        let bytes: Vec<u8> = (0..10_000u32).map(|i| (i * 7) as u8).collect();
        let chunks: Vec<u64> = Umem::to_send().skip(5).step_by(3).take(3).collect();
        let spans = [&bytes[200..6000], &bytes[6000..]].map(Span::from_slice);
        let frame = Frame::new(&bytes[..200], Offload::default(), &spans, 9800);
        umem.fill(&chunks, &frame);
        let mut joined = Vec::new();
        for &chunk in &chunks {
            joined.extend_from_slice(umem.chunk_mut(chunk));
        }
        assert!(joined[..10_000] == bytes);
        assert_eq!(Umem::to_send().count(), CHUNKS as usize);
    }
}

//! A packet made whole in pool memory, to outlive the burst that received it.
#![expect(unsafe_code, reason = "chunks of the pool are filled and named by address")]

use super::batch::Batch;
use super::frame::Frame;
use super::meta::Offload;
use super::pool::{CHUNK, Pool, PoolCache};
use super::slot::{HEAD_CAPACITY, HEAD_SPLIT};
use super::span::Span;

/// A frame and its offload state in a chain of chunks that this value owns.
///
/// Dropping it returns the chunks to the shared stack; [`OwnedPacket::free_into`] returns them to a stash, which is cheaper.
pub struct OwnedPacket {
    pool: &'static Pool,
    first: u32,
    chunks: u32,
    len: u32,
    offload: Offload,
    hash: u32,
}

impl OwnedPacket {
    /// Copies a frame. `None` when the pool has too few chunks.
    pub fn copy_from_frame(frame: &Frame<'_>, cache: &mut PoolCache) -> Option<OwnedPacket> {
        let mut packet = OwnedPacket::allocate(frame.len(), cache)?;
        packet.offload = frame.offload;
        packet.hash = frame.hash;
        let mut writer = Writer { pool: packet.pool, chunk: packet.first, used: 0 };
        writer.write(Span::from_slice(frame.head));
        frame.for_each_payload(|piece| writer.write(piece));
        Some(packet)
    }

    /// Copies a frame given as bytes, without offload state.
    pub fn from_bytes(frame: &[u8], cache: &mut PoolCache) -> Option<OwnedPacket> {
        OwnedPacket::copy_from_frame(&Frame::new(frame, Offload::default(), &[], 0), cache)
    }

    fn allocate(len: usize, cache: &mut PoolCache) -> Option<OwnedPacket> {
        let pool = cache.pool();
        let mut packet =
            OwnedPacket { pool, first: 0, chunks: 0, len: 0, offload: Offload::default(), hash: 0 };
        for _ in 0..len.div_ceil(CHUNK).max(1) {
            // On failure the drop of `packet` returns what was taken.
            let chunk = cache.take()?;
            pool.set_next(chunk, packet.first);
            packet.first = chunk;
            packet.chunks += 1;
        }
        packet.len = u32::try_from(len).ok()?;
        Some(packet)
    }

    /// Length of the frame.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the frame has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Offload state.
    pub fn offload(&self) -> &Offload {
        &self.offload
    }

    /// Changes the offload state.
    pub fn set_offload(&mut self, offload: Offload) {
        self.offload = offload;
    }

    /// Copies the frame into `dst`, as much as fits, and returns how many bytes that were.
    pub fn copy_to(&self, dst: &mut [u8]) -> usize {
        let mut at = 0;
        self.for_each_run(|run| at += run.copy_to(0, &mut dst[at..]));
        at
    }

    /// Receives the packet into a batch: the head is copied, the rest borrowed from `self` for `'q`. False when the batch
    /// has no room.
    pub fn receive_into<'q>(&'q self, batch: &mut Batch<'q>) -> bool {
        if !batch.has_room(self.chunks as usize) {
            return false;
        }
        let head = if self.len() <= HEAD_CAPACITY { self.len() } else { HEAD_SPLIT };
        let Some(slot) = batch.start_packet() else { return false };
        slot.offload = self.offload;
        slot.hash = self.hash;
        // The head never exceeds the first chunk.
        self.run(self.first, self.len().min(CHUNK)).copy_to(0, slot.receive_head(head));
        let mut skip = head;
        let mut complete = true;
        self.for_each_run(|run| {
            complete &= batch.add_span(run.slice(skip, usize::MAX));
            skip = skip.saturating_sub(run.len());
        });
        complete
    }

    /// Returns the chunks to a stash.
    pub fn free_into(mut self, cache: &mut PoolCache) {
        self.release(|chunk| cache.put(chunk));
    }

    fn for_each_run<'a>(&'a self, mut each: impl FnMut(Span<'a>)) {
        let (mut chunk, mut left) = (self.first, self.len());
        while left != 0 {
            let len = left.min(CHUNK);
            each(self.run(chunk, len));
            left -= len;
            chunk = self.pool.next(chunk);
        }
    }

    fn run(&self, chunk: u32, len: usize) -> Span<'_> {
        // SAFETY: the chunk is this packet's own, mapped for the life of the process, `len` is at most CHUNK, and nobody
        // writes it while `self` is borrowed.
        unsafe { Span::new(self.pool.chunk(chunk), len as u32) }
    }

    fn release(&mut self, mut put: impl FnMut(u32)) {
        let mut chunk = self.first;
        for _ in 0..std::mem::take(&mut self.chunks) {
            // The link is read before the chunk is anybody else's.
            let next = self.pool.next(chunk);
            put(chunk);
            chunk = next;
        }
    }
}

impl Drop for OwnedPacket {
    fn drop(&mut self) {
        let pool = self.pool;
        self.release(|chunk| pool.give_back(chunk));
    }
}

impl std::fmt::Debug for OwnedPacket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnedPacket").field("len", &self.len).field("offload", &self.offload).finish()
    }
}

/// Fills a chain of chunks from its start.
struct Writer {
    pool: &'static Pool,
    chunk: u32,
    used: usize,
}

impl Writer {
    fn write(&mut self, bytes: Span<'_>) {
        let mut done = 0;
        while done < bytes.len() {
            if self.used == CHUNK {
                self.chunk = self.pool.next(self.chunk);
                self.used = 0;
            }
            let piece = bytes.slice(done, CHUNK - self.used);
            // SAFETY: the chunk belongs to the packet being filled, and `used + piece.len() <= CHUNK`; pool memory and the
            // source never overlap, since a source in the pool would be another packet's chunk.
            unsafe {
                let to = self.pool.chunk(self.chunk).add(self.used).as_ptr();
                core::ptr::copy_nonoverlapping(piece.as_ptr(), to, piece.len());
            }
            self.used += piece.len();
            done += piece.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::BatchStorage;

    #[test]
    fn survives_and_returns_whole() {
        let pool = Pool::create(64).unwrap();
        let mut cache = pool.cache();
        let bytes: Vec<u8> = (0..9000u32).map(|i| (i * 7) as u8).collect();
        let packet = OwnedPacket::from_bytes(&bytes, &mut cache).unwrap();
        let mut storage = BatchStorage::new();
        let mut batch = storage.begin();
        assert!(packet.receive_into(&mut batch));
        let mut out = vec![0; 9000];
        assert_eq!(batch.frame(0).copy_to(&mut out), 9000);
        assert_eq!(out, bytes);
        assert_eq!(batch.packet(0).head().len(), HEAD_SPLIT);
    }

    #[test]
    fn chunks_come_back_by_drop_by_stash_and_after_failure() {
        let pool = Pool::create(8).unwrap();
        let mut cache = pool.cache();
        assert!(OwnedPacket::from_bytes(&vec![0; 9 * CHUNK], &mut cache).is_none());
        let one = OwnedPacket::from_bytes(&[1; 5000], &mut cache).unwrap();
        let two = OwnedPacket::from_bytes(&[2; 5000], &mut cache).unwrap();
        one.free_into(&mut cache);
        drop(two);
        drop(cache);
        assert_eq!(pool.free_chunks(), 8);
    }

    proptest::proptest! {
        #[test]
        fn any_split_of_any_frame_survives(len in 0usize..20_000, head in 0usize..=HEAD_CAPACITY, cuts in [0usize..20_000, 0..20_000]) {
            let pool = Pool::create(16).unwrap();
            let mut cache = pool.cache();
            let bytes: Vec<u8> = (0..len).map(|i| (i * 31 + i / 256) as u8).collect();
            let (head, rest) = bytes.split_at(head.min(len));
            let (one, two) = (cuts[0].min(cuts[1]).min(rest.len()), cuts[0].max(cuts[1]).min(rest.len()));
            let spans = [&rest[..one], &rest[one..two], &rest[two..]].map(Span::from_slice);
            let offload = Offload { needs_csum: true, csum_start: 34, ..Offload::default() };
            let mut frame = Frame::new(head, offload, &spans, rest.len());
            frame.hash = 77;
            let packet = OwnedPacket::copy_from_frame(&frame, &mut cache).unwrap();
            let mut storage = BatchStorage::new();
            let mut batch = storage.begin();
            proptest::prop_assert!(packet.receive_into(&mut batch));
            let mut out = vec![0; len + 1];
            proptest::prop_assert_eq!(batch.frame(0).copy_to(&mut out), len);
            proptest::prop_assert_eq!(&out[..len], &bytes[..]);
            proptest::prop_assert_eq!((batch.frame(0).offload, batch.frame(0).hash), (offload, 77));
        }
    }

    #[test]
    fn exact_chunk_sizes() {
        let pool = Pool::create(8).unwrap();
        let mut cache = pool.cache();
        for len in [0, 1, HEAD_CAPACITY, HEAD_CAPACITY + 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK] {
            let packet = OwnedPacket::from_bytes(&vec![9; len], &mut cache).unwrap();
            let mut out = vec![0; 3 * CHUNK];
            assert_eq!(packet.copy_to(&mut out), len);
            let mut storage = BatchStorage::new();
            let mut batch = storage.begin();
            assert!(packet.receive_into(&mut batch));
            assert_eq!(batch.frame(0).len(), len);
        }
    }
}

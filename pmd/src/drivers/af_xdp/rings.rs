//! The four rings of an AF_XDP socket (Linux `Documentation/networking/af_xdp.rst`).
//!
//! ```text
//!   fill        we put free chunks      ─▶ the kernel fills them      rx          it puts descriptors ─▶ we take them
//!   tx          we put descriptors      ─▶ the kernel sends them      completion  it puts chunks back ─▶ we take them
//! ```
//!
//! Each has one side that puts and one that takes. Both indexes count on without end, modulo 2^32, and the ring's size is a power of
//! two, so the difference is how much lies in it. Of the other side's index a copy is kept, and read again only when that says that
//! there is no room, or nothing. Our own index is published once per burst.

use core::sync::atomic::Ordering;

use rustix::net::xdp::XdpRingOffset;

use crate::sys::ring_map::RingMap;

/// A descriptor of the rx or tx ring: `struct xdp_desc`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Desc {
    /// Offset of the first byte in the socket's memory.
    pub(super) addr: u64,
    /// Bytes.
    pub(super) len: u32,
    /// The frame goes on in the next descriptor.
    pub(super) more: bool,
}

const MORE: u32 = 1;
const NEED_WAKEUP: u32 = 1;

struct Ring {
    map: RingMap,
    producer: usize,
    consumer: usize,
    entries: usize,
    flags: Option<usize>,
    size: u32,
}

impl Ring {
    fn new(map: RingMap, offsets: &XdpRingOffset, size: u32) -> Ring {
        let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
        Ring {
            map,
            producer: at(offsets.producer),
            consumer: at(offsets.consumer),
            entries: at(offsets.desc),
            flags: offsets.flags.map(at),
            size,
        }
    }

    /// Where entry `index` lies, if entries have `bytes` bytes.
    #[inline(always)]
    fn entry(&self, index: u32, bytes: usize) -> usize {
        self.entries + (index & (self.size - 1)) as usize * bytes
    }
}

/// The putting side: of a fill or tx ring.
pub(super) struct Producer {
    ring: Ring,
    /// Next entry to put; entries up to it from the published index are not shown yet.
    next: u32,
    /// Where the taking side was when last looked.
    taken: u32,
}

impl Producer {
    /// The side of a fresh ring of `size` entries, a power of two.
    pub(super) fn new(map: RingMap, offsets: &XdpRingOffset, size: u32) -> Producer {
        Producer { ring: Ring::new(map, offsets, size), next: 0, taken: 0 }
    }

    /// Whether `entries` more can be put.
    #[inline]
    pub(super) fn has_room(&mut self, entries: u32) -> bool {
        if self.free() < entries {
            self.taken = self.ring.map.word(self.ring.consumer).load(Ordering::Acquire);
        }
        self.free() >= entries
    }

    fn free(&self) -> u32 {
        self.ring.size.wrapping_sub(self.next.wrapping_sub(self.taken))
    }

    /// Puts a chunk. There must be room.
    #[inline]
    pub(super) fn put_chunk(&mut self, addr: u64) {
        self.ring.map.store_u64(self.ring.entry(self.next, 8), addr);
        self.next = self.next.wrapping_add(1);
    }

    /// Puts a descriptor. There must be room.
    #[inline]
    pub(super) fn put(&mut self, desc: Desc) {
        let at = self.ring.entry(self.next, 16);
        self.ring.map.store_u64(at, desc.addr);
        self.ring.map.word(at + 8).store(desc.len, Ordering::Relaxed);
        self.ring.map.word(at + 12).store(if desc.more { MORE } else { 0 }, Ordering::Relaxed);
        self.next = self.next.wrapping_add(1);
    }

    /// Shows what was put.
    #[inline]
    pub(super) fn publish(&self) {
        self.ring.map.word(self.ring.producer).store(self.next, Ordering::Release);
    }

    /// Whether the kernel has to be called before it looks.
    #[inline]
    pub(super) fn wants_wakeup(&self) -> bool {
        self.ring.flags.is_none_or(|at| self.ring.map.word(at).load(Ordering::Relaxed) & NEED_WAKEUP != 0)
    }
}

/// The taking side: of an rx or completion ring.
pub(super) struct Consumer {
    ring: Ring,
    /// Next entry to take.
    next: u32,
    /// Where the putting side was when last looked.
    put: u32,
}

impl Consumer {
    /// The side of a fresh ring of `size` entries, a power of two.
    pub(super) fn new(map: RingMap, offsets: &XdpRingOffset, size: u32) -> Consumer {
        Consumer { ring: Ring::new(map, offsets, size), next: 0, put: 0 }
    }

    /// Entries that can be taken, at least those that `wanted` says if there are so many.
    #[inline]
    pub(super) fn ready(&mut self, wanted: u32) -> u32 {
        if self.put.wrapping_sub(self.next) < wanted {
            self.put = self.ring.map.word(self.ring.producer).load(Ordering::Acquire);
        }
        // More than the ring holds cannot be.
        self.put.wrapping_sub(self.next).min(self.ring.size)
    }

    /// The chunk `ahead` entries on, which must be ready.
    #[inline]
    pub(super) fn chunk(&self, ahead: u32) -> u64 {
        self.ring.map.load_u64(self.ring.entry(self.next.wrapping_add(ahead), 8))
    }

    /// The descriptor `ahead` entries on, which must be ready.
    #[inline]
    pub(super) fn desc(&self, ahead: u32) -> Desc {
        let at = self.ring.entry(self.next.wrapping_add(ahead), 16);
        Desc {
            addr: self.ring.map.load_u64(at),
            len: self.ring.map.word(at + 8).load(Ordering::Relaxed),
            more: self.ring.map.word(at + 12).load(Ordering::Relaxed) & MORE != 0,
        }
    }

    /// Gives `entries` entries back to the putting side.
    #[inline]
    pub(super) fn release(&mut self, entries: u32) {
        if entries != 0 {
            self.next = self.next.wrapping_add(entries);
            self.ring.map.word(self.ring.consumer).store(self.next, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    const OFFSETS: XdpRingOffset = XdpRingOffset { producer: 0, consumer: 64, desc: 192, flags: Some(128) };

    /// Both sides of one ring whose indexes begin at `start`.
    fn ring(size: u32, start: u32) -> (Producer, Consumer) {
        let memory = memfd_create("ring", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&memory, 4096).unwrap();
        let map = || RingMap::of(&memory, 0, 4096).unwrap();
        map().word(0).store(start, Ordering::Relaxed);
        map().word(64).store(start, Ordering::Relaxed);
        let (mut producer, mut consumer) =
            (Producer::new(map(), &OFFSETS, size), Consumer::new(map(), &OFFSETS, size));
        (producer.next, producer.taken, consumer.next, consumer.put) = (start, start, start, start);
        (producer, consumer)
    }

    proptest! {
        #[test]
        fn what_is_put_is_taken_once_and_in_order(
            start: u32,
            steps in prop::collection::vec((any::<bool>(), 0u32..10), 0..200),
        ) {
            // Just before the indexes wrap too.
            for start in [start, u32::MAX - 5] {
                let (mut producer, mut consumer) = ring(8, start);
                let (mut put, mut shown, mut taken) = (0u64, 0u64, 0u64);
                for &(puts, n) in &steps {
                    if puts {
                        let room = producer.has_room(n);
                        prop_assert_eq!(room, put - taken + u64::from(n) <= 8);
                        for _ in 0..if room { n } else { 0 } {
                            producer.put(Desc { addr: put, len: put as u32 + 1, more: put % 3 == 0 });
                            put += 1;
                        }
                        // Nothing is seen before it is shown.
                        prop_assert_eq!(u64::from(consumer.ready(u32::MAX)), shown - taken);
                        producer.publish();
                        shown = put;
                    } else {
                        let ready = consumer.ready(n);
                        prop_assert!(u64::from(ready) >= (shown - taken).min(u64::from(n)));
                        let take = ready.min(n);
                        for ahead in 0..take {
                            let expected = taken + u64::from(ahead);
                            let desc = consumer.desc(ahead);
                            prop_assert_eq!(desc, Desc { addr: expected, len: expected as u32 + 1, more: expected % 3 == 0 });
                        }
                        consumer.release(take);
                        taken += u64::from(take);
                    }
                }
            }
        }
    }

    #[test]
    fn chunks_travel_and_the_flag_is_heard() {
        let (mut producer, mut consumer) = ring(4, u32::MAX - 1);
        for addr in [4096, 2048, 0, 6144] {
            assert!(producer.has_room(1));
            producer.put_chunk(addr);
        }
        assert!(!producer.has_room(1));
        producer.publish();
        assert_eq!(consumer.ready(1), 4);
        assert_eq!((0..4).map(|i| consumer.chunk(i)).collect::<Vec<_>>(), [4096, 2048, 0, 6144]);
        consumer.release(4);
        assert!(producer.has_room(4) && !producer.wants_wakeup());
        consumer.ring.map.word(128).store(1, Ordering::Relaxed);
        assert!(producer.wants_wakeup());
    }

    #[test]
    fn an_index_that_cannot_be_is_bounded() {
        let (_, mut consumer) = ring(8, 0);
        consumer.ring.map.word(0).store(1 << 31, Ordering::Relaxed);
        assert_eq!(consumer.ready(1), 8);
    }
}

//! The memory by which card and driver agree: what is wanted, where the rings lie, what happened (`Vmxnet3_DriverShared`,
//! `Vmxnet3_TxQueueDesc`, `Vmxnet3_RxQueueDesc`, `UPT1_RSSConf`).
//!
//! One arena: the shared area, the queue descriptors behind it, the configuration of the hash behind those. Fields are little-endian; the
//! constants are offsets of those that are used, from the start of their structure.

use core::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::Arc;

use crate::memory::DmaArena;

/// Most queues in each direction: those of transmitting (`VMXNET3_MAX_TX_QUEUES`).
pub(super) const MOST_QUEUES: u16 = 8;

/// Bytes of a queue descriptor of either kind.
const QUEUE: usize = 256;
/// Queue descriptors: those of transmit queues, then those of receive queues.
const QUEUES_AT: usize = 1024;
const RSS_AT: usize = QUEUES_AT + 2 * MOST_QUEUES as usize * QUEUE;
/// Bytes of everything.
pub(super) const BYTES: usize = RSS_AT + 256;

/// Of the shared area.
pub(super) mod shared {
    /// Proves that the driver means this structure.
    pub(crate) const MAGIC: usize = 0;
    pub(crate) const MAGIC_VALUE: u32 = 0xbabe_fee1;
    /// Version of the driver; its system, two bits of word size and four of kind; revisions it knows of card and data path.
    pub(crate) const DRIVER_VERSION: usize = 8;
    pub(crate) const SYSTEM: usize = 12;
    pub(crate) const SYSTEM_LINUX_64: u32 = 2 | 1 << 2;
    pub(crate) const REVISIONS: usize = 16;
    pub(crate) const DATA_PATH_REVISIONS: usize = 20;
    pub(crate) const FEATURES: usize = 24;
    pub(crate) const FEATURE_RX_CHECKSUM: u64 = 1;
    pub(crate) const FEATURE_RSS: u64 = 2;
    pub(crate) const QUEUES: usize = 40;
    pub(crate) const QUEUES_LEN: usize = 52;
    pub(crate) const MTU: usize = 56;
    /// Most buffers of a received frame (16 bits), transmit queues, receive queues (8 bits each).
    pub(crate) const NUMBERS: usize = 60;
    /// Mask vectors as they are sent (8 bits), number of vectors, the one for events, then the moderation of each of the 25.
    pub(crate) const INTERRUPTS: usize = 80;
    pub(crate) const RX_MODE: usize = 120;
    /// Own address, multicast, broadcast, all multicast, all.
    pub(crate) const RX_MODE_ALL: u32 = 0x1f;
    /// A bit for each VLAN whose frames are wanted.
    pub(crate) const VLANS: usize = 136;
    pub(crate) const VLAN_BYTES: usize = 512;
    /// Version, length (32 bits each) and address of the hash's configuration.
    pub(crate) const RSS: usize = 648;
    /// Events that have happened.
    pub(crate) const EVENTS: usize = 696;
}

/// Of a queue descriptor of either kind.
pub(super) mod queue {
    /// Receive: the card wants to be told producer indexes (8 bits).
    pub(crate) const WANTS_PRODUCER: usize = 0;
    /// Transmit: addresses of ring, data ring and completion ring. Receive: of both rings and completion ring.
    pub(crate) const RINGS: usize = 16;
    /// Sizes in the same order, 32 bits each.
    pub(crate) const SIZES: usize = 56;
    /// Vector (8 bits).
    pub(crate) const VECTOR: usize = 72;
    /// Filled by a command: it has stopped (8 bits), and why.
    pub(crate) const STOPPED: usize = 80;
    pub(crate) const ERROR: usize = 84;
    /// Filled by a command: ten counters of 64 bits.
    pub(crate) const COUNTERS: usize = 88;
}

/// Of the hash's configuration: four words of 16 bits (fields, function, key length, table length), key, table.
pub(super) mod rss {
    /// IPv4, TCP/IPv4, IPv6, TCP/IPv6.
    pub(crate) const FIELDS: u64 = 0xf;
    pub(crate) const TOEPLITZ: u64 = 1;
    pub(crate) const KEY: usize = 8;
    pub(crate) const KEY_LEN: usize = 40;
    pub(crate) const TABLE: usize = 48;
    pub(crate) const TABLE_LEN: usize = 32;
    pub(crate) const BYTES: u64 = 176;
}

/// Moderation: adaptive (`UPT1_IML_ADAPTIVE`).
const ADAPTIVE: u8 = 8;
/// The key that spreads flows repeats these bytes, so that both directions of a flow meet in one queue.
const KEY_PATTERN: [u8; 2] = [0x6d, 0x5a];

/// What is asked of the card.
pub(super) struct Wanted {
    pub(super) queues: u16,
    pub(super) mtu: u16,
    pub(super) most_parts: u16,
    /// Vectors the card counts with; the first is for events.
    pub(super) vectors: u8,
}

/// The area. Clones are the same memory.
#[derive(Clone)]
pub(super) struct Area {
    arena: Arc<DmaArena>,
    queues: u16,
}

impl Area {
    /// Writes what is wanted into zeroed memory of [`BYTES`].
    pub(super) fn new(arena: DmaArena, wanted: &Wanted) -> Area {
        let area = Area { arena: Arc::new(arena), queues: wanted.queues };
        let put = |at, value| area.arena.store_u32(at, value, Relaxed);
        put(shared::MAGIC, shared::MAGIC_VALUE);
        put(shared::DRIVER_VERSION, 1);
        put(shared::SYSTEM, shared::SYSTEM_LINUX_64);
        put(shared::REVISIONS, 1);
        put(shared::DATA_PATH_REVISIONS, 1);
        area.arena.store_u64(shared::QUEUES, area.arena.iova(QUEUES_AT), Relaxed);
        put(shared::QUEUES_LEN, u32::from(wanted.queues) * 2 * QUEUE as u32);
        put(shared::MTU, wanted.mtu.into());
        let queues = u32::from(wanted.queues);
        put(shared::NUMBERS, u32::from(wanted.most_parts) | queues << 16 | queues << 24);
        let mut interrupts = [ADAPTIVE; 28];
        interrupts[..3].copy_from_slice(&[1, wanted.vectors, 0]);
        area.arena.copy_in(shared::INTERRUPTS, &interrupts);
        put(shared::RX_MODE, shared::RX_MODE_ALL);
        area.arena.copy_in(shared::VLANS, &[0xff; shared::VLAN_BYTES]);
        let mut features = shared::FEATURE_RX_CHECKSUM;
        if wanted.queues > 1 {
            features |= shared::FEATURE_RSS;
            area.spread();
        }
        area.arena.store_u64(shared::FEATURES, features, Relaxed);
        area
    }

    /// Says how flows are spread.
    fn spread(&self) {
        let lengths = (rss::KEY_LEN as u64) << 32 | (rss::TABLE_LEN as u64) << 48;
        self.arena.store_u64(RSS_AT, rss::FIELDS | rss::TOEPLITZ << 16 | lengths, Relaxed);
        let key: [u8; rss::KEY_LEN] = core::array::from_fn(|i| KEY_PATTERN[i % 2]);
        self.arena.copy_in(RSS_AT + rss::KEY, &key);
        let table: [u8; rss::TABLE_LEN] = core::array::from_fn(|i| (i % usize::from(self.queues)) as u8);
        self.arena.copy_in(RSS_AT + rss::TABLE, &table);
        self.arena.store_u64(shared::RSS, 1 | rss::BYTES << 32, Relaxed);
        self.arena.store_u64(shared::RSS + 8, self.arena.iova(RSS_AT), Relaxed);
    }

    /// Where the card finds it.
    pub(super) fn iova(&self) -> u64 {
        self.arena.iova(0)
    }

    /// Offset of the descriptor of a transmit queue.
    pub(super) fn tx_queue(&self, index: u16) -> usize {
        QUEUES_AT + usize::from(index) * QUEUE
    }

    /// Offset of the descriptor of a receive queue.
    pub(super) fn rx_queue(&self, index: u16) -> usize {
        QUEUES_AT + usize::from(self.queues + index) * QUEUE
    }

    /// Describes a queue: addresses and sizes of its rings, and its vector.
    pub(super) fn describe(&self, queue_at: usize, rings: [u64; 3], sizes: [u32; 3], vector: u8) {
        for (i, (ring, size)) in rings.into_iter().zip(sizes).enumerate() {
            self.arena.store_u64(queue_at + queue::RINGS + 8 * i, ring, Relaxed);
            self.arena.store_u32(queue_at + queue::SIZES + 4 * i, size, Relaxed);
        }
        self.arena.store_u32(queue_at + queue::VECTOR, vector.into(), Relaxed);
    }

    /// Whether the card wants to be told the producer indexes of a receive queue.
    #[inline]
    pub(super) fn wants_producer(&self, queue_at: usize) -> bool {
        self.arena.load_u32(queue_at + queue::WANTS_PRODUCER, Relaxed) & 0xff != 0
    }

    /// Events that have happened and were not forgotten.
    pub(super) fn events(&self) -> u32 {
        self.arena.load_u32(shared::EVENTS, Acquire)
    }

    /// The reason why a queue has stopped, if one has; as of the last command that asked.
    pub(super) fn stopped(&self) -> Option<u32> {
        let tx = (0..self.queues).map(|i| self.tx_queue(i));
        let mut all = tx.chain((0..self.queues).map(|i| self.rx_queue(i)));
        let at = all.find(|at| self.arena.load_u32(at + queue::STOPPED, Acquire) & 0xff != 0)?;
        Some(self.arena.load_u32(at + queue::ERROR, Relaxed))
    }

    /// Counter `index` of all queues that begin at `queue_at(0)`.
    pub(super) fn counter(&self, queue_at: impl Fn(&Area, u16) -> usize, index: usize) -> u64 {
        let one = |i| self.arena.load_u64(queue_at(self, i) + queue::COUNTERS + 8 * index, Relaxed);
        (0..self.queues).map(one).fold(0, u64::wrapping_add)
    }
}

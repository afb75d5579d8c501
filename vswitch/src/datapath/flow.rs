//! A megaflow as the worker and the slow path share it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};

use flowtable::actions::ActionList;
use flowtable::key::{FlowKey, FlowMask, KEY_WORDS, PortNo};
use flowtable::simd::prefetch;
use pmd::packet::OwnedPacket;
use pmd::port::DropReason;

/// Hits of one flow on one worker. The worker writes with plain loads and stores; anybody reads.
///
/// Half a cache line: with many flows, the lines a packet touches decide its cost, so where most packets go fills what is
/// left of it.
#[derive(Debug)]
#[repr(C)]
pub struct FlowStats {
    packets: AtomicU64,
    bytes: AtomicU64,
    used_ms: AtomicU64,
    tcp_flags: AtomicU16,
    /// The port of a flow that does nothing but output, or [`PortNo::NONE`].
    output: PortNo,
}

const _: () = assert!(size_of::<FlowStats>() == 32);

impl FlowStats {
    fn new(actions: &ActionList) -> FlowStats {
        FlowStats {
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            used_ms: AtomicU64::new(0),
            tcp_flags: AtomicU16::new(0),
            output: actions.single_output().unwrap_or(PortNo::NONE),
        }
    }

    /// Counts a packet of `bytes` at `now_ms`. Only the owning worker calls this.
    #[inline]
    pub fn hit(&self, bytes: usize, tcp_flags: u16, now_ms: u64) {
        self.hit_by_train(1, bytes, tcp_flags, now_ms);
    }

    /// Counts `packets` packets of `bytes` together, whose flags together are `tcp_flags`. Only the owning worker calls
    /// this.
    #[inline]
    pub(super) fn hit_by_train(&self, packets: usize, bytes: usize, tcp_flags: u16, now_ms: u64) {
        self.packets.store(self.packets.load(Relaxed).wrapping_add(packets as u64), Relaxed);
        self.bytes.store(self.bytes.load(Relaxed).wrapping_add(bytes as u64), Relaxed);
        self.used_ms.store(now_ms, Relaxed);
        let seen = self.tcp_flags.load(Relaxed);
        if seen | tcp_flags != seen {
            self.tcp_flags.store(seen | tcp_flags, Relaxed);
        }
    }

    /// Packets so far.
    pub fn packets(&self) -> u64 {
        self.packets.load(Relaxed)
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Time of the last packet in milliseconds of the switch's clock; zero when there was none.
    pub fn used_ms(&self) -> u64 {
        self.used_ms.load(Relaxed)
    }

    /// Union of the TCP flags seen.
    pub fn tcp_flags(&self) -> u16 {
        self.tcp_flags.load(Relaxed)
    }
}

/// One installed megaflow: everything that matches gets the same actions.
///
/// Immutable but for its statistics. Changing a flow's actions means installing another one with the same key
/// and mask, which takes its place.
///
/// What nearly every packet needs of it, statistics and the one output, comes first and takes half a cache line. Key and mask are
/// kept as words: a [`FlowKey`] is aligned to a cache line, and the allocator is several times slower for such memory than for
/// any other. Workers look packets up in tables of their own, so nobody needs the alignment here.
#[derive(Debug)]
#[repr(C)]
pub struct Megaflow {
    /// Hits on the worker that has it.
    pub stats: FlowStats,
    /// What happens to matching packets; empty means drop.
    pub actions: ActionList,
    /// Reason counted when `actions` is empty.
    pub drop_reason: DropReason,
    key: [u64; KEY_WORDS],
    mask: [u64; KEY_WORDS],
}

impl Megaflow {
    /// A flow for packets that agree with `key` in the bits of `mask`, without hits.
    pub fn new(key: &FlowKey, mask: &FlowMask, actions: ActionList, drop_reason: DropReason) -> Megaflow {
        let (key, mask) = (*mask.apply(key).words(), *mask.words());
        Megaflow { key, mask, stats: FlowStats::new(&actions), actions, drop_reason }
    }

    /// The port, when packets go to one and nothing else happens to them; else [`PortNo::NONE`].
    #[inline]
    pub(super) fn output(&self) -> PortNo {
        self.stats.output
    }

    /// Asks for what [`FlowStats::hit_by_train`] and [`Megaflow::output`] need. The allocator aligns to 16 bytes, so the half
    /// line may lie across two.
    #[inline(always)]
    pub(super) fn prefetch(&self) {
        prefetch(&self.stats.packets);
        prefetch(&self.stats.output);
    }

    /// The key with wildcarded bits zero.
    pub fn key(&self) -> FlowKey {
        let mut key = FlowKey::default();
        *key.words_mut() = self.key;
        key
    }

    /// Bits that count.
    pub fn mask(&self) -> FlowMask {
        let mut mask = FlowMask::default();
        *mask.words_mut() = self.mask;
        mask
    }

    /// Words of [`Megaflow::key`].
    pub(crate) fn key_words(&self) -> &[u64; KEY_WORDS] {
        &self.key
    }

    /// Whether a flow is for the same packets.
    pub(crate) fn same_match(&self, other: &Megaflow) -> bool {
        self.key == other.key && self.mask == other.mask
    }
}

/// Where the slow path puts its decisions: one worker.
///
/// Calls take effect in order. They may wait a moment for room in the worker's command queue; the worker never waits
/// for the caller.
pub trait FlowSink: Send + Sync {
    /// Number of the worker, as in [`super::Upcall::worker`].
    fn worker(&self) -> u16;

    /// Installs a flow, in place of one with the same key and mask.
    fn install(&self, flow: Arc<Megaflow>);

    /// Installs a flow and then carries out by its actions the packet that it was made for. One command and not two: this is
    /// what every new flow costs.
    fn install_for(&self, flow: Arc<Megaflow>, packet: OwnedPacket, in_port: PortNo);

    /// Removes a flow, if that very one is still installed.
    fn remove(&self, flow: &Arc<Megaflow>);

    /// Carries a packet out by `actions`; if they are empty it is dropped and counted under `drop_reason`.
    fn execute(&self, packet: OwnedPacket, in_port: PortNo, actions: ActionList, drop_reason: DropReason);
}

//! A megaflow as the worker and the slow path share it.

use std::sync::Arc;

use flowtable::actions::ActionList;
use flowtable::key::{FlowKey, FlowMask, KEY_WORDS, PortNo};
use flowtable::simd::prefetch;
use pmd::packet::OwnedPacket;
use pmd::port::DropReason;

use super::flow_stats::{FlowStats, StatsSlot};

/// One installed megaflow: everything that matches gets the same actions.
///
/// Immutable but for its statistics. Changing a flow's actions means installing another one with the same key
/// and mask, which takes its place.
///
/// What nearly every packet needs of it, statistics and the one output, lies apart ([`FlowStats`]). Key and mask are
/// kept as words: a [`FlowKey`] is aligned to a cache line, and the allocator is several times slower for such memory than for
/// any other. Workers look packets up in tables of their own, so nobody needs the alignment here.
#[derive(Debug)]
#[repr(C)]
pub struct Megaflow {
    /// Hits on the worker that has it.
    pub stats: StatsSlot,
    /// What happens to matching packets; empty means drop.
    pub actions: ActionList,
    /// Reason counted when `actions` is empty.
    pub drop_reason: DropReason,
    key: [u64; KEY_WORDS],
    mask: [u64; KEY_WORDS],
}

impl Megaflow {
    /// A flow of a worker for packets that agree with `key` in the bits of `mask`, without hits.
    pub fn new(
        worker: u16,
        key: &FlowKey,
        mask: &FlowMask,
        actions: ActionList,
        drop_reason: DropReason,
    ) -> Megaflow {
        let stats = StatsSlot::new(worker, actions.single_output().unwrap_or(PortNo::NONE));
        Megaflow { stats, actions, drop_reason, key: *mask.apply(key).words(), mask: *mask.words() }
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

/// A flow as a worker's table holds it. What nearly every packet needs is reached without the flow itself, which would be one more
/// line; it comes first, so that it shares a line with the key also where the whole does not.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Resident {
    stats: &'static FlowStats,
    flow: Arc<Megaflow>,
}

impl Resident {
    pub(super) fn new(flow: Arc<Megaflow>) -> Resident {
        Resident { stats: flow.stats.stats(), flow }
    }

    /// The flow's statistics and output.
    #[inline(always)]
    pub(super) fn stats(&self) -> &FlowStats {
        self.stats
    }

    /// Everything else.
    #[inline(always)]
    pub(super) fn flow(&self) -> &Arc<Megaflow> {
        &self.flow
    }

    /// Asks for what every packet needs.
    #[inline(always)]
    pub(super) fn prefetch(&self) {
        prefetch(self.stats);
    }

    /// Asks for what a packet needs beside it of a flow that does more than output.
    #[inline(always)]
    pub(super) fn prefetch_flow(&self) {
        prefetch(&self.flow.actions);
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

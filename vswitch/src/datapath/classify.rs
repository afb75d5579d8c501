//! From a burst of packets to the flow of each.
//!
//! Tiers, fastest first, all of them this worker's own: exact-match cache, megaflow table. What neither knows is
//! a miss, and the caller makes it an upcall.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use flowtable::cache::ExactMatchCache;
use flowtable::key::{self, FlowKey, Layers, PortNo};
use flowtable::megaflow::MegaflowTable;
use pmd::packet::{BURST, Batch, SlotId};

use super::counters::{WorkerCounters, bump};
use super::flow::Megaflow;
use super::flow_slab::{FlowRef, FlowSlab};

/// One in this many megaflow hits enters the exact-match cache, so that many short flows do not wash out the few
/// that carry the traffic. A power of two.
const EMC_INSERT_INVERSE: u32 = 16;

/// What is known of the packets of a burst.
pub(super) struct Burst {
    pub(super) keys: [FlowKey; BURST],
    pub(super) layers: [Layers; BURST],
    pub(super) flows: [Option<FlowRef>; BURST],
    hashes: [u32; BURST],
}

impl Burst {
    pub(super) fn new() -> Box<Burst> {
        Box::new(Burst {
            keys: [FlowKey::default(); BURST],
            layers: [Layers::NONE; BURST],
            flows: [None; BURST],
            hashes: [0; BURST],
        })
    }
}

/// The flow tables of one worker.
pub(super) struct Classifier {
    emc: ExactMatchCache<FlowRef>,
    megaflows: MegaflowTable<FlowRef>,
    slab: FlowSlab,
    /// State of a small generator, for the insertion policy.
    seed: u32,
}

impl Classifier {
    pub(super) fn new() -> Classifier {
        Classifier {
            emc: ExactMatchCache::default(),
            // Not to be guessed by a guest that would like its flows to collide.
            megaflows: MegaflowTable::with_seed(RandomState::new().hash_one(0)),
            slab: FlowSlab::default(),
            seed: 0x9e37_79b9,
        }
    }

    /// Fills `burst` for the packets of `batch`.
    pub(super) fn classify(
        &mut self,
        batch: &Batch<'_>,
        in_port: PortNo,
        burst: &mut Burst,
        counters: &WorkerCounters,
    ) {
        let n = batch.len().min(BURST);
        // Bit i: packet i has the key of the one before. Bulk traffic comes so, and comparing is cheaper than hashing.
        let mut same = 0u32;
        for i in 0..n {
            let packet = batch.packet(i as SlotId);
            let (before, rest) = burst.keys.split_at_mut(i);
            let Some(key) = rest.first_mut() else { break };
            burst.layers[i] = key::extract(packet.head(), packet.len(), in_port, key);
            burst.hashes[i] = match before.last() {
                Some(before) if key.equals(before) => {
                    same |= 1 << i;
                    burst.hashes[i - 1]
                }
                _ => key::hash_key(key),
            };
        }
        let mut unknown = 0u32;
        let mut flow = None;
        for i in 0..n {
            if same & 1 << i == 0 {
                flow = self.emc.lookup(&burst.keys[i], burst.hashes[i]);
                flow = flow.filter(|&flow| self.slab.get(flow).is_some());
            }
            burst.flows[i] = flow;
            unknown |= u32::from(flow.is_none()) << i;
        }
        let missed = unknown.count_ones();
        bump(&counters.emc_hits, n as u64 - u64::from(missed));
        if unknown != 0 {
            self.look_in_megaflows(n, unknown, same, burst, counters);
        }
    }

    /// Looks for the packets in `unknown`; those that are in `same` too have the key of the one before.
    fn look_in_megaflows(
        &mut self,
        n: usize,
        unknown: u32,
        same: u32,
        burst: &mut Burst,
        counters: &WorkerCounters,
    ) {
        let first = unknown & !same;
        let mut hits = self.megaflows.lookup_burst(&burst.keys[..n], first, &mut burst.flows[..n]);
        let mut left = hits;
        while left != 0 {
            let i = left.trailing_zeros() as usize;
            left &= left - 1;
            self.seed = self.seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if (self.seed >> 16).is_multiple_of(EMC_INSERT_INVERSE)
                && let Some(flow) = burst.flows[i]
            {
                self.emc.insert(&burst.keys[i], burst.hashes[i], flow);
            }
        }
        let mut followers = unknown & same;
        while followers != 0 {
            // Never the first packet, and in order, so that the one before is known.
            let i = followers.trailing_zeros() as usize;
            followers &= followers - 1;
            burst.flows[i] = burst.flows[i - 1];
            hits |= u32::from(burst.flows[i].is_some()) << i;
        }
        bump(&counters.megaflow_hits, u64::from(hits.count_ones()));
        bump(&counters.misses, u64::from((unknown & !hits).count_ones()));
    }

    /// The flow a reference names.
    #[inline]
    pub(super) fn flow(&self, flow: FlowRef) -> Option<&Arc<Megaflow>> {
        self.slab.get(flow)
    }

    /// Installs a flow, in place of one with the same key and mask.
    pub(super) fn install(&mut self, flow: Arc<Megaflow>, counters: &WorkerCounters) {
        let (key, mask) = (flow.key(), flow.mask());
        let new = self.slab.insert(flow);
        match self.megaflows.insert(&key, &mask, new) {
            Some(old) => drop(self.slab.remove(old)),
            None => bump(&counters.flows, 1),
        }
    }

    /// Removes a flow if that very one is installed.
    pub(super) fn remove(&mut self, flow: &Arc<Megaflow>, counters: &WorkerCounters) {
        let (key, mask) = (flow.key(), flow.mask());
        let Some(installed) = self.megaflows.get(&key, &mask) else { return };
        if self.slab.get(installed).is_some_and(|held| Arc::ptr_eq(held, flow)) {
            self.megaflows.remove(&key, &mask);
            drop(self.slab.remove(installed));
            bump(&counters.flows, 1u64.wrapping_neg());
        }
    }

    /// Sorts the megaflow subtables by recent hits. Called about once a second.
    pub(super) fn rank(&mut self) {
        self.megaflows.rank();
    }
}

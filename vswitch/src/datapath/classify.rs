//! From a burst of packets to the flow of each train.
//!
//! Tiers, fastest first, all of them this worker's own: signature cache, megaflow table. What neither knows is
//! a miss, and the caller makes it an upcall.
//!
//! The cache saves a packet the subtables that come before its own, so it is asked only where a port has several, and only
//! while it hits: with more flows than it can hold, or flows that come once, asking it is a cost on top.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use flowtable::cache::SignatureCache;
use flowtable::key::{self, PortNo};
use flowtable::megaflow::{MegaflowTable, Place, PortFlows};
use pmd::packet::{BURST, Batch};

use super::burst::Burst;
use super::counters::{WorkerCounters, bump};
use super::flow::{Megaflow, Resident};

/// One in this many megaflow hits enters the signature cache, so that many short flows do not wash out the few
/// that carry the traffic. A power of two.
const SIGNATURE_INSERT_INVERSE: u32 = 16;

/// Masks of a port from which on the signature cache is asked. A hit there costs about as much as two subtables.
const SIGNATURES_FROM: usize = 3;

/// The flow of each train of a burst.
pub(super) type Flows<'t> = [Option<&'t Resident>; BURST];

/// The flow tables of one worker.
pub(super) struct Classifier {
    megaflows: MegaflowTable<Resident>,
    signatures: SignatureCache,
    gate: Gate,
    /// State of a small generator, for the insertion policy.
    seed: u32,
}

impl Classifier {
    pub(super) fn new() -> Classifier {
        Classifier {
            // Not to be guessed by a guest that would like its flows to collide.
            megaflows: MegaflowTable::with_seed(RandomState::new().hash_one(0)),
            signatures: SignatureCache::default(),
            gate: Gate::default(),
            seed: 0x9e37_79b9,
        }
    }

    /// Fills `burst` for the packets of `batch` and finds the flow of each of its trains. What `Flows` has beyond the
    /// trains is `None`.
    #[inline]
    pub(super) fn classify(
        &mut self,
        batch: &Batch<'_>,
        in_port: PortNo,
        burst: &mut Burst,
        counters: &WorkerCounters,
    ) -> Flows<'_> {
        let port = self.megaflows.port(in_port);
        burst.fill(batch, in_port, port.depth());
        let keys = burst.keys();
        let mut found = [None; BURST];
        let all = ((1u64 << keys.len()) - 1) as u32;
        let mut known = 0;
        let mut hinted = None;
        if port.masks() >= SIGNATURES_FROM && self.gate.is_open() {
            let hashes;
            (known, hashes) = ask(&self.signatures, port, burst, &mut found);
            self.gate.count(keys.len() as u32, known.count_ones());
            bump(&counters.emc_hits, packets(burst, known));
            hinted = Some(hashes);
        }
        if known != all {
            let mut places = [Place::default(); BURST];
            let hits = port.lookup_burst(keys, all & !known, &mut found, &mut places);
            if hits == all {
                bump(&counters.megaflow_hits, batch.len() as u64);
            } else {
                bump(&counters.megaflow_hits, packets(burst, hits));
                bump(&counters.misses, packets(burst, all & !known & !hits));
            }
            if let Some(hashes) = hinted {
                remember(&mut self.signatures, &mut self.seed, hits, &hashes, &places);
            }
        }
        // The entries are here; what the flows count in is asked for together before the first is needed.
        found.iter().take(keys.len()).flatten().for_each(|flow| flow.prefetch());
        found
    }

    /// Installs a flow, in place of one with the same key and mask.
    pub(super) fn install(&mut self, flow: Arc<Megaflow>, counters: &WorkerCounters) {
        let (key, mask) = (flow.key(), flow.mask());
        if self.megaflows.insert(&key, &mask, Resident::new(flow)).is_none() {
            bump(&counters.flows, 1);
        }
    }

    /// Removes a flow if that very one is installed.
    pub(super) fn remove(&mut self, flow: &Arc<Megaflow>, counters: &WorkerCounters) {
        let (key, mask) = (flow.key(), flow.mask());
        let installed = self.megaflows.get(&key, &mask);
        if installed.is_some_and(|installed| Arc::ptr_eq(installed.flow(), flow)) {
            self.megaflows.remove(&key, &mask);
            bump(&counters.flows, 1u64.wrapping_neg());
        }
    }

    /// Sorts the megaflow subtables by recent hits. Called about once a second.
    pub(super) fn rank(&mut self) {
        self.megaflows.rank();
    }
}

/// Packets in the trains of a bitmap.
#[inline]
fn packets(burst: &Burst, trains: u32) -> u64 {
    let (mut start, mut sum) = (0, 0);
    for (i, train) in burst.trains().iter().enumerate() {
        sum += u64::from(train.end - start) * u64::from(trains >> i & 1);
        start = train.end;
    }
    sum
}

/// Asks the signature cache about all trains. Returns the bitmap of those it knew, and their hashes.
#[inline(never)]
fn ask<'t>(
    signatures: &SignatureCache,
    port: PortFlows<'t, Resident>,
    burst: &Burst,
    found: &mut [Option<&'t Resident>; BURST],
) -> (u32, [u32; BURST]) {
    let mut hashes = [0; BURST];
    for (hash, key) in hashes.iter_mut().zip(burst.keys()) {
        *hash = key::hash_key(key);
        signatures.prefetch(*hash);
    }
    let mut known = 0;
    for (i, (key, found)) in burst.keys().iter().zip(found).enumerate() {
        *found = signatures.get(hashes[i]).and_then(|place| port.get_at(place, key));
        known |= u32::from(found.is_some()) << i;
    }
    (known, hashes)
}

/// Enters some of the trains found in the megaflow table into the signature cache.
#[inline(never)]
fn remember(
    signatures: &mut SignatureCache,
    seed: &mut u32,
    mut hits: u32,
    hashes: &[u32; BURST],
    places: &[Place; BURST],
) {
    while hits != 0 {
        let i = hits.trailing_zeros() as usize;
        hits &= hits - 1;
        *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if (*seed >> 16).is_multiple_of(SIGNATURE_INSERT_INVERSE) {
            signatures.put(hashes[i], places[i]);
        }
    }
}

/// Notices when the signature cache does not hit, and has it left alone for a while.
#[derive(Default)]
struct Gate {
    asked: u32,
    hits: u32,
    /// Bursts for which the cache is not asked.
    closed: u32,
}

impl Gate {
    /// Trains after which the hits are judged.
    const WINDOW: u32 = 1 << 15;
    /// Bursts to stay away: about thirty times as long as a window of full bursts.
    const AWAY: u32 = 1 << 15;

    #[inline]
    fn is_open(&mut self) -> bool {
        self.closed = self.closed.saturating_sub(1);
        self.closed == 0
    }

    /// Closes when less than a quarter hit.
    #[inline]
    fn count(&mut self, asked: u32, hits: u32) {
        self.asked += asked;
        self.hits += hits;
        if self.asked >= Gate::WINDOW {
            if self.hits < self.asked / 4 {
                self.closed = Gate::AWAY;
            }
            (self.asked, self.hits) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Gate;

    #[test]
    fn a_cache_that_does_not_hit_is_left_alone_for_a_while() {
        let mut gate = Gate::default();
        let mut window = |hits_per_burst| {
            for _ in 0..Gate::WINDOW / 32 {
                assert!(gate.is_open());
                gate.count(32, hits_per_burst);
            }
            (0..).take_while(|_| !gate.is_open()).count() as u32
        };
        assert_eq!(window(32), 0);
        assert_eq!(window(8), 0);
        assert_eq!(window(7), Gate::AWAY - 1);
        assert_eq!(window(32), 0);
    }
}

//! The state of the slow path, and what it counts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::registry::{FlowId, Installed, Registry};
use super::sinks::SinkList;
use super::upcalls::Decided;
use crate::bridge::{BridgeMacChange, Bridges};
use crate::datapath::Megaflow;

/// How much the slow path keeps, and how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Most megaflows, all workers together (`flow-limit`).
    pub flows: usize,
    /// Milliseconds without a packet after which a megaflow goes (`max-idle`).
    pub idle_ms: u64,
    /// The same while there are nearly as many megaflows as allowed.
    pub crowded_idle_ms: u64,
    /// Milliseconds from one pass over all megaflows to the next (`max-revalidator`).
    pub pass_ms: u64,
}

impl Limits {
    /// Whether a port that has `of_port` of all `flows` may have another. It may have up to four times what is still free:
    /// one alone gets four fifths of the room, and whatever ports do, some is left for one that comes late.
    pub(super) fn admit(&self, of_port: usize, flows: usize) -> bool {
        of_port < self.flows.saturating_sub(flows).saturating_mul(4)
    }

    /// Idle time that applies while there are so many flows.
    pub(super) fn idle_ms_at(&self, flows: usize) -> u64 {
        if flows >= self.flows / 4 * 3 { self.crowded_idle_ms } else { self.idle_ms }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { flows: 200_000, idle_ms: 10_000, crowded_idle_ms: 100, pass_ms: 500 }
    }
}

macro_rules! slowpath_counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// What the slow path counts. Its thread writes, anybody reads.
        #[derive(Default, Debug)]
        pub struct SlowPathCounters {
            $(pub(super) $name: AtomicU64,)+
        }

        /// The numbers of [`SlowPathCounters`] at one moment.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct SlowPathStats {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl SlowPathCounters {
            /// The numbers now.
            pub fn snapshot(&self) -> SlowPathStats {
                SlowPathStats { $($name: self.$name.load(Relaxed),)+ }
            }
        }
    };
}

slowpath_counters! {
    /// Packets that came for a decision.
    upcalls,
    /// Of these, packets decided like another one of the same batch.
    deduplicated,
    /// Of these, packets whose worker had gone.
    orphaned,
    /// Megaflows there are.
    flows,
    /// Megaflows installed.
    installed,
    /// Megaflows that got other actions.
    replaced,
    /// Megaflows removed because they were no longer true.
    invalidated,
    /// Megaflows removed because nobody used them.
    idled,
    /// Upcalls whose megaflow was not installed because there were too many.
    limit_hits,
    /// Passes over all megaflows.
    passes,
    /// Megaflows translated again.
    retranslated,
    /// Duration of the last pass in milliseconds, upcalls in between included.
    last_pass_ms,
}

/// A pass over all megaflows, under way.
pub(super) struct Pass {
    pub(super) next: FlowId,
    pub(super) started_ms: u64,
    pub(super) idle_ms: u64,
}

/// Everything the slow path's thread owns.
pub(super) struct Engine {
    pub(super) bridges: Arc<Bridges>,
    pub(super) sinks: SinkList,
    pub(super) limits: Limits,
    pub(super) counters: Arc<SlowPathCounters>,
    pub(super) registry: Registry,
    /// Flows to translate again because an address changed.
    pub(super) dirty: VecDeque<FlowId>,
    /// Removed flows whose last hits are credited at the end of the next pass.
    pub(super) leaving: Vec<Installed>,
    pub(super) pass: Option<Pass>,
    /// Passes begun, ended, and asked for.
    pub(super) begun: u64,
    pub(super) ended: u64,
    pub(super) wanted: u64,
    /// When the next pass is due.
    pub(super) next_pass_ms: u64,
    /// Epoch the last whole pass began with.
    pub(super) checked_epoch: u64,
    /// Reused from one batch to the next; empty between them.
    pub(super) decided: Decided,
    /// Reused from one look to the next.
    pub(super) mac_changes: Vec<BridgeMacChange>,
}

impl Engine {
    pub(super) fn new(bridges: Arc<Bridges>, sinks: SinkList, limits: Limits) -> Engine {
        let now_ms = bridges.clock().now_ms();
        Engine {
            bridges,
            sinks,
            limits,
            counters: Arc::default(),
            registry: Registry::default(),
            dirty: VecDeque::new(),
            leaving: Vec::new(),
            pass: None,
            begun: 0,
            ended: 0,
            wanted: 0,
            next_pass_ms: now_ms + limits.pass_ms,
            checked_epoch: 0,
            decided: Decided::default(),
            mac_changes: Vec::new(),
        }
    }

    /// Takes other limits. They hold from the next upcall and the next pass on.
    pub(super) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.next_pass_ms = self.next_pass_ms.min(self.now_ms() + limits.pass_ms);
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.bridges.clock().now_ms()
    }

    /// Every megaflow and its worker.
    pub(super) fn dump(&self) -> Vec<(u16, Arc<Megaflow>)> {
        self.registry.iter().map(|(_, installed)| (installed.worker, installed.flow.clone())).collect()
    }

    /// Removes every megaflow.
    pub(super) fn flush(&mut self) {
        for id in 0..self.registry.slots() {
            self.remove(id, |counters| &counters.invalidated);
        }
    }

    /// Forgets what was installed on a worker that has ended.
    pub(super) fn forget_worker(&mut self, worker: u16) {
        for id in 0..self.registry.slots() {
            if self.registry.get(id).is_some_and(|installed| installed.worker == worker)
                && let Some(mut installed) = self.registry.remove(id)
            {
                installed.credit_rule();
            }
        }
        self.count_flows();
    }

    /// Takes a megaflow off its worker. Its worker may still hit it for a moment: those hits are credited later.
    pub(super) fn remove(&mut self, id: FlowId, why: impl Fn(&SlowPathCounters) -> &AtomicU64) {
        let Some(installed) = self.registry.remove(id) else { return };
        if let Some(sink) = self.sinks.get(installed.worker) {
            sink.remove(&installed.flow);
        }
        self.leaving.push(installed);
        bump(why(&self.counters));
        self.count_flows();
    }

    pub(super) fn count_flows(&self) {
        self.counters.flows.store(self.registry.len() as u64, Relaxed);
    }
}

/// Adds one to a counter that only this thread writes.
pub(super) fn bump(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
}

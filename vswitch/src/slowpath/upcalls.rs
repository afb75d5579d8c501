//! Deciding about packets.

use std::collections::HashMap;
use std::sync::Arc;

use flowtable::actions::ActionList;
use flowtable::key::{KEY_WORDS, PortNo};
use flowtable::rules::Rule;
use pmd::port::DropReason;

use super::engine::{Engine, bump};
use super::registry::Installed;
use crate::bridge::Learned;
use crate::datapath::{FlowSink, FlowStats, Megaflow, Upcall};
use crate::translate::{Translation, translate};

/// A megaflow that still misses this long after it was installed is not on its worker: it is installed again.
const REINSTALL_MS: u64 = 1000;

/// Decisions of one batch, so that packets of one flow are decided once. Forgotten when an address was learned,
/// for that may change the next decision.
type Decided = HashMap<(u16, [u64; KEY_WORDS]), Decision>;

/// What is to be done with packets of one flow.
struct Decision {
    actions: ActionList,
    drop_reason: DropReason,
    rules: Vec<Arc<Rule>>,
}

impl Engine {
    /// Decides about a batch in order of arrival: the queue before it gave every port its share.
    pub(super) fn handle(&mut self, batch: &mut Vec<Upcall>) {
        let now_ms = self.now_ms();
        let mut decided = Decided::new();
        for upcall in batch.drain(..) {
            bump(&self.counters.upcalls);
            let Some(sink) = self.sinks.get(upcall.worker) else {
                bump(&self.counters.orphaned);
                continue;
            };
            self.decide(upcall, &*sink, &mut decided, now_ms);
        }
        self.follow_mac_changes();
    }

    fn decide(&mut self, upcall: Upcall, sink: &dyn FlowSink, decided: &mut Decided, now_ms: u64) {
        let Upcall { worker, key, packet } = upcall;
        let name = (worker, *key.words());
        if decided.contains_key(&name) {
            bump(&self.counters.deduplicated);
        } else {
            let translation = translate(&self.bridges, &key);
            if self.learn(&translation, now_ms) {
                decided.clear();
            }
            let decision = Decision {
                actions: translation.actions.clone(),
                drop_reason: translation.drop_reason,
                rules: translation.rules.clone(),
            };
            self.install(worker, &key, translation, sink, now_ms);
            decided.insert(name, decision);
        }
        let Some(decision) = decided.get(&name) else { return };
        for rule in &decision.rules {
            rule.stats.credit(1, packet.len() as u64, now_ms);
        }
        // After the install: a worker that has carried this packet out knows the flow of the next.
        sink.execute(packet, PortNo(key.in_port), decision.actions.clone(), decision.drop_reason);
    }

    /// Follows a translation's recommendations; true if a lookup may now have another answer.
    fn learn(&self, translation: &Translation, now_ms: u64) -> bool {
        let mut changed = false;
        for learn in &translation.learns {
            let learned = self.bridges.learn(learn, translation.epoch, now_ms);
            changed |= matches!(learned, Some(Learned::New | Learned::Moved(_)));
        }
        changed
    }

    fn install(
        &mut self,
        worker: u16,
        key: &flowtable::key::FlowKey,
        translation: Translation,
        sink: &dyn FlowSink,
        now_ms: u64,
    ) {
        if !translation.cacheable {
            return;
        }
        let flow = Arc::new(Megaflow {
            key: translation.mask.apply(key),
            mask: translation.mask,
            actions: translation.actions.clone(),
            drop_reason: translation.drop_reason,
            stats: FlowStats::default(),
        });
        if let Some(id) = self.registry.find(worker, &flow) {
            self.missed_again(id, flow, translation, sink, now_ms);
            return;
        }
        if !self.limits.admit(self.registry.of_port(key.in_port), self.registry.len()) {
            bump(&self.counters.limit_hits);
            return;
        }
        self.registry.insert(Installed::new(worker, flow.clone(), translation, now_ms));
        bump(&self.counters.installed);
        self.count_flows();
        sink.install(flow);
    }

    /// A packet came up though its flow is installed: usually it was on its way before.
    fn missed_again(
        &mut self,
        id: u32,
        flow: Arc<Megaflow>,
        translation: Translation,
        sink: &dyn FlowSink,
        now_ms: u64,
    ) {
        let Some(installed) = self.registry.get_mut(id) else { return };
        if !translation.same_fate(&installed.flow.actions, installed.flow.drop_reason) {
            let worker = installed.worker;
            let new = Installed::new(worker, flow.clone(), translation, now_ms);
            self.leaving.extend(self.registry.replace(id, new));
            bump(&self.counters.replaced);
            sink.install(flow);
        } else if now_ms.saturating_sub(installed.installed_ms) >= REINSTALL_MS {
            installed.installed_ms = now_ms;
            sink.install(installed.flow.clone());
        }
    }
}

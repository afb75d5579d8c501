//! Deciding about packets.

use std::sync::Arc;

use flowtable::actions::ActionList;
use flowtable::key::{FlowKey, KEY_WORDS, PortNo};
use flowtable::rules::Rule;
use flowtable::seeded::SeededMap;
use pmd::port::DropReason;

use super::engine::{Engine, bump};
use super::registry::Installed;
use crate::bridge::Learned;
use crate::datapath::{FlowSink, Megaflow, Upcall};
use crate::translate::{Translation, translate};

/// A megaflow that still misses this long after it was installed is not on its worker: it is installed again.
const REINSTALL_MS: u64 = 1000;

/// Decisions of one batch, so that packets of one flow are decided once. Forgotten when an address was learned,
/// for that may change the next decision.
pub(super) type Decided = SeededMap<(u16, [u64; KEY_WORDS]), Decision>;

/// What is to be done with packets of one flow.
pub(super) struct Decision {
    actions: ActionList,
    drop_reason: DropReason,
    rule: Option<Arc<Rule>>,
}

/// The worker of the upcalls before, so that a batch from one worker looks for it once.
type Sink = Option<(u16, Arc<dyn FlowSink>)>;

impl Engine {
    /// Decides about a batch in order of arrival: the queue before it serves ports in turn.
    pub(super) fn handle(&mut self, batch: &mut Vec<Upcall>) {
        if batch.is_empty() {
            return;
        }
        let now_ms = self.now_ms();
        let mut decided = std::mem::take(&mut self.decided);
        let mut sink: Sink = None;
        for upcall in batch.drain(..) {
            bump(&self.counters.upcalls);
            if sink.as_ref().is_none_or(|(worker, _)| *worker != upcall.worker) {
                sink = self.sinks.get(upcall.worker).map(|sink| (upcall.worker, sink));
            }
            match &sink {
                Some((_, sink)) => self.decide(upcall, &**sink, &mut decided, now_ms),
                None => bump(&self.counters.orphaned),
            }
        }
        decided.clear();
        self.decided = decided;
        self.follow_mac_changes();
    }

    fn decide(&mut self, upcall: Upcall, sink: &dyn FlowSink, decided: &mut Decided, now_ms: u64) {
        let Upcall { worker, key, packet } = upcall;
        let (in_port, bytes) = (PortNo(key.in_port), packet.len() as u64);
        let name = (worker, *key.words());
        if let Some(decision) = decided.get(&name) {
            bump(&self.counters.deduplicated);
            if let Some(rule) = &decision.rule {
                rule.stats.credit(1, bytes, now_ms);
            }
            sink.execute(packet, in_port, decision.actions.clone(), decision.drop_reason);
            return;
        }
        let translation = translate(&self.bridges, &key);
        if self.learn(&translation, now_ms) {
            decided.clear();
        }
        if let Some(rule) = &translation.rule {
            rule.stats.credit(1, bytes, now_ms);
        }
        let decision = Decision {
            actions: translation.actions.clone(),
            drop_reason: translation.drop_reason,
            rule: translation.rule.clone(),
        };
        match self.install(worker, &key, translation, now_ms) {
            // Together: a worker that has carried this packet out knows the flow of the next.
            Some(flow) => sink.install_for(flow, packet, in_port),
            None => sink.execute(packet, in_port, decision.actions.clone(), decision.drop_reason),
        }
        decided.insert(name, decision);
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

    /// Enters a megaflow. Returns it if the worker is to be told of it.
    fn install(
        &mut self,
        worker: u16,
        key: &FlowKey,
        translation: Translation,
        now_ms: u64,
    ) -> Option<Arc<Megaflow>> {
        if !translation.cacheable {
            return None;
        }
        let flow = Arc::new(Megaflow::new(
            worker,
            key,
            &translation.mask,
            translation.actions.clone(),
            translation.drop_reason,
        ));
        if let Some(id) = self.registry.find(worker, &flow) {
            return self.missed_again(id, flow, translation, now_ms);
        }
        if !self.limits.admit(self.registry.of_port(key.in_port), self.registry.len()) {
            bump(&self.counters.limit_hits);
            return None;
        }
        self.registry.insert(Installed::new(worker, flow.clone(), translation, now_ms));
        bump(&self.counters.installed);
        self.count_flows();
        Some(flow)
    }

    /// A packet came up though its flow is installed: usually it was on its way before. Returns a flow to install again.
    fn missed_again(
        &mut self,
        id: u32,
        flow: Arc<Megaflow>,
        translation: Translation,
        now_ms: u64,
    ) -> Option<Arc<Megaflow>> {
        let installed = self.registry.get_mut(id)?;
        if !translation.same_fate(&installed.flow.actions, installed.flow.drop_reason) {
            let worker = installed.worker;
            let new = Installed::new(worker, flow.clone(), translation, now_ms);
            self.leaving.extend(self.registry.replace(id, new));
            bump(&self.counters.replaced);
            return Some(flow);
        }
        if now_ms.saturating_sub(installed.installed_ms) < REINSTALL_MS {
            return None;
        }
        installed.installed_ms = now_ms;
        Some(installed.flow.clone())
    }
}

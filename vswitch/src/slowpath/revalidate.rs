//! Keeping megaflows true: passes over all of them, and quick looks at those an address change concerns.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::engine::{Engine, Pass, bump};
use super::registry::{FlowId, Installed};
use crate::bridge::State;
use crate::datapath::Megaflow;
use crate::translate::{Translation, translate_in};

/// Megaflows looked at between two batches of upcalls.
pub(super) const SLICE: usize = 512;

/// The same while upcalls come faster than they are served: packets wait meanwhile, and megaflows are true for the time
/// being. A look costs about half of what an upcall does, so a full batch is held up by a tenth at most.
pub(super) const CROWDED_SLICE: usize = 48;

/// How many megaflows ahead a pass asks for what it will look at. Each takes some nanoseconds once it is there, and a hundred to come.
const AHEAD: FlowId = 16;

impl Engine {
    /// Does a slice of what is due: that many megaflows. False when nothing is left to do now.
    pub(super) fn revalidate_some(&mut self, slice: usize) -> bool {
        let mut budget = slice;
        while budget > 0
            && let Some(id) = self.dirty.pop_front()
        {
            self.look_again(id);
            budget -= 1;
        }
        let now_ms = self.now_ms();
        if self.pass.is_none() && self.is_pass_due(now_ms) {
            self.begin_pass(now_ms);
        }
        // At least something, or endless address changes would keep a pass from ever ending.
        self.continue_pass(budget.max(slice / 4));
        !self.dirty.is_empty() || self.pass.is_some() || self.is_pass_due(now_ms)
    }

    /// Asks for a pass that begins after now. [`Engine::has_passed`] knows the ticket when it has ended: then every
    /// megaflow agrees with the bridges as they were when this was called, or later.
    pub(super) fn ask_for_pass(&mut self) -> u64 {
        self.wanted = self.begun + 1;
        self.wanted
    }

    /// Whether the pass of a ticket has ended.
    pub(super) fn has_passed(&self, ticket: u64) -> bool {
        self.ended >= ticket
    }

    /// How long nothing is due if nothing happens.
    pub(super) fn idle_for(&self) -> Duration {
        Duration::from_millis(self.next_pass_ms.saturating_sub(self.now_ms()))
    }

    /// Finds the megaflows that a changed address concerns.
    pub(super) fn follow_mac_changes(&mut self) {
        let mut changes = std::mem::take(&mut self.mac_changes);
        self.bridges.take_mac_changes(&mut changes);
        for changed in changes.drain(..) {
            let (bridge, change) = (changed.bridge, changed.change);
            let concerned: Vec<FlowId> = self.registry.lookers(bridge, change.key).collect();
            for id in concerned {
                self.mark_dirty(id);
            }
            // Two ports that claim one address would undo each other's flows with every frame; then the pass decides.
            if change.port.is_none() || change.flapping {
                continue;
            }
            let stale: Vec<FlowId> = self
                .registry
                .senders(bridge, change.key)
                .filter(|&id| self.learned_elsewhere(id, &change))
                .collect();
            for id in stale {
                self.remove(id, |counters| &counters.invalidated);
            }
        }
        self.mac_changes = changes;
    }

    fn learned_elsewhere(&self, id: FlowId, change: &crate::bridge::MacChange) -> bool {
        self.registry.get(id).is_some_and(|installed| {
            installed.learns.iter().any(|learn| learn.key == change.key && Some(learn.port) != change.port)
        })
    }

    fn mark_dirty(&mut self, id: FlowId) {
        if let Some(installed) = self.registry.get_mut(id)
            && !std::mem::replace(&mut installed.dirty, true)
        {
            self.dirty.push_back(id);
        }
    }

    fn is_pass_due(&self, now_ms: u64) -> bool {
        now_ms >= self.next_pass_ms || self.wanted > self.begun || self.bridges.epoch() != self.checked_epoch
    }

    fn begin_pass(&mut self, now_ms: u64) {
        let idle_ms = self.limits.idle_ms_at(self.registry.len());
        self.begun += 1;
        self.checked_epoch = self.bridges.epoch();
        self.pass = Some(Pass { next: 0, started_ms: now_ms, idle_ms });
    }

    fn continue_pass(&mut self, budget: usize) {
        let Some(mut pass) = self.pass.take() else { return };
        let now_ms = self.now_ms();
        let end = self.registry.slots();
        let budget = FlowId::try_from(budget).unwrap_or(FlowId::MAX);
        let stop = end.min(pass.next.saturating_add(budget));
        for id in pass.next..stop {
            self.registry.prefetch(id.saturating_add(AHEAD));
            self.look_over(id, pass.idle_ms, now_ms);
        }
        pass.next = stop;
        if stop < end {
            self.pass = Some(pass);
        } else {
            self.end_pass(&pass, now_ms);
        }
    }

    fn end_pass(&mut self, pass: &Pass, now_ms: u64) {
        for mut gone in self.leaving.drain(..) {
            gone.credit_rule();
        }
        // After the credits, which tell who is still there. A rule that goes takes an epoch, and so causes a pass.
        self.bridges.expire_rules(now_ms);
        self.bridges.expire_macs(now_ms);
        self.follow_mac_changes();
        self.ended = self.begun;
        self.next_pass_ms = now_ms + self.limits.pass_ms;
        bump(&self.counters.passes);
        self.counters.last_pass_ms.store(now_ms.saturating_sub(pass.started_ms), Relaxed);
    }

    /// The work of a pass on one megaflow: credit, expiry, agreement.
    fn look_over(&mut self, id: FlowId, idle_ms: u64, now_ms: u64) {
        let Some(installed) = self.registry.get_mut(id) else { return };
        let hit = installed.credit_rule();
        if now_ms.saturating_sub(installed.used_ms()) >= idle_ms {
            self.remove(id, |counters| &counters.idled);
            return;
        }
        // A dirty flow will be looked at anyway, but whoever waits for this pass wants it to agree now.
        if installed.dirty || !self.is_current(id) {
            self.translate_again(id);
        }
        let Some(installed) = self.registry.get(id).filter(|_| hit) else { return };
        for learn in &installed.learns {
            self.bridges.refresh(learn, installed.epoch, installed.heard_ms());
        }
    }

    /// The work on a megaflow that an address change concerns.
    fn look_again(&mut self, id: FlowId) {
        // The id may have gone to another flow meanwhile; then it is that flow's luck.
        if let Some(installed) = self.registry.get_mut(id) {
            installed.dirty = false;
            installed.credit_rule();
            self.translate_again(id);
        }
    }

    /// Whether the bridge of a megaflow is still as it was, so that only addresses can have changed. If so, the flow is
    /// marked as checked.
    fn is_current(&mut self, id: FlowId) -> bool {
        let Some(installed) = self.registry.get_mut(id) else { return true };
        let state = self.bridges.read();
        if installed.epoch == state.epoch() {
            return true;
        }
        let now_on = state.port(flowtable::key::PortNo(installed.in_port));
        let same = match (installed.bridge, now_on) {
            (None, None) => true,
            (Some(then), Some((now, _))) => then == now.id && now.is_as_at(installed.epoch, installed.floods),
            _ => false,
        };
        if same {
            installed.epoch = state.epoch();
        }
        same
    }

    fn translate_again(&mut self, id: FlowId) {
        let Some(installed) = self.registry.get(id) else { return };
        bump(&self.counters.retranslated);
        let translation = {
            let state: &State = &self.bridges.read();
            translate_in(state, &installed.flow.key())
        };
        // Bits that now count but did not before are not known of the flow's packets: they must come up again.
        if !translation.cacheable || !translation.mask.is_subset_of(&installed.flow.mask()) {
            self.remove(id, |counters| &counters.invalidated);
        } else if translation.same_fate(&installed.flow.actions, installed.flow.drop_reason) {
            self.registry.relink(id, translation);
        } else {
            self.replace(id, translation);
        }
    }

    /// Gives a megaflow other actions without a moment in which its packets miss.
    fn replace(&mut self, id: FlowId, translation: Translation) {
        let Some(old) = self.registry.get(id) else { return };
        let flow = Arc::new(Megaflow::new(
            old.worker,
            &old.flow.key(),
            &old.flow.mask(),
            translation.actions.clone(),
            translation.drop_reason,
        ));
        let (worker, used_ms) = (old.worker, old.used_ms());
        let new = Installed::new(worker, flow.clone(), translation, used_ms);
        self.leaving.extend(self.registry.replace(id, new));
        bump(&self.counters.replaced);
        if let Some(sink) = self.sinks.get(worker) {
            sink.install(flow);
        }
    }
}

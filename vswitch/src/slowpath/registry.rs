//! Which megaflows are installed where, and what each depends on.
//!
//! A slab of flows with three ways in: by worker, key and mask; by an address the flow looked up; by an address it
//! was learned from. All O(1) per flow. About 1 KiB per flow with its megaflow.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use flowtable::rules::Rule;
use flowtable::seeded::{SeededMap, SeededState};
use flowtable::simd::prefetch;

use crate::bridge::{BridgeId, Learn, MacKey};
use crate::datapath::{FlowStats, Megaflow};
use crate::translate::Translation;

/// Place of a flow in the registry. Given again after the flow has gone.
pub(super) type FlowId = u32;

/// An installed megaflow.
pub(super) struct Installed {
    pub(super) worker: u16,
    /// In the queue of flows to translate again.
    pub(super) dirty: bool,
    /// Its actions depend on which ports take part in floods.
    pub(super) floods: bool,
    /// Datapath port its packets come in by.
    pub(super) in_port: u32,
    pub(super) flow: Arc<Megaflow>,
    /// Those of the flow, without the way through it: a pass over all flows looks at little else.
    stats: &'static FlowStats,
    pub(super) bridge: Option<BridgeId>,
    /// State of the bridges the actions agree with.
    pub(super) epoch: u64,
    pub(super) rule: Option<Arc<Rule>>,
    pub(super) learns: Vec<Learn>,
    pub(super) lookups: Vec<MacKey>,
    pub(super) installed_ms: u64,
    /// Hits already credited.
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

impl Installed {
    pub(super) fn new(worker: u16, flow: Arc<Megaflow>, made_of: Translation, now_ms: u64) -> Installed {
        Installed {
            worker,
            dirty: false,
            floods: made_of.floods,
            in_port: flow.key().in_port,
            stats: flow.stats.stats(),
            flow,
            bridge: made_of.bridge,
            epoch: made_of.epoch,
            rule: made_of.rule,
            learns: made_of.learns,
            lookups: made_of.lookups,
            installed_ms: now_ms,
            packets: 0,
            bytes: 0,
        }
    }

    /// When the flow was last of use.
    pub(super) fn used_ms(&self) -> u64 {
        self.stats.used_ms().max(self.installed_ms)
    }

    /// When its latest packet came; zero if none did.
    pub(super) fn heard_ms(&self) -> u64 {
        self.stats.used_ms()
    }

    /// Credits hits since the last time to the rule; true if there were any.
    pub(super) fn credit_rule(&mut self) -> bool {
        let stats = self.stats;
        let (packets, bytes) = (stats.packets(), stats.bytes());
        if packets == self.packets {
            return false;
        }
        let (new_packets, new_bytes) = (packets.wrapping_sub(self.packets), bytes.wrapping_sub(self.bytes));
        if let Some(rule) = &self.rule {
            rule.stats.credit(new_packets, new_bytes, stats.used_ms());
        }
        (self.packets, self.bytes) = (packets, bytes);
        true
    }

    /// Asks for what [`Installed::credit_rule`] will look at.
    fn prefetch(&self) {
        prefetch(self.stats);
        if let Some(rule) = &self.rule {
            prefetch(&rule.stats);
        }
    }
}

/// What a flow is found by: worker, key and mask. With its hash, so that a table that grows need not look at every flow again.
struct FlowName {
    hash: u64,
    worker: u16,
    flow: Arc<Megaflow>,
}

impl Hash for FlowName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl PartialEq for FlowName {
    fn eq(&self, other: &FlowName) -> bool {
        self.hash == other.hash && self.worker == other.worker && self.flow.same_match(&other.flow)
    }
}

impl Eq for FlowName {}

/// An address on a bridge.
type Address = (BridgeId, MacKey);

/// The flows of one address. Most addresses have one, which then needs no set.
enum Flows {
    One(FlowId),
    Many(HashSet<FlowId, SeededState>),
}

impl Flows {
    fn iter(&self) -> impl Iterator<Item = FlowId> + '_ {
        let (one, many) = match self {
            Flows::One(id) => (Some(*id), None),
            Flows::Many(ids) => (None, Some(ids)),
        };
        one.into_iter().chain(many.into_iter().flatten().copied())
    }

    fn insert(&mut self, id: FlowId) {
        match self {
            Flows::One(other) if *other == id => {}
            Flows::One(other) => *self = Flows::Many([*other, id].into_iter().collect()),
            Flows::Many(ids) => {
                ids.insert(id);
            }
        }
    }

    /// Takes a flow out; true when none is left.
    fn remove(&mut self, id: FlowId) -> bool {
        match self {
            Flows::One(other) => *other == id,
            Flows::Many(ids) => {
                ids.remove(&id);
                ids.is_empty()
            }
        }
    }
}

/// All installed megaflows.
#[derive(Default)]
pub(super) struct Registry {
    slots: Vec<Option<Installed>>,
    free: Vec<FlowId>,
    names: SeededMap<FlowName, FlowId>,
    /// For the hashes in names.
    seed: SeededState,
    lookers: SeededMap<Address, Flows>,
    senders: SeededMap<Address, Flows>,
    /// Flows by port of arrival.
    of_port: SeededMap<u32, usize>,
}

impl Registry {
    /// Flows installed.
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// Flows whose packets come in by a datapath port.
    pub(super) fn of_port(&self, in_port: u32) -> usize {
        self.of_port.get(&in_port).copied().unwrap_or(0)
    }

    /// Upper bound of the ids in use.
    pub(super) fn slots(&self) -> FlowId {
        self.slots.len() as FlowId
    }

    pub(super) fn get(&self, id: FlowId) -> Option<&Installed> {
        self.slots.get(id as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: FlowId) -> Option<&mut Installed> {
        self.slots.get_mut(id as usize)?.as_mut()
    }

    /// Asks for what a pass will look at of a flow, if there is one.
    pub(super) fn prefetch(&self, id: FlowId) {
        if let Some(installed) = self.get(id) {
            installed.prefetch();
        }
    }

    fn name(&self, worker: u16, flow: &Arc<Megaflow>) -> FlowName {
        let hash = self.seed.hash_one((worker, flow.key_words()));
        FlowName { hash, worker, flow: flow.clone() }
    }

    /// The flow with the key and mask of `flow` on a worker.
    pub(super) fn find(&self, worker: u16, flow: &Arc<Megaflow>) -> Option<FlowId> {
        self.names.get(&self.name(worker, flow)).copied()
    }

    /// Adds a flow whose name no other flow has.
    pub(super) fn insert(&mut self, installed: Installed) -> FlowId {
        let id = self.free.pop().unwrap_or_else(|| self.slots());
        let name = self.name(installed.worker, &installed.flow);
        self.names.insert(name, id);
        *self.of_port.entry(installed.in_port).or_default() += 1;
        self.link(id, &installed);
        match self.slots.get_mut(id as usize) {
            Some(slot) => *slot = Some(installed),
            None => self.slots.push(Some(installed)),
        }
        id
    }

    /// Takes a flow out.
    pub(super) fn remove(&mut self, id: FlowId) -> Option<Installed> {
        let installed = self.slots.get_mut(id as usize)?.take()?;
        let name = self.name(installed.worker, &installed.flow);
        self.names.remove(&name);
        self.unlink(id, &installed);
        self.forget_port_of(&installed);
        self.free.push(id);
        Some(installed)
    }

    /// Puts a flow in the place of one of the same worker, key and mask, and returns that.
    pub(super) fn replace(&mut self, id: FlowId, installed: Installed) -> Option<Installed> {
        let old = self.slots.get_mut(id as usize)?.take()?;
        // The name holds the flow, so it changes too, or the old flow would live on in it.
        let name = self.name(old.worker, &old.flow);
        self.names.remove(&name);
        let name = self.name(installed.worker, &installed.flow);
        self.names.insert(name, id);
        let moved = old.bridge != installed.bridge
            || old.lookups != installed.lookups
            || old.learns != installed.learns;
        if moved {
            self.unlink(id, &old);
            self.link(id, &installed);
        }
        if let Some(slot) = self.slots.get_mut(id as usize) {
            *slot = Some(installed);
        }
        Some(old)
    }

    /// Notes what a flow depends on now.
    pub(super) fn relink(&mut self, id: FlowId, made_of: Translation) {
        let Some(mut installed) = self.slots.get_mut(id as usize).and_then(Option::take) else { return };
        let moved = installed.bridge != made_of.bridge
            || installed.lookups != made_of.lookups
            || installed.learns != made_of.learns;
        if moved {
            self.unlink(id, &installed);
        }
        installed.bridge = made_of.bridge;
        installed.epoch = made_of.epoch;
        installed.floods = made_of.floods;
        installed.rule = made_of.rule;
        installed.lookups = made_of.lookups;
        installed.learns = made_of.learns;
        if moved {
            self.link(id, &installed);
        }
        if let Some(slot) = self.slots.get_mut(id as usize) {
            *slot = Some(installed);
        }
    }

    /// Flows that looked an address up.
    pub(super) fn lookers(&self, bridge: BridgeId, key: MacKey) -> impl Iterator<Item = FlowId> + '_ {
        self.lookers.get(&(bridge, key)).into_iter().flat_map(Flows::iter)
    }

    /// Flows whose packets come from an address.
    pub(super) fn senders(&self, bridge: BridgeId, key: MacKey) -> impl Iterator<Item = FlowId> + '_ {
        self.senders.get(&(bridge, key)).into_iter().flat_map(Flows::iter)
    }

    /// All flows.
    pub(super) fn iter(&self) -> impl Iterator<Item = (FlowId, &Installed)> {
        (0..).zip(&self.slots).filter_map(|(id, slot)| Some((id, slot.as_ref()?)))
    }

    fn forget_port_of(&mut self, installed: &Installed) {
        let in_port = installed.in_port;
        match self.of_port.get_mut(&in_port) {
            Some(flows) if *flows > 1 => *flows -= 1,
            _ => drop(self.of_port.remove(&in_port)),
        }
    }

    fn link(&mut self, id: FlowId, installed: &Installed) {
        for address in looked_up(installed) {
            link_one(&mut self.lookers, address, id);
        }
        for learn in &installed.learns {
            link_one(&mut self.senders, (learn.bridge, learn.key), id);
        }
    }

    fn unlink(&mut self, id: FlowId, installed: &Installed) {
        for address in looked_up(installed) {
            unlink_one(&mut self.lookers, &address, id);
        }
        for learn in &installed.learns {
            unlink_one(&mut self.senders, &(learn.bridge, learn.key), id);
        }
    }
}

fn looked_up(installed: &Installed) -> impl Iterator<Item = Address> + '_ {
    installed.bridge.into_iter().flat_map(|bridge| installed.lookups.iter().map(move |&key| (bridge, key)))
}

fn link_one(index: &mut SeededMap<Address, Flows>, address: Address, id: FlowId) {
    index.entry(address).and_modify(|flows| flows.insert(id)).or_insert(Flows::One(id));
}

fn unlink_one(index: &mut SeededMap<Address, Flows>, address: &Address, id: FlowId) {
    if index.get_mut(address).is_some_and(|flows| flows.remove(id)) {
        index.remove(address);
    }
}

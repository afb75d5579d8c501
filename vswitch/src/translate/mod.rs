//! From a packet's key to what shall happen to it, and to which other packets the same happens.
//!
//! ```text
//!  key ─▶ port, bridge ─▶ rule table ─▶ actions of the rule ─▶ datapath actions
//!                              │               │
//!                              └──── mask ◀────┘   every bit that was looked at
//! ```
//!
//! THE invariant: a packet that agrees with the first one in every bit of the mask gets the same actions. It holds
//! because every look at the packet adds the bits it saw to the mask, and because what
//! a rule has overwritten is a constant that need not be looked at.
//!
//! Header changes are lazy, as in Open vSwitch: they gather until an output needs them, so a change that nobody
//! sees costs nothing. Unlike there, a field that a rule sets is not matched for that: it is set for all packets.
//!
//! Nothing here writes: learning is a recommendation ([`Translation::learns`]) that the slow path follows.

mod fields;
mod normal;
mod output;
mod tags;
mod walk;

use std::sync::Arc;

use flowtable::actions::ActionList;
use flowtable::key::{FlowKey, FlowMask};
use flowtable::rules::Rule;
use pmd::port::DropReason;

use crate::bridge::{BridgeId, Bridges, Learn, MacKey, State};
use walk::Walk;

/// The fate of a packet and its like.
#[derive(Debug)]
pub struct Translation {
    /// What to do; empty means drop.
    pub actions: ActionList,
    /// The bits that decided. A packet equal in them gets the same actions.
    pub mask: FlowMask,
    /// Reason to count when `actions` is empty.
    pub drop_reason: DropReason,
    /// The bridge of the port of arrival, if it is on one.
    pub bridge: Option<BridgeId>,
    /// State of the bridges this was computed from: [`Bridges::epoch`] at that moment.
    pub epoch: u64,
    /// Rule whose counters the packets count for; there is one table, so there is one at most.
    pub rule: Option<Arc<Rule>>,
    /// Senders to learn.
    pub learns: Vec<Learn>,
    /// Addresses that were looked up on `bridge`; a change of one can change the actions.
    pub lookups: Vec<MacKey>,
    /// Whether it is a flood, or one was among the actions: which ports take part in floods decided.
    pub floods: bool,
    /// Whether a megaflow may be installed.
    pub cacheable: bool,
}

impl Translation {
    /// Whether two translations do the same to packets.
    pub fn same_fate(&self, actions: &ActionList, drop_reason: DropReason) -> bool {
        self.actions == *actions && (!actions.is_drop() || self.drop_reason == drop_reason)
    }
}

/// Decides about a packet by the state of the bridges now. `key.in_port` is a datapath number.
pub fn translate(bridges: &Bridges, key: &FlowKey) -> Translation {
    translate_in(&bridges.read(), key)
}

/// [`translate`], with the lock already taken.
pub(crate) fn translate_in(state: &State, key: &FlowKey) -> Translation {
    let Some((bridge, in_port)) = state.port(flowtable::key::PortNo(key.in_port)) else {
        return Translation {
            actions: ActionList::drop_all(),
            mask: FlowMask::EXACT_BASE,
            drop_reason: DropReason::UpcallNoBridge,
            bridge: None,
            epoch: state.epoch(),
            rule: None,
            learns: Vec::new(),
            lookups: Vec::new(),
            floods: false,
            // The port is on its way out, and its number may go to another, whose packets must find no flow of this one.
            cacheable: false,
        };
    };
    let mut walk = Walk::new(bridge, in_port, key);
    walk.run();
    walk.finish(state.epoch())
}

#[cfg(test)]
mod tests;

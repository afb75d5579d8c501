//! One packet's walk through its bridge.

use std::sync::Arc;

use flowtable::actions::{Action, ActionList};
use flowtable::key::{Field, FlowKey, FlowMask, VLAN_PRESENT};
use flowtable::rules::{OFPORT_LOCAL, Rule, RuleAction};
use pmd::port::DropReason;

use super::Translation;
use super::fields::Fields;
use super::tags::Tags;
use crate::bridge::{Bridge, BridgePort, Learn, MacKey};

/// State of the walk.
pub(super) struct Walk<'a> {
    pub(super) bridge: &'a Bridge,
    pub(super) in_port: &'a BridgePort,
    pub(super) key: &'a FlowKey,
    /// Bits looked at.
    pub(super) mask: FlowMask,
    /// Header fields behind the tags, as the actions so far made them.
    pub(super) fields: Fields,
    /// Tags, as the actions so far made them.
    pub(super) tags: Tags,
    pub(super) actions: Vec<Action>,
    pub(super) drop_reason: DropReason,
    pub(super) learns: Vec<Learn>,
    pub(super) lookups: Vec<MacKey>,
    pub(super) floods: bool,
    rule: Option<Arc<Rule>>,
}

/// Whether the walk goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Next,
    Stop,
}

impl<'a> Walk<'a> {
    pub(super) fn new(bridge: &'a Bridge, in_port: &'a BridgePort, key: &'a FlowKey) -> Walk<'a> {
        Walk {
            bridge,
            in_port,
            key,
            mask: FlowMask::EXACT_BASE,
            fields: Fields::new(key),
            tags: Tags::default(),
            actions: Vec::new(),
            drop_reason: DropReason::NoOutput,
            learns: Vec::new(),
            lookups: Vec::new(),
            floods: false,
            rule: None,
        }
    }

    /// Finds the rule and does what it says.
    pub(super) fn run(&mut self) {
        // Rules know ports by their OpenFlow numbers. The port is always matched, so nothing is lost.
        let mut rule_key = *self.key;
        rule_key.in_port = u32::from(self.in_port.ofport);
        let bridge = self.bridge;
        let Some(rule) = bridge.rules.lookup(&rule_key, &mut self.mask) else { return };
        self.rule = Some(rule.clone());
        for action in &rule.actions {
            if self.step(action) == Step::Stop {
                break;
            }
        }
    }

    pub(super) fn finish(mut self, epoch: u64) -> Translation {
        // A match on bits of a tag is a match on there being one: the text form cannot say anything else.
        for tci in [Field::VlanTci, Field::Vlan2Tci] {
            if tci.get_mask(&self.mask) != 0 {
                self.mask.add_bits(tci, u128::from(VLAN_PRESENT));
            }
        }
        Translation {
            actions: ActionList::new(self.actions),
            mask: self.mask,
            drop_reason: self.drop_reason,
            bridge: Some(self.bridge.id),
            epoch,
            rule: self.rule,
            learns: self.learns,
            lookups: self.lookups,
            floods: self.floods,
            cacheable: true,
        }
    }

    fn step(&mut self, action: &RuleAction) -> Step {
        match action {
            RuleAction::Output { port, max_len } => self.output(*port, *max_len),
            RuleAction::Local => self.output(OFPORT_LOCAL, None),
            RuleAction::InPort => self.output_in_port(),
            RuleAction::Normal => self.normal(),
            RuleAction::Flood => self.output_all(false),
            RuleAction::All => self.output_all(true),
            RuleAction::SetField(set) => self.set_field(set),
            RuleAction::PushVlan(tpid) => self.tags.push(*tpid, 0),
            RuleAction::PopVlan => {
                self.tags.pop(self.key, &mut self.mask);
            }
            RuleAction::SetVlanVid(vid) => {
                self.tags.set_bits(self.key, &mut self.mask, *vid, super::tags::VID_BITS);
            }
            RuleAction::SetVlanPcp(pcp) => {
                let bits = u16::from(*pcp) << super::tags::PCP_SHIFT;
                self.tags.set_bits(self.key, &mut self.mask, bits, super::tags::PCP_BITS);
            }
            RuleAction::DecTtl => return self.dec_ttl(),
        }
        Step::Next
    }

    fn dec_ttl(&mut self) -> Step {
        if !self.has_field(Field::IpTtl) {
            return Step::Next;
        }
        match self.fields.look(Field::IpTtl, &mut self.mask) {
            0 | 1 => Step::Stop,
            ttl => {
                self.fields.set(Field::IpTtl, ttl - 1, Field::IpTtl.ones());
                Step::Next
            }
        }
    }
}

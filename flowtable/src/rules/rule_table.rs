//! One numbered table of rules.

use std::sync::Arc;

use super::Rule;
use crate::key::{FlowKey, FlowMask, FlowMatch};

/// Which rules a request is about. The default is every rule.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RuleFilter {
    /// Rules that match only packets of this match; with `strict`, exactly this match.
    pub flow_match: FlowMatch,
    /// Compared only by a strict request.
    pub priority: Option<u16>,
    /// Wanted cookie bits.
    pub cookie: u64,
    /// Which cookie bits count.
    pub cookie_mask: u64,
    /// Only rules with an output to this OpenFlow port.
    pub out_port: Option<u16>,
    /// Only this table.
    pub table_id: Option<u8>,
}

impl RuleFilter {
    /// Whether `rule` is meant.
    pub fn selects(&self, rule: &Rule, strict: bool) -> bool {
        let same_match = if strict {
            rule.flow_match == self.flow_match
                && rule.priority == self.priority.unwrap_or(super::DEFAULT_PRIORITY)
        } else {
            rule.flow_match.is_within(&self.flow_match)
        };
        same_match
            && (rule.cookie ^ self.cookie) & self.cookie_mask == 0
            && self.table_id.is_none_or(|table| table == rule.table_id)
            && self.out_port.is_none_or(|port| rule.actions.iter().any(|action| action.outputs_to(port)))
    }
}

/// The rules of one table.
#[derive(Default)]
pub struct RuleTable {
    /// Highest priority first; among equals, the older first.
    rules: Vec<Arc<Rule>>,
}

impl RuleTable {
    /// A table without rules.
    pub fn new() -> RuleTable {
        RuleTable::default()
    }

    /// Number of rules.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// All rules, highest priority first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules.iter()
    }

    /// Adds a rule and returns the one of the same priority and match that it replaces.
    pub fn add(&mut self, rule: Rule) -> Option<Arc<Rule>> {
        let rule = Arc::new(rule);
        let same = |old: &Arc<Rule>| old.priority == rule.priority && old.flow_match == rule.flow_match;
        if let Some(slot) = self.rules.iter_mut().find(|old| same(old)) {
            return Some(std::mem::replace(slot, rule));
        }
        let at = self.rules.partition_point(|old| old.priority >= rule.priority);
        self.rules.insert(at, rule);
        None
    }

    /// Removes the rules `filter` selects and returns them.
    pub fn delete(&mut self, filter: &RuleFilter, strict: bool) -> Vec<Arc<Rule>> {
        self.rules.extract_if(.., |rule| filter.selects(rule, strict)).collect()
    }

    /// Removes the rules whose timeout has passed and returns them.
    pub fn expire(&mut self, now_ms: u64) -> Vec<Arc<Rule>> {
        self.rules.extract_if(.., |rule| rule.is_expired(now_ms)).collect()
    }

    /// The rule of highest priority that `key` matches. Adds to `wildcards` the bits that were looked at: any
    /// key that agrees in those bits finds the same rule.
    pub fn lookup(&self, key: &FlowKey, wildcards: &mut FlowMask) -> Option<&Arc<Rule>> {
        self.rules.iter().find(|rule| {
            for (mask, bits) in wildcards.words_mut().iter_mut().zip(rule.flow_match.mask().words()) {
                *mask |= bits;
            }
            rule.flow_match.matches(key)
        })
    }
}

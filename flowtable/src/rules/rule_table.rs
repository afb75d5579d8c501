//! One numbered table of rules: a tuple-space classifier that keeps megaflows wide.
//!
//! Rules of one mask share a subtable, and a lookup asks the subtables, most important first, until no rule left
//! could beat the best one found. (Rules that overlap at one priority are undefined in OpenFlow; here one of them is
//! picked, always the same one until the table changes.)
//!
//! What the lookup looked at becomes the mask of the megaflow, so it looks at as little as it can: it does not ask
//! subtables that no longer matter, it stops within a subtable at the stage that excludes all its rules (metadata,
//! L2, L3, L4), and of an address or port it uses only the leading bits that exclude all values wanted.
//!
//! Invariant: two keys that agree in the bits a lookup of one of them added to the mask find the same rule, and add
//! the same bits. (The second half lets revalidation translate any key of a megaflow and compare masks.)
//!
//! Cost: a few hash look-ups per mask among the rules, once per upcall; nothing here is on the per-packet path. Adding
//! and removing a rule cost the same, and a pass over the masks. Not for use by several threads at once; counters in
//! a [`Rule`] are.

use std::{
    cmp::{Ordering, Reverse},
    sync::Arc,
};

use super::{Rule, RuleFilter, subtable::Subtable};
use crate::key::{FlowKey, FlowMask};

/// Numbered tables that a bridge has; rules for others are refused.
pub const TABLES: u8 = 1;

/// The rules of one table.
#[derive(Default, Debug)]
pub struct RuleTable {
    /// Highest [`Subtable::max_priority`] first. None is empty.
    subtables: Vec<Subtable>,
    len: usize,
    /// Rules with a timeout. Most tables have none, and need not be searched for rules to expire.
    mortal: usize,
}

impl RuleTable {
    /// A table without rules.
    pub fn new() -> RuleTable {
        RuleTable::default()
    }

    /// Number of rules.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of different masks, which is what a lookup costs.
    pub fn masks(&self) -> usize {
        self.subtables.len()
    }

    /// All rules, highest priority first, older before younger.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Rule>> {
        let mut rules: Vec<&Arc<Rule>> = self.subtables.iter().flat_map(Subtable::iter).collect();
        rules.sort_by(|a, b| in_order(a, b));
        rules.into_iter()
    }

    /// Adds a rule and returns the one of the same priority and match that it replaces.
    pub fn add(&mut self, rule: Rule) -> Option<Arc<Rule>> {
        let rule = Arc::new(rule);
        self.mortal += usize::from(rule.is_mortal());
        let mask = *rule.flow_match.mask();
        let at = match self.subtables.iter().position(|subtable| *subtable.mask() == mask) {
            Some(at) => at,
            None => {
                self.subtables.push(Subtable::new(&mask));
                self.subtables.len() - 1
            }
        };
        let replaced = self.subtables.get_mut(at).and_then(|subtable| subtable.add(rule));
        if let Some(old) = &replaced {
            self.mortal -= usize::from(old.is_mortal());
        } else {
            self.len += 1;
            self.order();
        }
        replaced
    }

    /// Removes the rules `filter` selects and returns them, highest priority first. A strict request is for one match
    /// and priority, a loose one for every rule within the match.
    pub fn delete(&mut self, filter: &RuleFilter, strict: bool) -> Vec<Arc<Rule>> {
        self.remove_where(|rule| filter.selects(rule, strict))
    }

    /// Removes the rules whose timeout has passed at `now_ms` and returns them, highest priority first.
    pub fn expire(&mut self, now_ms: u64) -> Vec<Arc<Rule>> {
        if self.mortal == 0 {
            return Vec::new();
        }
        self.remove_where(|rule| rule.is_expired(now_ms))
    }

    /// Whether a rule's timeout has passed at `now_ms`.
    pub fn any_expired(&self, now_ms: u64) -> bool {
        self.mortal != 0 && self.subtables.iter().flat_map(Subtable::iter).any(|rule| rule.is_expired(now_ms))
    }

    /// The rule of highest priority that `key` matches. Adds to `wildcards` the bits that were looked at.
    pub fn lookup(&self, key: &FlowKey, wildcards: &mut FlowMask) -> Option<&Arc<Rule>> {
        let mut best: Option<&Arc<Rule>> = None;
        for subtable in &self.subtables {
            if best.is_some_and(|best| best.priority >= subtable.max_priority()) {
                break;
            }
            let found = subtable.lookup(key, wildcards);
            if let Some(rule) = found
                && best.is_none_or(|best| rule.priority > best.priority)
            {
                best = found;
            }
        }
        best
    }

    fn remove_where(&mut self, unwanted: impl Fn(&Rule) -> bool) -> Vec<Arc<Rule>> {
        let rules = self.subtables.iter().flat_map(Subtable::iter);
        let mut chosen: Vec<Arc<Rule>> = rules.filter(|rule| unwanted(rule)).cloned().collect();
        chosen.sort_by(|a, b| in_order(a, b));
        for rule in &chosen {
            let subtable =
                self.subtables.iter_mut().find(|subtable| subtable.mask() == rule.flow_match.mask());
            if subtable.and_then(|subtable| subtable.remove(&rule.flow_match, rule.priority)).is_some() {
                self.len -= 1;
                self.mortal -= usize::from(rule.is_mortal());
            }
        }
        if !chosen.is_empty() {
            self.subtables.retain(|subtable| !subtable.is_empty());
            self.order();
        }
        chosen
    }

    fn order(&mut self) {
        self.subtables.sort_by_key(|subtable| Reverse(subtable.max_priority()));
    }
}

/// The order of listings. The match comes last, so that the order is the same each time.
fn in_order(a: &Rule, b: &Rule) -> Ordering {
    let (a_match, b_match) = (&a.flow_match, &b.flow_match);
    b.priority
        .cmp(&a.priority)
        .then_with(|| a.created_ms.cmp(&b.created_ms))
        .then_with(|| a_match.mask().words().cmp(b_match.mask().words()))
        .then_with(|| a_match.key().words().cmp(b_match.key().words()))
}

#[cfg(test)]
mod tests;

//! Rules of a bridge.

use std::sync::Arc;

use flowtable::rules::{Rule, RuleFilter};

use super::bridges::Bridges;
use super::error::BridgeError;

impl Bridges {
    /// Adds rules to a bridge, all of them; each takes the place of one with the same priority and match.
    pub fn add_rules(&self, bridge: &str, rules: Vec<Rule>) -> Result<(), BridgeError> {
        let mut state = self.write();
        let bridge = state.bridge_named_mut(bridge)?;
        let (id, any) = (bridge.id, !rules.is_empty());
        for rule in rules {
            bridge.rules.add(rule);
        }
        if any {
            state.touch(id);
        }
        Ok(())
    }

    /// Removes the rules a filter selects and returns how many they were.
    pub fn delete_rules(
        &self,
        bridge: &str,
        filter: &RuleFilter,
        strict: bool,
    ) -> Result<usize, BridgeError> {
        let mut state = self.write();
        let bridge = state.bridge_named_mut(bridge)?;
        let (id, removed) = (bridge.id, bridge.rules.delete(filter, strict).len());
        if removed != 0 {
            state.touch(id);
        }
        Ok(removed)
    }

    /// The rules a filter selects, highest priority first.
    pub fn rules(&self, bridge: &str, filter: &RuleFilter) -> Result<Vec<Arc<Rule>>, BridgeError> {
        let state = self.read();
        let rules = state.bridge_named(bridge)?.rules.iter();
        Ok(rules.filter(|rule| filter.selects(rule, false)).cloned().collect())
    }

    /// Removes rules whose idle or hard timeout has passed; returns how many they were.
    pub fn expire_rules(&self, now_ms: u64) -> usize {
        if !self.read().bridges.values().any(|bridge| bridge.rules.iter().any(|rule| rule.is_expired(now_ms)))
        {
            return 0;
        }
        let mut state = self.write();
        let expired = |(id, rules): (_, usize)| (rules != 0).then_some((id, rules));
        let touched: Vec<_> = state
            .bridges
            .values_mut()
            .filter_map(|bridge| expired((bridge.id, bridge.rules.expire(now_ms).len())))
            .collect();
        for &(id, _) in &touched {
            state.touch(id);
        }
        touched.iter().map(|(_, rules)| rules).sum()
    }
}

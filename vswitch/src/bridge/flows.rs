//! Rules of a bridge, as data and as `ovs-ofctl` writes them.

use std::sync::Arc;

use flowtable::rules::{Rule, RuleFilter};
use flowtable::text::openflow::{format_rule_with_stats, parse_flow, parse_flow_match};

use super::bridges::Bridges;
use super::error::BridgeError;
use super::port_names::OpenflowNames;
use super::state::Bridge;

impl Bridges {
    /// Adds rules written as for `ovs-ofctl add-flow`: all of them, or none and an error that says which text is wrong.
    pub fn add_flows<S: AsRef<str>>(&self, bridge: &str, texts: &[S]) -> Result<(), BridgeError> {
        let rules = {
            let state = self.read();
            let home = state.bridge_named(bridge)?;
            let now_ms = self.clock().now_ms();
            texts.iter().map(|text| read_rule(home, text.as_ref(), now_ms)).collect::<Result<Vec<_>, _>>()?
        };
        self.add_rules(bridge, rules)
    }

    /// Removes the rules that a text as for `ovs-ofctl del-flows` selects; returns how many they were.
    pub fn del_flows(&self, bridge: &str, text: &str, strict: bool) -> Result<usize, BridgeError> {
        let filter = self.filter(bridge, text, strict)?;
        self.delete_rules(bridge, &filter, strict)
    }

    /// The rules that a text selects, highest priority first, as `ovs-ofctl dump-flows --names` prints them.
    pub fn dump_flows(&self, bridge: &str, text: &str) -> Result<Vec<String>, BridgeError> {
        let filter = self.filter(bridge, text, false)?;
        let now_ms = self.clock().now_ms();
        let state = self.read();
        let home = state.bridge_named(bridge)?;
        let rules = home.rules.iter().filter(|rule| filter.selects(rule, false));
        Ok(rules.map(|rule| format_rule_with_stats(rule, &OpenflowNames(home), now_ms)).collect())
    }

    fn filter(&self, bridge: &str, text: &str, strict: bool) -> Result<RuleFilter, BridgeError> {
        let state = self.read();
        let home = state.bridge_named(bridge)?;
        parse_flow_match(text, &OpenflowNames(home), strict)
            .map_err(|error| BridgeError::Flow { bridge: bridge.to_owned(), reason: error.to_string() })
    }

    /// Adds rules to a bridge, all of them or none; each takes the place of one with the same priority and match.
    pub fn add_rules(&self, bridge: &str, rules: Vec<Rule>) -> Result<(), BridgeError> {
        let mut state = self.write();
        let bridge = state.bridge_named_mut(bridge)?;
        check(bridge, &rules)?;
        let (id, any) = (bridge.id, !rules.is_empty());
        for rule in rules {
            bridge.rules.add(rule);
        }
        if any {
            state.touch(id);
        }
        Ok(())
    }

    /// Whether [`Bridges::add_rules`] would add these rules.
    pub fn check_rules(&self, bridge: &str, rules: &[Rule]) -> Result<(), BridgeError> {
        check(self.read().bridge_named(bridge)?, rules)
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
        if !self.read().bridges.values().any(|bridge| bridge.rules.any_expired(now_ms)) {
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

/// Whether a bridge takes the rules.
fn check(bridge: &Bridge, rules: &[Rule]) -> Result<(), BridgeError> {
    match rules.iter().find(|rule| rule.table_id != 0) {
        Some(rule) => Err(BridgeError::Table { bridge: bridge.config.name.clone(), table: rule.table_id }),
        None => Ok(()),
    }
}

fn read_rule(bridge: &Bridge, text: &str, now_ms: u64) -> Result<Rule, BridgeError> {
    parse_flow(text, &OpenflowNames(bridge), now_ms)
        .map_err(|error| BridgeError::Flow { bridge: bridge.config.name.clone(), reason: error.to_string() })
}

//! Which rules a request is about.

use super::{DEFAULT_PRIORITY, Rule};
use crate::key::FlowMatch;

/// Which rules a request is about. The default is every rule.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RuleFilter {
    /// Rules that match only packets of this match; in a strict request, rules of exactly this match.
    pub flow_match: FlowMatch,
    /// Looked at by a strict request only, where `None` means [`DEFAULT_PRIORITY`].
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
            rule.flow_match == self.flow_match && rule.priority == self.priority.unwrap_or(DEFAULT_PRIORITY)
        } else {
            rule.flow_match.is_within(&self.flow_match)
        };
        same_match
            && (rule.cookie ^ self.cookie) & self.cookie_mask == 0
            && self.table_id.is_none_or(|table| table == rule.table_id)
            && self.out_port.is_none_or(|port| rule.actions.iter().any(|action| action.outputs_to(port)))
    }
}

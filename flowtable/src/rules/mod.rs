//! The rules an administrator or controller sets: priority, match, actions.
//!
//! The slow path asks a [`RuleTable`] for the best rule of a packet and learns, besides the rule, which bits of
//! the packet decided. Those bits become the mask of the megaflow.

mod prefix_index;
mod rule;
mod rule_action;
mod rule_filter;
mod rule_table;
mod subtable;

pub use rule::{DEFAULT_PRIORITY, Rule, RuleStats};
pub use rule_action::{OFPORT_LOCAL, RuleAction};
pub use rule_filter::RuleFilter;
pub use rule_table::{RuleTable, TABLES};

//! A whole megaflow as one line.

use super::{format_actions, format_match};
use crate::{actions::Action, key::FlowMatch, text::PortNames};

/// What a megaflow has seen.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FlowStats {
    /// Packets so far.
    pub packets: u64,
    /// Bytes so far.
    pub bytes: u64,
    /// Milliseconds since the latest packet, if there was one.
    pub idle_ms: Option<u64>,
}

/// Prints a line of `dpctl/dump-flows`: `MATCH, packets:N, bytes:N, used:N.NNNs, actions:ACTIONS`.
pub fn format_flow(
    flow_match: &FlowMatch,
    stats: &FlowStats,
    actions: &[Action],
    ports: &dyn PortNames,
) -> String {
    let used = match stats.idle_ms {
        Some(idle_ms) => format!("{}.{:03}s", idle_ms / 1000, idle_ms % 1000),
        None => "never".to_owned(),
    };
    format!(
        "{}, packets:{}, bytes:{}, used:{used}, actions:{}",
        format_match(flow_match, ports),
        stats.packets,
        stats.bytes,
        format_actions(actions, ports)
    )
}

//! From the actions of a rule to text.

use super::format_ofport;
use crate::{
    actions::SetField,
    key::Field,
    rules::RuleAction,
    text::{
        PortNames,
        value::{self, MaskStyle},
    },
};

/// Prints actions as `ovs-ofctl dump-flows` does; an empty list is `drop`.
pub fn format_actions(actions: &[RuleAction], ports: &dyn PortNames) -> String {
    if actions.is_empty() {
        return "drop".to_owned();
    }
    actions.iter().map(|action| format_action(action, ports)).collect::<Vec<_>>().join(",")
}

fn format_action(action: &RuleAction, ports: &dyn PortNames) -> String {
    match action {
        RuleAction::Output { port, max_len: None } => format!("output:{}", format_ofport(*port, ports)),
        RuleAction::Output { port, max_len: Some(len) } => {
            format!("output(port={},max_len={len})", format_ofport(*port, ports))
        }
        RuleAction::Normal => "NORMAL".to_owned(),
        RuleAction::Flood => "FLOOD".to_owned(),
        RuleAction::InPort => "IN_PORT".to_owned(),
        RuleAction::All => "ALL".to_owned(),
        RuleAction::Local => "LOCAL".to_owned(),
        RuleAction::SetField(set) => format_set(set, ports),
        RuleAction::PushVlan(eth_type) => format!("push_vlan:0x{eth_type:04x}"),
        RuleAction::PopVlan => "strip_vlan".to_owned(),
        RuleAction::SetVlanVid(vid) => format!("mod_vlan_vid:{vid}"),
        RuleAction::SetVlanPcp(pcp) => format!("mod_vlan_pcp:{pcp}"),
        RuleAction::DecTtl => "dec_ttl".to_owned(),
    }
}

/// The older `mod_` form where there is one, else `set_field`.
fn format_set(set: &SetField, ports: &dyn PortNames) -> String {
    let text = value::format(set.field, set.value, set.mask, MaskStyle::Prefix, ports);
    let older = match set.field {
        _ if !set.is_exact() => None,
        Field::EthSrc => Some("mod_dl_src"),
        Field::EthDst => Some("mod_dl_dst"),
        Field::IpSrc => Some("mod_nw_src"),
        Field::IpDst => Some("mod_nw_dst"),
        Field::IpTtl => Some("mod_nw_ttl"),
        Field::IpEcn => Some("mod_nw_ecn"),
        Field::IpDscp => return format!("mod_nw_tos:{}", set.value << 2),
        Field::TcpSrc | Field::UdpSrc | Field::SctpSrc => Some("mod_tp_src"),
        Field::TcpDst | Field::UdpDst | Field::SctpDst => Some("mod_tp_dst"),
        _ => None,
    };
    match older {
        Some(name) => format!("{name}:{text}"),
        None => format!("set_field:{text}->{}", set.field.name()),
    }
}

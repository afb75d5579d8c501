//! The actions of a megaflow.

use super::{GROUPS, Group, vlan_text};
use crate::{
    actions::{Action, ActionList, SetField, rewrite},
    key::{Field, PortNo, VLAN_PRESENT},
    text::{ParseError, PortNames, port_names, scan},
    wire::{ETH_TYPE_VLAN, is_vlan_type},
};

/// Prints actions, such as `push_vlan(vid=5,pcp=0),2`; an empty list is `drop`.
pub fn format_actions(actions: &[Action], ports: &dyn PortNames) -> String {
    if actions.is_empty() {
        return "drop".to_owned();
    }
    actions.iter().map(|action| format_action(action, ports)).collect::<Vec<_>>().join(",")
}

fn format_action(action: &Action, ports: &dyn PortNames) -> String {
    match action {
        Action::Output(port) => port_names::format_port(*port, ports),
        Action::PushVlan { tpid, tci } => {
            let tpid = if *tpid == ETH_TYPE_VLAN { String::new() } else { format!("tpid=0x{tpid:04x},") };
            format!("push_vlan({tpid}vid={},pcp={})", tci & 0x0fff, tci >> 13)
        }
        Action::PopVlan => "pop_vlan".to_owned(),
        Action::Set(set) => format_set(set, ports),
        Action::Truncate(len) => format!("trunc({len})"),
    }
}

fn format_set(set: &SetField, ports: &dyn PortNames) -> String {
    // A rule's name for a field says nothing about the IP version; names that do stay as they are.
    let is_ipv6 = matches!(set.field, Field::Ipv6Tclass | Field::Ipv6Hlimit);
    let set = set.to_datapath(is_ipv6);
    if set.field == Field::VlanTci {
        return format!("set({})", vlan_text::format(set.value as u16, set.mask as u16));
    }
    let wanted = |field| if field == set.field { (set.value, set.mask) } else { (0, 0) };
    let group = GROUPS.iter().find_map(|group| group.format(wanted, ports));
    format!("set({})", group.unwrap_or_default())
}

/// Reads actions as [`format_actions`] prints them, with or without `actions:` in front.
pub fn parse_actions(text: &str, ports: &dyn PortNames) -> Result<ActionList, ParseError> {
    let tokens = scan::list(text.strip_prefix("actions:").unwrap_or(text))?;
    let mut actions = Vec::new();
    match tokens.as_slice() {
        [] => return Err(ParseError::new("actions", "no actions", "write drop to discard the packets")),
        ["drop"] => return Ok(ActionList::drop_all()),
        _ => {}
    }
    for token in tokens {
        match (scan::call(token), token) {
            (_, "drop") => {
                return Err(ParseError::new(token, "drop is not alone", "remove the other actions or drop"));
            }
            (_, "pop_vlan") => actions.push(Action::PopVlan),
            (Some(("push_vlan", arguments)), _) => actions.push(parse_push(token, arguments)?),
            (Some(("trunc", len)), _) => {
                let len: u32 = scan::number_as(token, len, u128::from(u32::MAX))?;
                if len < 14 {
                    return Err(ParseError::new(
                        token,
                        "shorter than an Ethernet header",
                        "give at least 14",
                    ));
                }
                actions.push(Action::Truncate(len));
            }
            (Some(("set", arguments)), _) => parse_set(token, arguments, ports, &mut actions)?,
            _ => actions.push(Action::Output(parse_output(token, ports)?)),
        }
    }
    Ok(ActionList::new(actions))
}

fn parse_output(token: &str, ports: &dyn PortNames) -> Result<PortNo, ParseError> {
    port_names::parse_port(token, ports).ok().filter(|port| *port != PortNo::NONE).ok_or_else(|| {
        ParseError::new(
            token,
            "neither an action nor a port",
            "use a port, drop, push_vlan(...), pop_vlan, set(...) or trunc(N)",
        )
    })
}

fn parse_push(token: &str, arguments: &str) -> Result<Action, ParseError> {
    let mut tpid = ETH_TYPE_VLAN;
    let mut tag = Vec::new();
    for argument in scan::list(arguments)? {
        match argument.strip_prefix("tpid=") {
            Some(text) => tpid = scan::number_as(token, text, 0xffff)?,
            None => tag.push(argument),
        }
    }
    if !is_vlan_type(tpid) {
        return Err(ParseError::new(token, "not the EtherType of a VLAN tag", "use 0x8100 or 0x88a8"));
    }
    let (tci, mask) = vlan_text::parse(&tag.join(","))?;
    if mask & 0x0fff != 0x0fff || !matches!(mask >> 13, 0 | 7) || tci & VLAN_PRESENT == 0 {
        return Err(ParseError::new(token, "not a whole tag", "write push_vlan(vid=N,pcp=N)"));
    }
    Ok(Action::PushVlan { tpid, tci: tci & !VLAN_PRESENT })
}

/// `set(group(key=value,...))`: one action for each field.
fn parse_set(
    token: &str,
    arguments: &str,
    ports: &dyn PortNames,
    actions: &mut Vec<Action>,
) -> Result<(), ParseError> {
    let Some((name, fields)) = scan::call(arguments) else {
        return Err(ParseError::new(token, "no header to set", "write, say, set(ipv4(dst=10.0.0.1))"));
    };
    if name == "vlan" {
        let (tci, mask) = vlan_text::parse(fields)?;
        if tci & mask & VLAN_PRESENT == 0 {
            return Err(ParseError::new(token, "a tag cannot be set away", "use pop_vlan"));
        }
        actions.push(Action::set(SetField::masked(Field::VlanTci, tci.into(), mask.into())));
        return Ok(());
    }
    let Some(group) = Group::named(name) else {
        return Err(ParseError::new(
            token,
            format!("unknown header \"{name}\""),
            "use eth vlan ipv4 ipv6 arp tcp",
        ));
    };
    let fields = group.parse(fields, ports)?;
    if fields.is_empty() {
        return Err(ParseError::new(token, "no field to set", format!("write set({name}(field=value))")));
    }
    for (field, value, mask) in fields {
        if !rewrite::is_settable(field) {
            return Err(ParseError::new(token, format!("{} cannot be set", field.name()), "remove it"));
        }
        actions.push(Action::set(SetField::masked(field, value, mask)));
    }
    Ok(())
}

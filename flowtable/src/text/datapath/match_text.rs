//! The match of a megaflow.

use super::{GROUPS, Group, vlan_text};
use crate::{
    key::{Field, FlowMatch, Prerequisite, VLAN_PRESENT},
    text::{
        ParseError, PortNames,
        packet_kind::PacketKind,
        scan,
        value::{self, MaskStyle},
    },
};

/// TCI and EtherType of the tags, outer first.
const TAGS: [(Field, Field); 2] = [(Field::VlanTci, Field::VlanTpid), (Field::Vlan2Tci, Field::Vlan2Tpid)];

/// Prints the fields that are not wildcarded, in the order of Open vSwitch.
pub fn format_match(flow_match: &FlowMatch, ports: &dyn PortNames) -> String {
    let mut parts = Vec::new();
    for field in [Field::RecircId, Field::InPort] {
        parts.extend(single(flow_match, field, field.name(), ports));
    }
    parts.extend(GROUPS[0].format(|field| (flow_match.value(field), flow_match.bits(field)), ports));
    let mut text = parts.join(",");
    let link = format_link(flow_match, 0, ports);
    if !text.is_empty() && !link.is_empty() {
        text.push(',');
    }
    text.push_str(&link);
    text
}

/// `name(value)` of a field that is a group by itself.
fn single(flow_match: &FlowMatch, field: Field, name: &str, ports: &dyn PortNames) -> Option<String> {
    let (value, mask) = (flow_match.value(field), flow_match.bits(field));
    (mask != 0).then(|| format!("{name}({})", value::format(field, value, mask, MaskStyle::Address, ports)))
}

/// `eth_type(0x0800)`, four digits.
fn format_eth_type(flow_match: &FlowMatch, field: Field) -> Option<String> {
    let (value, mask) = (flow_match.value(field), flow_match.bits(field));
    match mask {
        0 => None,
        0xffff => Some(format!("eth_type(0x{value:04x})")),
        _ => Some(format!("eth_type(0x{value:04x}/{mask:#x})")),
    }
}

/// What follows the MAC addresses, from tag number `level` on.
fn format_link(flow_match: &FlowMatch, level: usize, ports: &dyn PortNames) -> String {
    let mut parts = Vec::new();
    if let Some((tci, tpid)) = TAGS.get(level) {
        let (value, mask) = (flow_match.value(*tci) as u16, flow_match.bits(*tci) as u16);
        let untagged = mask & !value & VLAN_PRESENT != 0;
        let tagged = mask & value & VLAN_PRESENT != 0;
        let looked_deeper = TAGS[level..].iter().flat_map(|(tci, tpid)| [tci, tpid]).skip(1);
        if tagged || (!untagged && looked_deeper.into_iter().any(|field| flow_match.bits(*field) != 0)) {
            parts.extend(format_eth_type(flow_match, *tpid));
            parts.push(vlan_text::format(value, mask));
            parts.push(format!("encap({})", format_link(flow_match, level + 1, ports)));
            return parts.join(",");
        }
        // An EtherType outside `encap` implies that there is no tag; nothing is implied about an inner one.
        let outermost = level == 0 && flow_match.exact(Field::EthType).is_some();
        let implied = if outermost { mask == u16::MAX && value == 0 } else { mask == 0 };
        if !implied {
            parts.push(vlan_text::format(value, mask));
        }
    }
    parts.extend(format_eth_type(flow_match, Field::EthType));
    let kind = PacketKind::of(flow_match);
    for group in GROUPS.iter().skip(1).filter(|group| kind.meets(group.prerequisite)) {
        parts.extend(group.format(|field| (flow_match.value(field), flow_match.bits(field)), ports));
        if group.name == "tcp" {
            parts.extend(single(flow_match, Field::TcpFlags, "tcp_flags", ports));
        }
    }
    parts.join(",")
}

/// Reads a match in the form [`format_match`] prints; groups may come in any order.
pub fn parse_match(text: &str, ports: &dyn PortNames) -> Result<FlowMatch, ParseError> {
    let mut parser = MatchParser { flow_match: FlowMatch::any(), needs: Vec::new(), ports };
    parser.link(text, 0)?;
    let kind = PacketKind::of(&parser.flow_match);
    for (name, prerequisite) in parser.needs {
        if !kind.meets(prerequisite) {
            return Err(ParseError::new(
                name,
                format!("the match is not for packets with {name}"),
                "add the eth_type() and, above IP, the proto= that it needs",
            ));
        }
    }
    Ok(parser.flow_match)
}

struct MatchParser<'a> {
    flow_match: FlowMatch,
    /// Groups that were named, and what they ask of the whole.
    needs: Vec<(&'static str, Prerequisite)>,
    ports: &'a dyn PortNames,
}

impl MatchParser<'_> {
    /// Reads a list of groups behind `level` tags.
    fn link(&mut self, text: &str, level: usize) -> Result<(), ParseError> {
        let tokens = scan::list(text)?;
        let has = |name: &str| tokens.iter().any(|token| token.split('(').next() == Some(name));
        let (has_encap, has_vlan) = (has("encap"), has("vlan"));
        for token in &tokens {
            let Some((name, arguments)) = scan::call(token) else {
                return Err(ParseError::new(token, "not of the form name(...)", "write, say, in_port(2)"));
            };
            let tag = TAGS.get(level).copied();
            match (name, tag) {
                ("encap", Some(_)) if has_vlan => self.link(arguments, level + 1)?,
                ("encap", _) => {
                    return Err(ParseError::new(
                        token,
                        "encap without a tag, or a third tag",
                        "put vlan(...) before it; a key holds two tags",
                    ));
                }
                ("vlan", Some((tci, _))) => {
                    let (value, mask) = vlan_text::parse(arguments)?;
                    self.flow_match.set_masked(tci, value.into(), mask.into());
                }
                ("vlan", None) => {
                    return Err(ParseError::new(token, "a third tag", "a key holds two tags"));
                }
                ("eth_type", Some((_, tpid))) if has_encap => self.single(token, tpid, arguments)?,
                _ => self.group(token, name, arguments)?,
            }
        }
        if level == 0 && !has_encap && !has_vlan && self.flow_match.exact(Field::EthType).is_some() {
            self.flow_match.set(Field::VlanTci, 0);
        }
        Ok(())
    }

    fn group(&mut self, token: &str, name: &str, arguments: &str) -> Result<(), ParseError> {
        match name {
            "recirc_id" => return self.single(token, Field::RecircId, arguments),
            "in_port" => return self.single(token, Field::InPort, arguments),
            "eth_type" => return self.single(token, Field::EthType, arguments),
            "tcp_flags" => {
                self.needs.push(("tcp_flags", Prerequisite::Tcp));
                return self.single(token, Field::TcpFlags, arguments);
            }
            _ => {}
        }
        let Some(group) = Group::named(name) else {
            let known: Vec<&str> = GROUPS.iter().map(|group| group.name).collect();
            return Err(ParseError::new(
                token,
                format!("unknown group \"{name}\""),
                format!("use recirc_id in_port eth_type vlan encap tcp_flags {}", known.join(" ")),
            ));
        };
        self.needs.push((group.name, group.prerequisite));
        for (field, value, mask) in group.parse(arguments, self.ports)? {
            self.flow_match.set_masked(field, value, mask);
        }
        Ok(())
    }

    fn single(&mut self, token: &str, field: Field, text: &str) -> Result<(), ParseError> {
        let (value, mask) = value::parse(field, token, text, self.ports)?;
        self.flow_match.set_masked(field, value, mask);
        Ok(())
    }
}

//! From match to text.

use super::{PROTOCOLS, PacketKind, format_ofport};
use crate::{
    key::{FIELDS, Field, FlowMatch, VLAN_PRESENT},
    text::{
        PortNames,
        value::{self, MaskStyle},
    },
};

/// Prints a match with the keyword of its protocol first, fields in the order of `ovs-ofctl`. The match of
/// everything is empty.
pub fn format_match(flow_match: &FlowMatch, ports: &dyn PortNames) -> String {
    let kind = PacketKind::of(flow_match);
    let keyword = keyword(&kind);
    let mut parts: Vec<String> = Vec::new();
    parts.extend(keyword.map(|(name, ..)| name.to_owned()));
    for spec in &FIELDS {
        let field = spec.field;
        let (value, mask) = (flow_match.value(field), flow_match.bits(field));
        let said_by_keyword = match field {
            Field::EthType => keyword.is_some(),
            Field::IpProto => keyword.is_some_and(|(_, _, proto)| proto.is_some()),
            _ => false,
        };
        if mask == 0 || said_by_keyword || !is_printed(field, &kind) {
            continue;
        }
        match field {
            Field::VlanTci => parts.extend(format_vlan(value as u16, mask as u16)),
            Field::InPort if mask == field.ones() && value <= u128::from(u16::MAX) => {
                parts.push(format!("in_port={}", format_ofport(value as u16, ports)));
            }
            Field::IpDscp if mask == field.ones() => parts.push(format!("nw_tos={}", value << 2)),
            Field::EthType => parts.push(format!("dl_type=0x{value:04x}")),
            _ => {
                let text = value::format(field, value, mask, MaskStyle::Prefix, ports);
                parts.push(format!("{}={text}", printed_name(field)));
            }
        }
    }
    parts.join(",")
}

/// The most telling protocol keyword.
fn keyword(kind: &PacketKind) -> Option<(&'static str, u16, Option<u8>)> {
    let eth_type = kind.eth_type?;
    let row = |proto: Option<u8>| PROTOCOLS.iter().copied().find(|row| (row.1, row.2) == (eth_type, proto));
    kind.ip_proto.and_then(|proto| row(Some(proto))).or_else(|| row(None))
}

/// Of the fields that share bits, whether this is the one that names them for this kind of packet.
fn is_printed(field: Field, kind: &PacketKind) -> bool {
    match field {
        // Said by `VlanTci`, and by the finer TOS fields and the IP-wide TTL.
        Field::VlanVid | Field::VlanPcp | Field::IpTos | Field::Ipv6Tclass | Field::Ipv6Hlimit => false,
        _ => kind.meets(field.spec().prerequisite),
    }
}

/// Ports and ICMP fields go by the names that `ovs-ofctl` prints.
fn printed_name(field: Field) -> &'static str {
    match field {
        Field::TcpSrc | Field::UdpSrc | Field::SctpSrc => "tp_src",
        Field::TcpDst | Field::UdpDst | Field::SctpDst => "tp_dst",
        Field::Icmpv6Type => "icmp_type",
        Field::Icmpv6Code => "icmp_code",
        _ => field.name(),
    }
}

fn format_vlan(tci: u16, mask: u16) -> Vec<String> {
    let (vid, pcp) = (mask & 0x0fff, mask & 0xe000);
    let whole = matches!(vid, 0 | 0x0fff) && matches!(pcp, 0 | 0xe000) && mask & !VLAN_PRESENT != 0;
    if tci & mask & VLAN_PRESENT != 0 && whole {
        let mut parts = Vec::new();
        if vid != 0 {
            parts.push(format!("dl_vlan={}", tci & 0x0fff));
        }
        if pcp != 0 {
            parts.push(format!("dl_vlan_pcp={}", tci >> 13));
        }
        parts
    } else if mask == u16::MAX {
        vec![format!("vlan_tci=0x{tci:04x}")]
    } else {
        vec![format!("vlan_tci=0x{tci:04x}/0x{mask:04x}")]
    }
}

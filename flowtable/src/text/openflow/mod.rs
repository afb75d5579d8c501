//! Rules in the flow syntax of `ovs-ofctl`.
//!
//! ```text
//! table=0,priority=100,cookie=0x1,idle_timeout=10,tcp,in_port=1,nw_src=10.0.0.0/8,tp_dst=80,actions=output:2
//! ```
//!
//! Both generations of names are read (`dl_src` and `eth_src`, `tp_dst` and `tcp_dst`); the older ones are printed,
//! as `ovs-ofctl dump-flows` does. Fields may come in any order. A field whose prerequisite is missing is an
//! error that says which keyword to add: silently matching nothing, or everything, would be worse.

mod action_format;
mod action_parser;
mod match_format;
mod match_parser;
mod rule_text;

pub use action_format::format_actions;
pub use action_parser::parse_actions;
pub use match_format::format_match;
pub use match_parser::parse_match;
pub use rule_text::{format_rule, format_rule_with_stats, parse_flow, parse_flow_match};

use crate::{
    key::{Field, PortNo, Prerequisite},
    rules::OFPORT_LOCAL,
    text::{ParseError, PortNames, packet_kind::PacketKind, port_names},
    wire::{
        ETH_TYPE_ARP, ETH_TYPE_IPV4, ETH_TYPE_IPV6, ETH_TYPE_RARP, IP_PROTO_ICMP, IP_PROTO_ICMPV6,
        IP_PROTO_SCTP, IP_PROTO_TCP, IP_PROTO_UDP,
    },
};

/// Protocol keywords: name, EtherType, IP protocol. Of two for one protocol, the printed one comes first.
const PROTOCOLS: [(&str, u16, Option<u8>); 14] = [
    ("ip", ETH_TYPE_IPV4, None),
    ("ipv4", ETH_TYPE_IPV4, None),
    ("ipv6", ETH_TYPE_IPV6, None),
    ("ip6", ETH_TYPE_IPV6, None),
    ("arp", ETH_TYPE_ARP, None),
    ("rarp", ETH_TYPE_RARP, None),
    ("icmp", ETH_TYPE_IPV4, Some(IP_PROTO_ICMP)),
    ("tcp", ETH_TYPE_IPV4, Some(IP_PROTO_TCP)),
    ("udp", ETH_TYPE_IPV4, Some(IP_PROTO_UDP)),
    ("sctp", ETH_TYPE_IPV4, Some(IP_PROTO_SCTP)),
    ("icmp6", ETH_TYPE_IPV6, Some(IP_PROTO_ICMPV6)),
    ("tcp6", ETH_TYPE_IPV6, Some(IP_PROTO_TCP)),
    ("udp6", ETH_TYPE_IPV6, Some(IP_PROTO_UDP)),
    ("sctp6", ETH_TYPE_IPV6, Some(IP_PROTO_SCTP)),
];

impl PacketKind {
    /// The field a name means for this kind of packet. Several fields may share a name; ARP has its own fields for
    /// what `nw_src`, `nw_dst` and `nw_proto` say of IP.
    fn resolve(&self, name: &str) -> Option<Field> {
        let field = crate::key::FIELDS.iter().filter(|spec| spec.names.contains(&name)).map(|s| s.field);
        let candidates: Vec<Field> = field.collect();
        let met = candidates.iter().copied().find(|field| self.meets(field.spec().prerequisite));
        match met.or_else(|| candidates.first().copied())? {
            Field::IpSrc if self.is_arp() => Some(Field::ArpSpa),
            Field::IpDst if self.is_arp() => Some(Field::ArpTpa),
            Field::IpProto if self.is_arp() => Some(Field::ArpOp),
            field => Some(field),
        }
    }

    fn check(&self, field: Field, name: &str, token: &str) -> Result<(), ParseError> {
        let prerequisite = field.spec().prerequisite;
        if self.meets(prerequisite) {
            return Ok(());
        }
        let generic = name.starts_with("tp_");
        let (what, keywords) = match prerequisite {
            _ if generic => ("a protocol with ports", "tcp, udp, sctp, tcp6, udp6 or sctp6"),
            Prerequisite::Vlan => ("a VLAN tag", "dl_vlan or vlan_tci"),
            Prerequisite::Arp => ("an ARP match", "arp or rarp"),
            Prerequisite::Ipv4 => ("an IPv4 match", "ip"),
            Prerequisite::Ipv6 => ("an IPv6 match", "ipv6"),
            Prerequisite::Ip => ("an IP match", "ip or ipv6"),
            Prerequisite::Tcp => ("a TCP match", "tcp or tcp6"),
            Prerequisite::Udp => ("a UDP match", "udp or udp6"),
            Prerequisite::Sctp => ("an SCTP match", "sctp or sctp6"),
            Prerequisite::Icmp => ("an ICMP match", "icmp, or icmp6"),
            Prerequisite::Icmpv6 => ("an ICMPv6 match", "icmp6"),
            Prerequisite::Nd => ("a neighbour discovery match", "icmp6,icmp_type=135 or 136"),
            Prerequisite::NdSolicit => ("a neighbour solicitation", "icmp6,icmp_type=135"),
            Prerequisite::NdAdvert => ("a neighbour advertisement", "icmp6,icmp_type=136"),
            Prerequisite::None => return Ok(()),
        };
        Err(ParseError::new(
            token,
            format!("{name} needs {what}, which the match does not have"),
            format!("add {keywords}"),
        ))
    }
}

/// Prints an OpenFlow port.
fn format_ofport(port: u16, ports: &dyn PortNames) -> String {
    if port == OFPORT_LOCAL {
        "LOCAL".to_owned()
    } else {
        port_names::format_port(PortNo(port.into()), ports)
    }
}

/// Reads an OpenFlow port: number, name or `LOCAL`.
fn parse_ofport(text: &str, ports: &dyn PortNames) -> Result<u16, ParseError> {
    if text.eq_ignore_ascii_case("local") {
        return Ok(OFPORT_LOCAL);
    }
    let port = port_names::parse_port(text, ports)?;
    u16::try_from(port.0).map_err(|_| {
        ParseError::new(text, "an OpenFlow port number ends at 65534", "use the ofport of the interface")
    })
}

#[cfg(test)]
mod tests;

//! Megaflows in the syntax of `ovs-appctl dpctl/dump-flows`.
//!
//! ```text
//! recirc_id(0),in_port(2),eth(dst=02:00:00:00:00:01),eth_type(0x0800),ipv4(src=10.0.0.0/255.0.0.0,frag=no),
//!   packets:3, bytes:180, used:0.5s, actions:pop_vlan,3
//! ```
//!
//! Wildcarded fields are left out. A tag puts the rest into `encap(...)`; an EtherType that is not in `encap` says,
//! as in Open vSwitch, that the frame is untagged. A flow that did not look at tags, which Open vSwitch does not
//! have, says `vlan(any)`. Mask bits that a packet of this kind cannot have (ports of an ARP packet) are not printed.

mod action_text;
mod flow_text;
mod match_text;
mod vlan_text;

pub use action_text::{format_actions, parse_actions};
pub use flow_text::{FlowStats, format_flow};
pub use match_text::{format_match, parse_match};

use crate::{
    key::{Field, Prerequisite},
    text::{
        ParseError, PortNames, scan,
        value::{self, MaskStyle},
    },
};

/// A parenthesised group of fields of one header.
struct Group {
    name: &'static str,
    /// What a packet must be to have the header.
    prerequisite: Prerequisite,
    /// Names and fields, in the order of printing.
    keys: &'static [(&'static str, Field)],
}

/// The groups behind the EtherType, in the order of printing; `eth` stands before it.
const GROUPS: [Group; 10] = [
    Group {
        name: "eth",
        prerequisite: Prerequisite::None,
        keys: &[("src", Field::EthSrc), ("dst", Field::EthDst)],
    },
    Group {
        name: "ipv4",
        prerequisite: Prerequisite::Ipv4,
        keys: &[
            ("src", Field::IpSrc),
            ("dst", Field::IpDst),
            ("proto", Field::IpProto),
            ("tos", Field::IpTos),
            ("ttl", Field::IpTtl),
            ("frag", Field::IpFrag),
        ],
    },
    Group {
        name: "ipv6",
        prerequisite: Prerequisite::Ipv6,
        keys: &[
            ("src", Field::Ipv6Src),
            ("dst", Field::Ipv6Dst),
            ("label", Field::Ipv6Label),
            ("proto", Field::IpProto),
            ("tclass", Field::Ipv6Tclass),
            ("hlimit", Field::Ipv6Hlimit),
            ("frag", Field::IpFrag),
        ],
    },
    Group {
        name: "arp",
        prerequisite: Prerequisite::Arp,
        keys: &[
            ("sip", Field::ArpSpa),
            ("tip", Field::ArpTpa),
            ("op", Field::ArpOp),
            ("sha", Field::ArpSha),
            ("tha", Field::ArpTha),
        ],
    },
    Group {
        name: "tcp",
        prerequisite: Prerequisite::Tcp,
        keys: &[("src", Field::TcpSrc), ("dst", Field::TcpDst)],
    },
    Group {
        name: "udp",
        prerequisite: Prerequisite::Udp,
        keys: &[("src", Field::UdpSrc), ("dst", Field::UdpDst)],
    },
    Group {
        name: "sctp",
        prerequisite: Prerequisite::Sctp,
        keys: &[("src", Field::SctpSrc), ("dst", Field::SctpDst)],
    },
    Group {
        name: "icmp",
        prerequisite: Prerequisite::Icmp,
        keys: &[("type", Field::IcmpType), ("code", Field::IcmpCode)],
    },
    Group {
        name: "icmpv6",
        prerequisite: Prerequisite::Icmpv6,
        keys: &[("type", Field::Icmpv6Type), ("code", Field::Icmpv6Code)],
    },
    Group {
        name: "nd",
        prerequisite: Prerequisite::Nd,
        keys: &[("target", Field::NdTarget), ("sll", Field::NdSll), ("tll", Field::NdTll)],
    },
];

impl Group {
    fn named(name: &str) -> Option<&'static Group> {
        GROUPS.iter().find(|group| group.name == name)
    }

    /// Prints `name(key=value,...)` for the fields `bits` gives a mask; nothing if there are none.
    fn format(&self, bits: impl Fn(Field) -> (u128, u128), ports: &dyn PortNames) -> Option<String> {
        let fields: Vec<String> = self
            .keys
            .iter()
            .filter_map(|(key, field)| {
                let (value, mask) = bits(*field);
                (mask != 0).then(|| {
                    format!("{key}={}", value::format(*field, value, mask, MaskStyle::Address, ports))
                })
            })
            .collect();
        (!fields.is_empty()).then(|| format!("{}({})", self.name, fields.join(",")))
    }

    /// Reads `key=value,...`: field, value and mask of each.
    fn parse(&self, arguments: &str, ports: &dyn PortNames) -> Result<Vec<(Field, u128, u128)>, ParseError> {
        scan::list(arguments)?
            .into_iter()
            .map(|token| {
                let assignment = token.split_once('=');
                let field = assignment.and_then(|(key, text)| {
                    self.keys.iter().find(|(name, _)| *name == key).map(|(_, field)| (*field, text))
                });
                let Some((field, text)) = field else {
                    let keys: Vec<&str> = self.keys.iter().map(|(name, _)| *name).collect();
                    return Err(ParseError::new(
                        token,
                        format!("not a field of {}", self.name),
                        format!("use {}=", keys.join("= ")),
                    ));
                };
                let (value, mask) = value::parse(field, token, text, ports)?;
                Ok((field, value, mask))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;

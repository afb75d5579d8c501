//! From text to match.

use super::{PROTOCOLS, PacketKind, parse_ofport};
use crate::{
    key::{FIELDS, Field, FlowMatch, VLAN_PRESENT},
    text::{ParseError, PortNames, scan, value},
};

/// Reads a match such as `tcp,in_port=1,nw_src=10.0.0.0/8`. The empty text matches everything.
pub fn parse_match(text: &str, ports: &dyn PortNames) -> Result<FlowMatch, ParseError> {
    parse_match_tokens(&scan::list(text)?, ports)
}

/// As [`parse_match`], from the elements of the list.
///
/// What says the kind of packet is read first, since it decides what the other names mean.
pub(super) fn parse_match_tokens(tokens: &[&str], ports: &dyn PortNames) -> Result<FlowMatch, ParseError> {
    let mut flow_match = FlowMatch::any();
    let mut fields = Vec::new();
    for token in tokens {
        match token.split_once('=') {
            None => protocol(token, &mut flow_match)?,
            Some((name, text)) => fields.push(Assignment { token, name, text }),
        }
    }
    // Types before what they give a meaning to; the sort is stable, so errors come in the order of the text.
    fields.sort_by_key(|field| match field.name {
        "dl_type" | "eth_type" => 0,
        "nw_proto" | "ip_proto" => 1,
        "icmp_type" | "icmpv6_type" | "dl_vlan" | "vlan_tci" | "vlan_vid" | "dl_vlan_pcp" | "vlan_pcp" => 2,
        _ => 3,
    });
    for field in &fields {
        field.apply(&mut flow_match, ports)?;
    }
    Ok(flow_match)
}

fn protocol(token: &str, flow_match: &mut FlowMatch) -> Result<(), ParseError> {
    let Some((_, eth_type, ip_proto)) = PROTOCOLS.iter().find(|(name, ..)| *name == token) else {
        let problem = if PacketKind::of(flow_match).resolve(token).is_some() {
            "a field without a value"
        } else {
            "not a field or protocol"
        };
        return Err(ParseError::new(
            token,
            problem,
            "write field=value, or one of ip arp tcp udp icmp sctp ipv6 tcp6 udp6 icmp6 sctp6 rarp",
        ));
    };
    assign(flow_match, token, Field::EthType, u128::from(*eth_type), Field::EthType.ones())?;
    if let Some(ip_proto) = ip_proto {
        assign(flow_match, token, Field::IpProto, u128::from(*ip_proto), Field::IpProto.ones())?;
    }
    Ok(())
}

/// Adds a condition; one that contradicts an earlier one is an error.
fn assign(
    flow_match: &mut FlowMatch,
    token: &str,
    field: Field,
    value: u128,
    mask: u128,
) -> Result<(), ParseError> {
    let (old, old_mask) = (flow_match.value(field), flow_match.bits(field));
    if (old ^ value) & old_mask & mask != 0 {
        return Err(ParseError::new(
            token,
            "contradicts an earlier part of the match, so no packet could match",
            "remove one of the two",
        ));
    }
    flow_match.set_masked(field, (old & old_mask) | (value & mask), old_mask | mask);
    Ok(())
}

/// `name=text`.
struct Assignment<'a> {
    token: &'a str,
    name: &'a str,
    text: &'a str,
}

impl Assignment<'_> {
    fn apply(&self, flow_match: &mut FlowMatch, ports: &dyn PortNames) -> Result<(), ParseError> {
        if self.special(flow_match, ports)? {
            return Ok(());
        }
        let kind = PacketKind::of(flow_match);
        let Some(field) = kind.resolve(self.name) else {
            return Err(ParseError::new(
                self.token,
                format!("unknown field \"{}\"", self.name),
                nearest(self.name),
            ));
        };
        kind.check(field, self.name, self.token)?;
        let (value, mask) = value::parse(field, self.token, self.text, ports)?;
        if mask != field.ones() && !field.spec().maskable {
            return Err(ParseError::new(
                self.token,
                format!("{} cannot be masked", self.name),
                "give the value without a mask",
            ));
        }
        self.check_byte(field, value)?;
        assign(flow_match, self.token, field, value, mask)
    }

    /// ICMP types and codes are bytes, though the key keeps them where ports are.
    fn check_byte(&self, field: Field, value: u128) -> Result<(), ParseError> {
        let byte = matches!(field, Field::IcmpType | Field::IcmpCode | Field::Icmpv6Type | Field::Icmpv6Code);
        if byte && value > 255 {
            return Err(ParseError::new(self.token, "more than 255", "give a number from 0 to 255"));
        }
        Ok(())
    }

    /// Names whose value is not simply that of a field. Whether this was one.
    fn special(&self, flow_match: &mut FlowMatch, ports: &dyn PortNames) -> Result<bool, ParseError> {
        let present = u128::from(VLAN_PRESENT);
        let (field, value, mask) = match self.name {
            "in_port" => (Field::InPort, u128::from(parse_ofport(self.text, ports)?), Field::InPort.ones()),
            "dl_vlan" if matches!(self.text, "0xffff" | "65535") => {
                // OpenFlow 1.0's "no tag".
                (Field::VlanTci, 0, u128::from(u16::MAX))
            }
            "dl_vlan" => {
                let vid: u128 = scan::number_as(self.token, self.text, 4095)?;
                (Field::VlanVid, vid | present, Field::VlanVid.ones())
            }
            "vlan_vid" => {
                let (vid, mask) = value::parse(Field::VlanVid, self.token, self.text, ports)?;
                // OpenFlow 1.2 and later: zero means no tag. The bit that says there is one may be left out.
                let whole = mask == Field::VlanVid.ones();
                (Field::VlanVid, if whole && vid != 0 { vid | present } else { vid }, mask)
            }
            "dl_vlan_pcp" | "vlan_pcp" => {
                let pcp: u128 = scan::number_as(self.token, self.text, 7)?;
                assign(flow_match, self.token, Field::VlanTci, present, present)?;
                (Field::VlanPcp, pcp, Field::VlanPcp.ones())
            }
            "nw_tos" => {
                let tos: u128 = scan::number_as(self.token, self.text, 255)?;
                if tos & 3 != 0 {
                    return Err(ParseError::new(
                        self.token,
                        "the two lowest bits of nw_tos must be zero",
                        "give a multiple of 4, and match those bits with nw_ecn",
                    ));
                }
                PacketKind::of(flow_match).check(Field::IpDscp, self.name, self.token)?;
                (Field::IpDscp, tos >> 2, Field::IpDscp.ones())
            }
            _ => return Ok(false),
        };
        assign(flow_match, self.token, field, value, mask)?;
        Ok(true)
    }
}

/// A hint for a name nobody knows: fields that begin alike, or that contain it.
fn nearest(name: &str) -> String {
    let prefix = name.split('_').next().unwrap_or(name);
    let alike: Vec<&str> = FIELDS
        .iter()
        .flat_map(|spec| spec.names)
        .copied()
        .filter(|known| !prefix.is_empty() && known.starts_with(prefix))
        .collect();
    if alike.is_empty() {
        "check the spelling".to_owned()
    } else {
        format!("did you mean one of {}", alike.join(" "))
    }
}

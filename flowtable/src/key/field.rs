//! The fields of a flow key, one row each.
//!
//! The table is the single place that knows what a field is called, where its bits are, whether it may be
//! masked and what must be known about a packet before the field means anything. The text forms, the rule
//! parser's prerequisite checks and the header rewriter all read it; none of them has offsets of its own.
//!
//! A value is a `u128` whatever the field: the field's bits, read as one big-endian number, shifted down to
//! bit 0. A MAC address `00:00:00:00:00:05` is 5, an IPv4 address is its usual 32-bit number.
//!
//! Two fields may share bits (`ip_src` and `arp_spa`, `tcp_src` and `udp_src`): prerequisites tell them
//! apart, as in Open vSwitch. Cost: a few loads per access; nothing here is meant for the per-packet path.

use core::mem::offset_of;

use zerocopy::IntoBytes;

use super::flow_key::{FlowKey, FlowMask};

/// A named part of a [`FlowKey`].
///
/// The variants are in the order in which a match is printed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Field {
    /// Recirculation round.
    RecircId,
    /// Port of arrival: a datapath number in a datapath flow, an OpenFlow number in a rule.
    InPort,
    /// Whole TCI of the outer tag, with the "present" bit.
    VlanTci,
    /// VLAN id of the outer tag and the "present" bit: 13 bits.
    VlanVid,
    /// Priority of the outer tag.
    VlanPcp,
    /// EtherType of the outer tag.
    VlanTpid,
    /// Whole TCI of the inner tag, with the "present" bit.
    Vlan2Tci,
    /// EtherType of the inner tag.
    Vlan2Tpid,
    /// Ethernet source.
    EthSrc,
    /// Ethernet destination.
    EthDst,
    /// EtherType behind the tags.
    EthType,
    /// IPv4 source.
    IpSrc,
    /// IPv4 destination.
    IpDst,
    /// IPv6 source.
    Ipv6Src,
    /// IPv6 destination.
    Ipv6Dst,
    /// IPv6 flow label.
    Ipv6Label,
    /// ARP sender protocol address.
    ArpSpa,
    /// ARP target protocol address.
    ArpTpa,
    /// ARP opcode.
    ArpOp,
    /// ARP sender hardware address.
    ArpSha,
    /// ARP target hardware address.
    ArpTha,
    /// IP protocol of the upper layer.
    IpProto,
    /// The whole IPv4 TOS byte.
    IpTos,
    /// The whole IPv6 traffic class.
    Ipv6Tclass,
    /// DSCP of IPv4 or IPv6: the upper six bits of the TOS byte.
    IpDscp,
    /// ECN of IPv4 or IPv6: the lower two bits of the TOS byte.
    IpEcn,
    /// IPv4 TTL or IPv6 hop limit.
    IpTtl,
    /// IPv6 hop limit, where the text must say which of the two is meant.
    Ipv6Hlimit,
    /// Fragment bits.
    IpFrag,
    /// TCP source port.
    TcpSrc,
    /// TCP destination port.
    TcpDst,
    /// UDP source port.
    UdpSrc,
    /// UDP destination port.
    UdpDst,
    /// SCTP source port.
    SctpSrc,
    /// SCTP destination port.
    SctpDst,
    /// TCP flags.
    TcpFlags,
    /// ICMP type.
    IcmpType,
    /// ICMP code.
    IcmpCode,
    /// ICMPv6 type.
    Icmpv6Type,
    /// ICMPv6 code.
    Icmpv6Code,
    /// Neighbour discovery target address.
    NdTarget,
    /// Neighbour discovery source link-layer address.
    NdSll,
    /// Neighbour discovery target link-layer address.
    NdTll,
}

/// How a field's value is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ValueKind {
    /// `02:00:00:00:00:01`.
    Mac,
    /// `10.0.0.1`, mask as `/8` or `/255.0.0.0`.
    Ipv4,
    /// `fe80::1`, mask as `/64` or an address.
    Ipv6,
    /// An unsigned number, decimal unless `0x` leads.
    Decimal,
    /// An unsigned number, printed in hexadecimal.
    Hex,
    /// A port number or name.
    Port,
    /// Fragment words: `no yes first later not_later`.
    Frag,
    /// TCP flag words: `+syn-ack`.
    TcpFlags,
}

/// What a packet must be for a field to mean anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prerequisite {
    /// Nothing: every frame has it.
    None,
    /// An outer VLAN tag.
    Vlan,
    /// EtherType is ARP.
    Arp,
    /// EtherType is IPv4.
    Ipv4,
    /// EtherType is IPv6.
    Ipv6,
    /// EtherType is IPv4 or IPv6.
    Ip,
    /// IPv4 or IPv6 with protocol TCP.
    Tcp,
    /// IPv4 or IPv6 with protocol UDP.
    Udp,
    /// IPv4 or IPv6 with protocol SCTP.
    Sctp,
    /// IPv4 with protocol ICMP.
    Icmp,
    /// IPv6 with protocol ICMPv6.
    Icmpv6,
    /// ICMPv6 neighbour solicitation or advertisement.
    Nd,
    /// ICMPv6 neighbour solicitation.
    NdSolicit,
    /// ICMPv6 neighbour advertisement.
    NdAdvert,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct FieldSpec {
    /// The field.
    pub field: Field,
    /// Names in OpenFlow rule syntax, the one we print first.
    pub names: &'static [&'static str],
    /// First byte in the key.
    offset: usize,
    /// Bytes in the key.
    width: usize,
    /// Lowest bit within those bytes.
    shift: u32,
    /// Width in bits.
    pub bits: u32,
    /// Whether a rule may match some of its bits only.
    pub maskable: bool,
    /// What must hold for the field to be there.
    pub prerequisite: Prerequisite,
    /// How values are written.
    pub kind: ValueKind,
}

macro_rules! row {
    ($field:ident, [$($name:literal),+], $member:ident[$width:literal], $shift:literal, $bits:literal,
     $maskable:literal, $pre:ident, $kind:ident) => {
        FieldSpec {
            field: Field::$field,
            names: &[$($name),+],
            offset: offset_of!(FlowKey, $member),
            width: $width,
            shift: $shift,
            bits: $bits,
            maskable: $maskable,
            prerequisite: Prerequisite::$pre,
            kind: ValueKind::$kind,
        }
    };
}

/// Every field, at the index of its discriminant.
pub const FIELDS: [FieldSpec; 43] = [
    row!(RecircId, ["recirc_id"], recirc_id[4], 0, 32, false, None, Hex),
    row!(InPort, ["in_port"], in_port[4], 0, 32, false, None, Port),
    row!(VlanTci, ["vlan_tci"], vlan_tci[2], 0, 16, true, None, Hex),
    row!(VlanVid, ["vlan_vid", "dl_vlan"], vlan_tci[2], 0, 13, true, None, Decimal),
    row!(VlanPcp, ["dl_vlan_pcp", "vlan_pcp"], vlan_tci[2], 13, 3, false, Vlan, Decimal),
    row!(VlanTpid, ["vlan_tpid"], vlan_tpid[2], 0, 16, false, None, Hex),
    row!(Vlan2Tci, ["vlan2_tci"], vlan2_tci[2], 0, 16, true, None, Hex),
    row!(Vlan2Tpid, ["vlan2_tpid"], vlan2_tpid[2], 0, 16, false, None, Hex),
    row!(EthSrc, ["dl_src", "eth_src"], eth_src[6], 0, 48, true, None, Mac),
    row!(EthDst, ["dl_dst", "eth_dst"], eth_dst[6], 0, 48, true, None, Mac),
    row!(EthType, ["dl_type", "eth_type"], eth_type[2], 0, 16, false, None, Hex),
    row!(IpSrc, ["nw_src", "ip_src"], nw_src[4], 0, 32, true, Ipv4, Ipv4),
    row!(IpDst, ["nw_dst", "ip_dst"], nw_dst[4], 0, 32, true, Ipv4, Ipv4),
    row!(Ipv6Src, ["ipv6_src"], nw_src[16], 0, 128, true, Ipv6, Ipv6),
    row!(Ipv6Dst, ["ipv6_dst"], nw_dst[16], 0, 128, true, Ipv6, Ipv6),
    row!(Ipv6Label, ["ipv6_label"], ipv6_label[4], 0, 20, true, Ipv6, Hex),
    row!(ArpSpa, ["arp_spa"], nw_src[4], 0, 32, true, Arp, Ipv4),
    row!(ArpTpa, ["arp_tpa"], nw_dst[4], 0, 32, true, Arp, Ipv4),
    row!(ArpOp, ["arp_op"], nw_proto[1], 0, 8, false, Arp, Decimal),
    row!(ArpSha, ["arp_sha"], arp_sha[6], 0, 48, true, Arp, Mac),
    row!(ArpTha, ["arp_tha"], arp_tha[6], 0, 48, true, Arp, Mac),
    row!(IpProto, ["nw_proto", "ip_proto"], nw_proto[1], 0, 8, false, Ip, Decimal),
    row!(IpTos, ["ip_tos"], nw_tos[1], 0, 8, true, Ip, Hex),
    row!(Ipv6Tclass, ["ipv6_tclass"], nw_tos[1], 0, 8, true, Ipv6, Hex),
    row!(IpDscp, ["ip_dscp", "nw_tos"], nw_tos[1], 2, 6, false, Ip, Decimal),
    row!(IpEcn, ["nw_ecn", "ip_ecn"], nw_tos[1], 0, 2, false, Ip, Decimal),
    row!(IpTtl, ["nw_ttl"], nw_ttl[1], 0, 8, true, Ip, Decimal),
    row!(Ipv6Hlimit, ["ipv6_hlimit"], nw_ttl[1], 0, 8, true, Ipv6, Decimal),
    row!(IpFrag, ["nw_frag", "ip_frag"], nw_frag[1], 0, 2, true, Ip, Frag),
    row!(TcpSrc, ["tcp_src", "tp_src"], tp_src[2], 0, 16, true, Tcp, Decimal),
    row!(TcpDst, ["tcp_dst", "tp_dst"], tp_dst[2], 0, 16, true, Tcp, Decimal),
    row!(UdpSrc, ["udp_src", "tp_src"], tp_src[2], 0, 16, true, Udp, Decimal),
    row!(UdpDst, ["udp_dst", "tp_dst"], tp_dst[2], 0, 16, true, Udp, Decimal),
    row!(SctpSrc, ["sctp_src", "tp_src"], tp_src[2], 0, 16, true, Sctp, Decimal),
    row!(SctpDst, ["sctp_dst", "tp_dst"], tp_dst[2], 0, 16, true, Sctp, Decimal),
    row!(TcpFlags, ["tcp_flags"], tcp_flags[2], 0, 12, true, Tcp, TcpFlags),
    row!(IcmpType, ["icmp_type", "icmpv4_type"], tp_src[2], 0, 16, false, Icmp, Decimal),
    row!(IcmpCode, ["icmp_code", "icmpv4_code"], tp_dst[2], 0, 16, false, Icmp, Decimal),
    row!(Icmpv6Type, ["icmpv6_type", "icmp_type"], tp_src[2], 0, 16, false, Icmpv6, Decimal),
    row!(Icmpv6Code, ["icmpv6_code", "icmp_code"], tp_dst[2], 0, 16, false, Icmpv6, Decimal),
    row!(NdTarget, ["nd_target"], nd_target[16], 0, 128, true, Nd, Ipv6),
    row!(NdSll, ["nd_sll"], arp_sha[6], 0, 48, true, NdSolicit, Mac),
    row!(NdTll, ["nd_tll"], arp_tha[6], 0, 48, true, NdAdvert, Mac),
];

const _: () = {
    let mut i = 0;
    while i < FIELDS.len() {
        assert!(FIELDS[i].field as usize == i);
        assert!(FIELDS[i].shift + FIELDS[i].bits <= FIELDS[i].width as u32 * 8);
        i += 1;
    }
};

/// A number with the low `bits` bits set.
fn ones(bits: u32) -> u128 {
    if bits >= 128 { u128::MAX } else { (1 << bits) - 1 }
}

impl Field {
    /// The field's row.
    pub fn spec(self) -> &'static FieldSpec {
        &FIELDS[self as usize]
    }

    /// The name we print in OpenFlow rule syntax.
    pub fn name(self) -> &'static str {
        self.spec().names.first().copied().unwrap_or("")
    }

    /// Largest value, which is also the mask of an exact match.
    pub fn ones(self) -> u128 {
        ones(self.spec().bits)
    }

    /// The field's value in `key`.
    pub fn get(self, key: &FlowKey) -> u128 {
        let spec = self.spec();
        (spec.load(key) >> spec.shift) & ones(spec.bits)
    }

    /// Stores `value` in `key`; bits beyond the field's width are dropped, neighbours stay as they are.
    pub fn set(self, key: &mut FlowKey, value: u128) {
        let spec = self.spec();
        let bits = ones(spec.bits) << spec.shift;
        let whole = (spec.load(key) & !bits) | ((value << spec.shift) & bits);
        spec.store(key, whole);
    }

    /// Which bits of the field `mask` compares.
    pub fn get_mask(self, mask: &FlowMask) -> u128 {
        self.get(&mask.fields)
    }

    /// Makes `mask` compare exactly the bits `bits` of the field.
    pub fn set_mask(self, mask: &mut FlowMask, bits: u128) {
        self.set(&mut mask.fields, bits);
    }
}

impl FlowMask {
    /// Makes every bit of `field` count ("un-wildcards" it).
    pub fn set_exact(&mut self, field: Field) {
        field.set_mask(self, field.ones());
    }

    /// Makes the bits `bits` of `field` count besides those that already do.
    pub fn add_bits(&mut self, field: Field, bits: u128) {
        let old = field.get_mask(self);
        field.set_mask(self, old | bits);
    }
}

impl FieldSpec {
    // `in_port` and `recirc_id` are in host order, everything else is in network order.
    fn load(&self, key: &FlowKey) -> u128 {
        match self.field {
            Field::InPort => return u128::from(key.in_port),
            Field::RecircId => return u128::from(key.recirc_id),
            _ => {}
        }
        let bytes = key.as_bytes().get(self.offset..self.offset + self.width).unwrap_or(&[]);
        bytes.iter().fold(0, |value, byte| (value << 8) | u128::from(*byte))
    }

    fn store(&self, key: &mut FlowKey, value: u128) {
        match self.field {
            Field::InPort => key.in_port = value as u32,
            Field::RecircId => key.recirc_id = value as u32,
            _ => {
                let big_endian = value.to_be_bytes();
                let start = big_endian.len() - self.width;
                if let (Some(to), Some(from)) = (
                    key.as_mut_bytes().get_mut(self.offset..self.offset + self.width),
                    big_endian.get(start..),
                ) {
                    to.copy_from_slice(from);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::key::VLAN_PRESENT;

    #[test]
    fn the_fields_are_the_key() {
        let mut all = FlowMask::WILDCARD;
        for spec in &FIELDS {
            all.set_exact(spec.field);
        }
        assert!(all == FlowMask::EXACT);
    }

    #[test]
    fn a_name_is_shared_only_where_the_packet_tells_which_is_meant() {
        let mut seen: HashMap<&str, Vec<Prerequisite>> = HashMap::new();
        for spec in &FIELDS {
            for name in spec.names {
                let others = seen.entry(name).or_default();
                assert!(!others.contains(&spec.prerequisite), "{name}");
                others.push(spec.prerequisite);
            }
        }
    }

    #[test]
    fn values_are_numbers() {
        let mut key = FlowKey::default();
        Field::EthDst.set(&mut key, 0x0200_0000_0005);
        Field::IpSrc.set(&mut key, 0x0a00_0001);
        Field::InPort.set(&mut key, 7);
        Field::VlanVid.set(&mut key, u128::from(VLAN_PRESENT) | 5);
        Field::VlanPcp.set(&mut key, 3);
        Field::IpDscp.set(&mut key, 8);
        assert_eq!(key.eth_dst, [2, 0, 0, 0, 0, 5]);
        assert_eq!(key.nw_src[..5], [10, 0, 0, 1, 0]);
        assert_eq!((key.in_port, key.vlan_tci.get(), key.nw_tos), (7, 0x7005, 0x20));
    }

    proptest! {
        #[test]
        fn set_changes_its_own_bits_only(index in 0..FIELDS.len(), words: [u64; 24], value: u128) {
            let field = FIELDS[index].field;
            let mut key = FlowKey::default();
            key.words_mut().copy_from_slice(&words);
            field.set(&mut key, value);
            prop_assert_eq!(field.get(&key), value & field.ones());
            let mut mask = FlowMask::WILDCARD;
            mask.set_exact(field);
            for ((now, before), bits) in key.words().iter().zip(&words).zip(mask.words()) {
                prop_assert_eq!(now & !bits, before & !bits);
            }
        }

        #[test]
        fn bits_add_up(index in 0..FIELDS.len(), a: u128, b: u128) {
            let field = FIELDS[index].field;
            let mut mask = FlowMask::WILDCARD;
            field.set_mask(&mut mask, a);
            mask.add_bits(field, b);
            prop_assert_eq!(field.get_mask(&mask), (a | b) & field.ones());
        }
    }
}

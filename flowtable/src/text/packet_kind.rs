//! What a match says about the packets it is for, and which fields that makes sense of.

use crate::{
    key::{Field, FlowMatch, Prerequisite},
    wire::{
        ETH_TYPE_ARP, ETH_TYPE_IPV4, ETH_TYPE_IPV6, ETH_TYPE_RARP, ICMPV6_NEIGHBOR_ADVERT,
        ICMPV6_NEIGHBOR_SOLICIT, IP_PROTO_ICMP, IP_PROTO_ICMPV6, IP_PROTO_SCTP, IP_PROTO_TCP, IP_PROTO_UDP,
    },
};

/// What a match says about the kind of packet.
#[derive(Clone, Copy)]
pub(super) struct PacketKind {
    pub(super) eth_type: Option<u16>,
    pub(super) ip_proto: Option<u8>,
    pub(super) icmpv6_type: Option<u8>,
    /// Whether a tag is required.
    pub(super) tagged: bool,
}

impl PacketKind {
    pub(super) fn of(flow_match: &FlowMatch) -> PacketKind {
        let byte = |field| flow_match.exact(field).and_then(|value| u8::try_from(value).ok());
        PacketKind {
            eth_type: flow_match.exact(Field::EthType).map(|value| value as u16),
            ip_proto: byte(Field::IpProto),
            icmpv6_type: byte(Field::Icmpv6Type),
            tagged: flow_match.bits(Field::VlanTci) & flow_match.value(Field::VlanTci) & 0x1000 != 0,
        }
    }

    pub(super) fn is_ip(&self) -> bool {
        matches!(self.eth_type, Some(ETH_TYPE_IPV4 | ETH_TYPE_IPV6))
    }

    pub(super) fn is_arp(&self) -> bool {
        matches!(self.eth_type, Some(ETH_TYPE_ARP | ETH_TYPE_RARP))
    }

    pub(super) fn meets(&self, prerequisite: Prerequisite) -> bool {
        let proto = |wanted: u8| self.is_ip() && self.ip_proto == Some(wanted);
        let icmpv6 = self.eth_type == Some(ETH_TYPE_IPV6) && self.ip_proto == Some(IP_PROTO_ICMPV6);
        let solicit = icmpv6 && self.icmpv6_type == Some(ICMPV6_NEIGHBOR_SOLICIT);
        let advert = icmpv6 && self.icmpv6_type == Some(ICMPV6_NEIGHBOR_ADVERT);
        match prerequisite {
            Prerequisite::None => true,
            Prerequisite::Vlan => self.tagged,
            Prerequisite::Arp => self.is_arp(),
            Prerequisite::Ipv4 => self.eth_type == Some(ETH_TYPE_IPV4),
            Prerequisite::Ipv6 => self.eth_type == Some(ETH_TYPE_IPV6),
            Prerequisite::Ip => self.is_ip(),
            Prerequisite::Tcp => proto(IP_PROTO_TCP),
            Prerequisite::Udp => proto(IP_PROTO_UDP),
            Prerequisite::Sctp => proto(IP_PROTO_SCTP),
            Prerequisite::Icmp => self.eth_type == Some(ETH_TYPE_IPV4) && proto(IP_PROTO_ICMP),
            Prerequisite::Icmpv6 => icmpv6,
            Prerequisite::Nd => solicit || advert,
            Prerequisite::NdSolicit => solicit,
            Prerequisite::NdAdvert => advert,
        }
    }
}

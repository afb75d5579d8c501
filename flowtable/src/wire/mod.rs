//! Headers as they lie on the wire: numbers, byte-exact views, checksums.
//!
//! A view is a `repr(C)` struct of byte-aligned fields in network order, laid over a slice by `zerocopy`:
//! `Ipv4Header::ref_from_prefix(bytes)` is one length check and no copy, and the same struct written back with
//! `as_bytes` is the emit side. A view checks nothing but its own size: whoever reads a length from it (header
//! length, total length) checks that length against what is really there. Nothing in here can panic on any bytes.

mod arp;
pub mod checksum;
mod ethernet;
mod icmp;
mod ipv4;
mod ipv6;
mod transport;

pub use arp::{ARP_OP_REPLY, ARP_OP_REQUEST, ArpEthIpv4};
pub use ethernet::{
    ETH_TYPE_ARP, ETH_TYPE_IPV4, ETH_TYPE_IPV6, ETH_TYPE_MIN, ETH_TYPE_NONE, ETH_TYPE_QINQ_OLD,
    ETH_TYPE_RARP, ETH_TYPE_STAG, ETH_TYPE_VLAN, EthernetHeader, LlcSnapHeader, VlanTag, is_vlan_type,
};
pub use icmp::{
    ICMPV6_NEIGHBOR_ADVERT, ICMPV6_NEIGHBOR_SOLICIT, IcmpHeader, ND_OPT_SOURCE_LINK, ND_OPT_TARGET_LINK,
    NdLinkOption, NdNeighborHeader,
};
pub use ipv4::{IPV4_FRAGMENT_OFFSET, IPV4_MORE_FRAGMENTS, Ipv4Header};
pub use ipv6::{
    IP_PROTO_AH, IP_PROTO_DSTOPTS, IP_PROTO_FRAGMENT, IP_PROTO_HOPOPTS, IP_PROTO_ICMP, IP_PROTO_ICMPV6,
    IP_PROTO_ROUTING, IP_PROTO_SCTP, IP_PROTO_TCP, IP_PROTO_UDP, Ipv6Extension, Ipv6Fragment, Ipv6Header,
};
pub use transport::{SctpHeader, TcpHeader, UdpHeader};

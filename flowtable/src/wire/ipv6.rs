//! IPv6, its extension headers (RFC 8200) and the protocol numbers both IPs share.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    big_endian::{U16, U32},
};

/// Hop-by-hop options.
pub const IP_PROTO_HOPOPTS: u8 = 0;
/// ICMP.
pub const IP_PROTO_ICMP: u8 = 1;
/// TCP.
pub const IP_PROTO_TCP: u8 = 6;
/// UDP.
pub const IP_PROTO_UDP: u8 = 17;
/// IPv6 routing header.
pub const IP_PROTO_ROUTING: u8 = 43;
/// IPv6 fragment header.
pub const IP_PROTO_FRAGMENT: u8 = 44;
/// Authentication header.
pub const IP_PROTO_AH: u8 = 51;
/// ICMPv6.
pub const IP_PROTO_ICMPV6: u8 = 58;
/// IPv6 destination options.
pub const IP_PROTO_DSTOPTS: u8 = 60;
/// SCTP.
pub const IP_PROTO_SCTP: u8 = 132;

/// The 40 bytes in front of every IPv6 packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Ipv6Header {
    /// Version (4 bits), traffic class (8), flow label (20).
    pub version_class_label: U32,
    /// Length of what follows this header.
    pub payload_len: U16,
    /// Protocol of what follows, an extension header included.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub src: [u8; 16],
    /// Destination address.
    pub dst: [u8; 16],
}

impl Ipv6Header {
    /// Version, from the header itself.
    #[inline]
    pub fn version(&self) -> u8 {
        (self.version_class_label.get() >> 28) as u8
    }

    /// Traffic class, ECN bits included.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        (self.version_class_label.get() >> 20) as u8
    }

    /// Flow label, 20 bits.
    #[inline]
    pub fn flow_label(&self) -> u32 {
        self.version_class_label.get() & 0x000f_ffff
    }
}

/// How hop-by-hop, routing, destination-option and authentication headers begin.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Ipv6Extension {
    /// Protocol of what follows.
    pub next_header: u8,
    /// Length: units of 8 bytes beyond the first 8, or for AH units of 4 bytes beyond the first 8.
    pub len: u8,
    /// The rest of the smallest such header.
    pub body: [u8; 6],
}

/// The IPv6 fragment header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Ipv6Fragment {
    /// Protocol of what follows.
    pub next_header: u8,
    /// Reserved.
    pub reserved: u8,
    /// Offset in units of 8 bytes (high 13 bits), two reserved bits, "more fragments".
    pub offset_flags: U16,
    /// Identification.
    pub id: U32,
}

impl Ipv6Fragment {
    /// Bits of [`Ipv6Fragment::offset_flags`] that hold the offset.
    pub const OFFSET: u16 = 0xfff8;
}

//! ICMP, ICMPv6 and the neighbour-discovery messages a switch looks into (RFC 4861).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, big_endian::U16};

/// ICMPv6 type of a neighbour solicitation.
pub const ICMPV6_NEIGHBOR_SOLICIT: u8 = 135;
/// ICMPv6 type of a neighbour advertisement.
pub const ICMPV6_NEIGHBOR_ADVERT: u8 = 136;
/// Neighbour-discovery option: link-layer address of the sender.
pub const ND_OPT_SOURCE_LINK: u8 = 1;
/// Neighbour-discovery option: link-layer address of the target.
pub const ND_OPT_TARGET_LINK: u8 = 2;

/// The 8 bytes in front of every ICMP and ICMPv6 message.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct IcmpHeader {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Checksum; over the pseudo-header too in ICMPv6.
    pub checksum: U16,
    /// Depends on the type.
    pub data: [u8; 4],
}

/// A neighbour solicitation or advertisement up to its options.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct NdNeighborHeader {
    /// Type, code, checksum, flags.
    pub icmp: IcmpHeader,
    /// The address asked for or advertised.
    pub target: [u8; 16],
}

/// A link-layer address option with an Ethernet address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct NdLinkOption {
    /// [`ND_OPT_SOURCE_LINK`] or [`ND_OPT_TARGET_LINK`]; anything else is another option.
    pub kind: u8,
    /// Length in units of 8 bytes; 1 for an Ethernet address.
    pub len: u8,
    /// The address.
    pub mac: [u8; 6],
}

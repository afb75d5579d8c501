//! Ethernet II, 802.1Q/802.1ad tags and LLC/SNAP.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, big_endian::U16};

/// EtherType of IPv4.
pub const ETH_TYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETH_TYPE_ARP: u16 = 0x0806;
/// EtherType of RARP, which QEMU sends to announce a guest after a migration.
pub const ETH_TYPE_RARP: u16 = 0x8035;
/// EtherType of an 802.1Q customer tag.
pub const ETH_TYPE_VLAN: u16 = 0x8100;
/// EtherType of IPv6.
pub const ETH_TYPE_IPV6: u16 = 0x86dd;
/// EtherType of an 802.1ad service tag.
pub const ETH_TYPE_STAG: u16 = 0x88a8;
/// EtherType that stacked tags used before 802.1ad; still met in the field.
pub const ETH_TYPE_QINQ_OLD: u16 = 0x9100;
/// Smallest value that is an EtherType; below it the field is an 802.3 length.
pub const ETH_TYPE_MIN: u16 = 0x0600;
/// What the flow key says for an 802.3 frame that carries no EtherType (Open vSwitch's value).
pub const ETH_TYPE_NONE: u16 = 0x05ff;

/// Whether a tag follows an EtherType.
#[inline]
pub fn is_vlan_type(eth_type: u16) -> bool {
    matches!(eth_type, ETH_TYPE_VLAN | ETH_TYPE_STAG | ETH_TYPE_QINQ_OLD)
}

/// The 14 bytes in front of every frame.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct EthernetHeader {
    /// Destination.
    pub dst: [u8; 6],
    /// Source.
    pub src: [u8; 6],
    /// EtherType of what follows, a tag included, or an 802.3 length.
    pub eth_type: U16,
}

/// What follows a tag's EtherType: the tag, then the next EtherType.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct VlanTag {
    /// Priority (3 bits), DEI, VLAN id (12 bits).
    pub tci: U16,
    /// EtherType of what follows the tag.
    pub eth_type: U16,
}

/// 802.2 LLC with a SNAP extension: how an 802.3 frame carries an EtherType.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct LlcSnapHeader {
    /// DSAP, SSAP, control and the organization code.
    pub prefix: [u8; 6],
    /// EtherType of what follows.
    pub eth_type: U16,
}

impl LlcSnapHeader {
    /// DSAP and SSAP of SNAP, an unnumbered frame, organization "encapsulated Ethernet".
    pub const ETHERNET_PREFIX: [u8; 6] = [0xaa, 0xaa, 0x03, 0, 0, 0];
}

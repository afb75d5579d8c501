//! ARP and RARP for IPv4 over Ethernet (RFC 826, RFC 903).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, big_endian::U16};

use super::ETH_TYPE_IPV4;

/// Opcode of a request.
pub const ARP_OP_REQUEST: u16 = 1;
/// Opcode of a reply.
pub const ARP_OP_REPLY: u16 = 2;

/// The 28 bytes of an ARP packet with Ethernet and IPv4 addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct ArpEthIpv4 {
    /// Hardware type; 1 is Ethernet.
    pub hardware: U16,
    /// Protocol type, an EtherType.
    pub protocol: U16,
    /// Length of a hardware address.
    pub hardware_len: u8,
    /// Length of a protocol address.
    pub protocol_len: u8,
    /// Opcode.
    pub op: U16,
    /// Sender hardware address.
    pub sha: [u8; 6],
    /// Sender protocol address.
    pub spa: [u8; 4],
    /// Target hardware address.
    pub tha: [u8; 6],
    /// Target protocol address.
    pub tpa: [u8; 4],
}

impl ArpEthIpv4 {
    /// Whether the type and length fields say that the addresses are where this view has them.
    #[inline]
    pub fn is_eth_ipv4(&self) -> bool {
        self.hardware.get() == 1
            && self.protocol.get() == ETH_TYPE_IPV4
            && self.hardware_len == 6
            && self.protocol_len == 4
    }
}

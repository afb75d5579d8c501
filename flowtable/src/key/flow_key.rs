//! The fixed-word flow key and its mask.
//!
//! A key is 24 words of 64 bits in three cache lines, not a tree and not a variable list:
//!
//! ```text
//! line 0  L2–L4      MACs, type, VLAN, addresses, proto, tos, ttl, frag, ports, label, TCP flags
//! line 1  metadata   in_port, recirc_id, tag types; room for tunnel and conntrack fields
//! line 2  extra      ARP hardware addresses, ND target: zero for every other packet
//! ```
//!
//! so a masked compare is a few wide loads, and a subtable can name the words its mask touches by index. What is matched together lies
//! together: a connection is four words over IPv4 and six over IPv6, because protocol, fragment bits and ports share one.
//! Fields that come from a header stay in network byte order: extraction is a copy, and the prefix of an
//! address is a prefix of its bytes.
//!
//! Invariant: bytes that no field names are always zero, so two keys are equal exactly when their words are.

use core::fmt;

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout,
    big_endian::{U16, U32},
};

/// 64-bit words in a [`FlowKey`].
pub const KEY_WORDS: usize = 24;

/// Index of the first key word that is zero for a plain packet: one that is neither ARP nor ND and comes from no
/// tunnel and no conntrack.
pub const PLAIN_WORDS: usize = 10;

/// Bit of [`FlowKey::vlan_tci`] that says a tag is there. It takes the place of the CFI/DEI bit, as in Open
/// vSwitch, so that "untagged" and "VLAN 0" differ.
pub const VLAN_PRESENT: u16 = 0x1000;

/// Number of a port on the datapath: small, dense, and unique over all bridges of the switch.
///
/// Zero is never given to a port ([`PortNo::NONE`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct PortNo(pub u32);

impl PortNo {
    /// No port.
    pub const NONE: PortNo = PortNo(0);

    /// The number as an index into a per-port array.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for PortNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The fields of one packet, at fixed places.
///
/// Field conventions follow Open vSwitch: ARP reuses `nw_src`/`nw_dst` (SPA/TPA) and `nw_proto` (opcode);
/// ICMP and ICMPv6 reuse `tp_src`/`tp_dst` (type/code); ND link-layer options reuse `arp_sha` (source) and
/// `arp_tha` (target). IPv4 addresses sit in the first four bytes of their field, the rest is zero.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FlowKey {
    /// Ethernet destination.
    pub eth_dst: [u8; 6],
    /// Ethernet source.
    pub eth_src: [u8; 6],
    /// EtherType after the tags; 0x05ff for an 802.3 frame without one.
    pub eth_type: U16,
    /// Outer tag's TCI with [`VLAN_PRESENT`] set, or zero.
    pub vlan_tci: U16,
    /// IPv4 or IPv6 source, or ARP SPA.
    pub nw_src: [u8; 16],
    /// IPv4 or IPv6 destination, or ARP TPA.
    pub nw_dst: [u8; 16],
    /// IP protocol of the upper layer, or the ARP opcode's low byte.
    pub nw_proto: u8,
    /// IPv4 TOS or IPv6 traffic class, ECN bits included.
    pub nw_tos: u8,
    /// IPv4 TTL or IPv6 hop limit.
    pub nw_ttl: u8,
    /// Bit 0: the packet is a fragment. Bit 1: it is not the first one. (So 0, 1 or 3.)
    pub nw_frag: u8,
    /// TCP, UDP or SCTP source port; ICMP type.
    pub tp_src: U16,
    /// TCP, UDP or SCTP destination port; ICMP code.
    pub tp_dst: U16,
    /// IPv6 flow label, low 20 bits.
    pub ipv6_label: U32,
    /// TCP flags, low 12 bits.
    pub tcp_flags: U16,
    /// Inner tag's TCI with [`VLAN_PRESENT`] set, or zero.
    pub vlan2_tci: U16,

    /// Port the packet came in by, as a datapath number in host order.
    pub in_port: u32,
    /// Recirculation round; zero for a packet from a port.
    pub recirc_id: u32,
    /// Outer tag's EtherType (0x8100, 0x88a8), or zero.
    pub vlan_tpid: U16,
    /// Inner tag's EtherType, or zero.
    pub vlan2_tpid: U16,
    /// Room for tunnel fields; zero.
    pub spare_tunnel: [u8; 32],
    /// Room for conntrack fields; zero.
    pub spare_ct: [u8; 20],

    /// ARP SHA or ND source link-layer address.
    pub arp_sha: [u8; 6],
    /// ARP THA or ND target link-layer address.
    pub arp_tha: [u8; 6],
    /// Filler; zero.
    pub spare_pad: [u8; 4],
    /// ND target address.
    pub nd_target: [u8; 16],
    /// Filler; zero.
    pub spare_extra: [u8; 32],
}

const _: () = {
    assert!(size_of::<FlowKey>() == KEY_WORDS * 8);
    assert!(core::mem::offset_of!(FlowKey, nw_src) == 16);
    assert!(core::mem::offset_of!(FlowKey, nw_proto) == 48);
    assert!(core::mem::offset_of!(FlowKey, tp_src) == 52);
    assert!(core::mem::offset_of!(FlowKey, ipv6_label) == 56);
    assert!(core::mem::offset_of!(FlowKey, in_port) == 64);
    assert!(core::mem::offset_of!(FlowKey, arp_sha) == 128);
};

impl FlowKey {
    /// The key as words, for hashing and masked compares.
    pub fn words(&self) -> &[u64; KEY_WORDS] {
        zerocopy::transmute_ref!(self)
    }

    /// Whether two keys are the same. As `==`, but one word after the other, those first in which keys that differ nearly always
    /// differ. A key that has just been written was written by words, and a wider load of two of them would have to wait until
    /// both have reached the cache.
    #[inline]
    pub fn equals(&self, other: &FlowKey) -> bool {
        const PLAIN: [usize; PLAIN_WORDS] = [6, 2, 4, 0, 7, 1, 3, 5, 8, 9];
        let (a, b) = (self.words(), other.words());
        PLAIN.iter().all(|i| a[*i] == b[*i]) && a[PLAIN_WORDS..] == b[PLAIN_WORDS..]
    }

    /// The key as words to change.
    pub fn words_mut(&mut self) -> &mut [u64; KEY_WORDS] {
        zerocopy::transmute_mut!(self)
    }
}

/// Which bits of a [`FlowKey`] count: one bits are compared, zero bits are wildcards.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FlowMask {
    /// The mask in the shape of a key.
    pub fields: FlowKey,
}

impl FlowMask {
    /// The mask as words.
    pub fn words(&self) -> &[u64; KEY_WORDS] {
        self.fields.words()
    }

    /// The mask as words to change.
    pub fn words_mut(&mut self) -> &mut [u64; KEY_WORDS] {
        self.fields.words_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_equal_when_every_word_is() {
        let key = FlowKey { in_port: 7, ..FlowKey::default() };
        assert!(key.equals(&key));
        for word in 0..KEY_WORDS {
            let mut other = key;
            other.words_mut()[word] ^= 1 << 40;
            assert!(!key.equals(&other) && !other.equals(&key), "word {word}");
        }
    }
}

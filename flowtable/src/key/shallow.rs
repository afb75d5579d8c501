//! A look at the front of a frame, for ports whose megaflows look no deeper.
//!
//! A rule `in_port → output` makes one megaflow that compares the port, the EtherType and the fragment bits; a learning bridge
//! makes megaflows that compare MACs and tags as well. What lies behind cannot change which of them a packet matches, so it
//! is not extracted ([`Depth`] says why that is right).
//!
//! The limited key of nearly all frames is made of their first 24 bytes: untagged, with an EtherType, not a fragment. Tag words and
//! fragment bits are then zero and MACs and type lie in the frame as they do in the key. Every other frame is for
//! [`extract`](super::extract), under [`Depth::mask`].
//!
//! Cost: three loads, two masks, one or two compares.

use super::extract::{TYPE_AND_BEFORE, extract, is_extension};
use super::{Depth, FlowKey, PortNo};
use crate::wire::{
    ETH_TYPE_IPV4, ETH_TYPE_IPV6, ETH_TYPE_MIN, EthernetHeader, IP_PROTO_TCP, IPV4_FRAGMENT_OFFSET,
    IPV4_MORE_FRAGMENTS, Ipv4Header, TcpHeader, is_vlan_type,
};

/// The EtherType in the second word of a frame.
const TYPE: u64 = type_word(u16::MAX);
/// Where an IPv4 header that follows the Ethernet header says that it is a fragment, in the third word of a frame.
const FRAGMENT: u64 = {
    let [a, b] = (IPV4_FRAGMENT_OFFSET | IPV4_MORE_FRAGMENTS).to_be_bytes();
    u64::from_ne_bytes([0, 0, 0, 0, a, b, 0, 0])
};

/// An EtherType where the second word of a frame has it.
const fn type_word(eth_type: u16) -> u64 {
    let [a, b] = eth_type.to_be_bytes();
    u64::from_ne_bytes([0, 0, 0, 0, a, b, 0, 0])
}

/// Bits of the key's first two words that count at a depth, in a frame without tags.
#[inline]
fn counting(depth: Depth) -> [u64; 2] {
    match depth {
        Depth::Port => [0, TYPE],
        _ => [u64::MAX, TYPE_AND_BEFORE],
    }
}

/// What [`shallow`] sees of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shallow {
    /// The first two words of the limited key. All others are zero, but for `in_port`, which is not in the frame.
    pub words: [u64; 2],
    /// Whether the frame may carry TCP: then [`tcp_flags`] is worth its while.
    pub may_be_tcp: bool,
}

/// The limited key of a frame, for [`Depth::Port`] and [`Depth::Link`]. `None` for a frame that takes a full look.
#[inline(always)]
pub fn shallow(head: &[u8], frame_len: usize, depth: Depth) -> Option<Shallow> {
    let first = head.first_chunk::<24>()?;
    if frame_len < first.len() {
        return None;
    }
    let [front, back, third]: [u64; 3] = zerocopy::transmute!(*first);
    let kind = back & TYPE;
    let may_be_tcp = if kind == type_word(ETH_TYPE_IPV4) {
        // Without these bits it is no fragment, whether or not the header is a valid one.
        if third & FRAGMENT != 0 {
            return None;
        }
        first[23] == IP_PROTO_TCP
    } else if kind == type_word(ETH_TYPE_IPV6) {
        if is_extension(first[20]) {
            return None;
        }
        first[20] == IP_PROTO_TCP
    } else {
        let eth_type = u16::from_be_bytes([first[12], first[13]]);
        if eth_type < ETH_TYPE_MIN || is_vlan_type(eth_type) {
            return None;
        }
        false
    };
    let mask = counting(depth);
    Some(Shallow { words: [front & mask[0], back & mask[1]], may_be_tcp })
}

/// [`FlowKey::tcp_flags`] of a frame, in host order, without the rest of the key where that is possible.
#[inline(never)]
pub fn tcp_flags(head: &[u8], frame_len: usize) -> u16 {
    plain_tcp_flags(head, frame_len).unwrap_or_else(|| {
        let mut key = FlowKey::default();
        extract(head, frame_len, PortNo::NONE, &mut key);
        key.tcp_flags.get()
    })
}

/// TCP directly behind an IPv4 header without options: two segments of three.
fn plain_tcp_flags(head: &[u8], frame_len: usize) -> Option<u16> {
    const L3: usize = size_of::<EthernetHeader>();
    const L4: usize = L3 + size_of::<Ipv4Header>();
    let first = head.first_chunk::<{ L4 + size_of::<TcpHeader>() }>()?;
    let at = |i: usize| u16::from_be_bytes([first[i], first[i + 1]]);
    let end = L3 + usize::from(at(L3 + 2));
    let tcp_len = usize::from(first[L4 + 12] >> 4) * 4;
    let plain = at(12) == ETH_TYPE_IPV4
        && first[L3] == 0x45
        && at(L3 + 6) & (IPV4_FRAGMENT_OFFSET | IPV4_MORE_FRAGMENTS) == 0
        && first[L3 + 9] == IP_PROTO_TCP
        && tcp_len >= size_of::<TcpHeader>()
        && L4 + tcp_len <= end
        && end <= frame_len;
    plain.then(|| at(L4 + 12) & 0x0fff)
}

#[cfg(test)]
mod tests;

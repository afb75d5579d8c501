//! The short way for the packets that make up nearly all traffic.

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::{
    Layers, TYPE_AND_BEFORE, W_ETH, W_NW, W_NW_DST, W_NW_SRC, W_PORT, W_TP, ipv4_word, network_word, pair,
    ports, transport_word, view,
};
use crate::key::{KEY_WORDS, PortNo};
use crate::wire::{
    ETH_TYPE_IPV4, EthernetHeader, IP_PROTO_TCP, IP_PROTO_UDP, IPV4_FRAGMENT_OFFSET, IPV4_MORE_FRAGMENTS,
    Ipv4Header, TcpHeader, UdpHeader,
};

/// The headers of the frames that make up nearly all traffic.
#[repr(C)]
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
struct Usual {
    ethernet: EthernetHeader,
    ip: Ipv4Header,
    /// Of UDP, the first eight bytes.
    tcp: TcpHeader,
}

/// Writes the key of an untagged IPv4 packet with TCP or UDP and without options or fragments: everything is where it
/// always is, so one check of the length does for all. `None`, with nothing written, says that it is another packet, or
/// one that lies somewhere; the general way finds out.
#[inline(always)]
pub(super) fn extract(
    head: &[u8],
    frame_len: usize,
    in_port: PortNo,
    words: &mut [u64; KEY_WORDS],
) -> Option<Layers> {
    const L3: usize = size_of::<EthernetHeader>();
    const L4: usize = L3 + size_of::<Ipv4Header>();
    let Usual { ethernet, ip, tcp } = view::<Usual>(head, 0)?;
    let end = L3 + usize::from(ip.total_len.get());
    if ethernet.eth_type.get() != ETH_TYPE_IPV4
        || ip.version_ihl != 0x45
        || ip.fragment.get() & (IPV4_FRAGMENT_OFFSET | IPV4_MORE_FRAGMENTS) != 0
        || end > frame_len
    {
        return None;
    }
    let flags = match ip.protocol {
        IP_PROTO_UDP if L4 + size_of::<UdpHeader>() <= end => 0,
        IP_PROTO_TCP if tcp.header_len() >= size_of::<TcpHeader>() && L4 + tcp.header_len() <= end => {
            tcp.flags()
        }
        _ => return None,
    };
    let [front, back]: [u64; 2] = zerocopy::transmute!(*head.first_chunk::<16>()?);
    *words = [0; KEY_WORDS];
    words[W_ETH] = front;
    words[W_ETH + 1] = back & TYPE_AND_BEFORE;
    words[W_NW_SRC] = ipv4_word(ip.src);
    words[W_NW_DST] = ipv4_word(ip.dst);
    words[W_NW] = network_word(0, ip.protocol, ip.tos, ip.ttl, 0);
    words[W_TP] = transport_word(ports(tcp.src, tcp.dst), flags, 0);
    words[W_PORT] = pair(in_port.0, 0);
    Some(Layers { l3: L3 as u16, l4: L4 as u16 })
}

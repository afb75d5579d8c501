//! The short way for the packets that make up nearly all traffic.

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::words::{
    W_ETH, W_NW, W_NW_DST, W_NW_SRC, W_PORT, W_REST, W_TPID, flags_word, ipv4_word, ipv6_words, network_word,
    pair, ports, ports_word,
};
use super::{Layers, TYPE_AND_BEFORE, view};
use crate::key::{Beside, KEY_WORDS, PortNo};
use crate::wire::{
    ETH_TYPE_IPV4, ETH_TYPE_IPV6, EthernetHeader, IP_PROTO_TCP, IP_PROTO_UDP, IPV4_FRAGMENT_OFFSET,
    IPV4_MORE_FRAGMENTS, Ipv4Header, Ipv6Header, TcpHeader, UdpHeader,
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

/// The same over IPv6.
#[repr(C)]
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
struct UsualIpv6 {
    ethernet: EthernetHeader,
    ip: Ipv6Header,
    /// Of TCP, the first eight bytes: its ports lie where UDP's do.
    udp: UdpHeader,
}

const L3: usize = size_of::<EthernetHeader>();
const L4: usize = L3 + size_of::<Ipv4Header>();

/// Where the headers of a usual packet lie.
const LAYERS: Layers = Layers { l3: L3 as u16, l4: L4 as u16 };

/// The headers of a usual packet, and its TCP flags.
#[inline(always)]
fn headers(head: &[u8], frame_len: usize) -> Option<(&Usual, u16)> {
    let usual = view::<Usual>(head, 0)?;
    let Usual { ethernet, ip, tcp } = usual;
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
    Some((usual, flags))
}

/// The ports of a usual packet. Both at once: put together from two fields they are taken apart and put together again.
#[inline(always)]
fn both_ports(head: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*head.first_chunk::<{ L4 + 4 }>()?.last_chunk::<4>()?))
}

/// The limited key of [`crate::key::connection`] for such a packet. `None`, with nothing written, for any other.
#[inline(always)]
pub(super) fn connection(head: &[u8], frame_len: usize, words: &mut [u64; KEY_WORDS]) -> Option<Beside> {
    let (Usual { ip, .. }, tcp_flags) = headers(head, frame_len)?;
    let ports = both_ports(head)?;
    let [t0, t1] = ETH_TYPE_IPV4.to_be_bytes();
    words[W_ETH + 1] = u64::from_ne_bytes([0, 0, 0, 0, t0, t1, 0, 0]);
    [words[W_NW_SRC], words[W_NW_SRC + 1]] = [ipv4_word(ip.src), 0];
    [words[W_NW_DST], words[W_NW_DST + 1]] = [ipv4_word(ip.dst), 0];
    words[W_NW] = network_word(ip.protocol, 0, 0, 0) | ports_word(ports);
    Some(Beside { layers: LAYERS, tcp_flags })
}

/// The same for an untagged IPv6 packet with TCP or UDP and without extension headers.
#[inline(always)]
pub(super) fn ipv6_connection(head: &[u8], frame_len: usize, words: &mut [u64; KEY_WORDS]) -> Option<Beside> {
    const L4: usize = L3 + size_of::<Ipv6Header>();
    let UsualIpv6 { ethernet, ip, udp } = view::<UsualIpv6>(head, 0)?;
    let end = L4 + usize::from(ip.payload_len.get());
    if ethernet.eth_type.get() != ETH_TYPE_IPV6 || ip.version() != 6 || end > frame_len {
        return None;
    }
    let tcp_flags = match ip.next_header {
        IP_PROTO_UDP if L4 + size_of::<UdpHeader>() <= end => 0,
        IP_PROTO_TCP => {
            let tcp = view::<TcpHeader>(head, L4)?;
            let possible = tcp.header_len() >= size_of::<TcpHeader>() && L4 + tcp.header_len() <= end;
            possible.then(|| tcp.flags())?
        }
        _ => return None,
    };
    let [t0, t1] = ETH_TYPE_IPV6.to_be_bytes();
    words[W_ETH + 1] = u64::from_ne_bytes([0, 0, 0, 0, t0, t1, 0, 0]);
    [words[W_NW_SRC], words[W_NW_SRC + 1]] = ipv6_words(&ip.src);
    [words[W_NW_DST], words[W_NW_DST + 1]] = ipv6_words(&ip.dst);
    words[W_NW] = network_word(ip.next_header, 0, 0, 0) | ports_word(ports(udp.src, udp.dst));
    Some(Beside { layers: Layers { l3: L3 as u16, l4: L4 as u16 }, tcp_flags })
}

/// Writes the first [`PLAIN_WORDS`](crate::key::PLAIN_WORDS) words of the key of an untagged IPv4 packet with TCP or UDP and without options or
/// fragments: everything is where it always is, so one check of the length does for all. The other words of such a key are zero,
/// and are left as they are. `None`, with nothing written, says that it is another packet, or one that lies somewhere; the
/// general way finds out.
#[inline(always)]
pub(super) fn extract(
    head: &[u8],
    frame_len: usize,
    in_port: PortNo,
    words: &mut [u64; KEY_WORDS],
) -> Option<Layers> {
    let (Usual { ip, .. }, flags) = headers(head, frame_len)?;
    let [front, back]: [u64; 2] = zerocopy::transmute!(*head.first_chunk::<16>()?);
    let ports = both_ports(head)?;
    [words[W_ETH], words[W_ETH + 1]] = [front, back & TYPE_AND_BEFORE];
    [words[W_NW_SRC], words[W_NW_SRC + 1]] = [ipv4_word(ip.src), 0];
    [words[W_NW_DST], words[W_NW_DST + 1]] = [ipv4_word(ip.dst), 0];
    words[W_NW] = network_word(ip.protocol, ip.tos, ip.ttl, 0) | ports_word(ports);
    words[W_REST] = flags_word(flags);
    [words[W_PORT], words[W_TPID]] = [pair(in_port.0, 0), 0];
    Some(LAYERS)
}

//! From the first bytes of a frame to its flow key: the only parser on the fast path.
//!
//! The rules are those of Open vSwitch's `miniflow_extract`, so that rules written for it keep their meaning:
//!
//! - A header that is cut off by the frame, by the length its IP header states, or by the end of `head` is not
//!   there; its fields are zero, and so are those of everything behind it.
//! - An IPv4 header with an impossible version, header length or total length, and an IPv6 header with an
//!   impossible version or payload length, leave all L3 fields zero. A broken chain of IPv6 extension headers
//!   leaves the addresses and nothing else of L3.
//! - A later fragment has no transport fields. Over IPv6 its protocol is 44, since the real one is not known.
//! - A TCP header counts only when its own length is possible; an ND option of length zero or beyond the message
//!   ends the options, and the same link-layer option twice voids all ND fields.
//!
//! Bytes behind the length an IP header states are padding and never looked at.
//!
//! Cost: the key is put together in registers and stored as whole words, because a hash or compare that loads a
//! word just written in smaller pieces must wait for the stores to reach the cache.

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned, big_endian::U16};

use self::words::{
    W_ETH, W_NW, W_NW_DST, W_NW_SRC, W_PORT, W_REST, W_TPID, flags_word, inner_tci_word, ipv4_word,
    ipv6_words, label_word, network_word, pair, ports, ports_word,
};
use super::{Beside, FlowKey, KEY_WORDS, PLAIN_WORDS, PortNo, VLAN_PRESENT};
use crate::wire::{
    ArpEthIpv4, ETH_TYPE_ARP, ETH_TYPE_IPV4, ETH_TYPE_IPV6, ETH_TYPE_MIN, ETH_TYPE_NONE, ETH_TYPE_RARP,
    EthernetHeader, ICMPV6_NEIGHBOR_ADVERT, ICMPV6_NEIGHBOR_SOLICIT, IP_PROTO_AH, IP_PROTO_DSTOPTS,
    IP_PROTO_FRAGMENT, IP_PROTO_HOPOPTS, IP_PROTO_ICMP, IP_PROTO_ICMPV6, IP_PROTO_ROUTING, IP_PROTO_SCTP,
    IP_PROTO_TCP, IP_PROTO_UDP, IPV4_FRAGMENT_OFFSET, IPV4_MORE_FRAGMENTS, IcmpHeader, Ipv4Header,
    Ipv6Extension, Ipv6Fragment, Ipv6Header, LlcSnapHeader, ND_OPT_SOURCE_LINK, ND_OPT_TARGET_LINK,
    NdLinkOption, NdNeighborHeader, SctpHeader, TcpHeader, UdpHeader, VlanTag, is_vlan_type,
};

/// [`FlowKey::nw_frag`]: the packet is a fragment.
const FRAGMENT: u8 = 1;
/// [`FlowKey::nw_frag`]: the packet is a fragment other than the first.
const LATER_FRAGMENT: u8 = 3;

/// IPv6 extension headers that are walked before the rest counts as broken. RFC 8200 knows seven places.
const MAX_EXTENSIONS: usize = 8;

/// Where the network and transport headers lie that the key was taken from, in bytes from the frame's start.
///
/// A header is named here exactly when the key has its fields, so rewriting code may go by these offsets. (Of an IPv6 header
/// with a broken chain of extensions the key has the addresses only.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layers {
    /// ARP, IPv4 or IPv6 header, or [`Layers::ABSENT`].
    pub l3: u16,
    /// TCP, UDP, SCTP, ICMP or ICMPv6 header, or [`Layers::ABSENT`].
    pub l4: u16,
}

impl Layers {
    /// The offset that says there is no such header.
    pub const ABSENT: u16 = u16::MAX;

    /// Neither header.
    pub const NONE: Layers = Layers { l3: Layers::ABSENT, l4: Layers::ABSENT };

    /// Offset of the network header.
    pub fn l3(&self) -> Option<usize> {
        (self.l3 != Layers::ABSENT).then_some(usize::from(self.l3))
    }

    /// Offset of the transport header.
    pub fn l4(&self) -> Option<usize> {
        (self.l4 != Layers::ABSENT).then_some(usize::from(self.l4))
    }

    fn new(l3: usize, l4: Option<usize>) -> Layers {
        // Offsets are bounded by a few tags, 60 bytes of IPv4 or eight extension headers of at most 2048 bytes.
        Layers { l3: l3 as u16, l4: l4.map_or(Layers::ABSENT, |l4| l4 as u16) }
    }
}

/// Writes the whole key of a frame: every field the frame has, zero for every other.
///
/// `head` is the frame's first bytes, enough for all headers (256 do); `frame_len` the length of the whole frame,
/// which lengths inside IP headers are checked against. Any bytes and any lengths are fine.
#[inline]
pub fn extract(head: &[u8], frame_len: usize, in_port: PortNo, key: &mut FlowKey) -> Layers {
    match extract_usual(head, frame_len, in_port, key) {
        Some(layers) => {
            key.words_mut()[PLAIN_WORDS..].fill(0);
            layers
        }
        None => extract_unusual(head, frame_len, in_port, key),
    }
}

/// The same for the frames that make up nearly all traffic, whose keys are zero from word [`PLAIN_WORDS`] on: those words are left
/// as they are, which saves who knows them to be zero most of the stores. `None`, with nothing written, for any other frame.
#[inline(always)]
pub fn extract_usual(head: &[u8], frame_len: usize, in_port: PortNo, key: &mut FlowKey) -> Option<Layers> {
    let head = head.get(..frame_len).unwrap_or(head);
    usual::extract(head, frame_len, in_port, key.words_mut())
}

/// [`super::connection`] for a frame of the usual make. `None`, with nothing written, for any other.
#[inline(always)]
pub(super) fn usual_connection(head: &[u8], frame_len: usize, key: &mut FlowKey) -> Option<Beside> {
    usual::connection(head.get(..frame_len).unwrap_or(head), frame_len, key.words_mut())
}

/// The same over IPv6.
#[inline(always)]
pub(super) fn usual_ipv6_connection(head: &[u8], frame_len: usize, key: &mut FlowKey) -> Option<Beside> {
    usual::ipv6_connection(head.get(..frame_len).unwrap_or(head), frame_len, key.words_mut())
}

/// As [`extract`], for a frame that [`extract_usual`] knows nothing of.
#[inline(never)]
pub fn extract_unusual(head: &[u8], frame_len: usize, in_port: PortNo, key: &mut FlowKey) -> Layers {
    let head = head.get(..frame_len).unwrap_or(head);
    let words = key.words_mut();
    *words = [0; KEY_WORDS];
    words[W_PORT] = pair(in_port.0, 0);

    if let Some(first) = head.first_chunk::<16>() {
        // In an untagged frame MACs and EtherType lie as they do in the key; two bytes too many are masked off.
        let [front, back]: [u64; 2] = zerocopy::transmute!(*first);
        let plain = [front, back & TYPE_AND_BEFORE];
        match u16::from_be_bytes([first[12], first[13]]) {
            ETH_TYPE_IPV4 => {
                [words[W_ETH], words[W_ETH + 1]] = plain;
                return ipv4(head, frame_len, Link::untagged(ETH_TYPE_IPV4), words);
            }
            ETH_TYPE_IPV6 => {
                [words[W_ETH], words[W_ETH + 1]] = plain;
                return ipv6(head, frame_len, Link::untagged(ETH_TYPE_IPV6), words);
            }
            _ => {}
        }
    }
    other_link(head, frame_len, words)
}

/// Masks off what follows the EtherType in the second word of an untagged frame.
pub(super) const TYPE_AND_BEFORE: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);

/// Every frame that is not untagged IP: tags, LLC, ARP, protocols without fields.
#[inline(never)]
fn other_link(head: &[u8], frame_len: usize, words: &mut [u64; KEY_WORDS]) -> Layers {
    let Some(ethernet) = view::<EthernetHeader>(head, 0) else { return Layers::NONE };
    let link = tags_and_llc(head, ethernet.eth_type.get(), words);
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (ethernet.dst, ethernet.src);
    let [t0, t1] = link.eth_type.to_be_bytes();
    words[W_ETH] = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
    words[W_ETH + 1] |= u64::from_ne_bytes([i, j, k, l, t0, t1, 0, 0]);
    match link.eth_type {
        ETH_TYPE_IPV4 => ipv4(head, frame_len, link, words),
        ETH_TYPE_IPV6 => ipv6(head, frame_len, link, words),
        ETH_TYPE_ARP | ETH_TYPE_RARP => arp(head, link.l3, words),
        _ => Layers::NONE,
    }
}

/// What the link layer says about the rest of the frame.
#[derive(Clone, Copy)]
struct Link {
    /// EtherType behind tags and LLC, or [`ETH_TYPE_NONE`].
    eth_type: u16,
    /// Where that type's header begins.
    l3: usize,
}

impl Link {
    fn untagged(eth_type: u16) -> Link {
        Link { eth_type, l3: size_of::<EthernetHeader>() }
    }
}

/// The header of type `T` at an offset, if all of it is there.
#[inline(always)]
fn view<T: FromBytes + Immutable + KnownLayout + Unaligned>(bytes: &[u8], at: usize) -> Option<&T> {
    T::ref_from_prefix(bytes.get(at..)?).ok().map(|(header, _)| header)
}

/// Up to two tags and then possibly LLC/SNAP; stores outer TCI and both tag types.
fn tags_and_llc(head: &[u8], mut eth_type: u16, words: &mut [u64; KEY_WORDS]) -> Link {
    let mut at = size_of::<EthernetHeader>();
    let mut tags = [(0u16, 0u16); 2];
    for (tci, tpid) in &mut tags {
        if !is_vlan_type(eth_type) {
            break;
        }
        let Some(tag) = view::<VlanTag>(head, at) else { break };
        *tci = tag.tci.get() | VLAN_PRESENT;
        *tpid = eth_type;
        eth_type = tag.eth_type.get();
        at += size_of::<VlanTag>();
    }
    let [(outer_tci, outer), (inner_tci, inner)] = tags;
    let ([t0, t1], [o0, o1], [i0, i1]) = (outer_tci.to_be_bytes(), outer.to_be_bytes(), inner.to_be_bytes());
    words[W_ETH + 1] = u64::from_ne_bytes([0, 0, 0, 0, 0, 0, t0, t1]);
    words[W_TPID] = u64::from_ne_bytes([o0, o1, i0, i1, 0, 0, 0, 0]);
    words[W_REST] = inner_tci_word(inner_tci);

    if eth_type >= ETH_TYPE_MIN {
        return Link { eth_type, l3: at };
    }
    match view::<LlcSnapHeader>(head, at) {
        Some(snap)
            if snap.prefix == LlcSnapHeader::ETHERNET_PREFIX && snap.eth_type.get() >= ETH_TYPE_MIN =>
        {
            Link { eth_type: snap.eth_type.get(), l3: at + size_of::<LlcSnapHeader>() }
        }
        _ => Link { eth_type: ETH_TYPE_NONE, l3: at },
    }
}

#[inline(always)]
fn ipv4(head: &[u8], frame_len: usize, link: Link, words: &mut [u64; KEY_WORDS]) -> Layers {
    let l3 = link.l3;
    let Some(ip) = view::<Ipv4Header>(head, l3) else { return Layers::NONE };
    let (header_len, total_len) = (ip.header_len(), usize::from(ip.total_len.get()));
    let (l4, end) = (l3 + header_len, l3 + total_len);
    if ip.version() != 4
        || header_len < size_of::<Ipv4Header>()
        || header_len > total_len
        || end > frame_len
        || l4 > head.len()
    {
        return Layers::NONE;
    }
    let fragment = ip.fragment.get();
    let frag = if fragment & (IPV4_FRAGMENT_OFFSET | IPV4_MORE_FRAGMENTS) == 0 {
        0
    } else if fragment & IPV4_FRAGMENT_OFFSET == 0 {
        FRAGMENT
    } else {
        LATER_FRAGMENT
    };
    words[W_NW_SRC] = ipv4_word(ip.src);
    words[W_NW_DST] = ipv4_word(ip.dst);
    words[W_NW] = network_word(ip.protocol, ip.tos, ip.ttl, frag);
    if frag == LATER_FRAGMENT {
        return Layers::new(l3, None);
    }
    transport(head, Upper { protocol: ip.protocol, l3, l4, end }, words)
}

#[inline(always)]
fn ipv6(head: &[u8], frame_len: usize, link: Link, words: &mut [u64; KEY_WORDS]) -> Layers {
    let l3 = link.l3;
    let Some(ip) = view::<Ipv6Header>(head, l3) else { return Layers::NONE };
    let l4 = l3 + size_of::<Ipv6Header>();
    let end = l4 + usize::from(ip.payload_len.get());
    if ip.version() != 6 || end > frame_len {
        return Layers::NONE;
    }
    [words[W_NW_SRC], words[W_NW_SRC + 1]] = ipv6_words(&ip.src);
    [words[W_NW_DST], words[W_NW_DST + 1]] = ipv6_words(&ip.dst);

    let upper = Upper { protocol: ip.next_header, l3, l4, end };
    if is_extension(ip.next_header) {
        return ipv6_chain(head, ip, upper, words);
    }
    ipv6_upper(head, ip, upper, 0, words)
}

/// The rest of an IPv6 packet that has extension headers. Apart, so that packets without them keep everything in
/// registers.
#[inline(never)]
fn ipv6_chain(head: &[u8], ip: &Ipv6Header, upper: Upper, words: &mut [u64; KEY_WORDS]) -> Layers {
    let l3 = upper.l3;
    match extensions(head, upper) {
        Some((upper, frag)) => ipv6_upper(head, ip, upper, frag, words),
        None => Layers::new(l3, None),
    }
}

#[inline(always)]
fn ipv6_upper(head: &[u8], ip: &Ipv6Header, upper: Upper, frag: u8, words: &mut [u64; KEY_WORDS]) -> Layers {
    words[W_NW] = network_word(upper.protocol, ip.traffic_class(), ip.hop_limit, frag);
    words[W_REST] |= label_word(ip.flow_label());
    if frag == LATER_FRAGMENT {
        return Layers::new(upper.l3, None);
    }
    transport(head, upper, words)
}

/// What IP says about the header behind it.
#[derive(Clone, Copy)]
struct Upper {
    protocol: u8,
    /// Where IP began.
    l3: usize,
    /// Where the header begins.
    l4: usize,
    /// Where the IP packet ends by its own word.
    end: usize,
}

/// Whether a protocol number is one of the extension headers that are walked.
#[inline(always)]
pub(super) fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        IP_PROTO_HOPOPTS | IP_PROTO_ROUTING | IP_PROTO_FRAGMENT | IP_PROTO_AH | IP_PROTO_DSTOPTS
    )
}

/// Walks the extension headers up to the upper layer or a later fragment; returns where it ended and the fragment
/// bits, or `None` if the chain is cut off or too long.
fn extensions(head: &[u8], mut upper: Upper) -> Option<(Upper, u8)> {
    let packet = head.get(..upper.end).unwrap_or(head);
    let mut frag = 0;
    for _ in 0..MAX_EXTENSIONS {
        let header = view::<Ipv6Extension>(packet, upper.l4)?;
        let len = usize::from(header.len);
        match upper.protocol {
            IP_PROTO_FRAGMENT => {
                let flags = view::<Ipv6Fragment>(packet, upper.l4)?.offset_flags.get();
                if flags & Ipv6Fragment::OFFSET != 0 {
                    // The upper protocol is that of the first fragment's chain, which is not here.
                    return Some((upper, LATER_FRAGMENT));
                }
                if flags != 0 {
                    frag = FRAGMENT;
                }
                upper.l4 += size_of::<Ipv6Fragment>();
            }
            IP_PROTO_AH => upper.l4 += (len + 2) * 4,
            _ => upper.l4 += (len + 1) * 8,
        }
        if upper.l4 > packet.len() {
            return None;
        }
        upper.protocol = header.next_header;
        if !is_extension(upper.protocol) {
            return Some((upper, frag));
        }
    }
    None
}

/// Ports, flags, ICMP type and code.
#[inline(always)]
fn transport(head: &[u8], upper: Upper, words: &mut [u64; KEY_WORDS]) -> Layers {
    let packet = head.get(..upper.end).unwrap_or(head);
    let l4 = upper.l4;
    let (tp, flags) = match upper.protocol {
        IP_PROTO_TCP => match view::<TcpHeader>(packet, l4) {
            Some(tcp) if tcp.header_len() >= size_of::<TcpHeader>() && l4 + tcp.header_len() <= upper.end => {
                (ports(tcp.src, tcp.dst), tcp.flags())
            }
            _ => return Layers::new(upper.l3, None),
        },
        IP_PROTO_UDP => match view::<UdpHeader>(packet, l4) {
            Some(udp) => (ports(udp.src, udp.dst), 0),
            None => return Layers::new(upper.l3, None),
        },
        _ => match transport_rare(packet, upper, words) {
            Some(tp) => (tp, 0),
            None => return Layers::new(upper.l3, None),
        },
    };
    words[W_NW] |= ports_word(tp);
    words[W_REST] |= flags_word(flags);
    Layers::new(upper.l3, Some(l4))
}

/// The transports that are not TCP and UDP. Type and code of ICMP go where ports go.
#[inline(never)]
fn transport_rare(packet: &[u8], upper: Upper, words: &mut [u64; KEY_WORDS]) -> Option<u32> {
    // ICMP belongs to IPv4 and ICMPv6 to IPv6, and the version nibble tells which this is.
    let version = packet.get(upper.l3).map_or(0, |first| first >> 4);
    match (upper.protocol, version) {
        (IP_PROTO_SCTP, _) => {
            let sctp = view::<SctpHeader>(packet, upper.l4)?;
            Some(ports(sctp.src, sctp.dst))
        }
        (IP_PROTO_ICMP, 4) => {
            let icmp = view::<IcmpHeader>(packet, upper.l4)?;
            Some(ports(U16::from(u16::from(icmp.kind)), U16::from(u16::from(icmp.code))))
        }
        (IP_PROTO_ICMPV6, 6) => {
            let icmp = view::<IcmpHeader>(packet, upper.l4)?;
            if matches!(icmp.kind, ICMPV6_NEIGHBOR_SOLICIT | ICMPV6_NEIGHBOR_ADVERT) && icmp.code == 0 {
                store_neighbor(packet, upper.l4, words);
            }
            Some(ports(U16::from(u16::from(icmp.kind)), U16::from(u16::from(icmp.code))))
        }
        _ => None,
    }
}

/// Target and link-layer options of a neighbour solicitation or advertisement.
fn store_neighbor(packet: &[u8], l4: usize, words: &mut [u64; KEY_WORDS]) {
    let Some(message) = view::<NdNeighborHeader>(packet, l4) else { return };
    let mut link = [[0u8; 6]; 2];
    let mut at = l4 + size_of::<NdNeighborHeader>();
    while let Some(option) = view::<NdLinkOption>(packet, at) {
        let len = usize::from(option.len) * 8;
        if len == 0 || at + len > packet.len() {
            break;
        }
        let slot = match option.kind {
            ND_OPT_SOURCE_LINK if len == 8 => Some(&mut link[0]),
            ND_OPT_TARGET_LINK if len == 8 => Some(&mut link[1]),
            _ => None,
        };
        if let Some(slot) = slot {
            if *slot != [0; 6] {
                return;
            }
            *slot = option.mac;
        }
        at += len;
    }
    store_extra(link[0], link[1], &message.target, words);
}

fn arp(head: &[u8], l3: usize, words: &mut [u64; KEY_WORDS]) -> Layers {
    let Some(arp) = view::<ArpEthIpv4>(head, l3) else { return Layers::NONE };
    if !arp.is_eth_ipv4() {
        return Layers::NONE;
    }
    words[W_NW_SRC] = ipv4_word(arp.spa);
    words[W_NW_DST] = ipv4_word(arp.tpa);
    // Only opcodes of one byte can be matched; a larger one reads as zero.
    let op = u8::try_from(arp.op.get()).unwrap_or(0);
    words[W_NW] = network_word(op, 0, 0, 0);
    store_extra(arp.sha, arp.tha, &[0; 16], words);
    Layers::new(l3, None)
}

/// The third line of the key.
fn store_extra(sha: [u8; 6], tha: [u8; 6], target: &[u8; 16], words: &mut [u64; KEY_WORDS]) {
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (sha, tha);
    words[16] = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
    words[17] = u64::from_ne_bytes([i, j, k, l, 0, 0, 0, 0]);
    [words[18], words[19]] = ipv6_words(target);
}

mod usual;
mod words;

#[cfg(test)]
pub(super) mod properties;
#[cfg(test)]
mod tests;

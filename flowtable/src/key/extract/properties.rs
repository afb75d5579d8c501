//! What must hold for every frame: no panic, lengths respected, and the same answer as an independent parser.

use etherparse::{
    DoubleVlanHeader, EtherType, Icmpv4Slice, Icmpv6Slice, IpAuthHeader, IpDscp, IpEcn, IpFragOffset,
    IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv4Slice, Ipv6ExtensionSlice, Ipv6Extensions,
    Ipv6FlowLabel, Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader, Ipv6RoutingExtensions, Ipv6Slice,
    LinkExtSlice, LinkSlice, NetSlice, PacketBuilder, SingleVlanHeader, SlicedPacket, TcpHeader, TcpSlice,
    UdpHeaderSlice, VlanHeader, VlanId, VlanPcp,
};
use proptest::prelude::*;

use super::{Layers, extract};
use crate::key::{FlowKey, PortNo, VLAN_PRESENT};

fn key_of(head: &[u8], frame_len: usize) -> (FlowKey, Layers) {
    let mut key = FlowKey::default();
    key.words_mut().fill(!0);
    let layers = extract(head, frame_len, PortNo(3), &mut key);
    (key, layers)
}

/// A valid frame and the number of bytes in it that are not payload.
#[derive(Clone, Debug)]
pub(in crate::key) struct Frame {
    pub(in crate::key) bytes: Vec<u8>,
    headers: usize,
}

fn vlan_tag() -> impl Strategy<Value = SingleVlanHeader> {
    (0u8..8, any::<bool>(), 0u16..4096).prop_map(|(pcp, dei, vid)| SingleVlanHeader {
        pcp: VlanPcp::try_new(pcp).unwrap(),
        drop_eligible_indicator: dei,
        vlan_id: VlanId::try_new(vid).unwrap(),
        ether_type: EtherType(0),
    })
}

fn ipv4() -> impl Strategy<Value = IpHeaders> {
    let options =
        prop_oneof![Just(0usize), 1usize..=10].prop_flat_map(|n| prop::collection::vec(any::<u8>(), n * 4));
    let fragment = prop_oneof![3 => Just((false, 0u16)), 1 => (any::<bool>(), 0u16..0x2000)];
    (any::<[u8; 4]>(), any::<[u8; 4]>(), any::<u8>(), 0u8..64, 0u8..4, options, fragment).prop_map(
        |(source, destination, ttl, dscp, ecn, options, (more, offset))| {
            let header = Ipv4Header {
                source,
                destination,
                time_to_live: ttl,
                dscp: IpDscp::try_new(dscp).unwrap(),
                ecn: IpEcn::try_new(ecn).unwrap(),
                options: options.as_slice().try_into().unwrap(),
                more_fragments: more,
                fragment_offset: IpFragOffset::try_new(offset).unwrap(),
                ..Ipv4Header::default()
            };
            IpHeaders::Ipv4(header, Ipv4Extensions::default())
        },
    )
}

fn raw_extension() -> impl Strategy<Value = Ipv6RawExtHeader> {
    (0usize..3)
        .prop_flat_map(|n| prop::collection::vec(any::<u8>(), 6 + n * 8))
        .prop_map(|payload| Ipv6RawExtHeader::new_raw(IpNumber(0), &payload).unwrap())
}

fn ipv6_extensions() -> impl Strategy<Value = Ipv6Extensions> {
    let maybe = || prop::option::weighted(0.3, raw_extension());
    let fragment = prop::option::weighted(0.3, (prop_oneof![Just(0u16), 0u16..0x2000], any::<bool>()));
    let auth =
        prop::option::weighted(0.2, (0usize..4).prop_flat_map(|n| prop::collection::vec(any::<u8>(), n * 4)));
    (maybe(), maybe(), maybe(), maybe(), fragment, auth).prop_map(
        |(hop, dst, routing, last_dst, fragment, auth)| Ipv6Extensions {
            hop_by_hop_options: hop,
            destination_options: dst,
            routing: routing
                .map(|routing| Ipv6RoutingExtensions { routing, final_destination_options: last_dst }),
            fragment: fragment.map(|(offset, more)| {
                Ipv6FragmentHeader::new(IpNumber(0), IpFragOffset::try_new(offset).unwrap(), more, 77)
            }),
            auth: auth.map(|icv| IpAuthHeader::new(IpNumber(0), 1, 2, &icv).unwrap()),
        },
    )
}

fn ipv6() -> impl Strategy<Value = IpHeaders> {
    (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<u8>(), any::<u8>(), 0u32..0x10_0000, ipv6_extensions())
        .prop_map(|(source, destination, hop_limit, traffic_class, label, extensions)| {
            let header = Ipv6Header {
                source,
                destination,
                hop_limit,
                traffic_class,
                flow_label: Ipv6FlowLabel::try_new(label).unwrap(),
                ..Ipv6Header::default()
            };
            IpHeaders::Ipv6(header, extensions)
        })
}

#[derive(Clone, Debug)]
enum Upper {
    Tcp(u16, u16, u8, Vec<u8>),
    Udp(u16, u16),
    /// ICMP or ICMPv6, as the IP below has it.
    Icmp(u8, u8),
    Raw(u8),
}

fn upper() -> impl Strategy<Value = Upper> {
    let options = (0usize..=10).prop_flat_map(|n| prop::collection::vec(any::<u8>(), n * 4));
    // Protocols that are neither IPs' extensions nor known to either parser.
    let raw = prop_oneof![Just(47u8), Just(50), Just(89), Just(103)];
    prop_oneof![
        4 => (any::<u16>(), any::<u16>(), any::<u8>(), options).prop_map(|(s, d, f, o)| Upper::Tcp(s, d, f, o)),
        4 => (any::<u16>(), any::<u16>()).prop_map(|(s, d)| Upper::Udp(s, d)),
        // Timestamps (13, 14) have a fixed length to the other parser.
        2 => (prop_oneof![0u8..13, 15u8..], any::<u8>()).prop_map(|(kind, code)| Upper::Icmp(kind, code)),
        1 => raw.prop_map(Upper::Raw),
    ]
}

fn build(
    dst: [u8; 6],
    src: [u8; 6],
    tags: &[SingleVlanHeader],
    ip: IpHeaders,
    upper: Upper,
    payload: &[u8],
) -> Frame {
    let is_v6 = matches!(ip, IpHeaders::Ipv6(..));
    let link = PacketBuilder::ethernet2(src, dst);
    let ip = match tags {
        [] => link.ip(ip),
        [tag] => link.vlan(VlanHeader::Single(tag.clone())).ip(ip),
        [outer, inner, ..] => link
            .vlan(VlanHeader::Double(DoubleVlanHeader { outer: outer.clone(), inner: inner.clone() }))
            .ip(ip),
    };
    let mut bytes = Vec::new();
    match upper {
        Upper::Tcp(source, destination, flags, options) => {
            let mut header = TcpHeader::new(source, destination, 1, 2);
            header.set_options_raw(&options).unwrap();
            [
                header.fin, header.syn, header.rst, header.psh, header.ack, header.urg, header.ece,
                header.cwr,
            ] = core::array::from_fn(|bit| flags & (1 << bit) != 0);
            ip.tcp_header(header).write(&mut bytes, payload).unwrap();
        }
        Upper::Udp(source, destination) => ip.udp(source, destination).write(&mut bytes, payload).unwrap(),
        Upper::Icmp(kind, code) if is_v6 => {
            ip.icmpv6_raw(kind, code, [0; 4]).write(&mut bytes, payload).unwrap()
        }
        Upper::Icmp(kind, code) => ip.icmpv4_raw(kind, code, [0; 4]).write(&mut bytes, payload).unwrap(),
        Upper::Raw(protocol) => ip.write(&mut bytes, IpNumber(protocol), payload).unwrap(),
    }
    let headers = bytes.len() - payload.len();
    Frame { bytes, headers }
}

pub(in crate::key) fn frame() -> impl Strategy<Value = Frame> {
    let link = (any::<[u8; 6]>(), any::<[u8; 6]>(), prop::collection::vec(vlan_tag(), 0..=2));
    let ip = prop_oneof![ipv4(), ipv6()];
    let payload = prop::collection::vec(any::<u8>(), 0..100);
    (link, ip, upper(), payload)
        .prop_map(|((dst, src, tags), ip, upper, payload)| build(dst, src, &tags, ip, upper, &payload))
}

/// The key as an independent parser sees the frame; only for frames that parser accepts.
fn oracle(bytes: &[u8]) -> FlowKey {
    let packet = SlicedPacket::from_ethernet(bytes).unwrap();
    let mut key = FlowKey { in_port: 3, ..FlowKey::default() };
    let Some(LinkSlice::Ethernet2(link)) = &packet.link else { unreachable!() };
    (key.eth_dst, key.eth_src) = (link.destination(), link.source());
    key.eth_type = link.ether_type().0.into();
    for (i, ext) in packet.link_exts.iter().enumerate() {
        let LinkExtSlice::Vlan(tag) = ext else { unreachable!() };
        let tci =
            u16::from(tag.priority_code_point().value()) << 13 | VLAN_PRESENT | tag.vlan_identifier().value();
        match i {
            0 => (key.vlan_tci, key.vlan_tpid) = (tci.into(), key.eth_type),
            _ => (key.vlan2_tci, key.vlan2_tpid) = (tci.into(), key.eth_type),
        }
        key.eth_type = tag.ether_type().0.into();
    }
    let payload = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => oracle_ipv4(ip, &mut key),
        Some(NetSlice::Ipv6(ip)) => oracle_ipv6(ip, &mut key),
        _ => return key,
    };
    if key.nw_frag != 3 {
        oracle_transport(payload, &mut key);
    }
    key
}

/// Not from `SlicedPacket`, which leaves first fragments alone.
fn oracle_transport(payload: &[u8], key: &mut FlowKey) {
    let (src, dst) = match (key.nw_proto, key.eth_type.get()) {
        (6, _) => {
            let tcp = TcpSlice::from_slice(payload).unwrap().to_header();
            // The flag bits by name; the three reserved ones are zero in what the builder writes.
            let names = [tcp.fin, tcp.syn, tcp.rst, tcp.psh, tcp.ack, tcp.urg, tcp.ece, tcp.cwr, tcp.ns];
            key.tcp_flags =
                names.iter().enumerate().map(|(bit, set)| u16::from(*set) << bit).sum::<u16>().into();
            (tcp.source_port, tcp.destination_port)
        }
        (17, _) => {
            let udp = UdpHeaderSlice::from_slice(payload).unwrap();
            (udp.source_port(), udp.destination_port())
        }
        (1, 0x0800) => {
            let icmp = Icmpv4Slice::from_slice(payload).unwrap();
            (icmp.type_u8().into(), icmp.code_u8().into())
        }
        (58, 0x86dd) => {
            let icmp = Icmpv6Slice::from_slice(payload).unwrap();
            (icmp.type_u8().into(), icmp.code_u8().into())
        }
        _ => (0, 0),
    };
    (key.tp_src, key.tp_dst) = (src.into(), dst.into());
}

fn oracle_ipv4<'a>(ip: &Ipv4Slice<'a>, key: &mut FlowKey) -> &'a [u8] {
    let header = ip.header();
    key.nw_src[..4].copy_from_slice(&header.source());
    key.nw_dst[..4].copy_from_slice(&header.destination());
    (key.nw_proto, key.nw_ttl) = (header.protocol().0, header.ttl());
    key.nw_tos = header.dcp().value() << 2 | header.ecn().value();
    key.nw_frag = match (header.more_fragments(), header.fragments_offset().value()) {
        (false, 0) => 0,
        (true, 0) => 1,
        _ => 3,
    };
    ip.payload().payload
}

fn oracle_ipv6<'a>(ip: &Ipv6Slice<'a>, key: &mut FlowKey) -> &'a [u8] {
    let header = ip.header();
    (key.nw_src, key.nw_dst) = (header.source(), header.destination());
    (key.nw_tos, key.nw_ttl) = (header.traffic_class(), header.hop_limit());
    key.ipv6_label = header.flow_label().value().into();
    key.nw_proto = ip.payload().ip_number.0;
    for extension in ip.extensions().clone() {
        if let Ipv6ExtensionSlice::Fragment(fragment) = extension {
            match (fragment.more_fragments(), fragment.fragment_offset().value()) {
                (false, 0) => {}
                (true, 0) => key.nw_frag = 1,
                _ => (key.nw_frag, key.nw_proto) = (3, 44),
            }
        }
    }
    ip.payload().payload
}

/// What holds for any bytes whatsoever.
fn assert_sane(head: &[u8], frame_len: usize) -> Result<(), TestCaseError> {
    let (key, layers) = key_of(head, frame_len);
    prop_assert_eq!(key.in_port, 3);
    prop_assert!(key.spare_tunnel == [0; 32] && key.spare_ct == [0; 20] && key.spare_pad == [0; 4]);
    prop_assert!(key.spare_extra == [0; 32] && key.recirc_id == 0);
    prop_assert!(matches!(key.nw_frag, 0 | 1 | 3));
    prop_assert!(key.tcp_flags.get() <= 0xfff && key.ipv6_label.get() <= 0xf_ffff);
    for (tci, tpid) in [(key.vlan_tci, key.vlan_tpid), (key.vlan2_tci, key.vlan2_tpid)] {
        prop_assert_eq!(tci.get() & VLAN_PRESENT != 0, tpid.get() != 0);
    }
    let there = head.len().min(frame_len);
    if let Some(l3) = layers.l3() {
        prop_assert!(l3 >= 14 && l3 + 20 <= there);
        prop_assert!(matches!(key.eth_type.get(), 0x0800 | 0x86dd | 0x0806 | 0x8035));
    } else {
        prop_assert!(key.nw_src == [0; 16] && key.nw_proto == 0 && layers.l4().is_none());
    }
    match layers.l4() {
        Some(l4) => prop_assert!(l4 + 8 <= there && key.nw_frag != 3),
        None => prop_assert!(key.tp_src.get() == 0 && key.tp_dst.get() == 0 && key.tcp_flags.get() == 0),
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes(head in prop::collection::vec(any::<u8>(), 0..300), frame_len in prop_oneof![0usize..400, any::<usize>()]) {
        assert_sane(&head, frame_len)?;
    }

    #[test]
    fn almost_valid_bytes(
        frame in frame(), cut in any::<prop::sample::Index>(), frame_len in prop_oneof![Just(None), (0usize..400).prop_map(Some)],
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes = frame.bytes;
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let frame_len = frame_len.unwrap_or(bytes.len());
        assert_sane(&bytes, frame_len)?;
        assert_sane(&bytes[..cut.index(bytes.len() + 1)], frame_len)?;
    }

    #[test]
    fn an_independent_parser_agrees(frame in frame()) {
        let (mut key, _) = key_of(&frame.bytes, frame.bytes.len());
        let expected = oracle(&frame.bytes);
        // That parser does not look into neighbour discovery.
        (key.nd_target, key.arp_sha, key.arp_tha) = ([0; 16], [0; 6], [0; 6]);
        prop_assert_eq!(key, expected);
    }

    #[test]
    fn payload_beyond_the_head_does_not_matter(frame in frame(), cut in any::<prop::sample::Index>()) {
        let whole = key_of(&frame.bytes, frame.bytes.len());
        prop_assume!(whole.0.nd_target == [0; 16]); // what is payload to the builder is a header here
        let cut = frame.headers + cut.index(frame.bytes.len() - frame.headers + 1);
        prop_assert_eq!(key_of(&frame.bytes[..cut], frame.bytes.len()), whole);
    }

    #[test]
    fn a_shorter_head_only_loses_fields(frame in frame(), cut in any::<prop::sample::Index>()) {
        let (whole, _) = key_of(&frame.bytes, frame.bytes.len());
        let (part, layers) = key_of(&frame.bytes[..cut.index(frame.bytes.len() + 1)], frame.bytes.len());
        if layers.l3().is_some() {
            prop_assert_eq!((part.eth_type, part.nw_src, part.nw_dst), (whole.eth_type, whole.nw_src, whole.nw_dst));
        }
        if layers.l4().is_some() {
            let seen = |k: &FlowKey| (k.nw_proto, k.nw_frag, k.tp_src, k.tp_dst, k.tcp_flags);
            prop_assert_eq!(seen(&part), seen(&whole));
        }
    }

    #[test]
    fn padding_does_not_matter(frame in frame(), padding in prop::collection::vec(any::<u8>(), 0..60)) {
        let whole = key_of(&frame.bytes, frame.bytes.len());
        let mut padded = frame.bytes.clone();
        padded.extend(padding);
        prop_assert_eq!(key_of(&padded, padded.len()), whole);
    }
}

//! One frame as it is met on the wire for each protocol, and the rules for frames that lie.

use super::*;
use crate::key::FlowKey;

/// Bytes from hexadecimal digits; blanks are for the reader.
fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let nibble = |b: u8| char::from(b).to_digit(16).unwrap() as u8;
    digits.chunks(2).map(|pair| nibble(pair[0]) << 4 | nibble(pair[1])).collect()
}

const MACS: &str = "525400000002 525400000001";

fn frame(after_macs: &str) -> Vec<u8> {
    hex(&format!("{MACS}{after_macs}"))
}

fn key_of(frame: &[u8]) -> (FlowKey, Layers) {
    // Dirt in the key to show that every word is written.
    let mut key = FlowKey::default();
    key.words_mut().fill(0x5a5a_5a5a_5a5a_5a5a);
    let layers = extract(frame, frame.len(), PortNo(7), &mut key);
    (key, layers)
}

/// The key of a frame that has link fields only.
fn link_only(eth_type: u16) -> FlowKey {
    FlowKey {
        eth_dst: [0x52, 0x54, 0, 0, 0, 2],
        eth_src: [0x52, 0x54, 0, 0, 0, 1],
        eth_type: eth_type.into(),
        in_port: 7,
        ..FlowKey::default()
    }
}

fn v4(address: [u8; 4]) -> [u8; 16] {
    let mut field = [0; 16];
    field[..4].copy_from_slice(&address);
    field
}

fn v6(last: u8) -> [u8; 16] {
    let mut field = [0; 16];
    field[..2].copy_from_slice(&[0xfe, 0x80]);
    field[15] = last;
    field
}

/// 10.0.0.1 to 10.0.0.2, TTL 64, no fragment.
fn ipv4_key(protocol: u8) -> FlowKey {
    FlowKey {
        nw_src: v4([10, 0, 0, 1]),
        nw_dst: v4([10, 0, 0, 2]),
        nw_proto: protocol,
        nw_ttl: 64,
        ..link_only(0x0800)
    }
}

/// fe80::1 to fe80::2, hop limit 255.
fn ipv6_key(protocol: u8) -> FlowKey {
    FlowKey { nw_src: v6(1), nw_dst: v6(2), nw_proto: protocol, nw_ttl: 255, ..link_only(0x86dd) }
}

const TCP_SYN: &str =
    "c350 01bb 00000001 00000000 a002 faf0 0000 0000 020405b4 0402080a 00000001 00000000 01030307";
const IPV6_ADDRESSES: &str = "fe800000000000000000000000000001 fe800000000000000000000000000002";

/// An IPv6 frame: next header and everything behind the fixed header.
fn ipv6_frame(next_header: &str, rest: &str) -> Vec<u8> {
    let len = hex(rest).len();
    frame(&format!("86dd 60000000 {len:04x} {next_header} ff {IPV6_ADDRESSES} {rest}"))
}

#[test]
fn tcp_over_ipv4() {
    let frame = frame(&format!("0800 4510 003c 1234 4000 40 06 0000 0a000001 0a000002 {TCP_SYN}"));
    let mut expected = FlowKey { nw_tos: 0x10, ..ipv4_key(6) };
    (expected.tp_src, expected.tp_dst, expected.tcp_flags) = (50000.into(), 443.into(), 2.into());
    assert_eq!(key_of(&frame), (expected, Layers { l3: 14, l4: 34 }));
}

#[test]
fn all_twelve_tcp_flags() {
    let tcp = "c350 01bb 00000001 00000000 5fff faf0 0000 0000";
    let frame = frame(&format!("0800 4500 0028 1234 4000 40 06 0000 0a000001 0a000002 {tcp}"));
    assert_eq!(key_of(&frame).0.tcp_flags.get(), 0xfff);
}

#[test]
fn udp_over_ipv4_with_options_and_padding() {
    let udp = "0035 c350 000c 0000 01020304";
    let frame =
        frame(&format!("0800 4600 0024 0000 0000 40 11 0000 0a000001 0a000002 94040000 {udp} eeeeeeee"));
    let mut expected = ipv4_key(17);
    (expected.tp_src, expected.tp_dst) = (53.into(), 50000.into());
    assert_eq!(key_of(&frame), (expected, Layers { l3: 14, l4: 38 }));
}

#[test]
fn icmp_echo() {
    let frame = frame("0800 4500 001c 0000 4000 40 01 0000 0a000001 0a000002 0800 f7ff 0000 0000");
    let mut expected = ipv4_key(1);
    expected.tp_src = 8.into();
    assert_eq!(key_of(&frame), (expected, Layers { l3: 14, l4: 34 }));
}

#[test]
fn sctp_over_both() {
    let sctp = "0b59 0b5a 00000000 01020304";
    let over4 = frame(&format!("0800 4500 0020 0000 4000 40 84 0000 0a000001 0a000002 {sctp}"));
    let mut expected = ipv4_key(132);
    (expected.tp_src, expected.tp_dst) = (2905.into(), 2906.into());
    assert_eq!(key_of(&over4), (expected, Layers { l3: 14, l4: 34 }));
    let (key, layers) = key_of(&ipv6_frame("84", sctp));
    assert_eq!((key.tp_src.get(), key.tp_dst.get(), layers.l4), (2905, 2906, 54));
}

#[test]
fn fragments_of_ipv4() {
    let fragment = |flags: &str| {
        frame(&format!("0800 4500 001c 0001 {flags} 40 11 0000 0a000001 0a000002 0035 c350 0008 0000"))
    };
    let (first, layers) = key_of(&fragment("2000"));
    assert_eq!((first.nw_frag, first.tp_src.get(), layers.l4()), (1, 53, Some(34)));
    for later in ["2001", "0001", "1fff"] {
        assert_eq!(
            key_of(&fragment(later)),
            (FlowKey { nw_frag: 3, ..ipv4_key(17) }, Layers { l3: 14, l4: Layers::ABSENT })
        );
    }
    // "Don't fragment" and the evil bit are no fragment.
    assert_eq!(key_of(&fragment("c000")).0.nw_frag, 0);
}

#[test]
fn arp_request_and_reply() {
    let request = hex(
        "ffffffffffff 525400000001 0806 0001 0800 06 04 0001 525400000001 0a000001 000000000000 0a000002",
    );
    let mut expected = FlowKey {
        eth_dst: [0xff; 6],
        nw_src: v4([10, 0, 0, 1]),
        nw_dst: v4([10, 0, 0, 2]),
        ..link_only(0x0806)
    };
    expected.nw_proto = 1;
    expected.arp_sha = [0x52, 0x54, 0, 0, 0, 1];
    assert_eq!(key_of(&request), (expected, Layers { l3: 14, l4: Layers::ABSENT }));

    let reply = frame("0806 0001 0800 06 04 0002 525400000001 0a000001 525400000002 0a000002");
    let (key, _) = key_of(&reply);
    assert_eq!((key.nw_proto, key.arp_tha), (2, [0x52, 0x54, 0, 0, 0, 2]));
}

#[test]
fn rarp_that_qemu_sends_after_a_migration() {
    let (key, layers) =
        key_of(&frame("8035 0001 0800 06 04 0003 525400000001 00000000 525400000001 00000000"));
    assert_eq!((key.nw_proto, key.arp_sha, layers.l3), (3, [0x52, 0x54, 0, 0, 0, 1], 14));
}

#[test]
fn arp_of_another_kind_has_no_fields() {
    for (hardware, protocol, lens) in [
        ("0006", "0800", "0604"),
        ("0001", "86dd", "0604"),
        ("0001", "0800", "0804"),
        ("0001", "0800", "0610"),
    ] {
        let frame = frame(&format!(
            "0806 {hardware} {protocol} {lens} 0001 525400000001 0a000001 000000000000 0a000002"
        ));
        assert_eq!(key_of(&frame), (link_only(0x0806), Layers::NONE));
    }
    let (key, _) = key_of(&frame("0806 0001 0800 06 04 0101 525400000001 0a000001 000000000000 0a000002"));
    assert_eq!(key.nw_proto, 0, "an opcode beyond one byte reads as zero");
}

#[test]
fn one_tag() {
    let frame = frame("8100 e064 0800 4500 001c 0000 0000 40 11 0000 0a000001 0a000002 0035 c350 0008 0000");
    let mut expected = FlowKey { vlan_tci: 0xf064.into(), vlan_tpid: 0x8100.into(), ..ipv4_key(17) };
    (expected.tp_src, expected.tp_dst) = (53.into(), 50000.into());
    assert_eq!(key_of(&frame), (expected, Layers { l3: 18, l4: 38 }));
}

#[test]
fn two_tags_and_no_third() {
    let rest = "0800 4500 001c 0000 0000 40 11 0000 0a000001 0a000002 0035 c350 0008 0000";
    let mut expected = FlowKey { vlan_tci: 0x1064.into(), vlan_tpid: 0x88a8.into(), ..ipv4_key(17) };
    (expected.vlan2_tci, expected.vlan2_tpid) = (0x3065.into(), 0x8100.into());
    (expected.tp_src, expected.tp_dst) = (53.into(), 50000.into());
    assert_eq!(key_of(&frame(&format!("88a8 0064 8100 2065 {rest}"))), (expected, Layers { l3: 22, l4: 42 }));

    let (three, layers) = key_of(&frame(&format!("9100 0064 8100 2065 8100 0066 {rest}")));
    let expected = FlowKey {
        vlan_tci: 0x1064.into(),
        vlan_tpid: 0x9100.into(),
        vlan2_tci: 0x3065.into(),
        vlan2_tpid: 0x8100.into(),
        ..link_only(0x8100)
    };
    assert_eq!((three, layers), (expected, Layers::NONE));
}

#[test]
fn inner_tag_stays_when_there_are_no_ports() {
    let (key, _) = key_of(&frame("88a8 0064 8100 2065 1234 00"));
    assert_eq!((key.vlan2_tci.get(), key.eth_type.get()), (0x3065, 0x1234));
}

#[test]
fn a_tag_that_is_cut_off_is_an_ethertype() {
    assert_eq!(key_of(&frame("8100 e064 08")), (link_only(0x8100), Layers::NONE));
    let (key, _) = key_of(&frame("88a8 0064 8100 20"));
    assert_eq!((key.vlan_tci.get(), key.vlan2_tci.get(), key.eth_type.get()), (0x1064, 0, 0x8100));
}

#[test]
fn frames_of_802_3() {
    // Spanning tree: LLC without SNAP.
    assert_eq!(key_of(&frame("0026 424203 0000000000")), (link_only(0x05ff), Layers::NONE));
    // SNAP with an EtherType, and with a protocol of some vendor's.
    let snap =
        frame("0024 aaaa03000000 0800 4500 001c 0000 0000 40 11 0000 0a000001 0a000002 0035 c350 0008 0000");
    let (key, layers) = key_of(&snap);
    assert_eq!((key.eth_type.get(), key.tp_src.get(), layers), (0x0800, 53, Layers { l3: 22, l4: 42 }));
    assert_eq!(key_of(&frame("0024 aaaa0300000c 2000 0000")).0, link_only(0x05ff));
    assert_eq!(key_of(&frame("0024 aaaa03000000 0010 0000")).0, link_only(0x05ff));
    // No room for LLC behind a tag.
    assert_eq!(key_of(&frame("8100 0001 0024 aaaa03")).0.eth_type.get(), 0x05ff);
}

#[test]
fn a_frame_shorter_than_its_header_has_a_port_and_nothing_else() {
    let (key, layers) = key_of(&frame("08"));
    assert_eq!((key, layers), (FlowKey { in_port: 7, ..FlowKey::default() }, Layers::NONE));
}

#[test]
fn impossible_ipv4_headers_leave_l3_zero() {
    let udp = "0035 c350 0008 0000";
    for (what, version_ihl, total_len) in [
        ("version 6", "65", "001c"),
        ("header length 16", "44", "001c"),
        ("header beyond the packet", "48", "001c"),
        ("longer than the frame", "45", "001d"),
        ("shorter than the header", "45", "0013"),
        ("empty", "45", "0000"),
    ] {
        let frame =
            frame(&format!("0800 {version_ihl}00 {total_len} 0000 0000 40 11 0000 0a000001 0a000002 {udp}"));
        assert_eq!(key_of(&frame), (link_only(0x0800), Layers::NONE), "{what}");
    }
}

#[test]
fn transport_ends_where_ip_says() {
    // The frame goes on, but the IP packet is over after seven bytes of UDP: the rest is padding.
    let frame = frame("0800 4500 001b 0000 0000 40 11 0000 0a000001 0a000002 0035 c350 0008 0000");
    assert_eq!(key_of(&frame), (ipv4_key(17), Layers { l3: 14, l4: Layers::ABSENT }));
}

#[test]
fn tcp_headers_of_impossible_length_are_not_there() {
    for offset in ["4002", "a002"] {
        let tcp = format!("c350 01bb 00000001 00000000 {offset} faf0 0000 0000");
        let frame = frame(&format!("0800 4500 0028 0000 0000 40 06 0000 0a000001 0a000002 {tcp}"));
        assert_eq!(key_of(&frame), (ipv4_key(6), Layers { l3: 14, l4: Layers::ABSENT }));
    }
}

#[test]
fn lengths_count_against_the_frame_and_headers_against_the_head() {
    let frame = frame(&format!("0800 4500 003c 1234 4000 40 06 0000 0a000001 0a000002 {TCP_SYN}"));
    let mut key = FlowKey::default();
    // The head ends after the fixed TCP header; its options are in the rest of the frame.
    assert_eq!(extract(&frame[..54], frame.len(), PortNo(7), &mut key), Layers { l3: 14, l4: 34 });
    assert_eq!(key, key_of(&frame).0);
    assert_eq!(
        extract(&frame[..53], frame.len(), PortNo(7), &mut key),
        Layers { l3: 14, l4: Layers::ABSENT }
    );
    assert_eq!(extract(&frame, frame.len() - 1, PortNo(7), &mut key), Layers::NONE);
}

#[test]
fn tcp_over_ipv6_with_class_and_label() {
    let frame = frame(&format!("86dd 6b812345 0028 06 ff {IPV6_ADDRESSES} {TCP_SYN}"));
    let mut expected = FlowKey { nw_tos: 0xb8, ipv6_label: 0x12345.into(), ..ipv6_key(6) };
    (expected.tp_src, expected.tp_dst, expected.tcp_flags) = (50000.into(), 443.into(), 2.into());
    assert_eq!(key_of(&frame), (expected, Layers { l3: 14, l4: 54 }));
}

#[test]
fn ipv6_extension_chain() {
    // Hop-by-hop, routing, destination options, authentication, each naming the next.
    let chain = "2b00 010400000000  3c00 000000000000  3300 010400000000  1102 0000 00000001 00000001 00000000  0035 c350 0008 0000";
    let (key, layers) = key_of(&ipv6_frame("00", chain));
    let mut expected = ipv6_key(17);
    (expected.tp_src, expected.tp_dst) = (53.into(), 50000.into());
    assert_eq!((key, layers), (expected, Layers { l3: 14, l4: 94 }));
}

#[test]
fn fragments_of_ipv6() {
    let fragment = |offset: &str| ipv6_frame("2c", &format!("1100 {offset} 00000001 0035 c350 0008 0000"));
    let (first, layers) = key_of(&fragment("0001"));
    assert_eq!((first.nw_frag, first.nw_proto, first.tp_src.get(), layers.l4), (1, 17, 53, 62));
    assert_eq!(
        key_of(&fragment("0008")),
        (FlowKey { nw_frag: 3, ..ipv6_key(44) }, Layers { l3: 14, l4: Layers::ABSENT })
    );
    let (atomic, _) = key_of(&fragment("0000"));
    assert_eq!((atomic.nw_frag, atomic.tp_src.get()), (0, 53), "an atomic fragment is a whole packet");
}

#[test]
fn broken_extension_chains_leave_the_addresses() {
    let expected = FlowKey { nw_src: v6(1), nw_dst: v6(2), ..link_only(0x86dd) };
    let endless = "0000 010400000000".repeat(9);
    for (what, first, chain) in [
        ("cut off", "00", "1100 0104"),
        ("longer than the packet", "00", "1101 010400000000"),
        ("authentication header cut off", "33", "1104 000000000001"),
        ("too many", "00", endless.as_str()),
    ] {
        assert_eq!(
            key_of(&ipv6_frame(first, chain)),
            (expected, Layers { l3: 14, l4: Layers::ABSENT }),
            "{what}"
        );
    }
}

#[test]
fn impossible_ipv6_headers_leave_l3_zero() {
    for (what, start, len) in
        [("version 4", "40000000", "0008"), ("longer than the frame", "60000000", "0009")]
    {
        let frame = frame(&format!("86dd {start} {len} 11 ff {IPV6_ADDRESSES} 0035 c350 0008 0000"));
        assert_eq!(key_of(&frame), (link_only(0x86dd), Layers::NONE), "{what}");
    }
}

#[test]
fn icmpv6_echo_is_no_neighbour_discovery() {
    let mut expected = ipv6_key(58);
    expected.tp_src = 128.into();
    assert_eq!(
        key_of(&ipv6_frame("3a", "8000 0000 0001 0001 0102030405060708")),
        (expected, Layers { l3: 14, l4: 54 })
    );
    // Nor is a solicitation with a code.
    let (key, _) = key_of(&ipv6_frame("3a", "8701 0000 00000000 fe800000000000000000000000000003"));
    assert_eq!((key.tp_src.get(), key.tp_dst.get(), key.nd_target), (135, 1, [0; 16]));
}

#[test]
fn protocols_of_the_other_ip_have_no_fields() {
    let (key, layers) = key_of(&ipv6_frame("01", "0800 f7ff 0000 0000"));
    assert_eq!((key, layers.l4()), (ipv6_key(1), None));
    let (key, layers) =
        key_of(&frame("0800 4500 001c 0000 4000 40 3a 0000 0a000001 0a000002 8700 f7ff 0000 0000"));
    assert_eq!((key, layers.l4()), (ipv4_key(58), None));
}

const TARGET: &str = "fe800000000000000000000000000003";

/// The key of a neighbour message with these link-layer addresses.
fn nd_key(kind: u16, source: [u8; 6], target: [u8; 6]) -> FlowKey {
    let mut key = FlowKey { nd_target: v6(3), arp_sha: source, arp_tha: target, ..ipv6_key(58) };
    key.tp_src = kind.into();
    key
}

#[test]
fn neighbour_discovery() {
    let layers = Layers { l3: 14, l4: 54 };
    let solicit = ipv6_frame("3a", &format!("8700 0000 00000000 {TARGET} 0101 525400000001"));
    assert_eq!(key_of(&solicit), (nd_key(135, [0x52, 0x54, 0, 0, 0, 1], [0; 6]), layers));
    let advert =
        ipv6_frame("3a", &format!("8800 0000 60000000 {TARGET} 0e01 0102030405ff 0201 525400000003"));
    assert_eq!(key_of(&advert), (nd_key(136, [0; 6], [0x52, 0x54, 0, 0, 0, 3]), layers));
    let bare = ipv6_frame("3a", &format!("8700 0000 00000000 {TARGET}"));
    assert_eq!(key_of(&bare), (nd_key(135, [0; 6], [0; 6]), layers));
}

#[test]
fn neighbour_discovery_that_lies() {
    let solicit =
        |options: &str| key_of(&ipv6_frame("3a", &format!("8700 0000 00000000 {TARGET} {options}"))).0;
    let source = [0x52, 0x54, 0, 0, 0, 1];
    // Options end at one of length zero or beyond the message; those before it count.
    assert_eq!(solicit("0101 525400000001 0e00 000000000000 0201 525400000003"), nd_key(135, source, [0; 6]));
    assert_eq!(solicit("0101 525400000001 0203 525400000003"), nd_key(135, source, [0; 6]));
    // A link-layer option of another length is skipped.
    assert_eq!(solicit("0102 5254000000010000000000000000"), nd_key(135, [0; 6], [0; 6]));
    // The same option twice voids target and addresses.
    let mut void = ipv6_key(58);
    void.tp_src = 135.into();
    assert_eq!(solicit("0101 525400000001 0101 525400000009"), void);
    // A message too short for a target.
    assert_eq!(key_of(&ipv6_frame("3a", "8700 0000 00000000 fe80")).0, void);
}

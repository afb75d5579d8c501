//! Rewritten headers against packets built whole by etherparse.

use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::*;
use crate::key::{FlowKey, PortNo, extract};

/// A head in a buffer with room in front.
struct Buffer {
    bytes: Vec<u8>,
    room: usize,
}

impl Buffer {
    fn new(frame: &[u8], room: usize) -> Buffer {
        Buffer { bytes: frame.to_vec(), room }
    }
}

impl HeadMut for Buffer {
    fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    fn grow_front(&mut self, n: usize) -> bool {
        if n > self.room {
            return false;
        }
        self.room -= n;
        self.bytes.splice(0..0, vec![0xaa; n]);
        true
    }

    fn shrink_front(&mut self, n: usize) -> bool {
        if n > self.bytes.len() {
            return false;
        }
        self.bytes.drain(..n);
        true
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Upper4 {
    Tcp,
    Udp,
    Icmp,
    Sctp,
}

fn build(v6: bool, vlan: bool, upper: Upper4, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    macro_rules! finish {
        ($step:expr) => {{
            let step = if v6 {
                $step.ipv6([0x20; 16], [0x30; 16], 64)
            } else {
                $step.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            };
            match upper {
                Upper4::Tcp => step.tcp(1000, 80, 7, 8192).write(&mut frame, payload),
                Upper4::Udp => step.udp(1000, 53).write(&mut frame, payload),
                Upper4::Icmp if v6 => step.icmpv6_echo_request(1, 2).write(&mut frame, payload),
                Upper4::Icmp => step.icmpv4_echo_request(1, 2).write(&mut frame, payload),
                Upper4::Sctp => {
                    let mut chunk = vec![3, 232, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0];
                    chunk.extend_from_slice(payload);
                    let crc = crc32c(&chunk).to_le_bytes();
                    chunk[8..12].copy_from_slice(&crc);
                    step.write(&mut frame, etherparse::IpNumber::SCTP, &chunk)
                }
            }
            .unwrap();
        }};
    }
    if vlan {
        finish!(link.single_vlan(etherparse::VlanId::try_new(5).unwrap()));
    } else {
        finish!(link);
    }
    frame
}

/// Bit by bit, as RFC 9260 defines it.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 != 0 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

fn key_of(frame: &[u8]) -> (FlowKey, Layers) {
    let mut key = FlowKey::default();
    let layers = extract(frame, frame.len(), PortNo(1), &mut key);
    (key, layers)
}

/// Asserts that every checksum is what a sender would have computed.
fn assert_checksums(frame: &[u8], v6: bool, upper: Upper4) {
    let (_, layers) = key_of(frame);
    let (l3, l4) = (layers.l3().unwrap(), layers.l4().unwrap());
    if !v6 {
        assert_eq!(be16(frame, l3 + 10).unwrap(), checksum::ipv4_header(&frame[l3..l4]), "IPv4 header");
    }
    let mut segment = frame[l4..].to_vec();
    if upper == Upper4::Sctp {
        let stored = segment[8..12].to_vec();
        segment[8..12].fill(0);
        assert_eq!(stored, crc32c(&segment).to_le_bytes(), "SCTP");
        return;
    }
    let (at, protocol) = match upper {
        Upper4::Tcp => (16, IP_PROTO_TCP),
        Upper4::Udp => (6, IP_PROTO_UDP),
        _ => (2, IP_PROTO_ICMPV6),
    };
    let stored = be16(&segment, at).unwrap();
    segment[at..at + 2].fill(0);
    let full = if v6 {
        let (src, dst) =
            (frame[l3 + 8..l3 + 24].try_into().unwrap(), frame[l3 + 24..l3 + 40].try_into().unwrap());
        checksum::transport_ipv6(src, dst, protocol, &segment)
    } else if upper == Upper4::Icmp {
        checksum::checksum(&segment)
    } else {
        let (src, dst) =
            (frame[l3 + 12..l3 + 16].try_into().unwrap(), frame[l3 + 16..l3 + 20].try_into().unwrap());
        checksum::transport_ipv4(src, dst, protocol, &segment)
    };
    assert_eq!(stored, full, "L4");
}

fn fields_of(v6: bool, vlan: bool, upper: Upper4) -> Vec<Field> {
    use Field::*;
    let mut fields = vec![EthSrc, EthDst, IpDscp, IpEcn, IpTtl];
    if v6 {
        fields.extend([Ipv6Src, Ipv6Dst, Ipv6Tclass, Ipv6Hlimit, Ipv6Label]);
    } else {
        fields.extend([IpSrc, IpDst, IpTos]);
    }
    if vlan {
        fields.extend([VlanTci, VlanVid, VlanPcp]);
    }
    fields.extend(match upper {
        Upper4::Tcp => [TcpSrc, TcpDst],
        Upper4::Udp => [UdpSrc, UdpDst],
        Upper4::Sctp => [SctpSrc, SctpDst],
        Upper4::Icmp if v6 => [Icmpv6Type, Icmpv6Code],
        Upper4::Icmp => [IcmpType, IcmpCode],
    });
    fields
}

fn upper() -> impl Strategy<Value = Upper4> {
    prop_oneof![Just(Upper4::Tcp), Just(Upper4::Udp), Just(Upper4::Icmp), Just(Upper4::Sctp)]
}

proptest! {
    /// Whatever is set, the key says so afterwards, nothing else changed, and all checksums are right.
    #[test]
    fn set_changes_the_field_and_keeps_checksums_right(
        v6: bool, vlan: bool, upper in upper(), pick in any::<prop::sample::Index>(), value: u128, mask: u128,
        whole: bool, payload in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut frame = build(v6, vlan, upper, &payload);
        let fields = fields_of(v6, vlan, upper);
        let field = fields[pick.index(fields.len())];
        let narrow = match field {
            Field::VlanTci => 0xefff,
            Field::VlanVid => 0xfff,
            Field::IcmpType | Field::IcmpCode | Field::Icmpv6Code => 0xff,
            // Neighbour discovery has fields of its own, which would appear in the key.
            Field::Icmpv6Type => 0x03,
            _ => u128::MAX,
        };
        let mask = if whole { u128::MAX } else { mask } & narrow;
        let set = SetField::masked(field, value, mask);
        let (mut expected, layers) = key_of(&frame);
        set.apply_to_key(&mut expected);

        assert_checksums(&frame, v6, upper);
        // The payload need not be in the head.
        let head_len = frame.len() - payload.len();
        apply_set(&mut frame[..head_len], &layers, &set, false).unwrap();
        let (key, _) = key_of(&frame);
        prop_assert!(key == expected, "{field:?}");
        assert_checksums(&frame, v6, upper);
    }

    /// A partial checksum stays the sum of the pseudo-header.
    #[test]
    fn partial_checksum_follows_addresses_only(v6: bool, tcp: bool, pick in any::<prop::sample::Index>(), value: u128) {
        let upper = if tcp { Upper4::Tcp } else { Upper4::Udp };
        let mut frame = build(v6, false, upper, b"payload");
        let (_, layers) = key_of(&frame);
        let (l3, l4) = (layers.l3().unwrap(), layers.l4().unwrap());
        let (at, protocol) = if tcp { (l4 + 16, IP_PROTO_TCP) } else { (l4 + 6, IP_PROTO_UDP) };
        let pseudo = |frame: &[u8]| {
            let len = frame.len() - l4;
            if v6 {
                let (src, dst) = (frame[l3 + 8..l3 + 24].try_into().unwrap(), frame[l3 + 24..l3 + 40].try_into().unwrap());
                checksum::pseudo_ipv6(src, dst, protocol, len as u32).fold()
            } else {
                let (src, dst) = (frame[l3 + 12..l3 + 16].try_into().unwrap(), frame[l3 + 16..l3 + 20].try_into().unwrap());
                checksum::pseudo_ipv4(src, dst, protocol, len as u16).fold()
            }
        };
        let sum = pseudo(&frame);
        store16(&mut frame, at, sum);
        let fields = fields_of(v6, false, upper);
        let set = SetField::exact(fields[pick.index(fields.len())], value);
        apply_set(&mut frame, &layers, &set, true).unwrap();
        prop_assert_eq!(be16(&frame, at).unwrap(), pseudo(&frame));
    }

    /// Any bytes with any offsets give an answer, not a panic, and an error leaves the frame as it was.
    #[test]
    fn nonsense_is_an_error(
        bytes in prop::collection::vec(any::<u8>(), 0..100), l3: u16, l4: u16, near: bool, index in 0..43usize,
        value: u128, partial: bool, cut in 0..120usize, v6: bool, upper in upper(),
    ) {
        let layers = if near { Layers { l3: l3 % 110, l4: l4 % 110 } } else { Layers { l3, l4 } };
        let set = SetField::exact(crate::key::FIELDS[index].field, value);
        let mut changed = bytes.clone();
        if apply_set(&mut changed, &layers, &set, partial).is_err() {
            prop_assert_eq!(&changed, &bytes);
        }
        let frame = build(v6, true, upper, b"0123456789");
        let (_, layers) = key_of(&frame);
        let cut_frame = frame[..cut.min(frame.len())].to_vec();
        let mut changed = cut_frame.clone();
        if apply_set(&mut changed, &layers, &set, partial).is_err() {
            prop_assert_eq!(changed, cut_frame);
        }
        let mut layers = Layers { l3, l4 };
        let mut buffer = Buffer::new(&bytes, cut);
        let _ = pop_vlan(&mut buffer, &mut layers);
        let _ = push_vlan(&mut buffer, &mut layers, 0x8100, value as u16);
    }
}

#[test]
fn udp_checksum_of_zero_stays_zero() {
    let mut frame = build(false, false, Upper4::Udp, b"x");
    let (_, layers) = key_of(&frame);
    let at = layers.l4().unwrap() + 6;
    store16(&mut frame, at, 0);
    apply_set(&mut frame, &layers, &SetField::exact(Field::IpDst, 0x0102_0304), false).unwrap();
    apply_set(&mut frame, &layers, &SetField::exact(Field::UdpDst, 99), false).unwrap();
    assert_eq!(be16(&frame, at), Some(0));
}

#[test]
fn wrong_checksums_stay_wrong() {
    let mut frame = build(false, false, Upper4::Tcp, b"x");
    let (_, layers) = key_of(&frame);
    let at = layers.l4().unwrap() + 16;
    let right = be16(&frame, at).unwrap();
    store16(&mut frame, at, right ^ 0x0100);
    let there = SetField::exact(Field::IpDst, 0x0102_0304);
    let back = SetField::exact(Field::IpDst, 0x0a00_0002);
    apply_set(&mut frame, &layers, &there, false).unwrap();
    apply_set(&mut frame, &layers, &back, false).unwrap();
    assert_eq!(be16(&frame, at), Some(right ^ 0x0100));
}

#[test]
fn later_fragment_keeps_its_payload() {
    let mut frame = build(false, false, Upper4::Udp, b"0123456789");
    store16(&mut frame, 14 + 6, 100);
    let sum = checksum::ipv4_header(&frame[14..34]);
    store16(&mut frame, 24, sum);
    let (_, layers) = key_of(&frame);
    assert_eq!(layers.l4(), None);
    let payload = frame[34..].to_vec();
    apply_set(&mut frame, &layers, &SetField::exact(Field::IpSrc, 7), false).unwrap();
    assert_eq!(frame[34..], payload);
    assert_eq!(be16(&frame, 24).unwrap(), checksum::ipv4_header(&frame[14..34]));
    let refused = apply_set(&mut frame, &layers, &SetField::exact(Field::UdpDst, 7), false);
    assert_eq!(refused, Err(RewriteError::Absent(Field::UdpDst)));
}

#[test]
fn first_fragment_of_sctp_is_refused() {
    let mut frame = build(false, false, Upper4::Sctp, b"0123456789");
    store16(&mut frame, 14 + 6, 0x2000);
    let (_, layers) = key_of(&frame);
    let before = frame.clone();
    let set = SetField::exact(Field::SctpDst, 7);
    assert_eq!(apply_set(&mut frame, &layers, &set, false), Err(RewriteError::SctpFragment));
    assert_eq!(frame, before);
}

#[test]
fn ports_of_another_protocol_are_absent() {
    let mut frame = build(false, false, Upper4::Tcp, b"");
    let (_, layers) = key_of(&frame);
    for field in
        [Field::UdpDst, Field::SctpSrc, Field::IcmpType, Field::Ipv6Src, Field::ArpSpa, Field::VlanVid]
    {
        let refused = apply_set(&mut frame, &layers, &SetField::exact(field, 1), false);
        assert_eq!(refused, Err(RewriteError::Absent(field)));
    }
    let refused = apply_set(&mut frame, &layers, &SetField::exact(Field::EthType, 1), false);
    assert_eq!(refused, Err(RewriteError::NotSettable(Field::EthType)));
}

#[test]
fn routing_header_takes_the_destination_out_of_the_pseudo_header() {
    let plain = build(true, false, Upper4::Udp, b"x");
    for (segments_left, followed) in [(1, false), (0, true)] {
        let mut frame = plain.clone();
        frame[14 + 6] = IP_PROTO_ROUTING;
        let mut routing = [0; 24];
        routing[..4].copy_from_slice(&[IP_PROTO_UDP, 2, 0, segments_left]);
        frame.splice(54..54, routing);
        let len = (frame.len() - 54) as u16;
        store16(&mut frame, 14 + 4, len);
        let (_, layers) = key_of(&frame);
        let at = layers.l4().unwrap() + 6;
        let before = be16(&frame, at);
        apply_set(&mut frame, &layers, &SetField::exact(Field::Ipv6Dst, 7), false).unwrap();
        assert_eq!(be16(&frame, at) != before, followed);
    }
}

#[test]
fn arp_fields() {
    let mut frame = vec![0xff; 12];
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend([2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
    let (mut expected, layers) = key_of(&frame);
    for (field, value) in [
        (Field::ArpOp, 2),
        (Field::ArpSpa, 0x0a00_0005),
        (Field::ArpTpa, 0x0a00_0006),
        (Field::ArpSha, 0x0200_0000_0007),
        (Field::ArpTha, 0x0200_0000_0008),
    ] {
        let set = SetField::exact(field, value);
        set.apply_to_key(&mut expected);
        apply_set(&mut frame, &layers, &set, false).unwrap();
    }
    assert!(key_of(&frame).0 == expected);
}

#[test]
fn push_and_pop_tags() {
    let frame = build(false, false, Upper4::Tcp, b"x");
    let (plain, mut layers) = key_of(&frame);
    let mut buffer = Buffer::new(&frame, 8);
    push_vlan(&mut buffer, &mut layers, 0x8100, 0xb005).unwrap();
    let (tagged, extracted) = key_of(&buffer.bytes);
    assert_eq!((tagged.vlan_tci.get(), tagged.vlan_tpid.get()), (0xb005, 0x8100));
    assert_eq!(buffer.bytes[14..16], [0xa0, 0x05]);
    assert_eq!(layers, extracted);

    push_vlan(&mut buffer, &mut layers, 0x88a8, 7).unwrap();
    let (double, extracted) = key_of(&buffer.bytes);
    assert_eq!((double.vlan_tci.get(), double.vlan2_tci.get()), (0x1007, 0xb005));
    assert_eq!(layers, extracted);
    assert_eq!(push_vlan(&mut buffer, &mut layers, 0x8100, 7), Err(RewriteError::NoHeadroom));

    assert_eq!(pop_vlan(&mut buffer, &mut layers), Ok(true));
    assert_eq!(pop_vlan(&mut buffer, &mut layers), Ok(true));
    assert_eq!(pop_vlan(&mut buffer, &mut layers), Ok(false));
    let (again, extracted) = key_of(&buffer.bytes);
    assert!(again == plain);
    assert_eq!(layers, extracted);
    assert_eq!(buffer.bytes, frame);
}

#[test]
fn drop_eligible_bit_survives_a_new_tci() {
    let mut frame = build(false, true, Upper4::Tcp, b"x");
    let (_, layers) = key_of(&frame);
    for dei in [0, 0x1000] {
        store16(&mut frame, 14, 0x6005 | dei);
        apply_set(&mut frame, &layers, &SetField::exact(Field::VlanTci, 0x3007), false).unwrap();
        assert_eq!(be16(&frame, 14), Some(0x2007 | dei));
    }
}

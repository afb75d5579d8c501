//! Segments and checksums against etherparse, and claims that are lies.

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;
use crate::packet::Span;

/// Builds a frame as a guest with offloads sends it: partial checksum, one header for all of the payload.
fn tcp_frame(v6: bool, options: &[u8], payload: &[u8], gso_size: u16) -> (Vec<u8>, Offload) {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let builder =
        if v6 { builder.ipv6([1; 16], [2; 16], 64) } else { builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64) };
    let step = builder.tcp(1000, 80, 0xffff_ff00, 1024).psh().fin().cwr().options_raw(options).unwrap();
    let mut frame = Vec::new();
    step.write(&mut frame, payload).unwrap();
    let l4 = if v6 { 54 } else { 34 };
    let offload = Offload {
        needs_csum: true,
        gso: if v6 { Gso::TcpV6 } else { Gso::TcpV4 },
        gso_size,
        csum_start: l4,
        csum_offset: 16,
        ..Offload::default()
    };
    (frame, offload)
}

/// Finishes a frame whose head ends at `split` and whose payload lies in two spans.
fn finish(
    frame: &[u8],
    split: usize,
    offload: Offload,
    caps: OffloadCaps,
) -> Result<Vec<Vec<u8>>, DropReason> {
    let (head, rest) = frame.split_at(split.min(frame.len()).min(HEAD_CAPACITY));
    let (one, two) = rest.split_at(rest.len() / 3);
    let spans = [Span::from_slice(one), Span::from_slice(two)];
    let mut out = Vec::new();
    Finisher::new().finish(Frame::new(head, offload, &spans, rest.len()), caps, 70_000, |f| {
        let mut bytes = vec![0; f.len()];
        assert_eq!(f.copy_to(&mut bytes), f.len());
        assert!(!f.offload.needs_csum);
        out.push(bytes);
    })?;
    Ok(out)
}

fn check_tcp(segments: &[Vec<u8>], payload: &[u8], step: usize) {
    let mut joined = Vec::new();
    for (i, bytes) in segments.iter().enumerate() {
        let sliced = SlicedPacket::from_ethernet(bytes).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no TCP header") };
        let data = tcp.payload();
        let (last, first) = (i + 1 == segments.len(), i == 0);
        assert_eq!((tcp.fin(), tcp.psh(), tcp.cwr()), (last, last, first));
        assert_eq!(tcp.sequence_number(), 0xffff_ff00u32.wrapping_add(joined.len() as u32));
        assert!(data.len() == step || last);
        let header = tcp.to_header();
        match sliced.net.unwrap() {
            NetSlice::Ipv4(ip) => {
                assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
                let want = header.calc_checksum_ipv4(&ip.header().to_header(), data).unwrap();
                assert_eq!(tcp.checksum(), want);
            }
            NetSlice::Ipv6(ip) => {
                let want = header.calc_checksum_ipv6(&ip.header().to_header(), data).unwrap();
                assert_eq!(tcp.checksum(), want);
            }
            NetSlice::Arp(_) => panic!("not IP"),
        }
        joined.extend_from_slice(data);
    }
    assert_eq!(joined, payload);
}

proptest! {
    #[test]
    fn tcp_segments_join_to_the_payload(
        v6: bool,
        len in 0usize..20_000,
        gso_size in 64u16..2000,
        split in 100usize..256,
        options in prop::sample::select(vec![0usize, 4, 12]),
    ) {
        let payload: Vec<u8> = (0..len).map(|i| (i * 13 + i / 251) as u8).collect();
        let (frame, offload) = tcp_frame(v6, &vec![1; options], &payload, gso_size);
        let segments = finish(&frame, split, offload, OffloadCaps::default()).unwrap();
        check_tcp(&segments, &payload, usize::from(gso_size));
    }

    #[test]
    fn any_claim_is_survived(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        kind in 0usize..5,
        needs_csum: bool,
        gso_size: u16,
        csum_start in 0u16..400,
        csum_offset in 0u16..64,
    ) {
        let gso = [Gso::None, Gso::TcpV4, Gso::TcpV6, Gso::Udp, Gso::UdpL4][kind];
        let offload = Offload { needs_csum, gso, gso_size, csum_start, csum_offset, ..Offload::default() };
        let (head, rest) = bytes.split_at(bytes.len().min(HEAD_CAPACITY));
        let spans = [Span::from_slice(rest)];
        let frame = Frame::new(head, offload, &spans, rest.len());
        let _ = Finisher::new().finish(frame, OffloadCaps::default(), 1514, |f| assert!(f.len() <= 1514));
    }

    /// Headers that parse, mostly, and claims that may be true of them: no panic, nothing too long, no payload invented.
    #[test]
    fn plausible_headers_with_wrong_claims_are_survived(
        len in prop_oneof![0usize..400, 0usize..70_000],
        corrupt in prop::collection::vec((0usize..80, any::<u8>()), 0..4),
        kind in 0usize..5,
        gso_size: u16,
        csum_start in prop_oneof![Just(34u16), Just(54), 30u16..60],
        csum_offset in prop_oneof![Just(16u16), Just(6), 0u16..64],
        flags: [bool; 4],
        split in 0usize..=HEAD_CAPACITY,
        max_frame in prop_oneof![Just(1514usize), Just(65_535 + 22), Just(usize::MAX), 0usize..3000],
        caps: [bool; 6],
    ) {
        let [v6, udp, needs_csum, ecn] = flags;
        // Longer than an IP length can say, too.
        let (mut frame, _) = tcp_frame(v6, &[], &[], 0);
        frame.resize(frame.len() + len, 5);
        if udp {
            frame[if v6 { 20 } else { 23 }] = UDP;
        }
        for (at, value) in corrupt {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        let gso = [Gso::None, Gso::TcpV4, Gso::TcpV6, Gso::Udp, Gso::UdpL4][kind];
        let offload =
            Offload { needs_csum, gso, ecn, gso_size, csum_start, csum_offset, ..Offload::default() };
        let [csum, tso4, tso6, with_ecn, ufo, uso] = caps;
        let caps = OffloadCaps { csum, tso4, tso6, ecn: with_ecn, ufo, uso };
        let (head, rest) = frame.split_at(frame.len().min(split));
        let spans = [Span::from_slice(rest)];
        let mut payload = 0;
        let done = Finisher::new().finish(Frame::new(head, offload, &spans, rest.len()), caps, max_frame, |f| {
            assert!(f.len() <= max_frame || caps.takes(&f.offload) && f.offload.gso != Gso::None);
            let mut runs = 0;
            f.for_each_payload(|run| runs += run.len());
            assert_eq!(runs, f.payload_len());
            payload += runs;
        });
        prop_assert!(payload <= rest.len());
        prop_assert!(done.is_err() || payload == rest.len() || gso != Gso::None);
    }
}

#[test]
fn partial_checksum_is_completed() {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
    builder.udp(1, 2).write(&mut frame, &[7; 700]).unwrap();
    let want = be16(&frame, 40).unwrap();
    // What a guest stores: the folded sum of the pseudo-header, not complemented.
    let mut pseudo = Sum::default();
    pseudo.add(&frame[26..34]);
    pseudo.add_word(17);
    pseudo.add_word(708);
    put16(&mut frame, 40, !pseudo.finish());
    let offload = Offload { needs_csum: true, csum_start: 34, csum_offset: 6, ..Offload::default() };
    let done = finish(&frame, 200, offload, OffloadCaps::default()).unwrap();
    assert_eq!(be16(&done[0], 40), Some(want));
    assert_eq!(finish(&frame, 20, offload, OffloadCaps::default()), Err(DropReason::TxNoOffload));
}

#[test]
fn udp_is_cut_into_datagrams() {
    let payload: Vec<u8> = (0..5000u32).map(|i| i as u8).collect();
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6([1; 16], [2; 16], 64);
    builder.udp(1, 2).write(&mut frame, &payload).unwrap();
    let offload = Offload {
        needs_csum: true,
        gso: Gso::UdpL4,
        gso_size: 1200,
        csum_start: 54,
        csum_offset: 6,
        ..Offload::default()
    };
    let mut joined = Vec::new();
    for bytes in finish(&frame, 192, offload, OffloadCaps::default()).unwrap() {
        let sliced = SlicedPacket::from_ethernet(&bytes).unwrap();
        let (Some(TransportSlice::Udp(udp)), Some(NetSlice::Ipv6(ip))) = (sliced.transport, sliced.net)
        else {
            panic!("not UDP over IPv6")
        };
        let want = udp.to_header().calc_checksum_ipv6(&ip.header().to_header(), udp.payload()).unwrap();
        assert_eq!(udp.checksum(), want);
        joined.extend_from_slice(udp.payload());
    }
    assert_eq!(joined, payload);
}

#[test]
fn what_the_far_side_takes_is_left_alone() {
    let (frame, offload) = tcp_frame(false, &[], &[1; 5000], 1000);
    let caps = OffloadCaps { csum: true, tso4: true, ecn: true, ..OffloadCaps::default() };
    let spans = [Span::from_slice(&frame[200..])];
    let mut seen = 0;
    let whole = Frame::new(&frame[..200], offload, &spans, frame.len() - 200);
    Finisher::new().finish(whole, caps, 1514, |f| seen += usize::from(f.offload == offload)).unwrap();
    assert_eq!(seen, 1);
}

/// Puts bytes into a frame and moves the checksum's place along if it lies behind them.
fn insert(frame: &mut Vec<u8>, offload: &mut Offload, at: usize, bytes: &[u8]) {
    frame.splice(at..at, bytes.iter().copied());
    offload.csum_start += bytes.len() as u16;
}

#[test]
fn tags_and_extension_headers_are_stepped_over() {
    let payload: Vec<u8> = (0..6000u32).map(|i| (i * 3) as u8).collect();
    for tags in [&[][..], &[0x81, 0, 0, 5], &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 5]] {
        for extensions in 0..3 {
            let (mut frame, mut offload) = tcp_frame(true, &[], &payload, 1000);
            for _ in 0..extensions {
                // A destination options header that holds one padding option; it takes the place of what came first.
                let next = std::mem::replace(&mut frame[20], 60);
                insert(&mut frame, &mut offload, 54, &[next, 0, 1, 4, 0, 0, 0, 0]);
            }
            insert(&mut frame, &mut offload, 12, tags);
            let segments = finish(&frame, 192, offload, OffloadCaps::default()).unwrap();
            check_tcp(&segments, &payload, 1000);
            let ip_at = 14 + tags.len();
            assert!(
                segments.iter().all(|s| usize::from(be16(s, ip_at + 4).unwrap()) == s.len() - ip_at - 40)
            );
            offload.csum_start += 8;
            assert_eq!(finish(&frame, 192, offload, OffloadCaps::default()), Err(DropReason::RxBadOffload));
        }
    }
}

#[test]
fn ipv4_options_stay_and_identifications_count() {
    let payload = vec![9; 3500];
    let (mut frame, mut offload) = tcp_frame(false, &[], &payload, 1000);
    frame[14] = 0x46;
    put16(&mut frame, 18, 0xffff);
    insert(&mut frame, &mut offload, 34, &[1, 1, 1, 0]);
    let segments = finish(&frame, 192, offload, OffloadCaps::default()).unwrap();
    check_tcp(&segments, &payload, 1000);
    let ids: Vec<_> = segments.iter().map(|s| be16(s, 18).unwrap()).collect();
    assert_eq!(ids, [0xffff, 0, 1, 2]);
}

#[test]
fn what_cannot_be_cut_right_is_not_cut() {
    let (mut frame, offload) = tcp_frame(true, &[], &[5; 3000], 1000);
    let plain = frame.clone();
    for (next, reason) in
        [(43, DropReason::TxNoOffload), (44, DropReason::TxNoOffload), (17, DropReason::RxBadOffload)]
    {
        frame[20] = next;
        assert_eq!(finish(&frame, 192, offload, OffloadCaps::default()), Err(reason), "next header {next}");
    }
    // Headers that end behind the private head, and no headers at all.
    assert_eq!(finish(&plain, 60, offload, OffloadCaps::default()), Err(DropReason::TxNoOffload));
    assert_eq!(finish(&plain[..60], 60, offload, OffloadCaps::default()), Err(DropReason::RxBadOffload));
    let tiny = Offload { gso_size: 1, ..offload };
    assert_eq!(finish(&plain, 192, tiny, OffloadCaps::default()), Err(DropReason::RxBadOffload));
    // One segment that no IPv4 length can say, even if the port would take it.
    let (frame, offload) = tcp_frame(false, &[], &vec![5; 65_490], u16::MAX);
    let mut long = frame;
    long.resize(14 + 65_536, 5);
    assert_eq!(finish(&long, 192, offload, OffloadCaps::default()), Err(DropReason::RxBadOffload));
    // A head no slot could hold.
    let offload = Offload { needs_csum: true, csum_start: 34, csum_offset: 6, ..Offload::default() };
    let frame = Frame::new(&[0; 1000], offload, &[], 0);
    let done = Finisher::new().finish(frame, OffloadCaps::default(), 1514, |_| {});
    assert_eq!(done, Err(DropReason::TxNoOffload));
}

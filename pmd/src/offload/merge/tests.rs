//! What is merged, cut again, is what came: checked on frames that etherparse built.

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;
use crate::offload::Finisher;
use crate::packet::{BatchStorage, Frame, Span};

/// One frame of a connection as a test asks for it.
#[derive(Clone, Debug)]
struct Segment {
    /// Even: IPv4, odd: IPv6; from 2 on with a VLAN tag.
    connection: u8,
    sequence: u32,
    id: u16,
    len: usize,
    flags: u8,
    window: u16,
    ttl: u8,
    options: bool,
    partial: bool,
}

impl Segment {
    fn new(connection: u8, number: usize, len: usize) -> Segment {
        Segment {
            connection,
            sequence: 0xffff_f000u32.wrapping_add((number * len) as u32),
            id: 0xfffe_u16.wrapping_add(number as u16),
            len,
            flags: ACK,
            window: 1000,
            ttl: 64,
            options: true,
            partial: false,
        }
    }

    /// The frame with right checksums.
    fn whole(&self) -> Vec<u8> {
        let (v6, tagged) = (self.connection % 2 == 1, self.connection >= 2);
        let port = 1000 + u16::from(self.connection);
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let mut v4 =
            etherparse::Ipv4Header::new(0, self.ttl, etherparse::ip_number::TCP, [10; 4], [11; 4]).unwrap();
        v4.identification = self.id;
        let ip = if v6 {
            let header = etherparse::Ipv6Header {
                next_header: etherparse::ip_number::TCP,
                hop_limit: self.ttl,
                source: [1; 16],
                destination: [2; 16],
                ..Default::default()
            };
            etherparse::IpHeaders::Ipv6(header, Default::default())
        } else {
            etherparse::IpHeaders::Ipv4(v4, Default::default())
        };
        let builder = if tagged {
            ethernet
                .vlan(etherparse::VlanHeader::Single(etherparse::SingleVlanHeader {
                    pcp: etherparse::VlanPcp::ZERO,
                    drop_eligible_indicator: false,
                    vlan_id: 5.try_into().unwrap(),
                    ether_type: etherparse::ether_type::IPV4,
                }))
                .ip(ip)
        } else {
            ethernet.ip(ip)
        };
        let mut tcp = builder.tcp(port, 80, self.sequence, self.window);
        if self.flags & ACK != 0 {
            tcp = tcp.ack(77);
        }
        if self.flags & PSH != 0 {
            tcp = tcp.psh();
        }
        if self.flags & FIN != 0 {
            tcp = tcp.fin();
        }
        if self.options {
            tcp = tcp.options_raw(&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
        }
        let payload: Vec<u8> =
            (0..self.len).map(|i| (i as u32 * 13).wrapping_add(self.sequence) as u8).collect();
        let mut frame = Vec::new();
        tcp.write(&mut frame, &payload).unwrap();
        frame
    }

    fn l4(&self) -> usize {
        14 + if self.connection >= 2 { 4 } else { 0 } + if self.connection % 2 == 1 { 40 } else { 20 }
    }

    fn offload(&self) -> Offload {
        let csum_start = self.l4() as u16;
        if self.partial {
            Offload { needs_csum: true, csum_start, csum_offset: 16, ..Offload::default() }
        } else {
            Offload::default()
        }
    }

    /// The frame as it arrives: with half a checksum, if that is what the sender leaves to us.
    fn arriving(&self) -> Vec<u8> {
        let mut frame = self.whole();
        if self.partial {
            let headers = locate(
                &frame,
                frame.len(),
                &Offload {
                    gso: if self.connection % 2 == 1 { Gso::TcpV6 } else { Gso::TcpV4 },
                    ..Offload::default()
                },
            )
            .unwrap();
            let partial = !pseudo_header(&frame, headers, frame.len() - self.l4()).finish();
            put16(&mut frame, self.l4() + 16, partial);
        }
        frame
    }
}

const LARGE: Takes = Takes {
    caps: OffloadCaps { csum: true, tso4: true, tso6: true, ecn: false, ufo: false, uso: false },
    max_frame: 1522,
};

/// Sends frames through a merger and cuts what comes out again. Returns that, and how long what was merged was.
fn merged_and_cut(frames: &[(Vec<u8>, Offload)], takes: Takes) -> (Vec<Vec<u8>>, Vec<usize>) {
    let mut storage = BatchStorage::new();
    let mut batch = storage.begin();
    for (i, (frame, offload)) in frames.iter().enumerate() {
        assert!(batch.receive(Span::from_slice(frame)));
        batch.packet_mut(i as SlotId).offload = *offload;
    }
    let slots: Vec<SlotId> = (0..frames.len() as SlotId).collect();
    let (mut cut, mut lens, mut finisher) = (Vec::new(), Vec::new(), Finisher::new());
    let mut send = |frame: Frame<'_>| {
        let is_merged = frame.offload.gso != Gso::None;
        lens.extend(is_merged.then_some(frame.len()));
        assert!(!is_merged || takes.caps.takes(&frame.offload));
        let finished = finisher.finish(frame, OffloadCaps::default(), 65_557, |piece| {
            let mut bytes = vec![0; piece.len()];
            assert_eq!(piece.copy_to(&mut bytes), bytes.len());
            cut.push(bytes);
        });
        finished.unwrap();
    };
    let mut merger = Merger::new();
    if merger.plan(&batch, &slots, takes) {
        let mut sent = 0;
        let (made, of) = merger.send(&mut batch, |batch, slots| {
            sent = slots.len();
            slots.iter().for_each(|&slot| send(batch.frame(slot)));
        });
        assert_eq!((lens.len() as u64, sent as u64), (made, frames.len() as u64 - of + made));
    } else {
        slots.iter().for_each(|&slot| send(batch.frame(slot)));
    }
    // The originals are still there for another port.
    for (slot, (frame, offload)) in frames.iter().enumerate() {
        let mut bytes = vec![0; frame.len()];
        batch.frame(slot as SlotId).copy_to(&mut bytes);
        assert!(bytes == *frame && batch.packet(slot as SlotId).offload == *offload);
    }
    (cut, lens)
}

fn by_connection(frames: &[Vec<u8>]) -> std::collections::BTreeMap<u16, Vec<&Vec<u8>>> {
    let mut sorted = std::collections::BTreeMap::<u16, Vec<_>>::new();
    for frame in frames {
        let sliced = SlicedPacket::from_ethernet(frame).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no TCP") };
        sorted.entry(tcp.source_port()).or_default().push(frame);
    }
    sorted
}

/// What can be odd about a segment.
#[derive(Clone, Copy, Debug)]
enum Oddity {
    None,
    Short,
    Empty,
    Push,
    Fin,
    Gap,
    Window,
    Ttl,
    Id,
    NoOptions,
    NoAck,
    BadChecksum,
    BadHeaderChecksum,
    Padding,
}

fn oddity() -> impl Strategy<Value = Oddity> {
    use Oddity::*;
    let odd = [
        Short,
        Empty,
        Push,
        Fin,
        Gap,
        Window,
        Ttl,
        Id,
        NoOptions,
        NoAck,
        BadChecksum,
        BadHeaderChecksum,
        Padding,
    ];
    prop_oneof![12 => Just(None), 3 => prop::sample::select(odd.to_vec())]
}

/// A burst of four connections, each with its own segment length, some of its segments odd.
fn burst() -> impl Strategy<Value = Vec<(Segment, Oddity)>> {
    let one = (0u8..4, oddity(), prop::bool::weighted(0.2));
    (prop::collection::vec(one, 1..=BURST), prop::sample::select(vec![300usize, 536, 1000, 1448])).prop_map(
        |(list, len)| {
            let mut numbers = [0; 4];
            let segment = |(connection, odd, partial): (u8, Oddity, bool)| {
                let number = &mut numbers[usize::from(connection)];
                let mut segment = Segment { partial, ..Segment::new(connection, *number, len) };
                *number += 1;
                match odd {
                    Oddity::Short => segment.len -= 200,
                    Oddity::Empty => segment.len = 0,
                    Oddity::Push => segment.flags |= PSH,
                    Oddity::Fin => segment.flags |= FIN,
                    Oddity::Gap => segment.sequence = segment.sequence.wrapping_add(1),
                    Oddity::Window => segment.window -= 1,
                    Oddity::Ttl => segment.ttl -= 1,
                    Oddity::Id => segment.id = segment.id.wrapping_add(1),
                    Oddity::NoOptions => segment.options = false,
                    Oddity::NoAck => segment.flags = 0,
                    Oddity::None | Oddity::BadChecksum | Oddity::BadHeaderChecksum | Oddity::Padding => {}
                }
                (segment, odd)
            };
            list.into_iter().map(segment).collect()
        },
    )
}

proptest! {
    #[test]
    fn cutting_what_was_merged_gives_back_what_came(list in burst(), limit in prop::sample::select(vec![600usize, 1522])) {
        let mut wanted = Vec::new();
        let mut frames = Vec::new();
        for (segment, odd) in &list {
            let (mut whole, mut frame) = (segment.whole(), segment.arriving());
            for bytes in [&mut whole, &mut frame] {
                match odd {
                    Oddity::BadChecksum if !segment.partial => bytes[segment.l4() + 17] ^= 1,
                    Oddity::BadHeaderChecksum if segment.connection % 2 == 0 => bytes[segment.l4() - 10] ^= 1,
                    Oddity::Padding if !segment.partial => bytes.extend([0; 2]),
                    _ => {}
                }
            }
            wanted.push(whole);
            frames.push((frame, segment.offload()));
        }
        let takes = Takes { max_frame: limit, ..LARGE };
        let (cut, lens) = merged_and_cut(&frames, takes);
        prop_assert_eq!(by_connection(&cut), by_connection(&wanted));
        prop_assert!(lens.iter().all(|&len| len <= 65_535 + 18));
        prop_assert!(limit > 600 || lens.is_empty() || list.iter().all(|(segment, _)| segment.len < 600));
    }
}

#[test]
fn a_train_becomes_one_frame() {
    for connection in 0..4 {
        for partial in [false, true] {
            let mut list: Vec<_> =
                (0..30).map(|i| Segment { partial, ..Segment::new(connection, i, 1428) }).collect();
            list[29].len = 17;
            list[29].flags |= PSH;
            let frames: Vec<_> = list.iter().map(|s| (s.arriving(), s.offload())).collect();
            let (cut, lens) = merged_and_cut(&frames, LARGE);
            assert_eq!(lens, [list[0].l4() + 32 + 29 * 1428 + 17]);
            assert_eq!(cut, list.iter().map(Segment::whole).collect::<Vec<_>>());
        }
    }
}

#[test]
fn the_merged_frame_says_what_it_is() {
    let frames: Vec<_> = (0..3).map(|i| (Segment::new(0, i, 1000).whole(), Offload::default())).collect();
    let mut storage = BatchStorage::new();
    let mut batch = storage.begin();
    frames.iter().for_each(|(frame, _)| assert!(batch.receive(Span::from_slice(frame))));
    let mut merger = Merger::new();
    assert!(merger.plan(&batch, &[0, 1, 2], LARGE));
    merger.send(&mut batch, |batch, slots| {
        let frame = batch.frame(slots[0]);
        let mut bytes = vec![0; frame.len()];
        frame.copy_to(&mut bytes);
        let sliced = SlicedPacket::from_ethernet(&bytes).unwrap();
        let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("not IPv4") };
        assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
        assert_eq!(usize::from(ip.header().total_len()), bytes.len() - 14);
        let wanted = Offload {
            needs_csum: true,
            gso: Gso::TcpV4,
            gso_size: 1000,
            hdr_len: 66,
            csum_start: 34,
            csum_offset: 16,
            ..Offload::default()
        };
        assert_eq!(frame.offload, wanted);
        // Completed as it is, the checksum is that of one large segment.
        let caps = OffloadCaps { tso4: true, ..OffloadCaps::default() };
        let mut partial = frame;
        partial.offload.gso = Gso::None;
        Finisher::new()
            .finish(partial, caps, usize::MAX, |done| {
                let mut bytes = vec![0; done.len()];
                done.copy_to(&mut bytes);
                let sliced = SlicedPacket::from_ethernet(&bytes).unwrap();
                let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) =
                    (&sliced.net, &sliced.transport)
                else {
                    panic!("not TCP over IPv4")
                };
                let right = tcp.to_header().calc_checksum_ipv4(&ip.header().to_header(), tcp.payload());
                assert_eq!(Ok(tcp.checksum()), right);
            })
            .unwrap();
    });
}

#[test]
fn frames_stay_within_64_kib_and_interleaved_connections_are_told_apart() {
    let takes = Takes { max_frame: 9022, ..LARGE };
    let frames: Vec<_> =
        (0..32).map(|i| Segment::new(0, i, 8948)).map(|s| (s.arriving(), s.offload())).collect();
    let (_, lens) = merged_and_cut(&frames, takes);
    let whole = 66 + 7 * 8948;
    assert_eq!(lens, [whole, whole, whole, whole, 66 + 4 * 8948]);
    let list: Vec<_> = (0..32).map(|i| Segment::new(i as u8 % 4, i / 4, 1448)).collect();
    let frames: Vec<_> = list.iter().map(|s| (s.arriving(), s.offload())).collect();
    let (_, lens) = merged_and_cut(&frames, takes);
    assert_eq!(lens, [66, 86, 70, 90].map(|headers| headers + 8 * 1448));
}

#[test]
fn who_takes_no_large_frames_gets_none() {
    let frames: Vec<_> = (0..4).map(|i| (Segment::new(0, i, 1000).whole(), Offload::default())).collect();
    for caps in [OffloadCaps::default(), OffloadCaps { tso4: false, ..LARGE.caps }] {
        assert_eq!(merged_and_cut(&frames, Takes { caps, ..LARGE }).1, [0usize; 0]);
    }
}

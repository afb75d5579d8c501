//! Fragments put together again by etherparse, which knows nothing of how they were made.

use etherparse::defrag::IpDefragPool;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, UdpSlice};
use proptest::prelude::*;

use crate::offload::{Finished, Finisher};
use crate::packet::{Frame, Gso, HEAD_CAPACITY, Offload, OffloadCaps, Span};
use crate::port::DropReason;

/// A UDP frame with a right checksum.
fn udp(v6: bool, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let builder =
        if v6 { builder.ipv6([1; 16], [2; 16], 64) } else { builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64) };
    let mut frame = Vec::new();
    builder.udp(1, 2).write(&mut frame, payload).unwrap();
    frame
}

fn cut(frame: &[u8], split: usize, offload: Offload, max_frame: usize) -> Result<Vec<Vec<u8>>, DropReason> {
    let (head, rest) = frame.split_at(split.min(frame.len()).min(HEAD_CAPACITY));
    let spans = [Span::from_slice(rest)];
    let mut out = Vec::new();
    let whole = Frame::new(head, offload, &spans, rest.len());
    let done = Finisher::new().finish(whole, OffloadCaps::default(), max_frame, |piece| {
        let mut bytes = vec![0; piece.len()];
        assert_eq!(piece.copy_to(&mut bytes), bytes.len());
        out.push(bytes);
    })?;
    assert_eq!(done, Finished::Pieces(out.len()));
    Ok(out)
}

/// The UDP header and payload that fragments carry together; `None` while some is missing.
fn reassemble(fragments: &[Vec<u8>]) -> Option<Vec<u8>> {
    let mut pool = IpDefragPool::<(), ()>::new();
    let mut whole = None;
    for bytes in fragments {
        let sliced = SlicedPacket::from_ethernet(bytes).unwrap();
        if let Some(NetSlice::Ipv4(ip)) = &sliced.net {
            assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
        }
        if !sliced.is_ip_payload_fragmented() {
            return sliced.ip_payload().map(|payload| payload.payload.to_vec());
        }
        assert!(whole.is_none(), "a fragment after the last");
        whole = pool.process_sliced_packet(&sliced, (), ()).unwrap();
    }
    whole.map(|whole| whole.payload)
}

proptest! {
    #[test]
    fn fragments_join_to_the_datagram(
        v6: bool,
        len in 0usize..40_000,
        gso_size in 64u16..3000,
        split in 100usize..=HEAD_CAPACITY,
        is_partial: bool,
    ) {
        let payload: Vec<u8> = (0..len).map(|i| (i * 13 + i / 251) as u8).collect();
        let mut frame = udp(v6, &payload);
        let from = if v6 { 54 } else { 34 };
        let whole = frame[from..].to_vec();
        let mut offload = Offload { gso: Gso::Udp, gso_size, ..Offload::default() };
        if is_partial {
            // What a guest leaves in the field: the pseudo-header's sum, which by the definition of the checksum is its
            // complement less the sum of all else.
            let right = u16::from_be_bytes([frame[from + 6], frame[from + 7]]);
            frame[from + 6..from + 8].fill(0);
            let rest: u64 = frame[from..].chunks(2).map(|w| u64::from(w[0]) << 8 | u64::from(*w.get(1).unwrap_or(&0))).sum();
            let mut partial = u64::from(!right) + u64::from(!((rest % 0xffff) as u16));
            partial = (partial & 0xffff) + (partial >> 16);
            frame[from + 6..from + 8].copy_from_slice(&(partial as u16).to_be_bytes());
            offload = Offload { needs_csum: true, csum_start: from as u16, csum_offset: 6, ..offload };
        }
        let header = if v6 && whole.len() > usize::from(gso_size & !7) { 8 } else { 0 };
        let longest = from + header + whole.len().min(usize::from(gso_size & !7));
        let fragments = cut(&frame, split, offload, longest).unwrap();
        prop_assert_eq!(fragments.len(), whole.len().div_ceil(usize::from(gso_size & !7)));
        let joined = reassemble(&fragments).unwrap();
        prop_assert_eq!(&joined, &whole);
        prop_assert!(UdpSlice::from_slice(&joined).is_ok());
        prop_assert_eq!(cut(&frame, split, offload, longest - 1), Err(DropReason::TxTooLong));
    }
}

#[test]
fn hop_by_hop_options_stay_in_front_and_destination_options_are_cut() {
    let mut frame = udp(true, &[7; 3000]);
    // Destination options with padding, then before them hop-by-hop options.
    frame[20] = 60;
    frame.splice(54..54, [17, 0, 1, 4, 0, 0, 0, 0]);
    let offload = Offload { gso: Gso::Udp, gso_size: 1000, ..Offload::default() };
    // By hand, since etherparse takes the options of a first fragment for headers of the others, too.
    let join = |fragments: &[Vec<u8>], at: usize| {
        fragments.iter().flat_map(|f| f[at..].to_vec()).collect::<Vec<_>>()
    };
    let fragments = cut(&frame, 192, offload, 1514).unwrap();
    assert!(fragments.iter().all(|f| (f[20], f[54]) == (44, 60)));
    assert_eq!(join(&fragments, 62), frame[54..]);

    frame[20] = 0;
    frame.splice(54..54, [60, 0, 1, 4, 0, 0, 0, 0]);
    let fragments = cut(&frame, 192, offload, 1514).unwrap();
    assert!(fragments.iter().all(|f| (f[20], f[54], f[62]) == (0, 44, 60)));
    assert_eq!(join(&fragments, 70), frame[62..]);
    let lengths: Vec<_> =
        fragments.iter().map(|f| usize::from(u16::from_be_bytes([f[18], f[19]])) + 54).collect();
    assert_eq!(lengths, fragments.iter().map(Vec::len).collect::<Vec<_>>());
}

#[test]
fn datagrams_have_identifications_of_their_own() {
    let frame = udp(true, &[7; 3000]);
    let (head, rest) = frame.split_at(192);
    let spans = [Span::from_slice(rest)];
    let offload = Offload { gso: Gso::Udp, gso_size: 1000, ..Offload::default() };
    let mut finisher = Finisher::new();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let whole = Frame::new(head, offload, &spans, rest.len());
        finisher
            .finish(whole, OffloadCaps::default(), 1514, |piece| ids.push(piece.head[58..62].to_vec()))
            .unwrap();
    }
    ids.dedup();
    assert_eq!(ids.len(), 3);
}

/// Puts bytes into a frame.
fn insert(frame: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    frame.splice(at..at, bytes.iter().copied());
}

#[test]
fn fragments_fit_the_mtu_exactly_and_repeat_only_copied_options() {
    let mut frame = udp(false, &[3; 4000]);
    let offload = Offload { gso: Gso::Udp, gso_size: 1472, ..Offload::default() };
    // Record route (not copied), then a copied option, then the end.
    frame[14] = 0x47;
    insert(&mut frame, 34, &[7, 3, 4, 0x94, 4, 0, 0, 0]);
    let spans = [Span::from_slice(&frame[100..])];
    let whole = Frame::new(&frame[..100], offload, &spans, frame.len() - 100);
    let mut options = Vec::new();
    let finished = Finisher::new().finish(whole, OffloadCaps::default(), 1514, |fragment| {
        assert!(fragment.len() <= 1514);
        options.push(fragment.head[34..42].to_vec());
    });
    finished.unwrap();
    assert_eq!(
        options,
        [[7, 3, 4, 0x94, 4, 0, 0, 0], [1, 1, 1, 0x94, 4, 0, 0, 0], [1, 1, 1, 0x94, 4, 0, 0, 0]]
    );
    let finished = Finisher::new().finish(whole, OffloadCaps::default(), 1513, |_| {});
    assert_eq!(finished, Err(DropReason::TxTooLong));
}

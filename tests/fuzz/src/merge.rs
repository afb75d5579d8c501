//! Boundary: frames that come in together and may be merged. Anybody may send anything, in any mixture.
//!
//! Property: merging ends without a panic, and cutting what came out of it
//! - gives back exactly the frames that went in, those that vouch for a checksum or leave it to us in their lengths;
//! - in the order in which they came, where none is merged.
//!
//! The packets themselves are as before when they have been sent.

use pmd::offload::{Finisher, Merger, Takes};
use pmd::packet::{BURST, BatchStorage, Gso, Offload, OffloadCaps, SlotId, Span};

use super::frames;
use super::input::Input;

/// Longest frame made of an input.
const LONGEST: usize = 9100;

/// Runs one input: what the far side takes, then the frames, each with its claims and the length it is filled up to.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (can, max_frame) = (input.u8(), usize::from(input.u16()));
    let bit = |at: u8| can >> at & 1 == 1;
    let caps = OffloadCaps { csum: bit(0), tso4: bit(1), tso6: bit(2), ..OffloadCaps::default() };
    let mut came = Vec::new();
    while !input.is_empty() && came.len() < BURST {
        let (claims, csum_start, given, len) = (input.u8(), input.u16(), input.u16(), input.u16());
        let mut bytes = input.bytes(usize::from(given).min(LONGEST)).to_vec();
        bytes.resize(bytes.len().max(usize::from(len).min(LONGEST)).max(14), 0x5a);
        let needs_csum = claims & 1 != 0 && usize::from(csum_start) + 18 <= bytes.len();
        let csum_start = if needs_csum { csum_start } else { 0 };
        let csum_offset = if needs_csum { 16 } else { 0 };
        let csum_valid = claims & 2 != 0;
        came.push((bytes, Offload { needs_csum, csum_valid, csum_start, csum_offset, ..Offload::default() }));
    }
    merge(&came, Takes { caps, max_frame });
}

fn merge(came: &[(Vec<u8>, Offload)], takes: Takes) {
    let mut storage = BatchStorage::new();
    let mut batch = storage.begin();
    for (slot, (bytes, offload)) in came.iter().enumerate() {
        assert!(batch.receive(Span::from_slice(bytes)));
        batch.packet_mut(slot as SlotId).offload = *offload;
    }
    let slots: Vec<SlotId> = (0..came.len() as SlotId).collect();
    let mut merger = Merger::new();
    if !merger.plan(&batch, &slots, takes) {
        return;
    }
    let (mut cut, mut finisher) = (Vec::new(), Finisher::new());
    let (frames, packets) = merger.send(&mut batch, |batch, slots| {
        for &slot in slots {
            let frame = batch.frame(slot);
            if frame.offload.gso == Gso::None {
                let (bytes, offload) = &came[usize::from(slot)];
                cut.push((bytes.clone(), offload.csum_valid || offload.needs_csum));
                continue;
            }
            assert!(takes.caps.takes(&frame.offload), "a frame the far side does not take");
            let finished = finisher.finish(frame, OffloadCaps::default(), usize::MAX, |piece| {
                let mut bytes = vec![0; piece.len()];
                assert_eq!(piece.copy_to(&mut bytes), bytes.len());
                cut.push((bytes, false));
            });
            finished.expect("what was merged can be cut");
        }
    });
    assert!(frames > 0 && packets > frames);
    assert_eq!(cut.len(), came.len());
    // A frame whose checksum was not made by its sender gets one in the cut, so there only the length is known.
    let vouched = came.iter().any(|(_, offload)| offload.csum_valid || offload.needs_csum);
    let mut before: Vec<_> = came.iter().map(|(bytes, _)| bytes.clone()).collect();
    let mut after: Vec<_> = cut.into_iter().map(|(bytes, _)| bytes).collect();
    if vouched {
        let lengths = |frames: &[Vec<u8>]| {
            let mut all: Vec<_> = frames.iter().map(Vec::len).collect();
            all.sort_unstable();
            all
        };
        assert_eq!(lengths(&before), lengths(&after));
    } else {
        before.sort_unstable();
        after.sort_unstable();
        assert!(before == after, "cutting gave other frames");
    }
    for (slot, (bytes, offload)) in came.iter().enumerate() {
        let mut now = vec![0; bytes.len()];
        let frame = batch.frame(slot as SlotId);
        assert_eq!(frame.copy_to(&mut now), bytes.len());
        assert!(now == *bytes && frame.offload == *offload, "a packet was changed");
    }
}

/// What a sender with segmentation would have sent as one, in segments, alone and mixed with other frames.
pub fn seeds() -> Vec<Vec<u8>> {
    let caps = 7;
    let trains = [segments(&frames::tcp4(20), Gso::TcpV4, 34), segments(&frames::tcp6(20), Gso::TcpV6, 54)];
    let encode = |claims: u8, start: u16, list: &[Vec<u8>]| {
        let mut bytes = vec![caps, 0xf2, 5];
        for frame in list {
            bytes.push(claims);
            for word in [start, frame.len() as u16, 0] {
                bytes.extend(word.to_le_bytes());
            }
            bytes.extend(frame);
        }
        bytes
    };
    let mixed: Vec<_> = trains[0].iter().zip(&trains[1]).flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
    let mut out = vec![encode(0, 0, &mixed), encode(0, 0, &frames::all())];
    for (train, start) in trains.iter().zip([34, 54]) {
        out.extend([encode(0, 0, train), encode(1, start, train), encode(2, 0, train)]);
    }
    out
}

/// The segments of a frame whose payload is made long, with right checksums.
fn segments(frame: &[u8], gso: Gso, csum_start: u16) -> Vec<Vec<u8>> {
    let mut long = frame.to_vec();
    long.resize(frame.len() + 1700, 0x33);
    // ACK and nothing else.
    long[usize::from(csum_start) + 13] = 0x10;
    let offload =
        Offload { needs_csum: true, gso, gso_size: 400, csum_start, csum_offset: 16, ..Offload::default() };
    let (head, rest) = long.split_at(192);
    let spans = [Span::from_slice(rest)];
    let whole = pmd::packet::Frame::new(head, offload, &spans, rest.len());
    let mut out = Vec::new();
    let cut = Finisher::new().finish(whole, OffloadCaps::default(), usize::MAX, |piece| {
        let mut bytes = vec![0; piece.len()];
        piece.copy_to(&mut bytes);
        out.push(bytes);
    });
    cut.expect("a right frame can be cut");
    out
}

//! Boundary: frames with offload claims. A guest says "cut this at N, checksum there" and may lie about all of it.
//!
//! Property: finishing a frame ends in whole frames or a drop reason, never in a panic, and
//! - no result is longer than the far side takes, none still asks for an offload, there are at most `MAX_SEGMENTS`;
//! - segments of TCP and of UDP datagrams together carry exactly the payload: as many bytes as went in, headers repeated;
//! - a segment's IPv4 header has a right checksum.

use pmd::offload::{Finisher, MAX_SEGMENTS};
use pmd::packet::{Frame, Gso, HEAD_CAPACITY, Offload, OffloadCaps, Span};

use super::frames;
use super::input::Input;

const KINDS: [Gso; 5] = [Gso::None, Gso::TcpV4, Gso::TcpV6, Gso::Udp, Gso::UdpL4];

/// Runs one input: the claims, then the frame.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (bits, kind, can, split) = (input.u8(), input.u8(), input.u8(), input.u8());
    let offload = Offload {
        needs_csum: bits & 1 != 0,
        csum_valid: bits & 2 != 0,
        ecn: bits & 4 != 0,
        gso: KINDS[usize::from(kind) % KINDS.len()],
        gso_size: input.u16(),
        hdr_len: input.u16(),
        csum_start: input.u16(),
        csum_offset: input.u16(),
    };
    let bit = |at: u8| can >> at & 1 == 1;
    let caps =
        OffloadCaps { csum: bit(0), tso4: bit(1), tso6: bit(2), ecn: bit(3), ufo: bit(4), uso: bit(5) };
    let (max_frame, more) = (usize::from(input.u16()), usize::from(input.u16()));
    let mut bytes = input.rest().to_vec();
    bytes.resize((bytes.len() + more).min(65_535 + 22), 0x5a);
    let (head, rest) = bytes.split_at(usize::from(split).min(HEAD_CAPACITY).min(bytes.len()));
    let (one, two) = rest.split_at(rest.len() / 3);
    let spans = [Span::from_slice(one), Span::from_slice(two)];
    finish(&Frame::new(head, offload, &spans, rest.len()), caps, max_frame);
}

/// Each kind of cut, as a guest that plays by the rules asks for it, and a plain frame.
pub fn seeds() -> Vec<Vec<u8>> {
    let claims = |kind: u8, size: u16, start: u16, offset: u16, more: u16, frame: Vec<u8>| {
        let mut bytes = vec![1, kind, 0, 192];
        for word in [size, 54, start, offset, 1514, more] {
            bytes.extend(word.to_le_bytes());
        }
        [bytes, frame].concat()
    };
    let mut out = vec![
        claims(1, 1000, 34, 16, 4000, frames::tcp4(20)),
        claims(2, 1000, 54, 16, 4000, frames::tcp6(20)),
        claims(3, 1480, 34, 6, 4000, frames::udp4(20)),
        claims(4, 1000, 34, 6, 4000, frames::udp4(20)),
        claims(4, 1000, 54, 6, 4000, frames::udp6(20)),
        claims(0, 0, 34, 6, 500, frames::udp4(20)),
    ];
    out.extend(frames::all().into_iter().map(|frame| claims(1, 100, 34, 16, 600, frame)));
    out
}

fn finish(frame: &Frame<'_>, caps: OffloadCaps, max_frame: usize) {
    let asked = frame.offload;
    let untouched = caps.takes(&asked);
    let (mut count, mut total, mut first) = (0usize, 0usize, 0usize);
    let result = Finisher::new().finish(*frame, caps, max_frame, |piece| {
        let mut bytes = vec![0; piece.len()];
        assert_eq!(piece.copy_to(&mut bytes), bytes.len(), "a frame shorter than it says");
        assert!(count < MAX_SEGMENTS);
        count += 1;
        total += bytes.len();
        first = if count == 1 { bytes.len() } else { first };
        if untouched {
            assert_eq!(piece.offload, asked);
            assert!(bytes.len() <= max_frame || asked.gso != Gso::None);
            return;
        }
        assert!(bytes.len() <= max_frame, "{} bytes for a port that takes {max_frame}", bytes.len());
        assert!(!piece.offload.needs_csum && piece.offload.gso == Gso::None);
        if asked.gso != Gso::None && bytes.get(12..14) == Some(&[8, 0]) {
            let header = bytes.get(14..14 + usize::from(bytes[14] & 0xf) * 4);
            assert_eq!(header.map(frames::sum), Some(0xffff), "IPv4 header checksum");
        }
    });
    if result.is_err() {
        return;
    }
    assert!(count > 0, "a frame vanished without a reason");
    if asked.gso == Gso::None || untouched {
        assert_eq!((count, total), (1, frame.len()));
    } else if asked.gso != Gso::Udp && count > 1 {
        let repeated = total - frame.len();
        assert_eq!(repeated % (count - 1), 0, "headers of different lengths");
        assert_eq!(
            first - repeated / (count - 1),
            usize::from(asked.gso_size),
            "payload of the first segment"
        );
    }
}

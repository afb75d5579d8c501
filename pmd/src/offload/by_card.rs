//! Frames that a card sums or cuts by itself: what it must find in them, and what it wants to find.
//!
//! A card that only knows IP, TCP and UDP as they lie behind an Ethernet header would sum the wrong bytes of a packet in a tunnel. So a
//! frame is given to one only if the partial checksum is where the card will look.

use super::finisher::pseudo_header;
use super::headers::{self, TCP, locate};
use crate::packet::{Frame, MAX_FRAME};

/// Where TCP and UDP have their checksum.
const TCP_CHECKSUM: u16 = 16;
const UDP_CHECKSUM: u16 = 6;

/// Where the outermost transport, TCP or UDP, of a frame begins, if its partial checksum is that transport's.
pub(crate) fn transport(frame: &Frame<'_>) -> Option<usize> {
    let (l4, protocol) = headers::transport(frame.head)?;
    let field = if protocol == TCP { TCP_CHECKSUM } else { UDP_CHECKSUM };
    let offload = &frame.offload;
    (usize::from(offload.csum_start) == l4 && offload.csum_offset == field).then_some(l4)
}

/// Least payload of a segment, as in software: 64 KiB of it are [`super::MAX_SEGMENTS`] frames on the wire.
const SMALLEST: u16 = 64;

/// The headers of a TCP frame that a card cuts, and what is different in them: the card fills in lengths itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CutByCard {
    /// Where the IP header begins.
    pub(crate) l3: usize,
    /// Where TCP's begins.
    pub(crate) l4: usize,
    /// Bytes of all headers.
    pub(crate) headers: usize,
    pub(crate) is_v6: bool,
    /// What TCP's checksum is to be: the sum over a pseudo-header without the length.
    pub(crate) pseudo_sum: [u8; 2],
}

impl CutByCard {
    /// Looks at the headers of a frame that asks for TCP segmentation. `None` if they are not what the frame says, or if segments would be longer
    /// than `longest` or unreasonably small.
    pub(crate) fn of(frame: &Frame<'_>, longest: usize) -> Option<CutByCard> {
        let found = locate(frame.head, frame.len(), &frame.offload).ok().filter(|h| h.protocol == TCP)?;
        let (headers, size) = (found.payload, frame.offload.gso_size);
        let fits = size >= SMALLEST
            && (headers + 1..=MAX_FRAME).contains(&frame.len())
            && frame.len().min(headers + usize::from(size)) <= longest;
        let pseudo_sum = (!pseudo_header(frame.head, found, 0).finish()).to_be_bytes();
        fits.then_some(CutByCard { l3: found.l3, l4: found.l4, headers, is_v6: found.is_v6, pseudo_sum })
    }

    /// Where the length in the IP header is.
    pub(crate) fn ip_length(&self) -> usize {
        self.l3 + if self.is_v6 { 4 } else { 2 }
    }

    /// Where the checksum of the IPv4 header is.
    pub(crate) fn ip_checksum(&self) -> Option<usize> {
        (!self.is_v6).then_some(self.l3 + 10)
    }

    /// Where TCP's checksum is.
    pub(crate) fn tcp_checksum(&self) -> usize {
        self.l4 + usize::from(TCP_CHECKSUM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Gso, Offload};

    /// Ethernet, IPv4 without options, TCP without options; addresses 10.0.0.1 and 10.0.0.2.
    fn tcp4() -> Vec<u8> {
        let mut bytes = vec![0; 100];
        bytes[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 86, 0, 0, 0, 0, 64, 6]);
        bytes[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        bytes[46] = 0x50;
        bytes
    }

    fn asks(csum_start: u16, csum_offset: u16, gso: Gso) -> Offload {
        Offload { needs_csum: true, csum_start, csum_offset, gso, gso_size: 10, ..Offload::default() }
    }

    #[test]
    fn only_the_outer_transport_is_left_to_a_card() {
        let bytes = tcp4();
        let at = |start, offset| transport(&Frame::new(&bytes, asks(start, offset, Gso::None), &[], 0));
        assert_eq!(at(34, 16), Some(34));
        assert_eq!((at(34, 6), at(54, 16)), (None, None), "another field, a packet inside");
        let mut fragment = tcp4();
        fragment[20] = 0x20;
        assert_eq!(transport(&Frame::new(&fragment, asks(34, 16, Gso::None), &[], 0)), None);
        let mut tagged = tcp4();
        tagged.splice(12..12, [0x81, 0, 0, 7]);
        assert_eq!(transport(&Frame::new(&tagged, asks(38, 16, Gso::None), &[], 0)), Some(38));
    }

    #[test]
    fn a_card_that_cuts_finds_a_sum_without_length() {
        let bytes = tcp4();
        let asks = |gso, gso_size| Offload { gso_size, ..asks(34, 16, gso) };
        let of = |offload, longest| CutByCard::of(&Frame::new(&bytes, offload, &[], 0), longest);
        let cut = of(asks(Gso::TcpV4, 64), 1514).unwrap();
        // 0x0a00 + 1 + 0x0a00 + 2 + 6.
        let wanted = CutByCard { l3: 14, l4: 34, headers: 54, is_v6: false, pseudo_sum: [0x14, 0x09] };
        assert_eq!(cut, wanted);
        assert_eq!((cut.ip_length(), cut.ip_checksum(), cut.tcp_checksum()), (16, Some(24), 50));
        assert_eq!(of(asks(Gso::TcpV6, 64), 1514), None);
        assert_eq!(of(asks(Gso::TcpV4, 63), 1514), None, "too many small ones");
        assert_eq!(of(asks(Gso::TcpV4, 64), 99), None, "one is 100 bytes, and may not be");
        assert_eq!(
            CutByCard::of(&Frame::new(&bytes[..54], asks(Gso::TcpV4, 64), &[], 0), 1514),
            None,
            "nothing to cut"
        );
    }
}

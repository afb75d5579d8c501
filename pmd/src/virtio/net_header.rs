//! `virtio_net_hdr`: what precedes every frame on a virtio ring or a TAP with a header (section 5.1.6).
//!
//! Twelve bytes with VERSION_1 or mergeable buffers, ten (without `num_buffers`) in the legacy layout. Fields are
//! little-endian here: legacy devices use the guest's order, which on every machine we run on is the same.
//!
//! The header comes from a peer that may lie. [`NetHeader::to_offload`] is the door: what passes it has offsets
//! inside the frame and a segmentation request that makes sense.

use crate::packet::{Gso, Offload};

/// The checksum is partial ([`Offload::needs_csum`]).
const F_NEEDS_CSUM: u8 = 1;
/// The checksum is right ([`Offload::csum_valid`]).
const F_DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_UDP: u8 = 3;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// May be set beside a TCP type.
const GSO_ECN: u8 = 0x80;

/// The header's fields as they lie in memory.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct NetHeader {
    /// `VIRTIO_NET_HDR_F_*`.
    pub flags: u8,
    /// `VIRTIO_NET_HDR_GSO_*`.
    pub gso_type: u8,
    /// Length of all headers, a hint.
    pub hdr_len: u16,
    /// Payload bytes per segment.
    pub gso_size: u16,
    /// Where the checksummed area starts.
    pub csum_start: u16,
    /// Where the checksum lies, from there.
    pub csum_offset: u16,
    /// Receive buffers the frame fills (mergeable layout only).
    pub num_buffers: u16,
}

/// A header that contradicts its frame or itself.
#[derive(thiserror::Error, Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadOffload {
    /// The checksum field would lie beyond the end of the frame.
    #[error("checksum field beyond the end of the frame")]
    ChecksumOutside,
    /// The segmentation type is none of the known.
    #[error("unknown segmentation type")]
    UnknownGso,
    /// Segmentation asked for with a segment size of zero.
    #[error("segmentation without a segment size")]
    NoSegmentSize,
    /// Segmentation asked for without a partial checksum, which every segment needs.
    #[error("segmentation without a partial checksum")]
    SegmentWithoutChecksum,
}

impl NetHeader {
    /// Bytes with `num_buffers`.
    pub const LEN: usize = 12;
    /// Bytes of the legacy layout without it.
    pub const LEGACY_LEN: usize = 10;

    /// Reads the header from its twelve bytes; a legacy header leaves the last two zero.
    #[inline]
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> NetHeader {
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1, n0, n1] = *bytes;
        NetHeader {
            flags,
            gso_type,
            hdr_len: u16::from_le_bytes([h0, h1]),
            gso_size: u16::from_le_bytes([g0, g1]),
            csum_start: u16::from_le_bytes([s0, s1]),
            csum_offset: u16::from_le_bytes([o0, o1]),
            num_buffers: u16::from_le_bytes([n0, n1]),
        }
    }

    /// The header's twelve bytes; a legacy user takes the first ten.
    #[inline]
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let [h0, h1] = self.hdr_len.to_le_bytes();
        let [g0, g1] = self.gso_size.to_le_bytes();
        let [s0, s1] = self.csum_start.to_le_bytes();
        let [o0, o1] = self.csum_offset.to_le_bytes();
        let [n0, n1] = self.num_buffers.to_le_bytes();
        [self.flags, self.gso_type, h0, h1, g0, g1, s0, s1, o0, o1, n0, n1]
    }

    /// Whether a header that begins with these two bytes claims nothing: [`NetHeader::to_offload`] would then say so,
    /// whatever else is in it.
    #[inline]
    pub fn asks_nothing([flags, gso_type]: [u8; 2]) -> bool {
        flags & (F_NEEDS_CSUM | F_DATA_VALID) == 0 && gso_type == GSO_NONE
    }

    /// The offload state this header claims for a frame of `frame_len` bytes (without the header).
    #[inline]
    pub fn to_offload(&self, frame_len: usize) -> Result<Offload, BadOffload> {
        if self.flags & (F_NEEDS_CSUM | F_DATA_VALID) == 0 && self.gso_type == GSO_NONE {
            return Ok(Offload::default());
        }
        let needs_csum = self.flags & F_NEEDS_CSUM != 0;
        if needs_csum && usize::from(self.csum_start) + usize::from(self.csum_offset) + 2 > frame_len {
            return Err(BadOffload::ChecksumOutside);
        }
        let ecn = self.gso_type & GSO_ECN != 0;
        let gso = match self.gso_type & !GSO_ECN {
            GSO_NONE => Gso::None,
            GSO_TCPV4 => Gso::TcpV4,
            GSO_TCPV6 => Gso::TcpV6,
            GSO_UDP => Gso::Udp,
            GSO_UDP_L4 => Gso::UdpL4,
            _ => return Err(BadOffload::UnknownGso),
        };
        if ecn && !matches!(gso, Gso::TcpV4 | Gso::TcpV6) {
            return Err(BadOffload::UnknownGso);
        }
        if gso != Gso::None {
            if self.gso_size == 0 {
                return Err(BadOffload::NoSegmentSize);
            }
            // The old UDP fragmentation may come with a finished checksum; everything else writes one per segment.
            if !needs_csum && gso != Gso::Udp {
                return Err(BadOffload::SegmentWithoutChecksum);
            }
        }
        Ok(Offload {
            needs_csum,
            csum_valid: self.flags & F_DATA_VALID != 0,
            gso,
            ecn,
            gso_size: if gso == Gso::None { 0 } else { self.gso_size },
            hdr_len: if gso == Gso::None { 0 } else { self.hdr_len },
            csum_start: if needs_csum { self.csum_start } else { 0 },
            csum_offset: if needs_csum { self.csum_offset } else { 0 },
        })
    }

    /// The header that says `offload` to a peer that takes it all; `num_buffers` is 1.
    #[inline]
    pub fn from_offload(offload: &Offload) -> NetHeader {
        let mut header = NetHeader { num_buffers: 1, ..NetHeader::default() };
        if offload.needs_csum {
            header.flags = F_NEEDS_CSUM;
            header.csum_start = offload.csum_start;
            header.csum_offset = offload.csum_offset;
        } else if offload.csum_valid {
            header.flags = F_DATA_VALID;
        }
        if offload.gso != Gso::None {
            header.gso_type = match offload.gso {
                Gso::None => GSO_NONE,
                Gso::TcpV4 => GSO_TCPV4,
                Gso::TcpV6 => GSO_TCPV6,
                Gso::Udp => GSO_UDP,
                Gso::UdpL4 => GSO_UDP_L4,
            } | if offload.ecn { GSO_ECN } else { 0 };
            header.gso_size = offload.gso_size;
            header.hdr_len = offload.hdr_len;
        }
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_header_that_asks_nothing_has_no_offload() {
        for (flags, gso_type) in (0..=u8::MAX).flat_map(|flags| (0..=u8::MAX).map(move |gso| (flags, gso))) {
            if NetHeader::asks_nothing([flags, gso_type]) {
                let header =
                    NetHeader { flags, gso_type, gso_size: 9, csum_start: 9999, ..NetHeader::default() };
                assert!(header.to_offload(60).unwrap().is_none());
            }
        }
        assert!(NetHeader::asks_nothing([0, 0]));
    }

    #[test]
    fn checksum_must_lie_inside() {
        let header = NetHeader { flags: 1, csum_start: 34, csum_offset: 16, ..NetHeader::default() };
        assert_eq!(header.to_offload(51), Err(BadOffload::ChecksumOutside));
        assert!(header.to_offload(52).unwrap().needs_csum);
    }

    #[test]
    fn segmentation_needs_size_and_checksum() {
        let header = NetHeader { gso_type: 1, gso_size: 1460, ..NetHeader::default() };
        assert_eq!(header.to_offload(9000), Err(BadOffload::SegmentWithoutChecksum));
        let header = NetHeader { flags: 1, gso_type: 1, csum_start: 34, csum_offset: 16, ..header };
        assert_eq!(header.to_offload(9000).unwrap().gso, Gso::TcpV4);
        let header = NetHeader { gso_size: 0, ..header };
        assert_eq!(header.to_offload(9000), Err(BadOffload::NoSegmentSize));
        let header = NetHeader { gso_type: 7, ..header };
        assert_eq!(header.to_offload(9000), Err(BadOffload::UnknownGso));
        let header = NetHeader { gso_type: 0x80, ..header };
        assert_eq!(header.to_offload(9000), Err(BadOffload::UnknownGso));
    }

    proptest! {
        #[test]
        fn bytes_round_trip(bytes: [u8; 12]) {
            prop_assert_eq!(NetHeader::from_bytes(&bytes).to_bytes(), bytes);
        }

        #[test]
        fn accepted_state_round_trips(bytes: [u8; 12], len in 0usize..70_000) {
            if let Ok(offload) = NetHeader::from_bytes(&bytes).to_offload(len) {
                if offload.needs_csum {
                    let end = usize::from(offload.csum_start) + usize::from(offload.csum_offset) + 2;
                    prop_assert!(end <= len);
                }
                let again = NetHeader::from_offload(&offload).to_offload(len).unwrap();
                // A partial checksum says more than a valid one, so only that is passed on.
                let expected = Offload { csum_valid: offload.csum_valid && !offload.needs_csum, ..offload };
                prop_assert_eq!(again, expected);
            }
        }
    }
}

//! The frames: built once, then only patched.
//!
//! ```text
//!   buffer   virtio-net header (12) | Ethernet 14 | IPv4 20 | UDP 8 or TCP 20 | stamp 18 | zeros
//!   stamp    tag 4: kind (1) and the run's number (3) | sequence number 6 | time-stamp counter 8
//! ```
//!
//! The smallest UDP frame (60 bytes and FCS) holds exactly that. A [`Template`] is written into every transmit buffer when the
//! rings start; per frame at most the 12 bytes from the IP checksum to the source port and the 18 of the stamp are written,
//! both in the frame's first cache line.
//!
//! Checksums: IPv4's is always right. UDP carries none (0, which RFC 768 allows). TCP's is left to the receiver with
//! `--offload tso`, as guests do it: the field holds the pseudo-header's sum and the virtio-net header says the rest. Without
//! offload it is complete.

use pmd::packet::{Gso, Offload};
use pmd::virtio::NetHeader;
use pmd::virtio::burst_driver::BufferView;

use crate::flows::{Flow, NEW_PORT, PORT};
use crate::stream::Stream;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
/// Offset in the frame of IPv4's checksum; source and destination address and the source port follow it.
const IP_SUM: usize = ETHERNET + 10;
const L4: usize = ETHERNET + IPV4;
/// Offset of TCP's checksum in its header.
const TCP_SUM: usize = 16;
/// Bytes of the stamp.
pub(crate) const STAMP: usize = 18;
/// Bytes of Ethernet's frame check sequence, which is on the wire but not in memory.
const FCS: usize = 4;
/// TCP payload of a segment: what an MTU of 1500 leaves.
const SEGMENT: u16 = 1460;

/// What is above IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// UDP without checksum.
    Udp,
    /// One TCP segment with data, PSH and ACK.
    Tcp,
}

impl Protocol {
    const fn header(self) -> usize {
        match self {
            Self::Udp => 8,
            Self::Tcp => 20,
        }
    }
}

/// The smallest frame on the wire that has room for the stamp.
pub(crate) const fn least_size(protocol: Protocol) -> u32 {
    (L4 + protocol.header() + STAMP + FCS) as u32
}

/// Which way a frame goes, and what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// From A to B.
    Ab = 1,
    /// From B to A.
    Ba = 2,
    /// Only to be learned from: nobody counts it.
    Learn = 3,
}

/// The first word of a stamp.
pub(crate) fn tag(kind: Kind, run: u32) -> u32 {
    run << 8 | kind as u32
}

/// How the TCP checksum comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum L4Sum {
    /// None at all.
    None,
    /// The receiver finishes the pseudo-header's sum.
    Partial,
    /// We sum everything that is not zero.
    Full,
}

/// A frame to be patched.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    header: [u8; NetHeader::LEN],
    frame: Vec<u8>,
    /// First octets of source and destination address.
    nets: [u8; 2],
    stamp_at: usize,
    /// Sum of the IP header without addresses.
    ip_sum: u32,
    l4: L4Sum,
    /// Sum of what of pseudo-header and TCP header stays the same.
    l4_sum: u32,
    tag: u32,
}

impl Template {
    /// The frame of a stream in one direction ([`Kind::Ab`] or [`Kind::Ba`]). `offload`: TSO and checksum offload are negotiated.
    pub(crate) fn new(stream: &Stream, kind: Kind, run: u32, offload: bool) -> Self {
        let len = stream.frame_len();
        let mut frame = vec![0; len];
        let (from, to, nets) = if kind == Kind::Ba { (0xb, 0xa, [11, 10]) } else { (0xa, 0xb, [10, 11]) };
        put(&mut frame, 0, &[0x52, 0x54, 0, 0, 0, to, 0x52, 0x54, 0, 0, 0, from, 8, 0]);
        let total = ((len - ETHERNET) as u16).to_be_bytes();
        let number = if stream.protocol == Protocol::Udp { 17 } else { 6 };
        // No fragments, 64 hops.
        put(&mut frame, ETHERNET, &[0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, number]);
        let ip_sum = sum(frame.get(ETHERNET..IP_SUM).unwrap_or_default());
        let to_port = if stream.new { NEW_PORT } else { PORT };
        put(&mut frame, L4 + 2, &to_port.to_be_bytes());
        let l4_len = (len - L4) as u16;
        let mut l4 = L4Sum::None;
        match stream.protocol {
            Protocol::Udp => put(&mut frame, L4 + 4, &l4_len.to_be_bytes()),
            Protocol::Tcp => {
                // Sequence and acknowledgement 1, five words of header, PSH and ACK, a full window.
                put(&mut frame, L4 + 4, &[0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff]);
                l4 = if offload { L4Sum::Partial } else { L4Sum::Full };
            }
        }
        let mut l4_sum = u32::from(l4_len) + u32::from(number);
        if l4 == L4Sum::Full {
            l4_sum += sum(frame.get(L4..L4 + 20).unwrap_or_default());
        }
        let gso = stream.gso(offload);
        let offload = Offload {
            needs_csum: l4 == L4Sum::Partial,
            gso: if gso { Gso::TcpV4 } else { Gso::None },
            gso_size: if gso { SEGMENT } else { 0 },
            hdr_len: if gso { (L4 + 20) as u16 } else { 0 },
            csum_start: L4 as u16,
            csum_offset: TCP_SUM as u16,
            ..Offload::default()
        };
        let header = NetHeader { num_buffers: 0, ..NetHeader::from_offload(&offload) };
        let stamp_at = L4 + stream.protocol.header();
        Self { header: header.to_bytes(), frame, nets, stamp_at, ip_sum, l4, l4_sum, tag: tag(kind, run) }
    }

    /// Bytes of virtio-net header and frame.
    pub(crate) fn len(&self) -> usize {
        NetHeader::LEN + self.frame.len()
    }

    /// Where in a buffer the stamp lies.
    pub(crate) fn stamp_at(&self) -> usize {
        NetHeader::LEN + self.stamp_at
    }

    /// Writes all of it into a buffer.
    pub(crate) fn write(&self, buffer: &BufferView<'_>, flow: Flow) {
        buffer.copy_in(0, &self.header);
        buffer.copy_in(NetHeader::LEN, &self.frame);
        self.patch(buffer, self.tag, flow, 0, 0);
    }

    /// Writes into a buffer that holds the template what differs from frame to frame.
    #[inline(always)]
    pub(crate) fn patch(&self, buffer: &BufferView<'_>, tag: u32, flow: Flow, sequence: u64, time: u64) {
        let source = u32::from(self.nets[0]) << 24 | flow.source;
        let destination = u32::from(self.nets[1]) << 24 | u32::from(flow.net) << 16 | 1;
        let addresses = (source >> 16) + (source & 0xffff) + (destination >> 16) + (destination & 0xffff);
        let stamp = stamp(tag, sequence, time);
        let mut patch = [0; 12];
        patch[..2].copy_from_slice(&(!fold(self.ip_sum + addresses)).to_be_bytes());
        patch[2..6].copy_from_slice(&source.to_be_bytes());
        patch[6..10].copy_from_slice(&destination.to_be_bytes());
        patch[10..].copy_from_slice(&flow.port.to_be_bytes());
        buffer.write(NetHeader::LEN + IP_SUM, patch);
        buffer.write(NetHeader::LEN + self.stamp_at, stamp);
        if self.l4 != L4Sum::None {
            let pseudo = self.l4_sum + addresses;
            let field = match self.l4 {
                L4Sum::Full => !fold(pseudo + u32::from(flow.port) + sum(&stamp)),
                _ => fold(pseudo),
            };
            buffer.write(NetHeader::LEN + L4 + TCP_SUM, field.to_be_bytes());
        }
    }

    /// The tag of the stream's own frames.
    pub(crate) fn tag(&self) -> u32 {
        self.tag
    }
}

#[inline(always)]
fn stamp(tag: u32, sequence: u64, time: u64) -> [u8; STAMP] {
    let mut stamp = [0; STAMP];
    stamp[..4].copy_from_slice(&tag.to_le_bytes());
    // Two bytes too long; the time goes over them.
    stamp[4..12].copy_from_slice(&sequence.to_le_bytes());
    stamp[10..].copy_from_slice(&time.to_le_bytes());
    stamp
}

/// The tag at the start of a stamp, and the time at its end.
#[inline(always)]
pub(crate) fn read_stamp(buffer: &BufferView<'_>, at: usize) -> (u32, u64) {
    (u32::from_le_bytes(buffer.read(at)), u64::from_le_bytes(buffer.read(at + 10)))
}

fn put(frame: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = frame.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// Sum of big-endian words, not folded.
#[inline]
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |&low| u32::from(low))).sum()
}

#[inline]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

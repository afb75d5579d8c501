//! Offload metadata: what `virtio_net_hdr` says of a frame, kept while the frame crosses the switch.
//!
//! Source: virtio 1.2, section 5.1.6. Offsets count from the first byte of the frame, and the packet
//! operations that move that byte ([`crate::packet::Packet::push_front`]) move them along.

/// Kind of segmentation a frame still needs before it fits the wire.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Gso {
    /// None: the frame is one packet.
    #[default]
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP fragmentation, the old kind (IPv4 fragments).
    Udp,
    /// UDP segmentation into datagrams (USO).
    UdpL4,
}

/// Checksum and segmentation state of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Offload {
    /// The transport checksum is partial: whoever puts the frame on a wire sums from `csum_start` to the end
    /// and stores the result at `csum_start + csum_offset`.
    pub needs_csum: bool,
    /// The sender vouches for the checksum.
    pub csum_valid: bool,
    /// Segmentation still to be done.
    pub gso: Gso,
    /// TCP segments carry ECN (the CWR bit is for the first segment only).
    pub ecn: bool,
    /// Payload bytes per segment; zero when `gso` is none.
    pub gso_size: u16,
    /// Bytes of all headers as the sender counted them: a hint, never trusted as a length.
    pub hdr_len: u16,
    /// Where the checksummed area starts.
    pub csum_start: u16,
    /// Where the checksum lies, from `csum_start`.
    pub csum_offset: u16,
}

impl Offload {
    /// Whether nothing is left to do and nothing is vouched for: so it is with most frames.
    #[inline]
    pub fn is_none(&self) -> bool {
        !(self.needs_csum | self.csum_valid | self.ecn) && self.gso == Gso::None
    }
}

/// Offloads a transmit side can take over.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct OffloadCaps {
    /// Frames with a partial checksum.
    pub csum: bool,
    /// TCP/IPv4 segmentation (needs `csum`).
    pub tso4: bool,
    /// TCP/IPv6 segmentation (needs `csum`).
    pub tso6: bool,
    /// TCP segmentation of frames with ECN set.
    pub ecn: bool,
    /// UDP fragmentation, the old kind.
    pub ufo: bool,
    /// UDP segmentation.
    pub uso: bool,
}

impl OffloadCaps {
    /// Whether a frame in this state can be handed over as it is.
    pub fn takes(self, offload: &Offload) -> bool {
        let gso = match offload.gso {
            Gso::None => true,
            Gso::TcpV4 => self.tso4,
            Gso::TcpV6 => self.tso6,
            Gso::Udp => self.ufo,
            Gso::UdpL4 => self.uso,
        };
        gso && (self.csum || !offload.needs_csum) && (self.ecn || !offload.ecn)
    }
}

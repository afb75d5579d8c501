//! One packet of a burst: a private head with headroom, and where the rest is.

use super::meta::Offload;

/// Free bytes before a frame when it arrives: room for tags and tunnel headers.
pub const HEADROOM: usize = 128;

/// Most bytes a private head can hold after the headroom. A frame no longer than this is wholly private.
pub const HEAD_CAPACITY: usize = 256;

/// Bytes a driver copies into the private head of a frame longer than [`HEAD_CAPACITY`]: enough for the
/// headers the switch parses, little enough that the payload is still copied once.
pub const HEAD_SPLIT: usize = 192;

/// A packet slot. The head is private memory; `spans` of the batch name the rest.
///
/// Layout: one line of metadata, then headroom and head, so that a frame begins on a line of its own. `data` moves down
/// when headers are pushed.
#[repr(C, align(64))]
pub struct Packet {
    /// Offload state, kept true by the operations below.
    pub offload: Offload,
    /// Hash the sender or device gave, or zero.
    pub hash: u32,
    /// First byte of the frame in `bytes`.
    data: u16,
    /// Bytes of the frame in the private head.
    head_len: u16,
    /// First span in the batch's list.
    pub(super) first_span: u16,
    /// Spans that follow the head.
    pub(super) span_count: u16,
    /// Bytes of the frame that lie in spans, at most what the spans hold.
    payload_len: u32,
    bytes: Bytes,
}

/// Headroom and head, from a line on.
#[repr(C, align(64))]
struct Bytes([u8; HEADROOM + HEAD_CAPACITY]);

const _: () = assert!(core::mem::offset_of!(Packet, bytes) == 64);

impl Packet {
    pub(super) const EMPTY: Packet = Packet {
        offload: Offload {
            needs_csum: false,
            csum_valid: false,
            gso: super::meta::Gso::None,
            ecn: false,
            gso_size: 0,
            hdr_len: 0,
            csum_start: 0,
            csum_offset: 0,
        },
        hash: 0,
        data: HEADROOM as u16,
        head_len: 0,
        first_span: 0,
        span_count: 0,
        payload_len: 0,
        bytes: Bytes([0; HEADROOM + HEAD_CAPACITY]),
    };

    /// Makes the slot an empty packet again; the bytes are not cleared.
    #[inline]
    pub(super) fn reset(&mut self, first_span: u16) {
        self.offload = Offload::default();
        self.hash = 0;
        self.data = HEADROOM as u16;
        self.head_len = 0;
        self.first_span = first_span;
        self.span_count = 0;
        self.payload_len = 0;
    }

    /// The private head: the frame's first bytes, all of it when there are no spans.
    #[inline]
    pub fn head(&self) -> &[u8] {
        &self.bytes.0[usize::from(self.data)..usize::from(self.data + self.head_len)]
    }

    /// The private head, to rewrite.
    #[inline]
    pub fn head_mut(&mut self) -> &mut [u8] {
        &mut self.bytes.0[usize::from(self.data)..usize::from(self.data + self.head_len)]
    }

    /// Space for a driver to receive a head into: `len` bytes after the headroom, which then are the head.
    /// `len` is cut to [`HEAD_CAPACITY`].
    #[inline]
    pub fn receive_head(&mut self, len: usize) -> &mut [u8] {
        self.data = HEADROOM as u16;
        self.head_len = len.min(HEAD_CAPACITY) as u16;
        self.head_mut()
    }

    /// The whole frame, if it is short and asks for no offload: nothing but bytes to copy.
    #[inline]
    pub fn plain(&self) -> Option<&[u8]> {
        (self.payload_len == 0 && self.offload.is_none()).then(|| self.head())
    }

    /// Bytes of the frame in spans.
    #[inline]
    pub fn payload_len(&self) -> usize {
        self.payload_len as usize
    }

    /// Says which spans of the batch follow the head, and how many bytes they hold.
    pub(super) fn set_payload(&mut self, first_span: u16, span_count: u16, len: u32) {
        (self.first_span, self.span_count, self.payload_len) = (first_span, span_count, len);
    }

    pub(super) fn add_payload(&mut self, len: usize) {
        self.payload_len = self.payload_len.saturating_add(u32::try_from(len).unwrap_or(u32::MAX));
    }

    /// Length of the whole frame.
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(self.head_len) + self.payload_len as usize
    }

    /// Whether the frame has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Grows the frame by `n` bytes at the front and returns them (contents arbitrary), or `None` when the
    /// headroom is used up. `csum_start` moves along.
    pub fn push_front(&mut self, n: usize) -> Option<&mut [u8]> {
        let grow = u16::try_from(n).ok().filter(|&grow| grow <= self.data)?;
        self.data -= grow;
        self.head_len += grow;
        if self.offload.needs_csum {
            self.offload.csum_start = self.offload.csum_start.saturating_add(grow);
        }
        self.offload.hdr_len = self.offload.hdr_len.saturating_add(grow);
        Some(&mut self.head_mut()[..n])
    }

    /// Puts a VLAN tag behind the addresses, where a driver or card took one out. Nothing is done without headroom for it.
    pub fn insert_tag(&mut self, tpid: u16, tci: u16) {
        if self.head().len() < 12 || self.push_front(4).is_none() {
            return;
        }
        let head = self.head_mut();
        head.copy_within(4..16, 0);
        head[12..14].copy_from_slice(&tpid.to_be_bytes());
        head[14..16].copy_from_slice(&tci.to_be_bytes());
    }

    /// Removes `n` bytes at the front; false, and nothing done, when the head is shorter than that.
    pub fn pull_front(&mut self, n: usize) -> bool {
        let Some(cut) = u16::try_from(n).ok().filter(|&cut| cut <= self.head_len) else { return false };
        self.data += cut;
        self.head_len -= cut;
        self.offload.csum_start = self.offload.csum_start.saturating_sub(cut);
        self.offload.hdr_len = self.offload.hdr_len.saturating_sub(cut);
        true
    }

    /// Cuts the frame to at most `len` bytes. Offload state that no longer fits the bytes is dropped.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len() {
            return;
        }
        let head = usize::from(self.head_len).min(len);
        self.head_len = head as u16;
        self.payload_len = u32::try_from(len - head).unwrap_or(u32::MAX);
        self.offload = Offload::default();
    }

    pub(super) fn copy_from(&mut self, other: &Packet) {
        self.offload = other.offload;
        self.hash = other.hash;
        self.data = other.data;
        self.head_len = other.head_len;
        self.first_span = other.first_span;
        self.span_count = other.span_count;
        self.payload_len = other.payload_len;
        self.head_mut().copy_from_slice(other.head());
    }
}

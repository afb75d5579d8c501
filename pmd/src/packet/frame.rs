//! A frame to send, as a driver sees it.

use super::meta::Offload;
use super::span::Span;

/// Shortest frame that is received: an Ethernet header.
pub const MIN_FRAME: usize = 14;
/// Longest frame, whole or still to be cut: an IP packet of 64 KiB behind an Ethernet header with two tags.
pub const MAX_FRAME: usize = 65_535 + 22;

/// A frame ready to go out: a private head, then payload in place. A view; copying it copies no bytes.
///
/// Both a packet of a batch ([`super::Batch::frame`]) and a segment that software cut from one look like this, so a
/// driver has one transmit path.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    /// First bytes of the frame, in private memory.
    pub head: &'a [u8],
    /// Offload state, with offsets from the first byte of `head`.
    pub offload: Offload,
    /// Hash of the packet, or zero.
    pub hash: u32,
    spans: &'a [Span<'a>],
    skip: usize,
    payload_len: usize,
}

impl<'a> Frame<'a> {
    /// A frame of `head` and the first `payload_len` bytes of `spans`.
    pub fn new(head: &'a [u8], offload: Offload, spans: &'a [Span<'a>], payload_len: usize) -> Frame<'a> {
        Frame { head, offload, hash: 0, spans, skip: 0, payload_len }
    }

    /// A frame with another head and offload state, and `len` payload bytes of this one from `skip` on.
    pub fn segment<'b>(&self, head: &'b [u8], offload: Offload, skip: usize, len: usize) -> Frame<'b>
    where
        'a: 'b,
    {
        let skip_here = skip.min(self.payload_len);
        let payload_len = len.min(self.payload_len - skip_here);
        Frame { head, offload, hash: self.hash, spans: self.spans, skip: self.skip + skip_here, payload_len }
    }

    /// Length of the frame.
    #[inline]
    pub fn len(&self) -> usize {
        self.head.len() + self.payload_len
    }

    /// Whether the frame has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes after the head.
    #[inline]
    pub fn payload_len(&self) -> usize {
        self.payload_len
    }

    /// Calls `each` with every run of payload bytes, in order.
    #[inline]
    pub fn for_each_payload(&self, mut each: impl FnMut(Span<'a>)) {
        let (mut skip, mut left) = (self.skip, self.payload_len);
        for span in self.spans {
            if left == 0 {
                return;
            }
            if skip >= span.len() {
                skip -= span.len();
                continue;
            }
            let piece = span.slice(skip, left);
            skip = 0;
            left -= piece.len();
            each(piece);
        }
    }

    /// Copies the frame into `dst`, as much as fits, and returns how many bytes that were.
    pub fn copy_to(&self, dst: &mut [u8]) -> usize {
        let n = self.head.len().min(dst.len());
        dst[..n].copy_from_slice(&self.head[..n]);
        let mut at = n;
        self.for_each_payload(|piece| at += piece.copy_to(0, &mut dst[at..]));
        at
    }
}

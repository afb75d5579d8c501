//! Part of a frame, from where it lies into a buffer of the card. Cost: one copy of those bytes.

use crate::memory::DmaArena;
use crate::packet::{Frame, Offload};

/// Copies `len` bytes of the frame, from byte `skip` on, to `at`. Bytes the frame does not have are left as they were.
pub(crate) fn copy_piece(arena: &DmaArena, at: usize, frame: &Frame<'_>, skip: usize, len: usize) {
    let head = frame.head.get(skip..).unwrap_or_default();
    let from_head = head.len().min(len);
    arena.copy_in(at, &head[..from_head]);
    let payload_skip = skip.saturating_sub(frame.head.len());
    let payload = frame.segment(&[], Offload::default(), payload_skip, len - from_head);
    let mut at = at + from_head;
    payload.for_each_payload(|piece| {
        arena.copy_span(at, piece, piece.len());
        at += piece.len();
    });
}

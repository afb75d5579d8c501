//! Cutting a UDP datagram into IP fragments: what a guest with the old UDP offload (UFO) leaves to us.
//!
//! IPv4 by RFC 791, section 3.2; IPv6 by RFC 8200, section 4.5. The datagram's checksum covers all of it (RFC 768), so it is
//! completed before the cut and stands in the first fragment alone.

use std::hash::{BuildHasher as _, RandomState};

use super::finisher::{Cut, Scratch, rewrite_ip};
use super::headers::put16;
use crate::packet::{Frame, Offload};

/// Bytes of an IPv6 fragment header.
pub(super) const HEADER: usize = 8;

const FRAGMENT: u8 = 44;
/// "More fragments" in the IPv4 header's word of flags and offset.
const MORE_IPV4: u16 = 0x2000;
/// The same in an IPv6 fragment header.
const MORE_IPV6: u16 = 1;

/// Identifications for IPv6 fragments, which unlike IPv4's are not in the frame. A keyed hash of a count: whoever sees some
/// cannot tell the next (RFC 7739), and two equal ones close to each other are as rare as chance allows.
#[derive(Default)]
pub(super) struct FragmentIds {
    key: RandomState,
    count: u64,
}

impl FragmentIds {
    pub(super) fn next(&mut self) -> u32 {
        self.count = self.count.wrapping_add(1);
        self.key.hash_one(self.count) as u32
    }
}

/// Builds fragment `index` of a frame in `head`. `source` is the frame's head with a complete checksum.
pub(super) fn fragment<'a>(
    head: &'a mut Scratch,
    source: &[u8],
    frame: &Frame<'a>,
    cut: &Cut,
    index: usize,
    id: u32,
) -> Frame<'a> {
    let (headers, from) = (cut.headers, cut.from);
    let (skip, len) = cut.range(index);
    let is_last = index + 1 == cut.count;
    // Of the fragmented part the first bytes are in the private head, the rest in spans.
    let tail = &source[from..];
    let from_tail = &tail[skip.min(tail.len())..(skip + len).min(tail.len())];
    let head = &mut head[..from + cut.more + from_tail.len()];
    head[..from].copy_from_slice(&source[..from]);
    head[from + cut.more..].copy_from_slice(from_tail);
    if cut.more != 0 {
        let more = if is_last { 0 } else { MORE_IPV6 };
        // The offset is in units of eight bytes and shifted by three bits, so it stands as it is.
        put16(head, from + 2, skip as u16 | more);
        head[from] = std::mem::replace(&mut head[headers.next_header], FRAGMENT);
        head[from + 1] = 0;
        head[from + 4..from + HEADER].copy_from_slice(&id.to_be_bytes());
    } else if !headers.is_v6 {
        put16(head, headers.l3 + 6, if is_last { 0 } else { MORE_IPV4 } | (skip / 8) as u16);
        if index != 0 {
            blank_first_only_options(&mut head[headers.l3 + 20..from]);
        }
    }
    rewrite_ip(head, headers, from + cut.more - headers.l3 + len, 0);
    // A checksum the sender claimed to be complete is still only its claim.
    let csum_valid = frame.offload.needs_csum | frame.offload.csum_valid;
    let offload = Offload { csum_valid, ..Offload::default() };
    frame.segment(head, offload, skip.saturating_sub(tail.len()), len - from_tail.len())
}

/// Overwrites IPv4 options without the "copied" flag, which only the first fragment has, with no-operations.
fn blank_first_only_options(options: &mut [u8]) {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const COPIED: u8 = 0x80;
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        let len = match (kind, options.get(at + 1)) {
            (END, _) | (_, None) => return,
            (NO_OPERATION, _) => 1,
            // A length below its own two bytes would not end.
            (_, Some(&len)) => usize::from(len).max(2),
        };
        if kind & COPIED == 0 {
            let end = (at + len).min(options.len());
            options[at..end].fill(NO_OPERATION);
        }
        at += len;
    }
}

#[cfg(test)]
mod tests;

//! Completing a frame: checksum, TCP and UDP segmentation, UDP fragmentation.

use super::headers::{Headers, TCP, UDP, be16, locate, put16};
use super::sum::Sum;
use crate::packet::{Frame, Gso, HEAD_CAPACITY, HEADROOM, Offload, OffloadCaps};
use crate::port::DropReason;

/// Most pieces one frame is cut into: a 64 KiB frame with segments of 64 bytes. A sender that asks for more is at fault.
pub const MAX_SEGMENTS: usize = 1024;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;
const MORE_FRAGMENTS: u16 = 0x2000;

/// Finishes frames in software. One per transmit queue; holds the scratch for headers.
pub struct Finisher {
    head: Box<[u8; HEADROOM + HEAD_CAPACITY]>,
}

impl Default for Finisher {
    fn default() -> Self {
        Finisher::new()
    }
}

impl Finisher {
    /// Makes one.
    pub fn new() -> Finisher {
        Finisher { head: Box::new([0; HEADROOM + HEAD_CAPACITY]) }
    }

    /// Does what `caps` lacks and hands every resulting frame, in order, to `each`. A frame that needs nothing is handed on
    /// as it is. Results are at most `max_frame` bytes unless the far side cuts them itself.
    ///
    /// Errors are the reason to count for the whole frame; some of its segments may have been handed on already.
    pub fn finish(
        &mut self,
        frame: Frame<'_>,
        caps: OffloadCaps,
        max_frame: usize,
        mut each: impl FnMut(Frame<'_>),
    ) -> Result<(), DropReason> {
        if caps.takes(&frame.offload) {
            if frame.offload.gso == Gso::None && frame.len() > max_frame {
                return Err(DropReason::TxTooLong);
            }
            each(frame);
            return Ok(());
        }
        if frame.offload.gso == Gso::None {
            if frame.len() > max_frame {
                return Err(DropReason::TxTooLong);
            }
            return self.complete_checksum(&frame, each);
        }
        if frame.head.len() > self.head.len() {
            return Err(DropReason::TxNoOffload);
        }
        let headers = locate(frame.head, frame.len(), &frame.offload)?;
        let is_udp_fragmentation = frame.offload.gso == Gso::Udp;
        if is_udp_fragmentation && headers.is_v6 {
            return Err(DropReason::TxNoOffload);
        }
        let cut = Cut::new(&frame, headers)?;
        if cut.largest() > max_frame {
            return Err(DropReason::TxTooLong);
        }
        if is_udp_fragmentation {
            return self.fragment(&frame, &cut, each);
        }
        for index in 0..cut.count {
            each(self.segment(&frame, &cut, index));
        }
        Ok(())
    }

    /// Fills a partial checksum. The field must lie in the head, as it does for every header we parse.
    fn complete_checksum(
        &mut self,
        frame: &Frame<'_>,
        mut each: impl FnMut(Frame<'_>),
    ) -> Result<(), DropReason> {
        let head = copy_head(&mut self.head, frame.head)?;
        store_checksum(head, frame, &frame.offload)?;
        let offload = Offload { csum_valid: true, ..Offload::default() };
        each(frame.segment(head, offload, 0, usize::MAX));
        Ok(())
    }

    /// Builds segment `index`.
    fn segment<'a>(&'a mut self, frame: &Frame<'a>, cut: &Cut, index: usize) -> Frame<'a> {
        let headers = cut.headers;
        let (skip, len) = cut.range(index);
        // Of the transport payload the first `tail` bytes are in the private head, the rest in spans.
        let tail = &frame.head[headers.payload..];
        let from_tail = &tail[skip.min(tail.len())..(skip + len).min(tail.len())];
        let head_len = headers.payload + from_tail.len();
        let head = &mut self.head[..head_len];
        head[..headers.payload].copy_from_slice(&frame.head[..headers.payload]);
        head[headers.payload..].copy_from_slice(from_tail);
        let (span_skip, span_len) = (skip.saturating_sub(tail.len()), len - from_tail.len());

        rewrite_ip(head, headers, headers.payload - headers.l3 + len, index);
        if headers.protocol == TCP {
            rewrite_tcp(head, headers, skip, index == 0, index + 1 == cut.count);
        } else {
            put16(head, headers.l4 + 4, (8 + len) as u16);
        }
        let plain = frame.segment(&[], Offload::default(), span_skip, span_len);
        transport_checksum(head, headers, &plain, headers.payload - headers.l4 + len);
        let offload = Offload { csum_valid: true, ..Offload::default() };
        frame.segment(head, offload, span_skip, span_len)
    }

    /// Cuts a UDP datagram into IPv4 fragments (RFC 791, section 3.2).
    fn fragment(
        &mut self,
        frame: &Frame<'_>,
        cut: &Cut,
        mut each: impl FnMut(Frame<'_>),
    ) -> Result<(), DropReason> {
        let Headers { l3, l4, .. } = cut.headers;
        let mut whole = [0; HEADROOM + HEAD_CAPACITY];
        let source = copy_head(&mut whole, frame.head)?;
        if frame.offload.needs_csum {
            store_checksum(source, frame, &frame.offload)?;
        }
        let tail = source.len() - l4;
        for index in 0..cut.count {
            let (skip, len) = cut.range(index);
            let more = if index + 1 < cut.count { MORE_FRAGMENTS } else { 0 };
            let from_head = (skip.min(tail), (skip + len).min(tail));
            let copied = from_head.1 - from_head.0;
            let head = &mut self.head[..l4 + copied];
            head[..l4].copy_from_slice(&source[..l4]);
            head[l4..].copy_from_slice(&source[l4 + from_head.0..l4 + from_head.1]);
            put16(head, l3 + 6, more | (skip / 8) as u16);
            if index != 0 {
                blank_first_only_options(&mut head[l3 + 20..l4]);
            }
            rewrite_ip(head, cut.headers, l4 - l3 + len, 0);
            let offload = Offload { csum_valid: true, ..Offload::default() };
            each(frame.segment(head, offload, skip.saturating_sub(tail), len - copied));
        }
        Ok(())
    }
}

/// How a frame is cut: what follows `from` in steps of the segment size.
struct Cut {
    headers: Headers,
    /// End of what every piece repeats: the transport's payload, or the IP header's end for fragments.
    from: usize,
    total: usize,
    step: usize,
    count: usize,
}

impl Cut {
    fn new(frame: &Frame<'_>, headers: Headers) -> Result<Cut, DropReason> {
        let size = usize::from(frame.offload.gso_size);
        let (from, step) = match frame.offload.gso {
            Gso::Udp => (headers.l4, size & !7),
            _ => (headers.payload, size),
        };
        if step == 0 {
            return Err(DropReason::RxBadOffload);
        }
        let total = frame.len() - from;
        let cut = Cut { headers, from, total, step, count: total.div_ceil(step).max(1) };
        // What one piece's IP length must hold, or, for fragments, what the offset of the last must reach.
        let ip_header = if headers.is_v6 { headers.l3 + 40 } else { headers.l3 };
        let ip_len = match frame.offload.gso {
            Gso::Udp => frame.len() - ip_header,
            _ => cut.largest() - ip_header,
        };
        if cut.count > MAX_SEGMENTS || ip_len > usize::from(u16::MAX) {
            return Err(DropReason::RxBadOffload);
        }
        Ok(cut)
    }

    fn largest(&self) -> usize {
        self.from + self.step.min(self.total)
    }

    fn range(&self, index: usize) -> (usize, usize) {
        let skip = index * self.step;
        (skip, self.step.min(self.total - skip))
    }
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

/// Copies a head to where it can be rewritten. Heads of batch packets always fit.
fn copy_head<'a>(
    scratch: &'a mut [u8; HEADROOM + HEAD_CAPACITY],
    head: &[u8],
) -> Result<&'a mut [u8], DropReason> {
    let copy = scratch.get_mut(..head.len()).ok_or(DropReason::TxNoOffload)?;
    copy.copy_from_slice(head);
    Ok(copy)
}

/// Completes the partial checksum in `head`, a copy of the frame's head. The field holds the pseudo-header's part.
fn store_checksum(head: &mut [u8], frame: &Frame<'_>, offload: &Offload) -> Result<(), DropReason> {
    let start = usize::from(offload.csum_start);
    let field = start + usize::from(offload.csum_offset);
    if field + 2 > head.len() {
        return Err(DropReason::TxNoOffload);
    }
    let mut sum = Sum::default();
    sum.add(&head[start..]);
    frame.for_each_payload(|piece| sum.add_span(piece));
    put16(head, field, nonzero(sum.finish()));
    Ok(())
}

/// Zero means "no checksum" to UDP; all ones is the same number, to TCP too.
fn nonzero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// Length, identification and checksum of the IP header of segment `index`, `ip_len` bytes from the IP header to the end.
fn rewrite_ip(head: &mut [u8], headers: Headers, ip_len: usize, index: usize) {
    let l3 = headers.l3;
    if headers.is_v6 {
        put16(head, l3 + 4, (ip_len - 40) as u16);
        return;
    }
    put16(head, l3 + 2, ip_len as u16);
    let id = be16(head, l3 + 4).unwrap_or(0).wrapping_add(index as u16);
    put16(head, l3 + 4, id);
    put16(head, l3 + 10, 0);
    let header_len = usize::from(head[l3] & 0xf) * 4;
    let mut sum = Sum::default();
    sum.add(&head[l3..l3 + header_len]);
    put16(head, l3 + 10, sum.finish());
}

/// Sequence number and flags: FIN and PSH belong to the last segment, CWR to the first (RFC 3168, section 6.1.2).
fn rewrite_tcp(head: &mut [u8], headers: Headers, skip: usize, first: bool, last: bool) {
    let l4 = headers.l4;
    if let Some(field) = head.get_mut(l4 + 4..l4 + 8) {
        let sequence = u32::from_be_bytes([field[0], field[1], field[2], field[3]]);
        field.copy_from_slice(&sequence.wrapping_add(skip as u32).to_be_bytes());
    }
    if !last {
        head[l4 + 13] &= !(FIN | PSH);
    }
    if !first {
        head[l4 + 13] &= !CWR;
    }
}

/// Writes the whole TCP or UDP checksum of a segment: pseudo-header, headers and data in `head`, then `payload`.
fn transport_checksum(head: &mut [u8], headers: Headers, payload: &Frame<'_>, l4_len: usize) {
    let field = headers.l4 + if headers.protocol == UDP { 6 } else { 16 };
    put16(head, field, 0);
    let addresses =
        if headers.is_v6 { headers.l3 + 8..headers.l3 + 40 } else { headers.l3 + 12..headers.l3 + 20 };
    let mut sum = Sum::default();
    sum.add(&head[addresses]);
    sum.add_word(u16::from(headers.protocol));
    sum.add_word(l4_len as u16);
    sum.add(&head[headers.l4..]);
    payload.for_each_payload(|piece| sum.add_span(piece));
    let checksum = if headers.protocol == UDP { nonzero(sum.finish()) } else { sum.finish() };
    put16(head, field, checksum);
}

#[cfg(test)]
mod tests;

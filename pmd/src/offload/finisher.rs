//! Completing a frame: checksum, TCP and UDP segmentation. UDP fragmentation is next door.

use super::fragment::{self, FragmentIds};
use super::headers::{Headers, TCP, UDP, be16, locate, put16};
use super::sum::Sum;
use crate::packet::{Frame, Gso, HEAD_CAPACITY, HEADROOM, Offload, OffloadCaps};
use crate::port::DropReason;

/// Most pieces one frame is cut into: a 64 KiB frame with segments of 64 bytes. A sender that asks for more is at fault.
pub const MAX_SEGMENTS: usize = 1024;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Longest head there is, and what fragmentation inserts into it.
pub(super) type Scratch = [u8; HEADROOM + HEAD_CAPACITY + fragment::HEADER];

/// Finishes frames in software. One per transmit queue; holds the scratch for headers.
pub struct Finisher {
    head: Box<Scratch>,
    ids: FragmentIds,
}

/// What was done to a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finished {
    /// Nothing: the far side takes it as it is.
    AsItIs,
    /// Its checksum was completed.
    Checksum,
    /// It was cut into so many pieces, each with its checksum.
    Pieces(usize),
}

impl Default for Finisher {
    fn default() -> Self {
        Finisher::new()
    }
}

impl Finisher {
    /// Makes one.
    pub fn new() -> Finisher {
        Finisher { head: Box::new([0; size_of::<Scratch>()]), ids: FragmentIds::default() }
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
    ) -> Result<Finished, DropReason> {
        if caps.takes(&frame.offload) {
            if frame.offload.gso == Gso::None && frame.len() > max_frame {
                return Err(DropReason::TxTooLong);
            }
            each(frame);
            return Ok(Finished::AsItIs);
        }
        if frame.offload.gso == Gso::None {
            if frame.len() > max_frame {
                return Err(DropReason::TxTooLong);
            }
            return self.complete_checksum(&frame, each);
        }
        if frame.head.len() > HEADROOM + HEAD_CAPACITY {
            return Err(DropReason::TxNoOffload);
        }
        let headers = locate(frame.head, frame.len(), &frame.offload)?;
        let cut = Cut::new(&frame, headers)?;
        if cut.largest() > max_frame {
            return Err(DropReason::TxTooLong);
        }
        if frame.offload.gso == Gso::Udp {
            let mut whole = [0; size_of::<Scratch>()];
            let source = copy_head(&mut whole, frame.head)?;
            if frame.offload.needs_csum {
                store_checksum(source, &frame, &frame.offload)?;
            }
            let id = self.ids.next();
            (0..cut.count).for_each(|index| {
                each(fragment::fragment(&mut self.head, source, &frame, &cut, index, id));
            });
        } else {
            (0..cut.count).for_each(|index| each(self.segment(&frame, &cut, index)));
        }
        Ok(Finished::Pieces(cut.count))
    }

    /// The same, where a piece may be refused: the first reason counts, for the whole frame. Pieces behind one that was refused are sent all the
    /// same: the far side sorts them out as after any loss.
    ///
    /// A frame that asks for nothing, as most do, is put from where it is. Moved as a whole it would be loaded by wide words from narrow stores just
    /// made, which waits until every store before them has reached the cache: those to a ring's lines, which another processor holds, among them.
    ///
    /// # Errors
    /// As [`Finisher::finish`], and what was said of a piece.
    #[inline(always)]
    pub fn send(
        &mut self,
        frame: Frame<'_>,
        caps: OffloadCaps,
        max_frame: usize,
        mut put: impl FnMut(&Frame<'_>) -> Result<(), DropReason>,
    ) -> Result<Finished, DropReason> {
        if frame.offload.is_none() {
            if frame.len() > max_frame {
                return Err(DropReason::TxTooLong);
            }
            return put(&frame).map(|()| Finished::AsItIs);
        }
        self.send_in_pieces(frame, caps, max_frame, put)
    }

    #[inline(never)]
    fn send_in_pieces(
        &mut self,
        frame: Frame<'_>,
        caps: OffloadCaps,
        max_frame: usize,
        mut put: impl FnMut(&Frame<'_>) -> Result<(), DropReason>,
    ) -> Result<Finished, DropReason> {
        let mut refused = None;
        let done = self.finish(frame, caps, max_frame, |piece| {
            let result = put(&piece).err();
            refused = refused.or(result);
        })?;
        refused.map_or(Ok(done), Err)
    }

    /// Fills a partial checksum. The field must lie in the head, as it does for every header we parse.
    fn complete_checksum(
        &mut self,
        frame: &Frame<'_>,
        mut each: impl FnMut(Frame<'_>),
    ) -> Result<Finished, DropReason> {
        let head = copy_head(&mut self.head, frame.head)?;
        store_checksum(head, frame, &frame.offload)?;
        let offload = Offload { csum_valid: true, ..Offload::default() };
        each(frame.segment(head, offload, 0, usize::MAX));
        Ok(Finished::Checksum)
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
}

/// How a frame is cut: what follows `from` in steps of the segment size.
pub(super) struct Cut {
    pub(super) headers: Headers,
    /// End of what every piece repeats: the headers, or what of them is not fragmented.
    pub(super) from: usize,
    total: usize,
    step: usize,
    pub(super) count: usize,
    /// Bytes each piece has beyond that: the IPv6 fragment header, which a datagram that stays in one piece does not get.
    pub(super) more: usize,
}

impl Cut {
    fn new(frame: &Frame<'_>, headers: Headers) -> Result<Cut, DropReason> {
        let size = usize::from(frame.offload.gso_size);
        let (from, step) = match frame.offload.gso {
            Gso::Udp => (headers.unfragmentable, size & !7),
            _ => (headers.payload, size),
        };
        if step == 0 {
            return Err(DropReason::RxBadOffload);
        }
        let total = frame.len() - from;
        let count = total.div_ceil(step).max(1);
        let is_fragmented = frame.offload.gso == Gso::Udp && count > 1;
        let more = if is_fragmented && headers.is_v6 { fragment::HEADER } else { 0 };
        let cut = Cut { headers, from, total, step, count, more };
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
        self.from + self.more + self.step.min(self.total)
    }

    /// Piece `index` of what is cut: how many bytes before it, and its own.
    pub(super) fn range(&self, index: usize) -> (usize, usize) {
        let skip = index * self.step;
        (skip, self.step.min(self.total - skip))
    }
}

/// Copies a head to where it can be rewritten. Heads of batch packets always fit.
fn copy_head<'a>(scratch: &'a mut Scratch, head: &[u8]) -> Result<&'a mut [u8], DropReason> {
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
pub(super) fn rewrite_ip(head: &mut [u8], headers: Headers, ip_len: usize, index: usize) {
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

/// The sum over the pseudo-header of `l4_len` bytes of transport (RFC 9293, section 3.1; RFC 8200, section 8.1).
pub(super) fn pseudo_header(head: &[u8], headers: Headers, l4_len: usize) -> Sum {
    let addresses =
        if headers.is_v6 { headers.l3 + 8..headers.l3 + 40 } else { headers.l3 + 12..headers.l3 + 20 };
    let mut sum = Sum::default();
    sum.add(&head[addresses]);
    sum.add_word(u16::from(headers.protocol));
    sum.add_word(l4_len as u16);
    sum
}

/// Writes the whole TCP or UDP checksum of a segment: pseudo-header, headers and data in `head`, then `payload`.
fn transport_checksum(head: &mut [u8], headers: Headers, payload: &Frame<'_>, l4_len: usize) {
    let field = headers.l4 + if headers.protocol == UDP { 6 } else { 16 };
    put16(head, field, 0);
    let mut sum = pseudo_header(head, headers, l4_len);
    sum.add(&head[headers.l4..]);
    payload.for_each_payload(|piece| sum.add_span(piece));
    let checksum = if headers.protocol == UDP { nonzero(sum.finish()) } else { sum.finish() };
    put16(head, field, checksum);
}

#[cfg(test)]
mod tests;

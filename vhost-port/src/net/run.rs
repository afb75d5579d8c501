//! Frames that fill one of the guest's receive buffers each, a run of them at a time.
//!
//! Nearly all frames are such: the guest takes them as they are, and they fit. The chains they go to have been looked at a burst ahead, so what is left
//! is a header, a copy and a used element for each; the ring's indexes move once a run.
#![expect(unsafe_code, reason = "writes guest memory")]

use pmd::packet::{BURST, Batch, Frame, Gso, Offload, SlotId};
use pmd::port::TxLimits;
use pmd::prefetch::prefetch_bulk_to_write;
use pmd::virtio::{NetHeader, SharedPtr};

use super::rules::NetRules;
use crate::memory::Marks;
use crate::ring::{Direction, Ring};

/// Sends the packets at the front of `slots` that the guest takes as they are and that fit the next buffers one by one. Returns how many, and
/// their bytes; the caller finds out what the one after them is. Most are short and ask for nothing: one copy each, and nothing else.
///
/// Never inlined: as arguments, ring and batch are known to be apart, and their fields stay in registers.
#[inline(never)]
pub(super) fn put_run<R: Ring, M: Marks>(
    ring: &mut R,
    marks: &mut M,
    net: &NetRules,
    limits: TxLimits,
    batch: &Batch<'_>,
    slots: &[SlotId],
) -> (u16, u64) {
    let wanted = slots.len().min(BURST) as u16;
    ring.make_room(wanted);
    let (ready, _) = ring.ready(Direction::Write, net.header_len, wanted);
    let (mut done, mut bytes) = (0, 0);
    for (ahead, &slot) in (0..ready).zip(slots) {
        let chain = ring.chain(ahead);
        let Some(frame) = batch.packet(slot).plain() else {
            let Some(len) = put_other(ring, marks, net, limits, ahead, batch, slot) else { break };
            bytes += len as u64;
            done += 1;
            continue;
        };
        let needed = net.header_len + frame.len();
        let Some(start) = chain.start else { break };
        if (chain.len as usize) < needed || frame.len() > limits.max_frame {
            break;
        }
        // SAFETY: the buffer is mapped and holds header and frame.
        unsafe {
            put_plain_header(net, start);
            start.add(net.header_len).copy_in(frame);
        }
        marks.wrote(start, needed);
        ring.write_used(ahead, chain, needed as u32);
        bytes += frame.len() as u64;
        done += 1;
    }
    ring.complete_run(done);
    (done, bytes)
}

/// Puts a frame that is long, or asks for something that the guest does itself, into the chain `ahead`, one that is ready. Returns its length; `None`,
/// and nothing done, when there is more to it.
///
/// Apart, so that the loop for short frames keeps its registers.
#[inline(never)]
fn put_other<R: Ring, M: Marks>(
    ring: &mut R,
    marks: &mut M,
    net: &NetRules,
    limits: TxLimits,
    ahead: u16,
    batch: &Batch<'_>,
    slot: SlotId,
) -> Option<usize> {
    let frame = batch.frame(slot);
    let chain = ring.chain(ahead);
    let (start, len, offload) = (chain.start?, frame.len(), &frame.offload);
    let needed = net.header_len + len;
    let taken = offload.is_none() || limits.offloads.limit(net.to_guest).takes(offload);
    let short_enough = len <= limits.max_frame || offload.gso != Gso::None;
    if !taken || !short_enough || (chain.len as usize) < needed {
        return None;
    }
    // SAFETY: the buffer is mapped and holds header and frame.
    unsafe { write_whole(net, start, &frame) };
    marks.wrote(start, needed);
    ring.write_used(ahead, chain, needed as u32);
    Some(len)
}

/// The header of a frame in so many buffers.
pub(super) fn header(net: &NetRules, offload: &Offload, buffers: u16) -> [u8; NetHeader::LEN] {
    if offload.is_none() {
        let [n0, n1] = buffers.to_le_bytes();
        return [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n0, n1];
    }
    let mut header = NetHeader::from_offload(offload);
    header.num_buffers = buffers;
    if !net.to_guest.csum {
        // A guest without GUEST_CSUM knows no flags; a partial checksum never gets here.
        header.flags = 0;
    }
    header.to_bytes()
}

/// Writes a frame that the guest takes as it is, and its header, into the one buffer at `to`.
///
/// The copy waits for each line it writes to be taken from whoever has it, a few at a time; asked for all at once, a full-size
/// frame is copied 7 % faster.
///
/// # Safety
/// `header_len + frame.len()` bytes from `to` are mapped and writable.
#[inline(always)]
pub(super) unsafe fn write_whole(net: &NetRules, to: SharedPtr, frame: &Frame<'_>) {
    prefetch_bulk_to_write(to.addr(), net.header_len + frame.len());
    // SAFETY: forwarded.
    unsafe {
        if frame.offload.is_none() {
            put_plain_header(net, to);
        } else {
            to.copy_in(&header(net, &frame.offload, 1)[..net.header_len]);
        }
        copy_frame(to.add(net.header_len), frame);
    }
}

/// Writes the header of a frame that fills one buffer and asks for nothing.
///
/// By whole registers: bytes put together in memory and then copied would have to wait there for every store before
/// them, and those go to lines that another processor holds. A header that says the right thing already, because the guest
/// uses its buffers again, is not written: its line can then stay in both caches.
///
/// # Safety
/// `header_len` bytes from `to` are mapped and writable.
#[inline(always)]
unsafe fn put_plain_header(net: &NetRules, to: SharedPtr) {
    // SAFETY: forwarded; header_len is one of the two lengths.
    unsafe {
        match net.header_len {
            NetHeader::LEN => to.write_unless_equal([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]),
            _ => to.write_unless_equal([0; NetHeader::LEGACY_LEN]),
        }
    }
}

/// Copies a frame to `to`.
///
/// # Safety
/// `frame.len()` bytes from `to` are mapped and writable.
#[inline]
unsafe fn copy_frame(to: SharedPtr, frame: &Frame<'_>) {
    // SAFETY: forwarded; the head is private memory.
    unsafe { to.copy_in(frame.head) };
    let mut at = frame.head.len();
    frame.for_each_payload(|piece| {
        // SAFETY: the pieces are frame.len() - head.len() bytes together. They may overlap the buffer when a guest
        // lies about its memory, which `copy` allows.
        unsafe { std::ptr::copy(piece.as_ptr(), to.add(at).as_non_null().as_ptr(), piece.len()) };
        at += piece.len();
    });
}

//! Receiving: used buffers are lent to the batch where they lie, and posted again after the burst.
//!
//! Most frames fill one buffer and say nothing in their header; those are received as they are taken, and if that copied all of one, its line is let go of
//! ([`demote`]) for the device, which writes there next.
#![expect(unsafe_code, reason = "names received bytes in memory shared with a device")]

use crate::packet::{BURST, Batch, HEAD_CAPACITY, SlotId, Span};
use crate::port::{DropReason, QueueCounters};
use crate::prefetch::demote;
use crate::virtio::burst_driver::{BadDevice, EitherRing};
use crate::virtio::{NetHeader, SharedPtr};

/// Most buffers of one frame. A count that never comes together would keep buffers for ever.
const MOST_BUFFERS: usize = 256;
/// Shortest frame: an Ethernet header.
const MIN_FRAME: usize = 14;
/// Offset of `num_buffers` in the header.
const NUM_BUFFERS: usize = 10;
/// Cache lines of a buffer that a short frame and its header lie in.
const LINES: usize = 2;

/// A received buffer and the bytes in it.
#[derive(Clone, Copy)]
struct Received {
    at: SharedPtr,
    len: u32,
}

/// The receive ring of a network driver.
pub struct NetRxRing {
    ring: EitherRing,
    /// Buffers of a frame whose last has not come yet.
    parts: Vec<Received>,
}

impl NetRxRing {
    /// Takes a ring whose buffers are all free, and posts them. What [`EitherRing::publish`] then said comes with it.
    pub fn new(mut ring: EitherRing) -> (NetRxRing, bool) {
        ring.stage_unchanged(ring.size());
        let kick = ring.publish();
        (NetRxRing { ring, parts: Vec::with_capacity(MOST_BUFFERS) }, kick)
    }

    /// Receives a burst. Its buffers are lent until [`NetRxRing::give_back`].
    ///
    /// # Errors
    /// The device broke the rules; what came before is in the batch, and the ring is of no more use.
    #[inline]
    pub fn receive<'q>(
        &'q mut self,
        batch: &mut Batch<'q>,
        counters: &QueueCounters,
    ) -> Result<usize, BadDevice> {
        let NetRxRing { ring, parts } = self;
        let before = batch.len();
        let (mut bytes, mut outcome) = (0, Ok(()));
        while batch.len() < BURST {
            // Each buffer is at most one frame, so a burst's worth of them always finds room in the batch.
            let wanted = (BURST - batch.len()) as u16;
            let came = ring.take_used::<LINES>(wanted, |view, len| {
                let len = len.min(view.capacity() as u32);
                // SAFETY: `len` bytes of a buffer of the ring, mapped while it lives, and lent for 'q: until `give_back` it is not posted again.
                match unsafe { receive_buffer(Received { at: view.start(), len }, parts, batch) } {
                    Ok(len) => bytes += len as u64,
                    Err(reason) => counters.drops.add(reason, 1),
                }
            });
            match came {
                Ok(came) if came == wanted => {}
                other => {
                    outcome = other.map(drop);
                    break;
                }
            }
        }
        if batch.len() > before {
            counters.add_burst((batch.len() - before) as u64, bytes);
        }
        outcome.map(|()| batch.len())
    }

    /// Posts the buffers of the last burst again, once enough have come together. True when they were posted: then the device is to be asked with
    /// [`NetRxRing::wants_kick`] soon.
    #[inline]
    #[must_use = "a device that waits for buffers sleeps until it is kicked"]
    pub fn give_back(&mut self) -> bool {
        // The newest free ones may be of a frame that is not complete.
        let free = self.ring.free().saturating_sub(self.parts.len() as u16);
        if free < (BURST as u16).min(self.ring.size() / 4).max(1) {
            return false;
        }
        self.ring.stage_unchanged(free);
        self.ring.show();
        true
    }

    /// Whether the device wants to be told of the buffers it got.
    #[inline]
    #[must_use = "a device that asked for a kick sleeps until it gets one"]
    pub fn wants_kick(&mut self) -> bool {
        self.ring.wants_kick()
    }

    /// Asks the device to notify. True when something waits already.
    pub fn enable_interrupts(&mut self) -> bool {
        self.ring.enable_interrupts()
    }

    /// Wants no notifications.
    pub fn disable_interrupts(&mut self) {
        self.ring.disable_interrupts();
    }
}

/// Puts a frame into the batch, if this buffer is all of it or the last of it; otherwise it joins `parts`. Returns the frame's length, zero while there is
/// none.
///
/// # Safety
/// The buffers are mapped, and nobody but the device writes them for `'q`.
#[inline(always)]
unsafe fn receive_buffer<'q>(
    buffer: Received,
    parts: &mut Vec<Received>,
    batch: &mut Batch<'q>,
) -> Result<usize, DropReason> {
    let len = buffer.len as usize;
    if parts.is_empty() && len >= NetHeader::LEN + MIN_FRAME {
        // SAFETY: the header, and the bytes behind it, lie inside the buffer, as just checked.
        let (header, start) =
            unsafe { (buffer.at.read_bytes::<{ NetHeader::LEN }>(), buffer.at.add(NetHeader::LEN)) };
        let [flags, gso_type, .., low, high] = header;
        if NetHeader::asks_nothing([flags, gso_type]) && u16::from_le_bytes([low, high]) <= 1 {
            let len = len - NetHeader::LEN;
            // SAFETY: as above (contract).
            let frame = unsafe { Span::new(start.as_non_null(), len as u32) };
            if !batch.receive(frame) {
                return Err(DropReason::RxNoBuffer);
            }
            if len <= HEAD_CAPACITY {
                // All of it was copied. The device writes here next.
                demote(start.addr(), len);
            }
            return Ok(len);
        }
    }
    // SAFETY: forwarded.
    unsafe { receive_part(buffer, parts, batch) }
}

/// The same for a buffer that is not a plain frame.
///
/// # Safety
/// As [`receive_buffer`].
#[inline(never)]
unsafe fn receive_part<'q>(
    buffer: Received,
    parts: &mut Vec<Received>,
    batch: &mut Batch<'q>,
) -> Result<usize, DropReason> {
    parts.push(buffer);
    if !is_whole(parts) {
        return Ok(0);
    }
    // SAFETY: forwarded.
    let received = unsafe { receive_frame(parts, batch) };
    parts.clear();
    received
}

/// Whether these are all buffers of a frame.
fn is_whole(parts: &[Received]) -> bool {
    let Some(first) = parts.first() else { return false };
    if (first.len as usize) < NetHeader::LEN {
        // Nothing says how many there would be: it is a frame by itself, and a bad one.
        return true;
    }
    // SAFETY: the header lies inside the buffer, as just checked, which is mapped as long as the ring lives.
    let count = usize::from(u16::from_le_bytes(unsafe { first.at.add(NUM_BUFFERS).read_bytes() }));
    // Not equal: the device may write another count when some have come.
    count > MOST_BUFFERS || parts.len() >= count
}

/// Puts a frame into the batch. Returns its length.
///
/// # Safety
/// The buffers are mapped, and nobody but the device writes them for `'q`.
unsafe fn receive_frame<'q>(buffers: &[Received], batch: &mut Batch<'q>) -> Result<usize, DropReason> {
    let (first, rest) = buffers.split_first().ok_or(DropReason::RxBadDescriptor)?;
    let in_first = (first.len as usize).checked_sub(NetHeader::LEN).ok_or(DropReason::RxBadDescriptor)?;
    // SAFETY: the header and what follows it lie inside the buffer (`len` was cut to its capacity).
    let (header, start) = unsafe { (first.at.read_bytes(), first.at.add(NetHeader::LEN)) };
    let header = NetHeader::from_bytes(&header);
    if usize::from(header.num_buffers).max(1) != buffers.len() {
        return Err(DropReason::RxBadDescriptor);
    }
    let len = in_first + rest.iter().map(|buffer| buffer.len as usize).sum::<usize>();
    if len < MIN_FRAME {
        return Err(DropReason::RxTooShort);
    }
    let offload = header.to_offload(len).map_err(|_| DropReason::RxBadOffload)?;
    // SAFETY: as above (contract).
    let span = |at: SharedPtr, len: usize| unsafe { Span::new(at.as_non_null(), len as u32) };
    if !batch.has_room(buffers.len()) || !batch.receive(span(start, in_first)) {
        return Err(DropReason::RxNoBuffer);
    }
    for buffer in rest {
        if !batch.add_span(span(buffer.at, buffer.len as usize)) {
            batch.cancel_packet();
            return Err(DropReason::RxNoBuffer);
        }
    }
    batch.packet_mut((batch.len() - 1) as SlotId).offload = offload;
    Ok(len)
}

//! Receiving: used buffers are lent to the batch where they lie, and posted again after the burst.
//!
//! Most frames fill one buffer and say nothing in their header; those are received as they are taken, and if that copied all of one, its line is let go of
//! ([`demote`]) for the device, which writes there next.
#![expect(unsafe_code, reason = "names received bytes in memory shared with a device")]

use crate::packet::{BURST, Batch, HEAD_CAPACITY, MAX_FRAME, MIN_FRAME, SlotId, Span};
use crate::port::{DropCounters, DropReason, QueueCounters};
use crate::prefetch::demote;
use crate::virtio::burst_driver::{BadDevice, EitherRing};
use crate::virtio::{NetHeader, SharedPtr};

/// Most buffers of one frame. A count that never comes together would keep buffers for ever.
const MOST_BUFFERS: u16 = 256;
/// Offset of `num_buffers` in the header.
const NUM_BUFFERS: usize = 10;
/// Cache lines of a buffer that a short frame and its header lie in.
const LINES: usize = 2;

/// A received buffer and the bytes in it, as the device says.
#[derive(Clone, Copy)]
struct Received {
    at: SharedPtr,
    len: u32,
}

/// The receive ring of a network driver.
pub struct NetRxRing {
    ring: EitherRing,
    incoming: Incoming,
    /// The device has not been asked yet whether it wants to be told of buffers it got.
    owing: bool,
}

impl NetRxRing {
    /// Takes a ring whose buffers are all free, and posts them. Frames may fill several if they are `mergeable`. The device, once it runs, is to be asked with
    /// [`NetRxRing::wants_kick`], or just told.
    pub fn new(mut ring: EitherRing, mergeable: bool) -> NetRxRing {
        let mut capacity = u32::MAX;
        ring.for_each_buffer(|view| capacity = capacity.min(view.capacity() as u32));
        let most = MOST_BUFFERS.min(ring.size());
        let alone = if mergeable { 1 } else { u16::MAX };
        ring.stage_unchanged(ring.size());
        ring.show();
        let incoming = Incoming { capacity, alone, most, parts: Vec::with_capacity(most.into()) };
        NetRxRing { ring, incoming, owing: true }
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
        let before = batch.len();
        // SAFETY: the memory is mapped while the ring lives, which 'q borrows.
        let (bytes, outcome) = unsafe { self.receive_lent(batch, &counters.drops) };
        if batch.len() > before {
            counters.add_burst((batch.len() - before) as u64, bytes);
        }
        outcome.map(|()| batch.len())
    }

    /// The same for who knows by other means than by borrowing the ring that its memory stays, and counts what was received. Returns the bytes received,
    /// also beside an error.
    ///
    /// # Safety
    /// The memory of the ring's buffers is mapped for `'q`.
    #[inline]
    pub unsafe fn receive_lent<'q>(
        &mut self,
        batch: &mut Batch<'q>,
        drops: &DropCounters,
    ) -> (u64, Result<(), BadDevice>) {
        let NetRxRing { ring, incoming, .. } = self;
        let (mut bytes, mut outcome) = (0, Ok(()));
        while batch.len() < BURST {
            // Each buffer is at most one frame, so a burst's worth of them always finds room in the batch.
            let wanted = (BURST - batch.len()) as u16;
            let came = ring.take_used::<LINES>(wanted, |view, len| {
                // SAFETY: a buffer of the ring, with `capacity` bytes, mapped for 'q (contract).
                match unsafe { incoming.receive_buffer(Received { at: view.start(), len }, batch) } {
                    Ok(len) => bytes += len as u64,
                    Err(reason) => drops.add(reason, 1),
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
        (bytes, outcome)
    }

    /// Posts the buffers of the last burst again, once enough have come together. The device is to be asked with [`NetRxRing::wants_kick`] in the next
    /// round.
    #[inline]
    pub fn give_back(&mut self) {
        // The newest free ones may be of a frame that is not complete.
        let free = self.ring.free().saturating_sub(self.incoming.parts.len() as u16);
        if free < (BURST as u16).min(self.ring.size() / 4).max(1) {
            return;
        }
        self.ring.stage_unchanged(free);
        self.ring.show();
        self.owing = true;
    }

    /// Whether the device wants to be told of buffers it got since this was asked last.
    #[inline]
    #[must_use = "a device that asked for a kick sleeps until it gets one"]
    pub fn wants_kick(&mut self) -> bool {
        core::mem::take(&mut self.owing) && self.ring.wants_kick()
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

/// The frame that comes in, and what can be true of its buffers.
struct Incoming {
    /// Bytes of a buffer.
    capacity: u32,
    /// Most buffers that a header may name for its frame to lie in this one alone: one; any number where frames may not fill several.
    alone: u16,
    /// Most buffers of a frame.
    most: u16,
    /// Buffers of a frame whose last has not come yet.
    parts: Vec<Received>,
}

impl Incoming {
    /// Puts a frame into the batch, if this buffer is all of it or the last of it; otherwise it joins `parts`. Returns the frame's length, zero while there
    /// is none.
    ///
    /// # Safety
    /// It is a buffer of the ring, which are all mapped for `'q`.
    #[inline(always)]
    unsafe fn receive_buffer<'q>(
        &mut self,
        buffer: Received,
        batch: &mut Batch<'q>,
    ) -> Result<usize, DropReason> {
        let len = buffer.len as usize;
        let plain = NetHeader::LEN + MIN_FRAME..=self.capacity as usize;
        if self.parts.is_empty() && plain.contains(&len) {
            // SAFETY: the header, and the bytes behind it, lie inside the buffer, as just checked.
            let (header, start) =
                unsafe { (buffer.at.read_bytes::<{ NetHeader::LEN }>(), buffer.at.add(NetHeader::LEN)) };
            let [flags, gso_type, .., low, high] = header;
            if NetHeader::asks_nothing([flags, gso_type]) && u16::from_le_bytes([low, high]) <= self.alone {
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
        unsafe { self.receive_part(buffer, batch) }
    }

    /// The same for a buffer that is not a plain frame.
    ///
    /// # Safety
    /// As [`Incoming::receive_buffer`].
    #[inline(never)]
    unsafe fn receive_part<'q>(
        &mut self,
        buffer: Received,
        batch: &mut Batch<'q>,
    ) -> Result<usize, DropReason> {
        self.parts.push(buffer);
        if !self.is_whole() {
            return Ok(0);
        }
        // SAFETY: forwarded.
        let received = unsafe { self.receive_frame(batch) };
        self.parts.clear();
        received
    }

    /// Buffers of a frame whose header names so many. Zero is what devices say that know of one only.
    fn count(&self, said: u16) -> usize {
        if said <= self.alone { 1 } else { said.into() }
    }

    /// Whether these are all buffers of a frame.
    fn is_whole(&self) -> bool {
        let Some(first) = self.parts.first() else { return false };
        if (first.len as usize) < NetHeader::LEN {
            // Nothing says how many there would be: it is a frame by itself, and a bad one.
            return true;
        }
        // SAFETY: a buffer has room for a header at least, and is mapped as long as the ring lives.
        let count = self.count(u16::from_le_bytes(unsafe { first.at.add(NUM_BUFFERS).read_bytes() }));
        // Not equal: the device may write another count when some have come.
        count > self.most.into() || self.parts.len() >= count
    }

    /// Puts a frame into the batch. Returns its length.
    ///
    /// # Safety
    /// As [`Incoming::receive_buffer`].
    unsafe fn receive_frame<'q>(&self, batch: &mut Batch<'q>) -> Result<usize, DropReason> {
        if self.parts.iter().any(|buffer| buffer.len > self.capacity) {
            return Err(DropReason::RxBadDescriptor);
        }
        let (first, rest) = self.parts.split_first().ok_or(DropReason::RxBadDescriptor)?;
        let in_first = (first.len as usize).checked_sub(NetHeader::LEN).ok_or(DropReason::RxBadDescriptor)?;
        // SAFETY: the header and what follows it lie inside the buffer: `len` is at most its capacity.
        let (header, start) = unsafe { (first.at.read_bytes(), first.at.add(NetHeader::LEN)) };
        let header = NetHeader::from_bytes(&header);
        if self.count(header.num_buffers) != self.parts.len() {
            return Err(DropReason::RxBadDescriptor);
        }
        let len = in_first + rest.iter().map(|buffer| buffer.len as usize).sum::<usize>();
        match len {
            0..MIN_FRAME => return Err(DropReason::RxTooShort),
            MIN_FRAME..=MAX_FRAME => {}
            _ => return Err(DropReason::RxTooLong),
        }
        let offload = header.to_offload(len).map_err(|_| DropReason::RxBadOffload)?;
        // SAFETY: as above (contract).
        let span = |at: SharedPtr, len: usize| unsafe { Span::new(at.as_non_null(), len as u32) };
        let first = span(start, in_first);
        let received = if rest.is_empty() {
            batch.receive(first)
        } else {
            let rest = rest.iter().map(|buffer| span(buffer.at, buffer.len as usize));
            batch.receive_pieces(core::iter::once(first).chain(rest))
        };
        if !received {
            return Err(DropReason::RxNoBuffer);
        }
        batch.packet_mut((batch.len() - 1) as SlotId).offload = offload;
        Ok(len)
    }
}

//! Receiving: used buffers are lent to the batch where they lie, and posted again after the burst.
#![expect(unsafe_code, reason = "names received bytes in memory shared with a device")]

use crate::packet::{BURST, Batch, SlotId, Span};
use crate::port::{DropReason, QueueCounters};
use crate::virtio::burst_driver::{BadDevice, EitherRing};
use crate::virtio::{NetHeader, SharedPtr};

/// Buffers one burst can take: a few large frames, or many small ones.
const TAKEN: usize = 512;

/// Offset of `num_buffers` in the header.
const NUM_BUFFERS: usize = 10;

/// A received buffer and the bytes in it.
#[derive(Clone, Copy)]
struct Received {
    at: SharedPtr,
    len: u32,
}

/// The receive ring of a network driver.
pub struct NetRxRing {
    ring: EitherRing,
    /// Buffers of the burst under way, and behind them those of a frame whose last has not come yet.
    taken: Vec<Received>,
    /// How many of them are of complete frames.
    complete: usize,
}

impl NetRxRing {
    /// Takes a ring whose buffers are all free, and posts them. What [`EitherRing::publish`] then said comes with it.
    pub fn new(mut ring: EitherRing) -> (NetRxRing, bool) {
        ring.stage_unchanged(ring.size());
        let kick = ring.publish();
        (NetRxRing { ring, taken: Vec::with_capacity(TAKEN), complete: 0 }, kick)
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
        let NetRxRing { ring, taken, complete } = self;
        let mut bytes = 0;
        let mut bad = None;
        while batch.len() < BURST && taken.len() + BURST <= TAKEN {
            // Each buffer is at most one frame, so a burst's worth of them always finds room in the batch.
            let wanted = (BURST - batch.len()) as u16;
            let came = ring.take_used::<2>(wanted, |view, len| {
                let len = len.min(view.capacity() as u32);
                taken.push(Received { at: view.start(), len });
            });
            while let Some(frame) = next_frame(taken.get(*complete..).unwrap_or_default()) {
                *complete += frame.len();
                // SAFETY: buffers of the ring, mapped while it lives, and lent for 'q: until `give_back` they are not posted again.
                match unsafe { receive_frame(frame, batch) } {
                    Ok(len) => bytes += len as u64,
                    Err(reason) => counters.drops.add(reason, 1),
                }
            }
            match came {
                Ok(came) if came == wanted => {}
                Ok(_) => break,
                Err(error) => {
                    bad = Some(error);
                    break;
                }
            }
        }
        if !batch.is_empty() {
            counters.add_burst(batch.len() as u64, bytes);
        }
        bad.map_or(Ok(batch.len()), Err)
    }

    /// Posts the buffers of the last burst again, once enough have come together. True when the device wants to be told.
    #[inline]
    #[must_use = "a device that asked for a kick sleeps until it gets one"]
    pub fn give_back(&mut self) -> bool {
        self.taken.drain(..std::mem::take(&mut self.complete));
        // The newest free ones may be of a frame that is not complete.
        let free = self.ring.free().saturating_sub(self.taken.len() as u16);
        if free < (BURST as u16).min(self.ring.size() / 4).max(1) {
            return false;
        }
        self.ring.stage_unchanged(free);
        self.ring.publish()
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

/// The buffers of the first frame, if all of them are there.
#[inline]
fn next_frame(buffers: &[Received]) -> Option<&[Received]> {
    let first = buffers.first()?;
    if (first.len as usize) < NetHeader::LEN {
        // Nothing says how many there would be: it is a frame by itself, and a bad one.
        return buffers.get(..1);
    }
    // SAFETY: the header lies inside the buffer, as just checked, which is mapped as long as the ring lives.
    let count = u16::from_le_bytes(unsafe { first.at.add(NUM_BUFFERS).read_bytes() });
    let count = usize::from(count).max(1);
    // A count that never comes together would keep buffers for ever.
    if count > TAKEN / 2 { buffers.get(..1) } else { buffers.get(..count) }
}

/// Puts a frame into the batch. Returns its length.
///
/// # Safety
/// The buffers are mapped, and nobody but the device writes them for `'q`.
#[inline]
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
    if len < 14 {
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

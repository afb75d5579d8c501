//! A burst sent frame by frame, over a ring of a card that takes them so.

use super::model::{Fault, FrameRing, TxRing};
use crate::packet::{Frame, OffloadCaps};
use crate::port::{DropReason, SentBurst, TxBurst};

impl<R: FrameRing> TxRing for R {
    fn caps(&self) -> OffloadCaps {
        FrameRing::caps(self)
    }

    fn send_burst(&mut self, burst: TxBurst<'_, '_>) -> Result<usize, Fault> {
        let TxBurst { batch, slots, finisher, limits, counters } = burst;
        if let Err(fault) = self.reclaim() {
            counters.drops.add(DropReason::TxBadRing, slots.len() as u64);
            return Err(fault);
        }
        let mut sent = SentBurst::default();
        for &slot in slots {
            let frame = batch.frame(slot);
            let len = frame.len() as u64;
            let caps = if frame.offload.is_none() {
                OffloadCaps::default()
            } else {
                limits.offloads.limit(self.caps_for(&frame))
            };
            let outcome = finisher.send(frame, caps, limits.max_frame, |piece| send(self, piece));
            sent.add_outcome(len, outcome, counters);
        }
        Ok(counters.add_sent(sent))
    }

    fn publish(&mut self) -> bool {
        FrameRing::publish(self)
    }

    fn progress(&mut self) -> Result<(u64, u32), Fault> {
        self.reclaim()?;
        Ok(FrameRing::progress(self))
    }
}

/// Sends one frame; a ring without room is shown to the card at once, which may have made some.
#[inline]
fn send(ring: &mut impl FrameRing, frame: &Frame<'_>) -> Result<(), DropReason> {
    match ring.send(frame) {
        Err(DropReason::TxRingFull) => {
            FrameRing::publish(ring);
            // A fault shows again at the next burst.
            let _ = ring.reclaim();
            ring.send(frame)
        }
        other => other,
    }
}

//! Frames to a guest whose IOMMU has not translated the buffers yet.
//!
//! A lazy guest takes all translations back every few milliseconds, and has them again within one: too short to lose what comes
//! meanwhile, too long for a worker to wait. So a worker leaves such frames with the ring, behind those that are there, and the control
//! thread sends them when the translations have come ([`LateSender`]). While any are left the ring stays set aside, so nothing
//! overtakes them. What is too much is dropped.
//!
//! Cost: an allocation and a copy per frame held. Nothing while translations are there.

use std::collections::VecDeque;

use pmd::packet::{BURST, Batch, BatchStorage, Frame, Offload, SlotId, Span};
use pmd::port::{DropReason, QueueCounters, TxLimits};

use super::to_guest::{Tools, send_burst};
use crate::ring::{RingState, Vring};

/// Most bytes and frames held for one ring: a full TCP window, and a ring of small frames.
const MAX_BYTES: usize = 1 << 20;
const MAX_FRAMES: usize = 1024;

struct HeldFrame {
    bytes: Box<[u8]>,
    offload: Offload,
}

/// The frames held for one ring, in order.
#[derive(Default)]
pub(crate) struct Held {
    frames: VecDeque<HeldFrame>,
    bytes: usize,
}

impl Held {
    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Takes a frame in, unless there are too many.
    #[cold]
    pub(super) fn push(&mut self, frame: &Frame<'_>) -> bool {
        let len = frame.len();
        if self.frames.len() >= MAX_FRAMES || self.bytes + len > MAX_BYTES {
            return false;
        }
        let mut bytes = vec![0; len].into_boxed_slice(); // tidy: only while the guest's buffers cannot be found
        frame.copy_to(&mut bytes);
        self.frames.push_back(HeldFrame { bytes, offload: frame.offload });
        self.bytes += len;
        true
    }

    /// Takes in all packets of a batch. Those that do not fit are dropped.
    #[cold]
    pub(super) fn push_all(&mut self, batch: &Batch<'_>, slots: &[SlotId], counters: &QueueCounters) {
        let lost = slots.iter().filter(|&&slot| !self.push(&batch.frame(slot))).count();
        counters.drops.add(DropReason::TxUntranslated, lost as u64);
    }

    /// Gives all up. Returns how many.
    pub(crate) fn clear(&mut self) -> u64 {
        self.bytes = 0;
        self.frames.drain(..).count() as u64
    }
}

/// Sends held frames, on the control thread.
pub(crate) struct LateSender {
    storage: BatchStorage,
    tools: Tools,
}

impl LateSender {
    pub(crate) fn new() -> LateSender {
        LateSender { storage: BatchStorage::new(), tools: Tools::new() }
    }

    /// Sends up to a burst of the frames held for a ring. Those whose buffers are still not translated are held again, and the ring waits.
    pub(crate) fn send(
        &mut self,
        vring: &Vring,
        state: &mut RingState,
        limits: TxLimits,
        counters: &QueueCounters,
    ) {
        let mut held = std::mem::take(&mut state.held);
        for _ in 0..BURST {
            let Some(frame) = held.frames.pop_front() else { break };
            held.bytes -= frame.bytes.len();
            let mut batch = self.storage.begin();
            if !batch.receive(Span::from_slice(&frame.bytes)) {
                continue;
            }
            batch.packet_mut(0).offload = frame.offload;
            let sent = send_burst(state, vring, &batch, &[0], limits, &mut self.tools, counters);
            if let Some((packets, bytes)) = sent {
                counters.add_burst(packets, bytes);
            }
            if !state.held.is_empty() {
                break;
            }
        }
        // What was held again goes first.
        state.held.bytes += held.bytes;
        state.held.frames.append(&mut held.frames);
        if let Some(ring) = &mut state.ring {
            ring.publish();
            counters.add_notification(ring.interrupt());
        }
    }
}

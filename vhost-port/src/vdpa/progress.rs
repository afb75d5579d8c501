//! What can be seen of a split ring that a device runs: how far its used index has come, and whether the guest sleeps on it.
//!
//! The device's interrupts go straight to the guest, so nobody here knows whether they arrive. But a driver says in the ring for which index it
//! wants to be interrupted. If that has passed, and neither side has moved for a whole interval, an interrupt may have been lost;
//! one is sent for the device then, which does no harm if it was not. When the guest moves after that, and only then, it had been.
//!
//! The count is modulo 65536 an interval: a ring that is faster is undercounted.
#![expect(unsafe_code, reason = "reads a ring shared with guest and device")]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pmd::virtio::SharedPtr;
use pmd::virtio::split::{AVAIL_F_NO_INTERRUPT, IDX, RING};

use crate::memory::MemTable;

/// What an interval showed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Seen {
    /// Buffers that the device has returned.
    pub(crate) used: u16,
    /// The guest may be waiting for an interrupt: send one.
    pub(crate) owed: bool,
    /// The one sent last was missing: the driver moved only then. Known of drivers that say where they sleep (EVENT_IDX).
    pub(crate) was_lost: bool,
    /// The device has worked, and the driver has followed it without help.
    pub(crate) healthy: bool,
}

/// See the module.
pub(crate) struct Progress {
    avail: SharedPtr,
    used: SharedPtr,
    size: u16,
    event_idx: bool,
    /// The used index, and where the driver was, when this looked last.
    at: u16,
    driver: u16,
    /// Used index at which an interrupt was sent.
    sent_at: u16,
    /// It was sent at the last look.
    waiting: bool,
    /// Keeps the ring mapped.
    _memory: Arc<MemTable>,
}

impl Progress {
    /// Of a ring of `size` whose avail and used rings lie here, in this memory.
    ///
    /// # Safety
    /// Both parts lie whole inside the memory, aligned.
    pub(crate) unsafe fn new(
        (avail, used): (SharedPtr, SharedPtr),
        size: u16,
        event_idx: bool,
        memory: &Arc<MemTable>,
    ) -> Progress {
        let _memory = Arc::clone(memory);
        let mut progress =
            Progress { avail, used, size, event_idx, at: 0, driver: 0, sent_at: 0, waiting: false, _memory };
        progress.at = progress.used_index();
        progress.sent_at = progress.at;
        progress.driver = progress.driver_mark();
        progress
    }

    /// The used index now.
    pub(crate) fn used_index(&self) -> u16 {
        // SAFETY: the index lies inside the used ring.
        unsafe { self.used.load_u16(IDX, Ordering::Acquire) }
    }

    /// What moves when the driver looks at the ring.
    fn driver_mark(&self) -> u16 {
        let at = if self.event_idx { RING + usize::from(self.size) * 2 } else { IDX };
        // SAFETY: the event or the index lies inside the avail ring.
        unsafe { self.avail.load_u16(at, Ordering::Relaxed) }
    }

    /// Whether the driver has asked for an interrupt by now.
    fn wants(&self, used: u16) -> bool {
        if self.event_idx {
            return used.wrapping_sub(self.driver_mark()).wrapping_sub(1) < self.size;
        }
        // SAFETY: the flags lie inside the avail ring.
        unsafe { self.avail.load_u16(0, Ordering::Relaxed) & AVAIL_F_NO_INTERRUPT == 0 }
    }

    /// Looks, an interval after the last time.
    pub(crate) fn look(&mut self) -> Seen {
        let (used, driver) = (self.used_index(), self.driver_mark());
        let (moved, slept) = (used.wrapping_sub(self.at), driver == self.driver);
        let helped = std::mem::take(&mut self.waiting);
        let was_lost = helped && !slept && self.event_idx;
        let owed = moved == 0 && slept && used != self.sent_at && self.wants(used);
        if owed {
            self.sent_at = used;
            self.waiting = true;
        }
        (self.at, self.driver) = (used, driver);
        Seen { used: moved, owed, was_lost, healthy: moved > 0 && !slept && !helped }
    }
}

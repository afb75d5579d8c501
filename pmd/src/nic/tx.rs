//! Sending to a card.

use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, MutexGuard};

use super::cell::Cell;
use super::model::{LINK_OVERHEAD, TxRing};
use super::watch::Signal;
use crate::offload::{Finisher, Takes};
use crate::packet::{Batch, OffloadCaps, SlotId};
use crate::port::{DropReason, OffloadSwitches, QueueCounters, TxBurst, TxLimits, TxQueue};

/// Looks at a ring that another worker has, before a burst is dropped. A burst is done in a few microseconds.
const TRIES: u32 = 2000;

/// What all transmit queues of a port share.
pub(super) struct TxShared {
    pub(super) mtu: AtomicU16,
    pub(super) link_up: AtomicBool,
    /// What of the card's offloads the operator wants.
    pub(super) offloads: OffloadSwitches,
    pub(super) signal: Arc<Signal>,
}

impl TxShared {
    /// What may be sent now.
    fn limits(&self) -> TxLimits {
        let max_frame = usize::from(self.mtu.load(Ordering::Relaxed)) + LINK_OVERHEAD;
        TxLimits { offloads: self.offloads.get(), max_frame }
    }
}

/// Transmit queue of one worker, over a ring that it may share.
pub(super) struct NicTx<T: TxRing> {
    cell: Arc<Cell<T>>,
    shared: Arc<TxShared>,
    finisher: Finisher,
    counters: Arc<QueueCounters>,
    /// What the card does, as its ring said at the last burst.
    caps: OffloadCaps,
    /// Something was added since the last doorbell.
    owes: bool,
}

impl<T: TxRing> NicTx<T> {
    pub(super) fn new(cell: Arc<Cell<T>>, shared: Arc<TxShared>) -> NicTx<T> {
        let (finisher, counters) = (Finisher::new(), Arc::default());
        NicTx { cell, shared, finisher, counters, caps: OffloadCaps::default(), owes: false }
    }

    fn ring_doorbell(&mut self) -> bool {
        if self.owes {
            let Some(mut guard) = self.cell.try_lock() else { return false };
            if let Some(ring) = guard.as_mut() {
                self.counters.add_notification(ring.publish());
            }
            self.owes = false;
        }
        true
    }
}

impl<T: TxRing> TxQueue for NicTx<T> {
    fn tx_burst(&mut self, batch: &Batch<'_>, slots: &[SlotId]) -> usize {
        let NicTx { cell, shared, finisher, counters, caps: known, owes } = self;
        let drop_all = |reason| {
            counters.drops.add(reason, slots.len() as u64);
            0
        };
        if !shared.link_up.load(Ordering::Relaxed) {
            return drop_all(DropReason::TxLinkDown);
        }
        let Some(mut guard) = patiently(cell) else { return drop_all(DropReason::TxRingBusy) };
        let Some(ring) = guard.as_mut().filter(|_| cell.fault().is_none()) else {
            return drop_all(DropReason::TxLinkDown);
        };
        *known = ring.caps();
        *owes = true;
        let burst = TxBurst { batch, slots, finisher, limits: shared.limits(), counters };
        ring.send_burst(burst).unwrap_or_else(|fault| {
            cell.report(fault);
            shared.signal.ring();
            0
        })
    }

    fn notify(&mut self) -> bool {
        self.ring_doorbell()
    }

    fn takes(&self) -> Takes {
        self.shared.limits().takes(self.caps)
    }

    fn counters(&self) -> Arc<QueueCounters> {
        self.counters.clone()
    }
}

/// The ring, unless the control side has it or another worker does not let go.
#[inline]
fn patiently<T>(cell: &Cell<T>) -> Option<MutexGuard<'_, Option<T>>> {
    for _ in 0..TRIES {
        if let Some(guard) = cell.try_lock() {
            return Some(guard);
        }
        core::hint::spin_loop();
    }
    None
}

impl<T: TxRing> Drop for NicTx<T> {
    fn drop(&mut self) {
        if self.owes
            && let Some(ring) = self.cell.lock().as_mut()
        {
            ring.publish();
        }
    }
}

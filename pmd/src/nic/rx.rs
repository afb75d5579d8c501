//! Receiving from a card.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::cell::Cell;
use super::model::RxRing;
use super::watch::Signal;
use crate::drivers::queue_slots::Taken;
use crate::memory::DmaArena;
use crate::packet::Batch;
use crate::port::{Armed, QueueCounters, RxQueue, Waker};

/// Receive queue of a card.
pub(super) struct NicRx<R> {
    cell: Arc<Cell<R>>,
    /// The ring's memory as of the last burst. Kept here so that payload can be borrowed from the queue.
    arena: Option<Arc<DmaArena>>,
    event: Option<Arc<OwnedFd>>,
    signal: Arc<Signal>,
    counters: Arc<QueueCounters>,
    _taken: Taken,
}

impl<R: RxRing> NicRx<R> {
    pub(super) fn new(
        cell: Arc<Cell<R>>,
        event: Option<Arc<OwnedFd>>,
        signal: Arc<Signal>,
        taken: Taken,
    ) -> NicRx<R> {
        NicRx { cell, arena: None, event, signal, counters: Arc::default(), _taken: taken }
    }
}

impl<R: RxRing> RxQueue for NicRx<R> {
    fn rx_burst<'q>(&'q mut self, batch: &mut Batch<'q>) -> usize {
        let NicRx { cell, arena, signal, counters, .. } = self;
        let Some(mut guard) = cell.try_lock() else { return 0 };
        let Some(ring) = guard.as_mut() else { return 0 };
        if cell.fault().is_some() {
            return 0;
        }
        if arena.as_ref().is_none_or(|known| !Arc::ptr_eq(known, ring.arena())) {
            *arena = Some(ring.arena().clone());
        }
        let Some(arena) = arena.as_deref() else { return 0 };
        if ring.settle() {
            counters.add_notification(true);
        }
        match ring.receive(arena, batch, &counters.drops) {
            Ok(bytes) if !batch.is_empty() => counters.add_burst(batch.len() as u64, bytes),
            Ok(_) => {}
            Err(fault) => {
                cell.report(fault);
                signal.ring();
            }
        }
        // Held also when all that came was bad: the buffers are to go back.
        cell.hold();
        batch.len()
    }

    fn rx_done(&mut self) {
        if !self.cell.is_held() {
            return;
        }
        // The control side has it for moments only while payload is held.
        if let Some(ring) = self.cell.lock().as_mut()
            && ring.release()
        {
            self.counters.add_notification(true);
        }
        self.cell.let_go();
    }

    fn arm(&mut self) -> Armed {
        if self.event.is_none() {
            return Armed::Work;
        }
        match self.cell.try_lock() {
            // A restart is on, or comes: it wakes us.
            Some(mut guard) => match guard.as_mut() {
                Some(ring) if self.cell.fault().is_none() => {
                    if ring.settle() {
                        self.counters.add_notification(true);
                    }
                    ring.arm()
                }
                _ => Armed::Idle,
            },
            None => Armed::Work,
        }
    }

    fn disarm(&mut self) {
        if let Some(ring) = self.cell.try_lock().as_mut().and_then(|guard| guard.as_mut()) {
            ring.disarm();
        }
    }

    fn wait_fd(&self) -> Option<Arc<OwnedFd>> {
        self.event.clone()
    }

    fn set_waker(&mut self, _waker: Waker) {}

    fn counters(&self) -> Arc<QueueCounters> {
        self.counters.clone()
    }
}

impl<R> Drop for NicRx<R> {
    fn drop(&mut self) {
        self.cell.let_go();
    }
}

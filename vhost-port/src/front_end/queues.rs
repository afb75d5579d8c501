//! The queues of a virtio-user port.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use pmd::offload::{Finisher, Takes};
use pmd::packet::{Batch, OffloadCaps, SlotId};
use pmd::port::{Armed, DropReason, QueueCounters, RxQueue, TxBurst, TxLimits, TxQueue, Waker};

use super::port::{LiveRx, LiveTx, RxPlace, Shared};
use super::session::kick;

/// Bytes a frame may have beyond the MTU: Ethernet header and two tags.
const LINK_OVERHEAD: usize = 14 + 8;

/// A receive queue: owns the ring of this conversation, and finds the next one's in its place.
pub(super) struct VirtioRx {
    shared: Arc<Shared>,
    index: usize,
    /// Of the place, when last looked.
    generation: u64,
    live: Option<LiveRx>,
    /// The back-end broke the rules of `live`.
    broken: bool,
    counters: Arc<QueueCounters>,
}

impl VirtioRx {
    pub(super) fn new(shared: Arc<Shared>, index: usize) -> VirtioRx {
        VirtioRx { shared, index, generation: 0, live: None, broken: false, counters: Arc::default() }
    }

    fn place(&self) -> Option<&RxPlace> {
        self.shared.rx.get(self.index)
    }

    /// Whether another conversation has begun, or this one ended.
    #[inline]
    fn is_stale(&self) -> bool {
        self.place().is_some_and(|place| place.generation.load(Ordering::Acquire) != self.generation)
    }

    /// Takes what is in the place. The control thread holds it for a few instructions only; if it does just now, the next look finds it.
    #[cold]
    fn refresh(&mut self) {
        let Some(place) = self.place() else { return };
        let Ok(mut next) = place.next.try_lock() else { return };
        let (generation, live) = (place.generation.load(Ordering::Acquire), next.take());
        drop(next);
        (self.generation, self.live, self.broken) = (generation, live, false);
    }

    /// Tells the back-end of buffers it got earlier, if it waits for them.
    #[inline]
    fn settle(&mut self) {
        if let Some(live) = &mut self.live
            && live.ring.wants_kick()
        {
            kick(&live.kick);
            self.counters.add_notification(true);
        }
    }
}

impl RxQueue for VirtioRx {
    #[inline]
    fn rx_burst<'q>(&'q mut self, batch: &mut Batch<'q>) -> usize {
        if self.is_stale() {
            self.refresh();
        }
        self.settle();
        let VirtioRx { shared, live: Some(live), broken, counters, .. } = self else { return 0 };
        if *broken {
            return 0;
        }
        live.ring.receive(batch, counters).unwrap_or_else(|_| {
            *broken = true;
            counters.drops.add(DropReason::RxBadDescriptor, 1);
            shared.report_broken();
            batch.len()
        })
    }

    fn rx_done(&mut self) {
        // Asked in the next round, which every receive queue has: by then the fence costs little.
        if let Some(live) = self.live.as_mut().filter(|_| !self.broken) {
            live.ring.give_back();
        }
    }

    fn arm(&mut self) -> Armed {
        if self.is_stale() {
            return Armed::Work;
        }
        self.settle();
        let live = self.live.as_mut().filter(|_| !self.broken);
        if live.is_some_and(|live| live.ring.enable_interrupts()) { Armed::Work } else { Armed::Idle }
    }

    fn disarm(&mut self) {
        if let Some(live) = &mut self.live {
            live.ring.disable_interrupts();
        }
    }

    fn wait_fd(&self) -> Option<Arc<OwnedFd>> {
        self.live.as_ref().map(|live| live.call.clone())
    }

    fn set_waker(&mut self, waker: Waker) {
        if let Some(place) = self.place() {
            *place.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker);
        }
    }

    fn counters(&self) -> Arc<QueueCounters> {
        self.counters.clone()
    }
}

impl Drop for VirtioRx {
    /// The next queue goes on with the ring, if it is still this conversation's.
    fn drop(&mut self) {
        self.settle();
        let live = self.live.take().filter(|_| !self.broken);
        let Some(place) = self.place() else { return };
        {
            let mut next = place.next.lock().unwrap_or_else(PoisonError::into_inner);
            if place.generation.load(Ordering::Acquire) == self.generation && live.is_some() {
                *next = live;
                place.generation.fetch_add(1, Ordering::AcqRel);
            }
        }
        place.taken.store(false, Ordering::Release);
    }
}

/// A transmit queue of one worker.
pub(super) struct VirtioTx {
    shared: Arc<Shared>,
    worker: u16,
    finisher: Finisher,
    counters: Arc<QueueCounters>,
    /// The ring of the last burst, whose back-end has not been asked yet whether it wants to be told of it.
    owing: Option<usize>,
    /// What the back-end does for us, as its ring said at the last burst.
    caps: OffloadCaps,
}

impl VirtioTx {
    pub(super) fn new(shared: Arc<Shared>, worker: u16) -> VirtioTx {
        VirtioTx {
            shared,
            worker,
            finisher: Finisher::new(),
            counters: Arc::default(),
            owing: None,
            caps: OffloadCaps::default(),
        }
    }
}

/// What may be sent now.
fn limits(shared: &Shared) -> TxLimits {
    let max_frame = usize::from(shared.mtu.load(Ordering::Relaxed)) + LINK_OVERHEAD;
    TxLimits { offloads: shared.offloads.get(), max_frame }
}

impl TxQueue for VirtioTx {
    fn tx_burst(&mut self, batch: &Batch<'_>, slots: &[SlotId]) -> usize {
        let VirtioTx { shared, worker, finisher, counters, owing, caps } = self;
        let lost = |reason| counters.drops.add(reason, slots.len() as u64);
        let pairs = shared.pairs.load(Ordering::Acquire);
        let Some(pair) = worker.checked_rem(pairs) else {
            lost(DropReason::TxLinkDown);
            return 0;
        };
        let Ok(mut guard) = shared.try_tx(pair.into()) else {
            lost(DropReason::TxRingBusy);
            return 0;
        };
        let Some(live) = &mut *guard else {
            lost(DropReason::TxLinkDown);
            return 0;
        };
        let LiveTx { ring, kick: event, .. } = live;
        let burst = TxBurst { batch, slots, finisher, limits: limits(shared), counters };
        let sent = ring.send(burst, || {
            kick(event);
            counters.add_notification(true);
        });
        *caps = ring.caps();
        if ring.bad().is_some() {
            shared.report_broken();
        }
        *owing = Some(pair.into());
        sent
    }

    fn notify(&mut self) -> bool {
        let Some(pair) = self.owing else { return true };
        // Held by another worker for a burst: later, then.
        let Ok(mut guard) = self.shared.try_tx(pair) else { return false };
        self.owing = None;
        if let Some(live) = &mut *guard
            && live.ring.wants_kick()
        {
            kick(&live.kick);
            self.counters.add_notification(true);
        }
        true
    }

    fn takes(&self) -> Takes {
        limits(&self.shared).takes(self.caps)
    }

    fn counters(&self) -> Arc<QueueCounters> {
        self.counters.clone()
    }
}

impl Drop for VirtioTx {
    fn drop(&mut self) {
        self.notify();
    }
}

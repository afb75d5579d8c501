//! Staging: packets wait per output port until the burst has been decided, then go out together.

use std::ops::Range;
use std::sync::Arc;

use flowtable::key::PortNo;
use pmd::offload::Merger;
use pmd::packet::{BURST, Batch, CLONES, SlotId};
use pmd::port::{DropCounters, DropReason, QueueCounters, TxQueue};

/// Every slot of a batch, for trains to be cut from.
static SLOTS: [SlotId; BURST + CLONES] = {
    let mut slots = [0; BURST + CLONES];
    let mut i = 0;
    while i < slots.len() {
        slots[i] = i as SlotId;
        i += 1;
    }
    slots
};

struct TxPort {
    queue: Box<dyn TxQueue>,
    /// What waits, the first `count`.
    staged: [SlotId; BURST + CLONES],
    count: usize,
    /// The port is in the list of those to notify.
    owing: bool,
    /// The operator has taken the port down.
    down: bool,
    drops: Arc<DropCounters>,
    counters: Arc<QueueCounters>,
    /// What comes in by this port may be merged to larger frames.
    gro: bool,
}

impl TxPort {
    #[inline]
    fn send(&mut self, batch: &Batch<'_>) {
        if self.down {
            return self.refuse();
        }
        self.queue.tx_burst(batch, self.staged.get(..self.count).unwrap_or_default());
        self.count = 0;
    }

    #[cold]
    fn refuse(&mut self) {
        self.counters.drops.add(DropReason::TxAdminDown, self.count as u64);
        self.count = 0;
    }

    /// The same, but what makes a larger frame that the far side takes goes as one.
    #[inline(never)]
    fn send_merged(&mut self, batch: &mut Batch<'_>, merger: &mut Merger) {
        let staged = self.staged.get(..self.count).unwrap_or_default();
        let takes = self.queue.takes();
        if self.down || !merger.plan(batch, staged, takes) {
            return self.send(batch);
        }
        let (frames, packets) = merger.send(batch, |batch, slots| {
            self.queue.tx_burst(batch, slots);
        });
        self.counters.add_merged(frames, packets);
        self.count = 0;
    }
}

/// The transmit queues of one worker, by port number.
#[derive(Default)]
pub(super) struct Transmit {
    ports: Vec<Option<Box<TxPort>>>,
    /// Ports with something staged.
    pending: Vec<PortNo>,
    /// Ports to notify of what was sent to them.
    owing: Vec<PortNo>,
    merger: Box<Merger>,
}

impl Transmit {
    /// Gives the worker a transmit queue for a port, in place of the one it had.
    pub(super) fn add(&mut self, port: PortNo, queue: Box<dyn TxQueue>, drops: Arc<DropCounters>) {
        if self.ports.len() <= port.index() {
            self.ports.resize_with(port.index() + 1, || None);
        }
        let counters = queue.counters();
        let staged = [0; BURST + CLONES];
        let tx = TxPort { queue, staged, count: 0, owing: false, down: false, drops, counters, gro: true };
        self.ports[port.index()] = Some(Box::new(tx));
        self.pending.reserve(self.ports.len());
        self.owing.reserve(2 * self.ports.len());
    }

    /// Says whether packets that come in by a port may be merged.
    pub(super) fn set_gro(&mut self, port: PortNo, gro: bool) {
        if let Some(Some(tx)) = self.ports.get_mut(port.index()) {
            tx.gro = gro;
        }
    }

    /// The operator has a port up or down.
    pub(super) fn set_admin(&mut self, port: PortNo, up: bool) {
        if let Some(Some(tx)) = self.ports.get_mut(port.index()) {
            tx.down = !up;
        }
    }

    /// Whether the operator has taken a port down.
    pub(super) fn is_down(&self, port: PortNo) -> bool {
        self.ports.get(port.index()).and_then(Option::as_ref).is_some_and(|tx| tx.down)
    }

    /// Forgets a port. Nothing is staged between bursts, when commands are carried out.
    pub(super) fn remove(&mut self, port: PortNo) {
        if let Some(entry) = self.ports.get_mut(port.index()) {
            *entry = None;
        }
    }

    /// Stages a packet. False when the port is gone.
    #[inline]
    pub(super) fn stage(&mut self, batch: &Batch<'_>, port: PortNo, slot: SlotId) -> bool {
        self.stage_train(batch, port, slot..slot + 1)
    }

    /// Stages packets that follow each other, at most [`BURST`]. False when the port is gone.
    #[inline]
    pub(super) fn stage_train(&mut self, batch: &Batch<'_>, port: PortNo, train: Range<SlotId>) -> bool {
        let Some(Some(tx)) = self.ports.get_mut(port.index()) else { return false };
        if tx.count == 0 {
            self.pending.push(port);
        }
        let slots = SLOTS.get(usize::from(train.start)..usize::from(train.end)).unwrap_or_default();
        if tx.count + slots.len() > tx.staged.len() {
            tx.send(batch);
        }
        if let ([slot], Some(place)) = (slots, tx.staged.get_mut(tx.count)) {
            *place = *slot;
        } else if let Some(places) = tx.staged.get_mut(tx.count..tx.count + slots.len()) {
            // A few wide moves instead of a loop that counts.
            places.copy_from_slice(slots);
        }
        tx.count += slots.len();
        true
    }

    /// Sends everything staged.
    #[inline]
    pub(super) fn flush(&mut self, batch: &Batch<'_>) {
        for port in self.pending.drain(..) {
            if let Some(Some(tx)) = self.ports.get_mut(port.index()) {
                tx.send(batch);
                if !std::mem::replace(&mut tx.owing, true) {
                    self.owing.push(port);
                }
            }
        }
    }

    /// Sends everything staged of a burst that came in by `in_port`, merged where that is possible and wanted.
    #[inline]
    pub(super) fn flush_burst(&mut self, batch: &mut Batch<'_>, in_port: PortNo) {
        // Two frames that are merged are longer than a head, at least the first of them; most bursts end here.
        if batch.spans() == 0 || batch.len() < 2 || !self.may_merge(in_port) {
            return self.flush(batch);
        }
        for port in self.pending.drain(..) {
            if let Some(Some(tx)) = self.ports.get_mut(port.index()) {
                tx.send_merged(batch, &mut self.merger);
                if !std::mem::replace(&mut tx.owing, true) {
                    self.owing.push(port);
                }
            }
        }
    }

    fn may_merge(&self, in_port: PortNo) -> bool {
        self.ports.get(in_port.index()).and_then(Option::as_ref).is_some_and(|tx| tx.gro)
    }

    /// Wakes who was sent something. Once a round, or every few bursts of a long one: see [`TxQueue::notify`].
    #[inline]
    pub(super) fn notify(&mut self) {
        self.owing.retain(|port| {
            let Some(Some(tx)) = self.ports.get_mut(port.index()) else { return false };
            tx.owing = !tx.queue.notify();
            tx.owing
        });
    }

    /// Whether somebody is still to be woken.
    pub(super) fn owes(&self) -> bool {
        !self.owing.is_empty()
    }

    /// Counts drops of packets that came in by `port`.
    #[inline]
    pub(super) fn count_drop(&self, port: PortNo, reason: DropReason, n: u64) {
        if let Some(Some(tx)) = self.ports.get(port.index()) {
            tx.drops.add(reason, n);
        }
    }
}

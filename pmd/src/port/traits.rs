//! The traits of a port.
//!
//! ```text
//!   control thread: Port::rx_queue(i) ──box──▶ worker: rx_burst … rx_done, arm … disarm ──box──▶ drop
//!                   Port::tx_queue(w) ──box──▶ worker: tx_burst …                        ──box──▶ drop
//! ```
//!
//! One iteration of a worker on one queue:
//!
//! ```text
//!   let mut batch = storage.begin();
//!   rxq.rx_burst(&mut batch);            // payloads borrowed from rxq until batch is gone
//!   … classify, rewrite, txq.tx_burst(&batch, staged) …
//!   drop(batch);
//!   rxq.rx_done();                       // source descriptors go back
//!   … after some more bursts: txq.notify();
//! ```

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::error::PmdError;
use super::info::PortInfo;
use super::offloads::{Offloads, TxLimits};
use super::stats::QueueCounters;
use super::waker::Waker;
use crate::offload::{Finisher, Takes};
use crate::packet::{Batch, SlotId};
use crate::pci::{PciAddress, VfState};

/// A port, seen from the control side. Methods may block; none is called by a worker.
///
/// Dropping the last reference closes the port. Queues may outlive it: they then receive nothing and drop what
/// they are given.
pub trait Port: Send + Sync {
    /// Name of the driver, as in `Interface.type`.
    fn driver(&self) -> &'static str;

    /// Facts as of now. `info().rx_queues` says how many receive queues are worth polling.
    fn info(&self) -> PortInfo;

    /// Takes receive queue `index`. It is in use until the box is dropped.
    fn rx_queue(&self, index: u16) -> Result<Box<dyn RxQueue>, PmdError>;

    /// Makes a transmit queue for worker number `worker`. Any number of workers may have one at a time; a port with
    /// fewer hardware queues shares them inside.
    fn tx_queue(&self, worker: u16) -> Result<Box<dyn TxQueue>, PmdError>;

    /// Counters of packets that the port sent itself, later than a queue took them, if it ever does that.
    fn late_tx(&self) -> Option<Arc<QueueCounters>> {
        None
    }

    /// Counters of the port's frames that others keep, and that have to be asked for: what a card counts for its virtual function. They go
    /// beside [`PortInfo::counters`]. May wait for the kernel, so it is called by a thread that can, holding no lock of the switch.
    fn counters_elsewhere(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// What holds now for the virtual functions of the card at an address, by number; none unless the port is the driver of its physical
    /// function and it has some. May wait for the card, as [`Port::counters_elsewhere`] may for the kernel.
    fn virtual_functions(&self, card: PciAddress) -> Vec<VfState> {
        let _ = card;
        Vec::new()
    }

    /// Changes the largest payload of a frame.
    fn set_mtu(&self, mtu: u16) -> Result<(), PmdError>;

    /// Changes what may be left to the far side while the port runs; all of it may be at first. Fails for a port that leaves
    /// nothing to its far side, unless nothing is switched off.
    fn set_offloads(&self, offloads: Offloads) -> Result<(), PmdError> {
        if offloads == Offloads::default() {
            return Ok(());
        }
        let driver = self.driver();
        Err(PmdError::Config(format!(
            "options csum, tso, uso and ufo do not apply to type {driver}, which leaves nothing to its far side"
        )))
    }

    /// Hands what the port does to a device that can do it alone, and takes it back: the first of these that works, as the operator names
    /// them; none for none. What does not work is told by [`Port::info`], and the port goes on by itself.
    /// Fails for a name that cannot be, and for a port that has nothing to hand over, unless no device is named.
    fn set_vdpa(&self, devices: &[String]) -> Result<(), PmdError> {
        if devices.is_empty() {
            return Ok(());
        }
        let driver = self.driver();
        Err(PmdError::Config(format!(
            "options vdpa and vdpa-standby do not apply to type {driver}: only the rings of a guest can be handed to a device"
        )))
    }

    /// The operator takes the port down or up again; it is up at first. Whoever polls the queues drops what comes and goes while it is down; what
    /// is left to the port is to let the far side know, if it has a way: a link without carrier.
    fn set_admin(&self, up: bool) {
        let _ = up;
    }

    /// Registers who is told when link, queue count, status or error change. One subscriber; a second replaces it.
    fn subscribe(&self, events: Arc<dyn PortEvents>);
}

/// Told of changes of a port, on any control thread, never on a worker's. Must not block.
pub trait PortEvents: Send + Sync {
    /// [`Port::info`] may say something else now.
    fn port_changed(&self);
}

/// Result of arming a queue's notification.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Armed {
    /// Nothing waits; the queue's descriptor will become readable when something does.
    Idle,
    /// Packets wait already: poll on.
    Work,
}

/// Receiving end, owned by one worker.
pub trait RxQueue: Send {
    /// Receives up to [`crate::packet::BURST`] packets and returns how many. Never blocks.
    ///
    /// Payloads stay valid while the batch lives, which the borrow of `self` for `'q` ensures.
    fn rx_burst<'q>(&'q mut self, batch: &mut Batch<'q>) -> usize;

    /// Returns the source buffers of the last burst. Called once after every [`RxQueue::rx_burst`], even an empty one.
    fn rx_done(&mut self);

    /// Asks the far side to notify, and looks once more. The worker sleeps only if all its queues say
    /// [`Armed::Idle`].
    fn arm(&mut self) -> Armed {
        Armed::Work
    }

    /// Tells the far side that notifications are not needed.
    fn disarm(&mut self) {}

    /// What to wait on, edge-triggered, after [`RxQueue::arm`]. May change when the peer comes or goes, which the waker
    /// announces; the worker keeps the `Arc` while the descriptor is in its epoll set.
    fn wait_fd(&self) -> Option<Arc<OwnedFd>> {
        None
    }

    /// Whether the far side notifies by [`RxQueue::wait_fd`] even while nobody has asked it to, as sockets of the kernel do. Each packet then
    /// costs it a look into the epoll set, so a worker that stays busy takes the descriptor out.
    fn notifies_unasked(&self) -> bool {
        false
    }

    /// Gives the queue a handle to wake its worker when packets may come by another way than before.
    fn set_waker(&mut self, waker: Waker);

    /// Counters of this queue.
    fn counters(&self) -> Arc<QueueCounters>;
}

/// A burst on its way from a queue to a ring, and what sending it takes.
pub struct TxBurst<'a, 'q> {
    /// Where the packets are.
    pub batch: &'a Batch<'q>,
    /// Which of them, in order.
    pub slots: &'a [SlotId],
    /// Does what the far side lacks.
    pub finisher: &'a mut Finisher,
    /// What may be sent.
    pub limits: TxLimits,
    /// Counts what was done, and what was lost.
    pub counters: &'a QueueCounters,
}

/// Sending end, owned by one worker.
pub trait TxQueue: Send {
    /// Sends the packets in `slots`, in order. Never blocks and never keeps a packet's memory: what cannot be sent is dropped and
    /// counted under its reason in [`TxQueue::counters`]. Returns how many were sent. A port may copy packets to send them a little
    /// later; then it counts them itself, see [`Port::late_tx`].
    ///
    /// Packets that need an offload the far side lacks are finished in software here.
    ///
    /// The far side has the packets at once, but is told of them by [`TxQueue::notify`].
    fn tx_burst(&mut self, batch: &Batch<'_>, slots: &[SlotId]) -> usize;

    /// Wakes the far side, if it sleeps, for what was sent since the last call. A worker calls this soon after a burst, in any case
    /// before it sleeps; dropping the queue does it too. False when it could not be done yet and is to be tried again.
    fn notify(&mut self) -> bool {
        true
    }

    /// What is handed on as it is, as far as is known: merging frames to large ones pays only if those are not cut again.
    fn takes(&self) -> Takes {
        Takes::default()
    }

    /// Counters of this queue.
    fn counters(&self) -> Arc<QueueCounters>;
}

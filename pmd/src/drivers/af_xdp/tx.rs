//! Sending: frames are copied into chunks and named in the tx ring; chunks come back by the completion ring.
//!
//! A ring has one putting side. Workers share it by a lock that is only ever tried, taken once per burst: with as many queues as
//! workers nobody waits for it.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use super::rings::{Consumer, Desc, Producer};
use super::umem::{CHUNK, CHUNKS, Umem};
use crate::drivers::netdev::LINK_OVERHEAD;
use crate::offload::Finisher;
use crate::packet::{Batch, Frame, OffloadCaps, SlotId};
use crate::port::{DropReason, QueueCounters, SentBurst, TxQueue};

/// Chunks the longest frame takes: 64 KiB of MTU and its link header.
const MOST_CHUNKS: usize = (65_535 + LINK_OVERHEAD).div_ceil(CHUNK);

/// Looks at the lock of another worker's burst before packets are given up: tens of microseconds.
const SPINS: u32 = 4096;

/// Calls in a row for one notification. A call sends a bounded number of frames in copy mode.
const CALLS: u32 = 16;

/// The sending half of a socket.
pub(super) struct Sender {
    tx: Producer,
    completion: Consumer,
    umem: Umem,
    free: Vec<u64>,
    multi_buffer: bool,
}

impl Sender {
    pub(super) fn new(tx: Producer, completion: Consumer, umem: Umem, multi_buffer: bool) -> Sender {
        Sender { tx, completion, umem, free: Umem::to_send().collect(), multi_buffer }
    }

    /// Takes back chunks whose frames have been sent.
    #[inline]
    fn reclaim(&mut self) {
        let done = self.completion.ready(CHUNKS);
        for ahead in 0..done {
            // No more than there are, whatever the ring says.
            if self.free.len() < CHUNKS as usize {
                self.free.push(self.completion.chunk(ahead));
            }
        }
        self.completion.release(done);
    }

    /// Puts a frame into the ring, to be published.
    #[inline]
    fn put(&mut self, frame: &Frame<'_>) -> Result<(), DropReason> {
        let len = frame.len();
        let count = len.div_ceil(CHUNK).max(1);
        if count > MOST_CHUNKS || count > 1 && !self.multi_buffer {
            return Err(DropReason::TxTooLong);
        }
        if self.free.len() < count {
            self.reclaim();
        }
        if self.free.len() < count || !self.tx.has_room(count as u32) {
            return Err(DropReason::TxRingFull);
        }
        let mut chunks = [0; MOST_CHUNKS];
        let chunks = chunks.get_mut(..count).unwrap_or_default();
        for chunk in &mut *chunks {
            *chunk = self.free.pop().unwrap_or_default();
        }
        self.umem.fill(chunks, frame);
        for (index, &addr) in chunks.iter().enumerate() {
            let left = len - index * CHUNK;
            self.tx.put(Desc { addr, len: left.min(CHUNK) as u32, more: left > CHUNK });
        }
        Ok(())
    }
}

/// The sending half, for all workers.
pub(super) struct Shared {
    pub(super) sender: Mutex<Sender>,
    pub(super) fd: Arc<OwnedFd>,
}

impl Shared {
    fn try_lock(&self) -> Option<MutexGuard<'_, Sender>> {
        for _ in 0..SPINS {
            match self.sender.try_lock() {
                Ok(guard) => return Some(guard),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
            }
        }
        None
    }
}

/// A transmit queue of one worker.
pub(super) struct AfXdpTx {
    shared: Arc<Shared>,
    mtu: Arc<AtomicU16>,
    finisher: Finisher,
    counters: Arc<QueueCounters>,
    /// The kernel has not been told of the last burst.
    owing: bool,
    /// The last call said that the device is down or gone.
    down: bool,
}

impl AfXdpTx {
    pub(super) fn new(shared: Arc<Shared>, mtu: Arc<AtomicU16>) -> AfXdpTx {
        let finisher = Finisher::new();
        AfXdpTx { shared, mtu, finisher, counters: Arc::default(), owing: false, down: false }
    }
}

impl TxQueue for AfXdpTx {
    fn tx_burst(&mut self, batch: &Batch<'_>, slots: &[SlotId]) -> usize {
        let max_frame = usize::from(self.mtu.load(Ordering::Relaxed)) + LINK_OVERHEAD;
        let AfXdpTx { shared, finisher, counters, down, .. } = self;
        let Some(mut sender) = shared.try_lock() else {
            counters.drops.add(DropReason::TxRingBusy, slots.len() as u64);
            return 0;
        };
        // What was sent last is taken first: few chunks are in use, and stay in the caches.
        sender.reclaim();
        let mut sent = SentBurst::default();
        for &slot in slots {
            let frame = batch.frame(slot);
            let len = frame.len() as u64;
            // The kernel does nothing for us on this path: checksums and segments are made here.
            let finished = finisher.send(frame, OffloadCaps::default(), max_frame, |piece| {
                match sender.put(piece) {
                    Err(DropReason::TxRingFull) => {
                        // A few large frames can be more segments than the ring holds before anybody calls the kernel.
                        sender.tx.publish();
                        call(&shared.fd, down);
                        sender.put(piece)
                    }
                    other => other,
                }
            });
            let outcome = finished.map_err(|reason| match reason {
                DropReason::TxRingFull if *down => DropReason::TxLinkDown,
                other => other,
            });
            sent.add_outcome(len, outcome, counters);
        }
        sender.tx.publish();
        drop(sender);
        self.owing = true;
        self.counters.add_sent(sent)
    }

    fn notify(&mut self) -> bool {
        if !self.owing {
            return true;
        }
        let Some(sender) = self.shared.try_lock() else { return false };
        let wanted = sender.tx.wants_wakeup();
        drop(sender);
        self.counters.add_notification(wanted);
        self.owing = wanted && !call(&self.shared.fd, &mut self.down);
        !self.owing
    }

    fn counters(&self) -> Arc<QueueCounters> {
        self.counters.clone()
    }
}

/// Has the kernel send. False when it must be called again. Notes whether the device is down or gone.
fn call(socket: &OwnedFd, down: &mut bool) -> bool {
    for _ in 0..CALLS {
        let result = send(socket, &[], SendFlags::DONTWAIT);
        *down = matches!(result, Err(Errno::NETDOWN | Errno::NXIO | Errno::NODEV));
        match result {
            // It has sent what it does in one call, and there is more.
            Err(Errno::AGAIN) => {}
            Err(Errno::BUSY | Errno::NOBUFS) => return false,
            _ => return true,
        }
    }
    false
}

impl Drop for AfXdpTx {
    fn drop(&mut self) {
        self.notify();
        // What has been sent meanwhile need not wait for the next user of the ring.
        self.shared.sender.lock().unwrap_or_else(PoisonError::into_inner).reclaim();
    }
}

//! Receiving: what the rx ring names is lent to the batch where it lies, and goes back by the fill ring.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::net::sockopt::xdp_statistics;
use rustix::net::{RecvFlags, recv};

use super::rings::{Consumer, Producer};
use super::umem::Umem;
use crate::drivers::parked::Taken;
use crate::packet::{BURST, Batch};
use crate::port::{Armed, DropReason, QueueCounters, RxQueue, Waker};

/// Chunks one burst can lend: ordinary frames have one each, the longest about five.
const LENT: usize = 4 * BURST;

/// Chunks that go back to the kernel together: the lines of the fill ring travel to its CPU and back, with eight chunks each.
const GIVEN_BACK: usize = 2 * BURST;

/// Packets after which the kernel is asked what it has lost.
const PACKETS_PER_LOOK: usize = 1 << 16;

/// The receiving half of a socket.
pub(super) struct Receiver {
    pub(super) fd: Arc<OwnedFd>,
    fill: Producer,
    rx: Consumer,
    umem: Umem,
    /// Chunks of the burst under way, behind those that are still to go back.
    lent: Vec<u64>,
    /// Losses that have been counted.
    lost: Lost,
    since_look: usize,
    /// The last burst was empty.
    quiet: bool,
}

/// What the kernel counts of what it lost, since the socket was made.
#[derive(Clone, Copy, Default)]
struct Lost {
    no_room: u64,
    too_long: u64,
}

impl Receiver {
    pub(super) fn new(fd: Arc<OwnedFd>, fill: Producer, rx: Consumer, umem: Umem) -> Receiver {
        let lent = Vec::with_capacity(LENT + GIVEN_BACK);
        Receiver { fd, fill, rx, umem, lent, lost: Lost::default(), since_look: 0, quiet: true }
    }

    #[inline]
    fn receive<'q>(&'q mut self, batch: &mut Batch<'q>, counters: &QueueCounters) -> usize {
        let Receiver { rx, umem, lent, .. } = self;
        let ready = rx.ready(BURST as u32);
        for ahead in 0..ready.min(BURST as u32) {
            umem.prefetch(rx.desc(ahead).addr);
        }
        let (mut taken, mut bytes) = (0, 0);
        while taken < ready {
            let first = rx.desc(taken);
            let mut pieces = 1;
            let mut more = first.more;
            while more && taken + pieces < ready {
                more = rx.desc(taken + pieces).more;
                pieces += 1;
            }
            // The rest of a frame comes later, or there is no room for all of it now.
            if more || (taken + pieces) as usize > LENT || !batch.has_room(pieces as usize) {
                break;
            }
            match receive_frame(rx, taken, pieces, umem, batch) {
                Ok(len) => bytes += len as u64,
                Err(reason) => counters.drops.add(reason, 1),
            }
            lent.extend((0..pieces).map(|piece| Umem::chunk_of(rx.desc(taken + piece).addr)));
            taken += pieces;
        }
        rx.release(taken);
        self.quiet = taken == 0;
        if !batch.is_empty() {
            counters.add_burst(batch.len() as u64, bytes);
        }
        self.since_look += batch.len();
        batch.len()
    }

    fn give_back(&mut self) {
        if self.lent.is_empty() {
            return;
        }
        for &chunk in &self.lent {
            // There are as many chunks as entries, so there is room.
            if self.fill.has_room(1) {
                self.fill.put_chunk(chunk);
            }
        }
        self.lent.clear();
        self.fill.publish();
    }

    /// Lets the kernel fill chunks, where it waits to be told that there are some.
    fn wake_kernel(&mut self) {
        if self.fill.wants_wakeup() {
            self.give_back();
            let mut nothing = [0; 0];
            let _ = recv(&*self.fd, &mut nothing[..], RecvFlags::DONTWAIT);
        }
    }

    fn count_lost(&mut self, counters: &QueueCounters) {
        self.since_look = 0;
        let Ok(now) = xdp_statistics(&*self.fd) else { return };
        let now = Lost {
            no_room: now.rx_ring_full.unwrap_or(0) + now.rx_fill_ring_empty_descs.unwrap_or(0),
            too_long: now.rx_dropped,
        };
        counters.drops.add(DropReason::RxRingFull, now.no_room.saturating_sub(self.lost.no_room));
        counters.drops.add(DropReason::RxTooLong, now.too_long.saturating_sub(self.lost.too_long));
        self.lost = now;
    }
}

/// Receives the frame of `pieces` descriptors from `at` on. Returns its length.
#[inline]
fn receive_frame<'q>(
    rx: &Consumer,
    at: u32,
    pieces: u32,
    umem: &'q Umem,
    batch: &mut Batch<'q>,
) -> Result<usize, DropReason> {
    let span = |piece| {
        let desc = rx.desc(at + piece);
        umem.received(desc.addr, desc.len).ok_or(DropReason::RxBadDescriptor)
    };
    let first = span(0)?;
    let mut len = first.len();
    if len < 14 {
        return Err(DropReason::RxTooShort);
    }
    if !batch.receive(first) {
        return Err(DropReason::RxNoBuffer);
    }
    for piece in 1..pieces {
        match span(piece) {
            Ok(span) if batch.add_span(span) => len += span.len(),
            other => {
                batch.cancel_packet();
                return Err(other.err().unwrap_or(DropReason::RxNoBuffer));
            }
        }
    }
    Ok(len)
}

/// A receive queue.
pub(super) struct AfXdpRx {
    pub(super) receiver: Taken<Receiver>,
    pub(super) fd: Option<Arc<OwnedFd>>,
    pub(super) counters: Arc<QueueCounters>,
}

impl RxQueue for AfXdpRx {
    #[inline]
    fn rx_burst<'q>(&'q mut self, batch: &mut Batch<'q>) -> usize {
        let Some(receiver) = self.receiver.get() else { return 0 };
        receiver.receive(batch, &self.counters)
    }

    fn rx_done(&mut self) {
        let Some(receiver) = self.receiver.get() else { return };
        if receiver.quiet {
            receiver.wake_kernel();
        } else if receiver.lent.len() >= GIVEN_BACK {
            receiver.give_back();
            if receiver.since_look >= PACKETS_PER_LOOK {
                receiver.count_lost(&self.counters);
            }
        }
    }

    /// The kernel always notifies; what is left is the look, at losses too. While the worker sleeps, the kernel has all chunks.
    fn arm(&mut self) -> Armed {
        let Some(receiver) = self.receiver.get() else { return Armed::Idle };
        receiver.give_back();
        receiver.wake_kernel();
        receiver.count_lost(&self.counters);
        if receiver.rx.ready(1) == 0 { Armed::Idle } else { Armed::Work }
    }

    fn wait_fd(&self) -> Option<Arc<OwnedFd>> {
        self.fd.clone()
    }

    fn notifies_unasked(&self) -> bool {
        true
    }

    fn set_waker(&mut self, _waker: Waker) {}

    fn counters(&self) -> Arc<QueueCounters> {
        self.counters.clone()
    }
}

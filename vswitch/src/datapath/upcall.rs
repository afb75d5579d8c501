//! The way out of the fast path: packets no megaflow knows.
//!
//! ```text
//!  worker ─▶ room? ─▶ one bounded queue for all workers ─▶ a line per port ─▶ batches, ports in turn
//! ```
//!
//! Fair on the way in: a port may have [`PORT_SHARE`] chunks of packet memory waiting, and no more than what all ports
//! together leave free of [`ROOM`]. So a port that misses without end loses its own packets only, and there is room for
//! one that comes late. Fair on the way out: ports are served in turn, so a single miss is in the next batch whatever
//! others do. Memory is what is counted, not packets, because a 64 KB frame takes as much of the pool as 32 small ones.
//!
//! A worker that finds no room drops the packet and goes on.
//!
//! Cost of an upcall for the worker: one copy of the packet, three atomic operations, and a system call when the
//! slow path sleeps. The counts of waiting chunks are lowered once per batch, so their lines mostly stay with the worker.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use flowtable::key::FlowKey;
use pmd::packet::{CHUNK, OwnedPacket};
use pmd::port::Waker;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::backlog::Backlog;

/// Chunks of packet memory that may wait, all ports together: half of the switch's pool.
pub const ROOM: u32 = 16 * 1024;

/// Packets on their way from the workers to the slow path's lines. Each has at least one chunk, so this is full no sooner than
/// [`ROOM`] is used up, and no port finds the queue full because of others that are within their shares.
const QUEUE_LEN: usize = ROOM as usize;

/// Chunks that one port may have waiting. More than 10 ms of small packets at 300 000 new flows a second.
pub const PORT_SHARE: u32 = 4096;

/// Upcalls in a batch.
pub const BATCH: usize = 256;

/// A batch at least this large says that more will come at once.
const BUSY: usize = 16;

/// How long the slow path then waits before it looks again, without asking to be woken. On a core that it shares, each
/// waking costs two context switches; so they are paid per some tens of packets and not per burst. The kernel adds its timer slack.
const GATHER: Duration = Duration::from_micros(50);

/// Ports with a share and a line of their own; higher numbers share by their low bits.
const SHARES: usize = 1024;

/// A packet that needs a decision.
pub struct Upcall {
    /// Worker that received the packet and will carry it on.
    pub worker: u16,
    /// The whole key; `key.in_port` is the datapath port.
    pub key: FlowKey,
    /// The packet, made whole.
    pub packet: OwnedPacket,
}

impl Upcall {
    /// Chunks of the pool it holds.
    fn chunks(&self) -> u32 {
        self.packet.len().div_ceil(CHUNK).max(1) as u32
    }
}

/// A counter on a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
struct Apart(AtomicU32);

struct Shared {
    queue: ArrayQueue<Upcall>,
    /// Chunks that wait, by port.
    waiting: Box<[AtomicU32]>,
    /// Chunks that wait, all together.
    total: Apart,
    asleep: AtomicBool,
    waker: Waker,
}

/// A worker's end.
#[derive(Clone)]
pub struct UpcallSender {
    shared: Arc<Shared>,
}

/// The slow path's end.
pub struct UpcallReceiver {
    shared: Arc<Shared>,
    backlog: Backlog,
    /// The last batch was a large one.
    busy: bool,
}

/// Makes the queue.
pub fn upcall_queue() -> io::Result<(UpcallSender, UpcallReceiver)> {
    let shared = Arc::new(Shared {
        queue: ArrayQueue::new(QUEUE_LEN),
        waiting: (0..SHARES).map(|_| AtomicU32::new(0)).collect(),
        total: Apart::default(),
        asleep: AtomicBool::new(false),
        waker: Waker::new()?,
    });
    let receiver = UpcallReceiver { shared: shared.clone(), backlog: Backlog::new(SHARES), busy: false };
    Ok((UpcallSender { shared }, receiver))
}

impl Shared {
    fn share(&self, in_port: u32) -> &AtomicU32 {
        &self.waiting[in_port as usize % SHARES]
    }

    fn count(&self, in_port: u32, chunks: u32) {
        self.share(in_port).fetch_add(chunks, Ordering::Relaxed);
        self.total.0.fetch_add(chunks, Ordering::Relaxed);
    }

    fn discount(&self, in_port: u32, chunks: u32) {
        self.share(in_port).fetch_sub(chunks, Ordering::Relaxed);
        self.total.0.fetch_sub(chunks, Ordering::Relaxed);
    }
}

impl UpcallSender {
    /// Whether the port has room left. A worker asks before it copies the packet.
    pub fn has_room(&self, in_port: u32) -> bool {
        let free = ROOM.saturating_sub(self.shared.total.0.load(Ordering::Relaxed));
        self.shared.share(in_port).load(Ordering::Relaxed) < PORT_SHARE.min(free)
            && !self.shared.queue.is_full()
    }

    /// Whether packets wait for the slow path.
    #[inline]
    pub fn waiting(&self) -> bool {
        self.shared.total.0.load(Ordering::Relaxed) != 0
    }

    /// Queues an upcall. False when there is no room: the packet is gone, and the worker counts it.
    pub fn send(&self, upcall: Upcall) -> bool {
        let (in_port, chunks) = (upcall.key.in_port, upcall.chunks());
        // Counted before the push, so that the receiver never takes the share below zero.
        self.shared.count(in_port, chunks);
        let queued = self.shared.queue.push(upcall).is_ok();
        if !queued {
            self.shared.discount(in_port, chunks);
        }
        queued
    }

    /// Wakes the slow path if it sleeps. A worker calls this once after a burst with upcalls.
    pub fn notify(&self) {
        // Either we see that it sleeps or it sees what we queued: both sides have a full fence in between.
        fence(Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::Relaxed) && self.shared.asleep.swap(false, Ordering::SeqCst) {
            self.shared.waker.wake();
        }
    }
}

impl UpcallReceiver {
    /// Adds waiting upcalls to `out`, up to [`BATCH`], ports in turn; waits at most `timeout` for the first. Returns early,
    /// maybe with nothing, when [`UpcallReceiver::waker`] is used.
    pub fn receive(&mut self, out: &mut Vec<Upcall>, timeout: Duration) {
        if self.take(out) {
            return;
        }
        if std::mem::take(&mut self.busy) && !timeout.is_zero() {
            std::thread::sleep(GATHER.min(timeout)); // tidy: the slow path waits, not a worker
            if self.take(out) {
                return;
            }
        }
        self.shared.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if !self.take(out) {
            self.wait(timeout);
            self.take(out);
        }
        self.shared.asleep.store(false, Ordering::SeqCst);
    }

    /// A number for [`UpcallReceiver::has_served`]: later than every upcall that waits now.
    pub fn ticket(&self) -> u64 {
        self.backlog.arrived() + self.shared.queue.len() as u64
    }

    /// Whether every upcall from before the ticket has been received.
    pub fn has_served(&self, ticket: u64) -> bool {
        self.backlog.oldest() >= ticket
    }

    /// Interrupts [`UpcallReceiver::receive`] from any thread.
    pub fn waker(&self) -> Waker {
        self.shared.waker.clone()
    }

    fn take(&mut self, out: &mut Vec<Upcall>) -> bool {
        // Not until it is empty: workers may fill it as fast as we do this.
        for _ in 0..self.shared.queue.len() {
            let Some(upcall) = self.shared.queue.pop() else { break };
            self.backlog.push(upcall);
        }
        if self.backlog.len() == 0 {
            return false;
        }
        let (shared, before) = (&self.shared, out.len());
        // Upcalls of a port come together: their chunks are given back together.
        let (mut port, mut chunks) = (0, 0);
        self.backlog.take(BATCH, |upcall| {
            if upcall.key.in_port != port {
                shared.discount(port, chunks);
                (port, chunks) = (upcall.key.in_port, 0);
            }
            chunks += upcall.chunks();
            out.push(upcall);
        });
        shared.discount(port, chunks);
        self.busy = out.len() - before >= BUSY;
        true
    }

    fn wait(&self, timeout: Duration) {
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let mut fds = [PollFd::from_borrowed_fd(self.shared.waker.as_fd(), PollFlags::IN)];
        // An interrupted or failed wait only means looking at the queue early.
        let _ = poll(&mut fds, Some(&timeout));
        self.shared.waker.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pmd::packet::Pool;

    fn upcall(pool: &'static Pool, in_port: u32) -> Upcall {
        let mut cache = pool.cache();
        let packet = OwnedPacket::from_bytes(&[0; 60], &mut cache).unwrap();
        Upcall { worker: 0, key: FlowKey { in_port, ..FlowKey::default() }, packet }
    }

    #[test]
    fn one_port_cannot_take_all_the_room() {
        let pool = Pool::create(8192).unwrap();
        let (tx, mut rx) = upcall_queue().unwrap();
        for _ in 0..PORT_SHARE {
            assert!(tx.has_room(1));
            assert!(tx.send(upcall(pool, 1)));
        }
        assert!(!tx.has_room(1));
        assert!(tx.has_room(2));
        let mut out = Vec::new();
        rx.receive(&mut out, Duration::ZERO);
        assert_eq!(out.len(), BATCH);
        assert!(tx.has_room(1));
    }

    #[test]
    fn a_single_miss_is_in_the_next_batch_whatever_others_do() {
        let pool = Pool::create(ROOM).unwrap();
        let (tx, mut rx) = upcall_queue().unwrap();
        let mut out = Vec::new();
        for round in 0..50 {
            // Two ports fill their shares again as soon as there is room.
            for port in [1, 2] {
                while tx.has_room(port) && tx.send(upcall(pool, port)) {}
            }
            assert!(!tx.has_room(1), "the storm fills its share");
            assert!(tx.has_room(3) && tx.send(upcall(pool, 3)), "round {round}");
            out.clear();
            rx.receive(&mut out, Duration::ZERO);
            let of = |port| out.iter().filter(|upcall| upcall.key.in_port == port).count();
            assert_eq!(of(3), 1, "round {round}");
            assert!(of(1) >= 96 && of(2) >= 96, "round {round}: {} and {}", of(1), of(2));
        }
    }

    #[test]
    fn many_storms_leave_room_for_one_more_port() {
        let pool = Pool::create(ROOM).unwrap();
        let (tx, mut rx) = upcall_queue().unwrap();
        let mut out = Vec::new();
        for _ in 0..200 {
            for port in 1..100 {
                while tx.has_room(port) && tx.send(upcall(pool, port)) {}
            }
            rx.receive(&mut out, Duration::ZERO);
            out.clear();
        }
        assert!(tx.has_room(200));
        assert!(tx.send(upcall(pool, 200)));
    }

    #[test]
    fn large_frames_count_for_what_they_take() {
        let pool = Pool::create(8192).unwrap();
        let (tx, mut rx) = upcall_queue().unwrap();
        let mut cache = pool.cache();
        let frame = vec![0; 32 * CHUNK];
        let mut sent = 0;
        while tx.has_room(1) {
            let packet = OwnedPacket::from_bytes(&frame, &mut cache).unwrap();
            assert!(tx.send(Upcall { packet, ..upcall(pool, 1) }));
            sent += 1;
        }
        assert_eq!(sent, PORT_SHARE / 32);
        let mut out = Vec::new();
        rx.receive(&mut out, Duration::ZERO);
        assert_eq!(rx.shared.total.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_ticket_is_served_when_all_before_it_are() {
        let pool = Pool::create(2048).unwrap();
        let (tx, mut rx) = upcall_queue().unwrap();
        for _ in 0..600 {
            assert!(tx.send(upcall(pool, 1)));
        }
        let ticket = rx.ticket();
        assert!(!rx.has_served(ticket));
        let mut out = Vec::new();
        let mut batches = 0;
        while !rx.has_served(ticket) {
            // What comes later and is served earlier does not count.
            assert!(tx.send(upcall(pool, 2)));
            rx.receive(&mut out, Duration::ZERO);
            batches += 1;
        }
        assert_eq!(out.iter().filter(|upcall| upcall.key.in_port == 1).count(), 600);
        assert!(batches >= 3);
    }

    #[test]
    fn a_sleeping_receiver_is_woken() {
        let pool = Pool::create(64).unwrap();
        let (tx, mut rx) = upcall_queue().unwrap();
        let receiver = std::thread::spawn(move || {
            let mut out = Vec::new();
            while out.is_empty() {
                rx.receive(&mut out, Duration::from_secs(60));
            }
            out.len()
        });
        assert!(tx.send(upcall(pool, 1)));
        tx.notify();
        assert_eq!(receiver.join().unwrap(), 1);
    }
}

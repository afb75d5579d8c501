//! The way out of the fast path: packets no megaflow knows.
//!
//! One bounded queue for all workers. Fairness is enforced on the way in: a port may have at most
//! [`PORT_SHARE`] packets waiting, so a port that misses without end fills its share and loses its own packets
//! only. A worker that finds no room drops the packet and goes on.
//!
//! Cost of an upcall for the worker: one copy of the packet, two atomic operations, and a system call when the
//! slow path sleeps.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use flowtable::key::FlowKey;
use pmd::packet::OwnedPacket;
use pmd::port::Waker;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Packets that may wait, all ports together.
pub const QUEUE_LEN: usize = 4096;

/// Packets of one port that may wait.
pub const PORT_SHARE: u32 = 256;

/// Ports with a share of their own; higher numbers share by their low bits.
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

struct Shared {
    queue: ArrayQueue<Upcall>,
    waiting: Box<[AtomicU32]>,
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
}

/// Makes the queue.
pub fn upcall_queue() -> io::Result<(UpcallSender, UpcallReceiver)> {
    let shared = Arc::new(Shared {
        queue: ArrayQueue::new(QUEUE_LEN),
        waiting: (0..SHARES).map(|_| AtomicU32::new(0)).collect(),
        asleep: AtomicBool::new(false),
        waker: Waker::new()?,
    });
    Ok((UpcallSender { shared: shared.clone() }, UpcallReceiver { shared }))
}

impl Shared {
    fn share(&self, in_port: u32) -> &AtomicU32 {
        &self.waiting[in_port as usize % SHARES]
    }
}

impl UpcallSender {
    /// Whether the port has room left. A worker asks before it copies the packet.
    pub fn has_room(&self, in_port: u32) -> bool {
        self.shared.share(in_port).load(Ordering::Relaxed) < PORT_SHARE && !self.shared.queue.is_full()
    }

    /// Queues an upcall. False when there is no room: the packet is gone, and the worker counts it.
    pub fn send(&self, upcall: Upcall) -> bool {
        let in_port = upcall.key.in_port;
        // Counted before the push, so that the receiver never takes the share below zero.
        self.shared.share(in_port).fetch_add(1, Ordering::Relaxed);
        let queued = self.shared.queue.push(upcall).is_ok();
        if !queued {
            self.shared.share(in_port).fetch_sub(1, Ordering::Relaxed);
        }
        queued
    }

    /// Wakes the slow path if it sleeps. A worker calls this once after a burst with upcalls.
    pub fn notify(&self) {
        if self.shared.asleep.swap(false, Ordering::SeqCst) {
            self.shared.waker.wake();
        }
    }
}

impl UpcallReceiver {
    /// Moves waiting upcalls to `out`, up to its capacity's worth of 256 at once; waits at most `timeout` for the first.
    /// Returns early, maybe with nothing, when [`UpcallReceiver::waker`] is used.
    pub fn receive(&self, out: &mut Vec<Upcall>, timeout: Duration) {
        if self.drain(out) {
            return;
        }
        self.shared.asleep.store(true, Ordering::SeqCst);
        if !self.drain(out) {
            self.wait(timeout);
            self.drain(out);
        }
        self.shared.asleep.store(false, Ordering::SeqCst);
    }

    /// Upcalls that wait now.
    pub fn waiting(&self) -> usize {
        self.shared.queue.len()
    }

    /// Interrupts [`UpcallReceiver::receive`] from any thread.
    pub fn waker(&self) -> Waker {
        self.shared.waker.clone()
    }

    fn drain(&self, out: &mut Vec<Upcall>) -> bool {
        let before = out.len();
        while out.len() - before < 256 {
            let Some(upcall) = self.shared.queue.pop() else { break };
            self.shared.share(upcall.key.in_port).fetch_sub(1, Ordering::Relaxed);
            out.push(upcall);
        }
        out.len() != before
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
        let pool = Pool::create(1024).unwrap();
        let (tx, rx) = upcall_queue().unwrap();
        for _ in 0..PORT_SHARE {
            assert!(tx.has_room(1));
            assert!(tx.send(upcall(pool, 1)));
        }
        assert!(!tx.has_room(1));
        assert!(tx.has_room(2));
        let mut out = Vec::new();
        rx.receive(&mut out, Duration::ZERO);
        assert_eq!(out.len(), 256);
        assert!(tx.has_room(1));
    }

    #[test]
    fn a_sleeping_receiver_is_woken() {
        let pool = Pool::create(64).unwrap();
        let (tx, rx) = upcall_queue().unwrap();
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

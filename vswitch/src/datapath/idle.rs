//! When a worker sleeps: spin, then arm every queue's notification, then wait on all of them at once.
//!
//! A queue that has just been busy is likely to be busy again, so the worker polls for [`IdlePolicy::spin`]
//! after the last packet. Then it asks every queue to notify it ([`pmd::port::RxQueue::arm`]); a queue that has work already
//! says so and the worker polls on. Only then does it wait in `epoll`, without a timeout: kicks, TAP readiness,
//! commands and port changes all arrive as descriptors.
//!
//! Sockets of the kernel notify whether asked or not, and being in a set costs their senders time. A worker that stays busy takes them
//! out; they come back before it sleeps, and what has come meanwhile is reported then (`docs/decisions/0012-kernel-devices.md`).
//!
//! Descriptors are edge-triggered and never read: a kick eventfd belongs to the guest's side, which could
//! make a read block.
//!
//! After milliseconds of sleep caches and TLB are cold, and each queue looked at costs microseconds. So a descriptor carries the place of its
//! queue, and whoever ended the sleep is served before anybody else is looked at.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use pmd::port::Waker;
use rustix::event::epoll;

/// When a worker may sleep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdlePolicy {
    /// How long a worker polls after its last packet before it arms notifications.
    pub spin: Duration,
    /// Never sleep: a whole core for the lowest latency.
    pub always_poll: bool,
}

impl Default for IdlePolicy {
    fn default() -> Self {
        // Longer than a round trip through a guest's interrupt handler, far shorter than a scheduler tick.
        IdlePolicy { spin: Duration::from_micros(60), always_poll: false }
    }
}

/// What the descriptor carries that is no queue's.
const NO_QUEUE: u64 = u64::MAX;

/// Room for events of one wait. More of them come with the next.
pub(super) type Events = [MaybeUninit<epoll::Event>; 8];

/// The worker's epoll set.
pub(super) struct EventSet {
    epoll: OwnedFd,
}

impl EventSet {
    pub(super) fn new(waker: &Waker) -> io::Result<EventSet> {
        let set = EventSet { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)? };
        set.add(waker, NO_QUEUE)?;
        Ok(set)
    }

    fn add(&self, fd: impl AsFd, data: u64) -> io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(data), flags)?)
    }

    /// Makes the set contain `wanted` where it contained `held` for the queue at `place`. The old descriptor leaves the set while
    /// the `Arc` still keeps it open, so that no stale entry remains.
    pub(super) fn update(
        &self,
        held: &mut Option<Arc<OwnedFd>>,
        wanted: Option<Arc<OwnedFd>>,
        place: usize,
    ) -> io::Result<()> {
        let same = match (held.as_ref(), wanted.as_ref()) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        if same {
            return Ok(());
        }
        self.leave(held);
        if let Some(new) = wanted {
            self.add(&*new, place as u64)?;
            *held = Some(new);
        }
        Ok(())
    }

    /// Takes what the set contains for one queue out of it. A queue that gets another place leaves too, and comes back with that.
    pub(super) fn leave(&self, held: &mut Option<Arc<OwnedFd>>) {
        if let Some(old) = held.take() {
            let _ = epoll::delete(&self.epoll, &*old);
        }
    }

    /// Waits for any event, without end. A signal ends the wait too. Gives the places of queues that are known to have rung; others may have.
    pub(super) fn wait<'a>(&self, events: &'a mut Events) -> impl Iterator<Item = usize> + use<'a> {
        let rung =
            epoll::wait(&self.epoll, events, None).map_or_else(|_| Default::default(), |(rung, _)| rung);
        rung.iter().filter_map(|event| usize::try_from(event.data.u64()).ok())
    }
}

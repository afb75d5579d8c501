//! The thread that looks after a card.
//!
//! It sleeps until the card says that its link has changed, a worker meets a fault, or the kernel wants the card back; and looks by itself once
//! a second, because a card that hangs says nothing.
//!
//! A card with a fault is restarted, at once the first time and after that at every tick, for as long as it takes: a port that fails is
//! reported, not given up.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::model::{Card, Fault, TxRing};
use super::port::{Inner, lock};
use crate::port::PmdError;

/// Ticks that a transmit ring may have frames and send none, with a link, before the card counts as stuck.
const STUCK_TICKS: u32 = 5;

/// What wakes the watch.
pub(super) struct Signal {
    event: OwnedFd,
    stop: AtomicBool,
}

impl Signal {
    pub(super) fn new(event: OwnedFd) -> Signal {
        Signal { event, stop: AtomicBool::new(false) }
    }

    /// Has the watch look now.
    pub(super) fn ring(&self) {
        // A full counter means that it is awake already.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }
}

/// The thread; ended when dropped.
pub(super) struct Watch {
    signal: Arc<Signal>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts it.
    pub(super) fn start<C: Card>(
        inner: Arc<Inner<C>>,
        tick: Duration,
        signal: Arc<Signal>,
        removal: Arc<OwnedFd>,
    ) -> Result<Watch, PmdError> {
        let watcher =
            Watcher { idle_ticks: vec![(0, 0); inner.tx.len()], inner, signal: signal.clone(), removal };
        let thread = thread::Builder::new()
            .name("nic-watch".into())
            .spawn(move || watcher.run(tick))
            .map_err(|e| PmdError::system("starting the thread that watches a card", "", e))?;
        Ok(Watch { signal, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.signal.stop.store(true, Ordering::Release);
        self.signal.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Watcher<C: Card> {
    inner: Arc<Inner<C>>,
    signal: Arc<Signal>,
    removal: Arc<OwnedFd>,
    /// Of each transmit ring: descriptors done at the last tick, ticks without a new one.
    idle_ticks: Vec<(u64, u32)>,
}

impl<C: Card> Watcher<C> {
    fn run(mut self, tick: Duration) {
        let timeout = Timespec { tv_sec: tick.as_secs() as i64, tv_nsec: i64::from(tick.subsec_nanos()) };
        loop {
            let link =
                self.inner.events.first().map_or_else(|| self.signal.event.as_fd(), |event| event.as_fd());
            let mut fds = [
                PollFd::new(&self.signal.event, PollFlags::IN),
                PollFd::from_borrowed_fd(link, PollFlags::IN),
                PollFd::from_borrowed_fd(self.removal.as_fd(), PollFlags::IN),
            ];
            let ticked = matches!(poll(&mut fds, Some(&timeout)), Ok(0));
            let removed = fds[2].revents().contains(PollFlags::IN);
            if self.signal.stop.load(Ordering::Acquire) {
                return;
            }
            clear(&self.signal.event);
            if let Some(event) = self.inner.events.first() {
                clear(event);
            }
            if removed {
                self.let_go();
                return;
            }
            self.look(ticked);
        }
    }

    /// Looks at link and health, and restarts a card that has a fault.
    fn look(&mut self, ticked: bool) {
        let found = {
            let mut opened = lock(&self.inner.opened);
            let Some(opened) = opened.as_mut() else { return };
            let fault = opened.card.fault();
            // What a faulty card says of its link is worth nothing.
            (fault, if fault.is_some() { Default::default() } else { opened.card.link() })
        };
        let (fault, link) = found;
        self.inner.link_is(link);
        let stuck = ticked && link.up && self.is_stuck();
        let fault = fault.or_else(|| self.inner.ring_fault()).or_else(|| stuck.then_some(Fault::Stuck));
        // A restart that failed is tried again at each tick.
        let failed = ticked && lock(&self.inner.health).error.is_some();
        if fault.is_some() || failed {
            self.restart(fault);
        }
    }

    fn is_stuck(&mut self) -> bool {
        let mut stuck = false;
        for (cell, (done, idle)) in self.inner.tx.iter().zip(&mut self.idle_ticks) {
            let Some(mut guard) = cell.try_lock() else { continue };
            let Some(ring) = guard.as_mut() else { continue };
            // Nobody may have sent since; then nobody has looked either.
            let (now, outstanding) = match ring.progress() {
                Ok(progress) => progress,
                Err(fault) => {
                    cell.report(fault);
                    continue;
                }
            };
            *idle = if outstanding > 0 && now == *done { *idle + 1 } else { 0 };
            *done = now;
            stuck |= *idle >= STUCK_TICKS;
        }
        stuck
    }

    fn restart(&mut self, fault: Option<Fault>) {
        let name = self.inner.name();
        if let Some(fault) = fault {
            log::warn!("{name}: the card is restarted: {fault}");
        }
        self.idle_ticks.fill((0, 0));
        let restarted = self.inner.restart();
        {
            let mut health = lock(&self.inner.health);
            health.restarts += 1;
            health.error = restarted.err().map(|error| {
                format!("the card does not come back after a fault ({error}); it is tried again")
            });
        }
        self.inner.subscriber.notify();
    }

    /// Gives the card to the kernel, which waits for it.
    fn let_go(&self) {
        log::warn!("{}: the card is being removed", self.inner.name());
        self.inner.close();
        {
            let mut health = lock(&self.inner.health);
            health.gone = true;
            health.error = Some("the card has been removed".into());
        }
        self.inner.subscriber.notify();
    }
}

fn clear(event: &OwnedFd) {
    let mut count = [0; 8];
    let _ = rustix::io::read(event, &mut count);
}

//! The thread that relays a port's rings.
//!
//! It goes round all rings as long as any has something to do. Then it asks all of them to tell of what comes next, and sleeps until an
//! eventfd says so: a guest's kick, the device's interrupt, or the end. Descriptors are edge-triggered and never read, as in
//! a worker: what is kicked for is found in the ring.
//!
//! Once a second it looks although nobody said anything, in case an interrupt was lost: that is all it costs while nothing happens.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use pmd::port::Waker;
use pmd::sys::sigbus::Alarm;
use rustix::event::{Timespec, epoll};

use super::super::Doorbell;
use super::fault::{DeviceFault, ShadowFault};
use super::relay::Settled;
use super::rings::{Line, ShadowRings};
use crate::ring::{Direction, RingFault, RingState};

/// Most chains of a ring that are taken before it is another's turn.
const BUDGET: u16 = 64;
/// Time between looks that nobody asked for; for rings without a kick descriptor.
const LOOK: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
const POLL: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// What the relay has counted. Frames that fill several buffers count as many.
#[derive(Default, Debug)]
pub(crate) struct RelayCounters {
    /// Buffers that came back to the guest with a frame, and after their frame was sent.
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
    /// Times the device had used buffers and said nothing.
    pub(crate) lost_interrupts: AtomicU64,
}

impl RelayCounters {
    /// The one for chains of a direction.
    fn of(&self, direction: Direction) -> &AtomicU64 {
        match direction {
            Direction::Read => &self.sent,
            Direction::Write => &self.received,
        }
    }
}

/// What the thread shares with who started it.
struct Common {
    wake: Waker,
    stop: AtomicBool,
    fault: Mutex<Option<DeviceFault>>,
    counters: Arc<RelayCounters>,
    /// Rung for a device's fault.
    alarm: Arc<Alarm>,
    /// What the thread waits for.
    events: OwnedFd,
    /// A ring has no kick descriptor.
    polled: AtomicBool,
}

/// The running relay of a port. To be ended by [`Relay::stop`]; dropped without that, it ends and leaves the rings as they are, which
/// loses what is under way for nobody: it is taken again.
pub(crate) struct Relay {
    common: Arc<Common>,
    /// What each ring is kicked by.
    kicks: Vec<Option<Arc<OwnedFd>>>,
    thread: Option<JoinHandle<Vec<Line>>>,
}

impl Relay {
    /// Relays these rings from now on. The doorbells are those of the started device's rings, in the same order. `alarm` is rung when
    /// a guest or the device breaks the rules: see [`Relay::fault`].
    pub(crate) fn start(
        port: &str,
        rings: ShadowRings,
        doorbells: Vec<Arc<dyn Doorbell>>,
        counters: Arc<RelayCounters>,
        alarm: &Arc<Alarm>,
    ) -> io::Result<Relay> {
        let mut lines = rings.lines;
        let kicks: Vec<_> = lines.iter_mut().map(|line| line.guest.kick.take()).collect();
        let wake = Waker::new()?;
        let common = Arc::new(Common {
            events: event_set(&wake, &lines, &kicks)?,
            polled: AtomicBool::new(kicks.iter().any(Option::is_none)),
            wake,
            stop: AtomicBool::new(false),
            fault: Mutex::default(),
            counters,
            alarm: Arc::clone(alarm),
        });
        let theirs = Arc::clone(&common);
        let thread = std::thread::Builder::new().name(format!("shadow:{port}"));
        let mut run = Run { lines, doorbells, common: theirs };
        let thread = thread.spawn(move || {
            run.run();
            run.lines
        })?;
        Ok(Relay { common, kicks, thread: Some(thread) })
    }

    /// Why the device is not to be used any more. The relay has stood still since.
    pub(crate) fn fault(&self) -> Option<DeviceFault> {
        *self.common.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A ring is kicked by another descriptor from now on, or polled. It is looked at once in any case.
    pub(crate) fn set_kick(&mut self, at: usize, kick: Option<&Arc<OwnedFd>>) -> io::Result<()> {
        let Some(known) = self.kicks.get_mut(at) else { return Ok(()) };
        let old = std::mem::replace(known, kick.cloned());
        let same = |other: &Arc<OwnedFd>| old.as_ref().is_some_and(|old| Arc::ptr_eq(old, other));
        if let Some(old) = &old
            && !self.kicks.iter().flatten().any(same)
        {
            epoll::delete(&self.common.events, &**old)?;
        }
        listen(&self.common.events, kick.map(|kick| &**kick))?;
        self.common.polled.store(self.kicks.iter().any(Option::is_none), Ordering::Relaxed);
        self.wake();
        Ok(())
    }

    /// Has it look at all rings: something about them was changed.
    pub(crate) fn wake(&self) {
        self.common.wake.wake();
    }

    /// Ends it. The device must have stopped. What it had used by then has been given back; each ring goes on where the rest begins.
    pub(crate) fn stop(mut self) -> Settled {
        let mut all = Settled::default();
        for Line { guest, shadow, .. } in self.end() {
            let mut state = guest.vring.lock();
            let RingState { ring: Some(ring), written, .. } = &mut *state else { continue };
            let settled = shadow.stop(ring, written.as_mut());
            let Settled { returned, rewound, sent_again, returned_empty } = settled;
            self.common.counters.of(guest.direction).fetch_add(returned, Ordering::Relaxed);
            all.returned += returned;
            all.rewound += rewound;
            all.sent_again += sent_again;
            all.returned_empty += returned_empty;
        }
        all
    }

    fn end(&mut self) -> Vec<Line> {
        self.common.stop.store(true, Ordering::Release);
        self.common.wake.wake();
        // A thread that panicked was a bug, and has said so.
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.end();
    }
}

/// All that the thread waits for.
fn event_set(wake: &Waker, lines: &[Line], kicks: &[Option<Arc<OwnedFd>>]) -> io::Result<OwnedFd> {
    let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&set, wake, epoll::EventData::new_u64(0), EDGES)?;
    for (line, kick) in lines.iter().zip(kicks) {
        epoll::add(&set, &*line.call, epoll::EventData::new_u64(0), EDGES)?;
        listen(&set, kick.as_deref())?;
    }
    Ok(set)
}

/// Waits for a kick as well.
fn listen(set: &OwnedFd, kick: Option<&OwnedFd>) -> io::Result<()> {
    match kick.map(|kick| epoll::add(set, kick, epoll::EventData::new_u64(0), EDGES)) {
        // One descriptor for several rings.
        None | Some(Ok(()) | Err(rustix::io::Errno::EXIST)) => Ok(()),
        Some(Err(e)) => Err(e.into()),
    }
}

const EDGES: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::ET);

/// What the thread has.
struct Run {
    lines: Vec<Line>,
    doorbells: Vec<Arc<dyn Doorbell>>,
    common: Arc<Common>,
}

impl Run {
    fn run(&mut self) {
        // Whether it is the clock that ended the wait.
        let mut unasked = false;
        while !self.common.stop.load(Ordering::Acquire) {
            let busy = self.round(unasked);
            unasked = false;
            if !busy && !self.arm() {
                unasked = self.wait();
            }
        }
    }

    /// Goes round all rings once. True when any had something to do.
    fn round(&mut self, unasked: bool) -> bool {
        let mut busy = false;
        for (line, doorbell) in self.lines.iter_mut().zip(&self.doorbells) {
            busy |= line.pass(&**doorbell, &self.common, unasked);
        }
        busy
    }

    /// Asks all rings to tell. True when one has something to do already.
    fn arm(&mut self) -> bool {
        let mut busy = false;
        for line in &mut self.lines {
            let mut state = line.guest.vring.lock();
            if let Some(ring) = &mut state.ring {
                busy |= line.shadow.arm(ring, line.guest.vring.fault().is_none());
            }
        }
        busy
    }

    /// Waits for any event. True when none came for a long time.
    fn wait(&self) -> bool {
        let mut events = [MaybeUninit::uninit(); 8];
        let polled = self.common.polled.load(Ordering::Relaxed);
        let patience = if polled { &POLL } else { &LOOK };
        match epoll::wait(&self.common.events, &mut events, Some(patience)) {
            Ok((events, _)) => events.is_empty() && !polled,
            Err(_) => false,
        }
    }
}

impl Line {
    /// Relays once. True when there was something to do.
    fn pass(&mut self, doorbell: &dyn Doorbell, common: &Common, unasked: bool) -> bool {
        let vring = &self.guest.vring;
        let mut state = vring.lock();
        let RingState { ring: Some(ring), written, .. } = &mut *state else { return false };
        if vring.memory_gone() && vring.fault().is_none() {
            vring.break_down(RingFault::MemoryGone);
        }
        let budget = if vring.fault().is_some() { 0 } else { BUDGET };
        let relayed = self.shadow.relay(ring, written.as_mut(), budget);
        match relayed.fault {
            Some(ShadowFault::Guest(fault)) if vring.fault().is_none() => vring.break_down(fault),
            Some(ShadowFault::Device(fault)) => common.report(fault),
            _ => {}
        }
        drop(state);
        if relayed.kick {
            doorbell.ring();
        }
        let counters = &common.counters;
        if relayed.returned > 0 {
            counters.of(self.guest.direction).fetch_add(relayed.returned.into(), Ordering::Relaxed);
            counters.lost_interrupts.fetch_add(u64::from(unasked), Ordering::Relaxed);
        }
        !relayed.idle() && relayed.fault.is_none()
    }
}

impl Common {
    /// The device broke the rules. The first fault is the one that is told.
    fn report(&self, fault: DeviceFault) {
        let mut known = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() {
            *known = Some(fault);
            drop(known);
            self.alarm.ring();
        }
    }
}

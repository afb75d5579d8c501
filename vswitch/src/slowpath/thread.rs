//! The slow path's thread.

use std::io;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::engine::{Engine, Limits};
use super::handle::{Request, SlowPathHandle};
use super::revalidate::{CROWDED_SLICE, SLICE};
use super::sinks::SinkList;
use crate::bridge::Bridges;
#[cfg(test)]
use crate::datapath::Upcall;
use crate::datapath::UpcallReceiver;
use crate::datapath::upcall::BATCH;

/// Starts the slow path.
pub struct SlowPath;

impl SlowPath {
    /// Starts the thread with the default [`Limits`], on the clock of `bridges`.
    pub fn start(
        bridges: Arc<Bridges>,
        upcalls: UpcallReceiver,
        sinks: SinkList,
    ) -> io::Result<SlowPathHandle> {
        SlowPath::start_with(bridges, upcalls, sinks, Limits::default())
    }

    /// Starts the thread.
    pub fn start_with(
        bridges: Arc<Bridges>,
        upcalls: UpcallReceiver,
        sinks: SinkList,
        limits: Limits,
    ) -> io::Result<SlowPathHandle> {
        let (requests, receiver) = channel();
        let waker = upcalls.waker();
        let engine = Engine::new(bridges, sinks, limits);
        let counters = engine.counters.clone();
        let thread =
            thread::Builder::new().name("slowpath".into()).spawn(move || run(engine, upcalls, &receiver))?;
        Ok(SlowPathHandle { requests, waker, counters, thread: Mutex::new(Some(thread)) })
    }
}

/// A slow path without a thread, for tests: whoever holds it says when it looks at the queue.
#[cfg(test)]
pub(super) struct Stepped {
    engine: Engine,
    upcalls: UpcallReceiver,
    batch: Vec<Upcall>,
}

#[cfg(test)]
impl Stepped {
    /// One on the clock of `bridges`.
    pub(super) fn new(
        bridges: Arc<Bridges>,
        upcalls: UpcallReceiver,
        sinks: SinkList,
        limits: Limits,
    ) -> Stepped {
        Stepped { engine: Engine::new(bridges, sinks, limits), upcalls, batch: Vec::new() }
    }

    /// Decides about what waits, up to one batch, and does a slice of the other work.
    pub(super) fn round(&mut self) {
        self.upcalls.receive(&mut self.batch, Duration::ZERO);
        self.engine.handle(&mut self.batch);
        self.engine.revalidate_some(SLICE);
    }
}

/// Somebody who waits for a pass.
struct Waiter {
    ticket: u64,
    /// Of [`UpcallReceiver::ticket`]: upcalls that waited before the request. A port's number may be given to another port
    /// when the answer comes, so no packet of the old one may be left.
    upcalls: u64,
    reply: Sender<()>,
}

fn run(mut engine: Engine, mut upcalls: UpcallReceiver, requests: &Receiver<Request>) {
    let mut batch = Vec::new();
    let mut waiters: Vec<Waiter> = Vec::new();
    let mut busy = false;
    while answer_requests(&mut engine, &upcalls, requests, &mut waiters) {
        let timeout = if busy || !waiters.is_empty() { Duration::ZERO } else { engine.idle_for() };
        upcalls.receive(&mut batch, timeout);
        // Whoever waits for a pass waits for all of it.
        let crowded = batch.len() >= BATCH && waiters.is_empty();
        engine.handle(&mut batch);
        busy = engine.revalidate_some(if crowded { CROWDED_SLICE } else { SLICE });
        let answered =
            |waiter: &mut Waiter| upcalls.has_served(waiter.upcalls) && engine.has_passed(waiter.ticket);
        for waiter in waiters.extract_if(.., answered) {
            answer(&waiter.reply, ());
        }
    }
}

/// Answers what waits; false when the thread shall end.
fn answer_requests(
    engine: &mut Engine,
    upcalls: &UpcallReceiver,
    requests: &Receiver<Request>,
    waiters: &mut Vec<Waiter>,
) -> bool {
    loop {
        match requests.try_recv() {
            Ok(Request::Revalidate(reply)) => {
                waiters.push(Waiter { ticket: engine.ask_for_pass(), upcalls: upcalls.ticket(), reply });
            }
            Ok(Request::Flush(reply)) => {
                engine.flush();
                answer(&reply, ());
            }
            Ok(Request::Dump(reply)) => answer(&reply, engine.dump()),
            Ok(Request::ForgetWorker(worker, reply)) => {
                engine.forget_worker(worker);
                answer(&reply, ());
            }
            Ok(Request::SetLimits(limits)) => engine.set_limits(limits),
            Ok(Request::Stop) | Err(TryRecvError::Disconnected) => return false,
            Err(TryRecvError::Empty) => return true,
        }
    }
}

fn answer<T>(reply: &Sender<T>, with: T) {
    // Whoever asked may have gone without waiting.
    let _ = reply.send(with);
}

//! The slow path's thread.

use std::io;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::engine::{Engine, Limits};
use super::handle::{Request, SlowPathHandle};
use super::sinks::SinkList;
use crate::bridge::Bridges;
use crate::datapath::UpcallReceiver;

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
            thread::Builder::new().name("slowpath".into()).spawn(move || run(engine, &upcalls, &receiver))?;
        Ok(SlowPathHandle { requests, waker, counters, thread: Mutex::new(Some(thread)) })
    }
}

fn run(mut engine: Engine, upcalls: &UpcallReceiver, requests: &Receiver<Request>) {
    let mut batch = Vec::new();
    let mut busy = false;
    while answer_requests(&mut engine, requests) {
        let timeout = if busy { Duration::ZERO } else { engine.idle_for() };
        upcalls.receive(&mut batch, timeout);
        engine.handle(&mut batch);
        busy = engine.revalidate_some();
    }
}

/// Answers what waits; false when the thread shall end.
fn answer_requests(engine: &mut Engine, requests: &Receiver<Request>) -> bool {
    loop {
        // Whoever asked may have gone without waiting for the answer; the failed send does not matter.
        match requests.try_recv() {
            Ok(Request::Revalidate(reply)) => {
                engine.revalidate_all();
                let _ = reply.send(());
            }
            Ok(Request::Flush(reply)) => {
                engine.flush();
                let _ = reply.send(());
            }
            Ok(Request::Dump(reply)) => {
                let _ = reply.send(engine.dump());
            }
            Ok(Request::ForgetWorker(worker, reply)) => {
                engine.forget_worker(worker);
                let _ = reply.send(());
            }
            Ok(Request::Stop) | Err(TryRecvError::Disconnected) => return false,
            Err(TryRecvError::Empty) => return true,
        }
    }
}

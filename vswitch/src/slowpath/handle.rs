//! How other threads talk to the slow path.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use pmd::port::Waker;

use super::engine::{Limits, SlowPathCounters, SlowPathStats};
use crate::datapath::Megaflow;

/// What the thread can be asked.
pub(super) enum Request {
    Revalidate(Sender<()>),
    Flush(Sender<()>),
    Dump(Sender<Vec<(u16, Arc<Megaflow>)>>),
    ForgetWorker(u16, Sender<()>),
    SetLimits(Limits),
    Stop,
}

/// A handle to the running slow path. Methods wait for its thread, which waits for nobody but a worker's full command
/// queue. Dropping the handle ends the thread.
pub struct SlowPathHandle {
    pub(super) requests: Sender<Request>,
    pub(super) waker: Waker,
    pub(super) counters: Arc<SlowPathCounters>,
    pub(super) thread: Mutex<Option<JoinHandle<()>>>,
}

impl SlowPathHandle {
    /// Returns when every installed megaflow agrees with the bridges as they were when this was called, and every packet that
    /// waited then has been decided about, as far as the slow path can tell: workers have been told, not waited for.
    pub fn revalidate_now(&self) {
        self.ask(Request::Revalidate);
    }

    /// The bridges have changed by themselves, and nobody waits for it: megaflows are brought to agree with them as soon as the slow path
    /// comes to it, and not only when the next pass is due.
    pub fn revalidate_soon(&self) {
        self.waker.wake();
    }

    /// Removes every megaflow; traffic comes up again.
    pub fn flush(&self) {
        self.ask(Request::Flush);
    }

    /// Every installed megaflow with the number of its worker.
    pub fn dump(&self) -> Vec<(u16, Arc<Megaflow>)> {
        self.ask(Request::Dump).unwrap_or_default()
    }

    /// Forgets what was installed on a worker that has ended.
    pub fn forget_worker(&self, worker: u16) {
        self.ask(|reply| Request::ForgetWorker(worker, reply));
    }

    /// Changes the limits. Megaflows beyond a smaller number stay as long as they are used; until there are fewer, none is added.
    pub fn set_limits(&self, limits: Limits) {
        self.send(Request::SetLimits(limits));
    }

    /// Counters.
    pub fn stats(&self) -> SlowPathStats {
        self.counters.snapshot()
    }

    /// Ends the thread. Upcalls are then no longer answered.
    pub fn stop(&self) {
        self.send(Request::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            log::error!("the slow path ended by a panic");
        }
    }

    /// Asks and waits for the answer; `None` when the thread has ended.
    fn ask<T>(&self, request: impl FnOnce(Sender<T>) -> Request) -> Option<T> {
        let (reply, answer) = channel();
        self.send(request(reply));
        answer.recv().ok()
    }

    fn send(&self, request: Request) {
        // The receiver is gone when the thread is; whoever waits for an answer learns that from the answer.
        let _ = self.requests.send(request);
        self.waker.wake();
    }
}

impl Drop for SlowPathHandle {
    fn drop(&mut self) {
        self.stop();
    }
}

//! Changes that ports report, carried to a thread that may act on them.
//!
//! A port reports from its own control thread and must not wait for the switch, which may just be waiting for that
//! thread. So a report is only the port's number in a channel; the maintenance thread takes the lock. It also looks at the load of
//! queues every few seconds.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use flowtable::key::PortNo;
use pmd::port::PortEvents;

use super::Switch;
use super::assign::INTERVAL;

/// A report, or the end.
pub(super) enum Event {
    Changed(PortNo),
    Stop,
}

/// The thread that follows up on reports.
pub(super) struct Maintenance {
    sender: Sender<Event>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What a port holds to report changes.
pub(super) struct Changed {
    sender: Mutex<Sender<Event>>,
    number: PortNo,
}

impl Changed {
    pub(super) fn new(sender: Sender<Event>, number: PortNo) -> Arc<Changed> {
        Arc::new(Changed { sender: Mutex::new(sender), number })
    }
}

impl PortEvents for Changed {
    fn port_changed(&self) {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        // The receiver is gone only when the whole switch is.
        let _ = sender.send(Event::Changed(self.number));
    }
}

impl Maintenance {
    pub(super) fn start(switch: Weak<Switch>) -> Maintenance {
        let (sender, receiver) = channel();
        let run = move || run(&switch, &receiver);
        let thread = match thread::Builder::new().name("maintenance".into()).spawn(run) {
            Ok(thread) => Some(thread),
            Err(error) => {
                log::error!("no thread to follow port changes, queues stay as they are: {error}");
                None
            }
        };
        Maintenance { sender, thread: Mutex::new(thread) }
    }

    pub(super) fn sender(&self) -> Sender<Event> {
        self.sender.clone()
    }

    pub(super) fn stop(&self) {
        let _ = self.sender.send(Event::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The maintenance thread itself may hold the last reference to the switch; it cannot wait for itself.
        if let Some(thread) = thread.filter(|t| t.thread().id() != thread::current().id()) {
            let _ = thread.join();
        }
    }
}

fn run(switch: &Weak<Switch>, receiver: &Receiver<Event>) {
    let mut tick_at = Instant::now() + INTERVAL;
    loop {
        let event = receiver.recv_timeout(tick_at.saturating_duration_since(Instant::now()));
        let Some(switch) = switch.upgrade() else { return };
        match event {
            Ok(Event::Changed(number)) => {
                let moved = switch.follow(&mut switch.lock(), number);
                // Whoever was seen there is reached by another port now, or here again; who speaks next says which.
                if let Some(name) = moved
                    && let Err(e) = switch.bridges.flush_port(&name)
                {
                    log::warn!("{name}: {e}");
                }
                switch.slow.revalidate_soon();
                switch.notify_watchers();
            }
            Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if tick_at <= Instant::now() {
            switch.lock().tick();
            tick_at = Instant::now() + INTERVAL;
        }
    }
}

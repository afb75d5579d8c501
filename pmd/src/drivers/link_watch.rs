//! A thread that hears when a port's kernel device changes, and tells the port's subscriber.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::queue_slots::Subscriber;
use crate::port::{LinkState, PortInfo, Waker};
use crate::sys::netlink::LinkEvents;

/// What is watched.
pub(super) trait Watched: Send + Sync + 'static {
    /// Name for messages.
    fn name(&self) -> &str;

    /// The device as of now.
    fn info(&self) -> PortInfo;

    /// The link has gone up or down.
    fn count_link_change(&self);

    /// Who hears of changes.
    fn subscriber(&self) -> &Subscriber;
}

/// The thread; it ends with this value.
pub(super) struct LinkWatch {
    stop: Waker,
    thread: Option<JoinHandle<()>>,
}

impl LinkWatch {
    pub(super) fn start(device: Arc<impl Watched>) -> io::Result<LinkWatch> {
        let events = LinkEvents::open()?;
        let stop = Waker::new()?;
        let stopped = stop.clone();
        // Looked at before this returns: what happens from now on is a change, however late the thread starts.
        let known = State::of(&*device);
        let thread = thread::Builder::new().name("link-watch".into()).spawn(move || {
            if let Err(error) = watch(&*device, known, &events, &stopped) {
                log::warn!("{}: its link is no longer watched: {error}", device.name());
            }
        })?;
        Ok(LinkWatch { stop, thread: Some(thread) })
    }
}

impl Drop for LinkWatch {
    fn drop(&mut self) {
        self.stop.wake();
        // The thread holds the device, which must not outlive the port.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a subscriber wants to hear of when it changes.
#[derive(PartialEq, Eq)]
struct State {
    link: LinkState,
    mtu: u16,
    mac: Option<[u8; 6]>,
    faulty: bool,
}

impl State {
    fn of(device: &impl Watched) -> State {
        let PortInfo { link, mtu, mac, error, .. } = device.info();
        State { link, mtu, mac, faulty: error.is_some() }
    }
}

fn watch(device: &impl Watched, mut known: State, events: &LinkEvents, stop: &Waker) -> io::Result<()> {
    while events.wait(stop)? {
        let now = State::of(device);
        if now != known {
            if now.link != known.link {
                device.count_link_change();
            }
            known = now;
            device.subscriber().notify();
        }
    }
    Ok(())
}

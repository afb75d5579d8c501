//! A thread that hears when a port's kernel device changes, and tells the port's subscriber.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::queue_slots::Subscriber;
use crate::port::{PortInfo, Waker};
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
        let thread = thread::Builder::new().name("link-watch".into()).spawn(move || {
            if let Err(error) = watch(&*device, &events, &stopped) {
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

fn watch(device: &impl Watched, events: &LinkEvents, stop: &Waker) -> io::Result<()> {
    let look = || {
        let info = device.info();
        (info.link, info.mtu, info.mac, info.error.is_some())
    };
    let mut known = look();
    while events.wait(stop)? {
        let now = look();
        if now != known {
            if now.0 != known.0 {
                device.count_link_change();
            }
            known = now;
            device.subscriber().notify();
        }
    }
    Ok(())
}

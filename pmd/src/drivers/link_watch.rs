//! A thread that hears when a port's kernel device changes, and tells the port's subscriber.
//!
//! The link a port tells of is the one this thread knows, not the one a look would find: so it never changes without the subscriber
//! hearing of it afterwards. A look of the subscriber's own, while the link is down for a moment, would have it believe so until the next
//! change, if this thread has seen the link up before and after.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use super::queue_slots::Subscriber;
use crate::port::{LinkState, PortInfo, Waker};
use crate::sys::netlink::LinkEvents;

/// What is watched.
pub(super) trait Watched: Send + Sync + 'static {
    /// Name for messages.
    fn name(&self) -> &str;

    /// The device as of now; ports tell [`LinkWatch::info`].
    fn info(&self) -> PortInfo;

    /// The link has gone up or down.
    fn count_link_change(&self);

    /// Who hears of changes.
    fn subscriber(&self) -> &Subscriber;
}

/// The thread; it ends with this value.
pub(super) struct LinkWatch {
    device: Arc<dyn Watched>,
    /// Whether the link is up, as last told.
    up: Arc<AtomicBool>,
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
        let up = Arc::new(AtomicBool::new(known.link == LinkState::Up));
        let (watched, told) = (device.clone(), up.clone());
        let thread = thread::Builder::new().name("link-watch".into()).spawn(move || {
            if let Err(error) = watch(&*watched, known, &told, &events, &stopped) {
                log::warn!("{}: its link is no longer watched: {error}", watched.name());
            }
        })?;
        Ok(LinkWatch { device, up, stop, thread: Some(thread) })
    }

    /// The device as of now, with the link the subscriber was told of.
    pub(super) fn info(&self) -> PortInfo {
        let mut info = self.device.info();
        info.link = if self.up.load(Ordering::Acquire) { LinkState::Up } else { LinkState::Down };
        info
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

fn watch(
    device: &impl Watched,
    mut known: State,
    up: &AtomicBool,
    events: &LinkEvents,
    stop: &Waker,
) -> io::Result<()> {
    while events.wait(stop)? {
        let now = State::of(device);
        if now != known {
            if now.link != known.link {
                device.count_link_change();
            }
            up.store(now.link == LinkState::Up, Ordering::Release);
            known = now;
            device.subscriber().notify();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;
    use crate::drivers::test_net::{in_namespace, ip};
    use crate::port::test_events::Told;

    /// A device that says of its link what the test wants.
    #[derive(Default)]
    struct Said {
        up: AtomicBool,
        subscriber: Subscriber,
    }

    impl Watched for Said {
        fn name(&self) -> &str {
            "said"
        }

        fn info(&self) -> PortInfo {
            let link = if self.up.load(Ordering::Relaxed) { LinkState::Up } else { LinkState::Down };
            PortInfo { link, ..PortInfo::default() }
        }

        fn count_link_change(&self) {}

        fn subscriber(&self) -> &Subscriber {
            &self.subscriber
        }
    }

    #[test]
    fn a_link_is_told_as_it_was_before_until_the_subscriber_hears_of_it() {
        in_namespace(|| {
            let device = Arc::new(Said::default());
            let watch = LinkWatch::start(device.clone()).unwrap();
            let (sender, told) = channel();
            device.subscriber.set(Arc::new(Told(sender)));
            // Up for a moment that the thread does not see: whoever looked then would never hear that it has passed.
            device.up.store(true, Ordering::Relaxed);
            assert_eq!(watch.info().link, LinkState::Down);
            ip("link set lo up");
            told.recv_timeout(Duration::from_secs(30)).expect("a change to be told");
            assert_eq!(watch.info().link, LinkState::Up);
        });
    }
}

//! The control side of the device: what it is now.
//!
//! The operator, or anybody with the right, can rename, move, take down or delete the device under us. The queue's
//! descriptor stays ours through all of that, so it and not the name says which device is meant.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use super::TapConfig;
use crate::drivers::link_watch::Watched;
use crate::drivers::queue_slots::Subscriber;
use crate::port::{LinkState, PortInfo};
use crate::sys::netif::{Control, InterfaceName};
use crate::sys::tun;

pub(super) struct Device {
    control: Control,
    queue: Arc<OwnedFd>,
    /// Name it was opened by.
    name: String,
    queues: u16,
    /// Last known MTU, for transmit queues too: in another network namespace it cannot be asked for.
    pub(super) mtu: Arc<AtomicU16>,
    link_resets: AtomicU64,
    subscriber: Subscriber,
}

impl Device {
    pub(super) fn new(control: Control, queue: Arc<OwnedFd>, config: &TapConfig, mtu: u16) -> Device {
        Device {
            control,
            queue,
            name: config.name.clone(),
            queues: config.queues,
            mtu: Arc::new(AtomicU16::new(mtu)),
            link_resets: AtomicU64::new(0),
            subscriber: Subscriber::default(),
        }
    }

    pub(super) fn set_carrier(&self, on: bool) -> io::Result<()> {
        // The kernel follows in its own time, and tells us when it has.
        tun::set_carrier(&self.queue, on)
    }

    /// Whether frames can pass now.
    pub(super) fn link(&self) -> LinkState {
        tun::interface(&self.queue).map_or(LinkState::Down, |name| self.link_of(&name))
    }

    fn link_of(&self, name: &InterfaceName) -> LinkState {
        match self.control.is_up(name) {
            // In another network namespace it is out of sight, but still ours.
            Ok((true, true)) | Err(_) => LinkState::Up,
            Ok(_) => LinkState::Down,
        }
    }

    pub(super) fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        let name = tun::interface(&self.queue)?;
        self.control.set_mtu(&name, i32::from(mtu))?;
        self.mtu.store(mtu, Ordering::Relaxed);
        self.subscriber.notify();
        Ok(())
    }
}

impl Watched for Device {
    fn name(&self) -> &str {
        &self.name
    }

    fn info(&self) -> PortInfo {
        let mut info = PortInfo {
            link_resets: self.link_resets.load(Ordering::Relaxed),
            mtu: self.mtu.load(Ordering::Relaxed),
            rx_queues: self.queues,
            status: vec![("driver_name".into(), "tun".into()), ("n_queues".into(), self.queues.to_string())],
            ..PortInfo::default()
        };
        let Ok(name) = tun::interface(&self.queue) else {
            info.gone = true;
            info.error = Some(format!("TAP device {} was deleted from outside", self.name));
            return info;
        };
        if name.as_str() != self.name {
            info.status.push(("device_name".into(), name.as_str().to_owned()));
        }
        info.link = self.link_of(&name);
        if let Some(mtu) = self.control.mtu(&name).ok().and_then(|mtu| u16::try_from(mtu).ok()) {
            self.mtu.store(mtu, Ordering::Relaxed);
            info.mtu = mtu;
        }
        info.mac = self.control.mac(&name).ok();
        info.ifindex = self.control.index(&name).ok();
        info
    }

    fn count_link_change(&self) {
        self.link_resets.fetch_add(1, Ordering::Relaxed);
    }

    fn subscriber(&self) -> &Subscriber {
        &self.subscriber
    }
}

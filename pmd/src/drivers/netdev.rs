//! A network device of the kernel that a port stands on but does not own: it is there before and after.
//!
//! The device is known by its number, so it may be renamed under the port. Deleted or moved to another network namespace it is
//! gone for good: one of the same name that comes later is another device.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use super::link_watch::Watched;
use super::queue_slots::Subscriber;
use crate::port::{LinkState, PmdError, PortInfo};
use crate::sys::ethtool;
use crate::sys::netif::{Control, InterfaceName};

/// Bytes a frame may have beyond the MTU: Ethernet header and two tags.
pub(super) const LINK_OVERHEAD: usize = 14 + 8;

/// The device.
pub(super) struct NetDevice {
    control: Control,
    /// Name it was opened by.
    name: InterfaceName,
    index: u32,
    /// Last known MTU, for transmit queues too.
    mtu: Arc<AtomicU16>,
    link_changes: AtomicU64,
    subscriber: Subscriber,
    /// Facts that stay as they are, and the count of receive queues in use.
    fixed: PortInfo,
}

impl NetDevice {
    /// Finds the device.
    pub(super) fn find(name: &str) -> Result<NetDevice, PmdError> {
        let name = InterfaceName::new(name).map_err(PmdError::Config)?;
        let shown = name.as_str();
        let control = Control::open().map_err(|e| PmdError::system("opening a socket", "", e))?;
        let index = control.index(&name).map_err(|e| {
            let remedy =
                "`ip link` lists those in the switch's network namespace; the port starts when it appears";
            PmdError::system(format!("looking for network device {shown}"), remedy, e)
        })?;
        if !control.is_ethernet(&name).unwrap_or(true) {
            return Err(PmdError::Config(format!(
                "{shown} carries no Ethernet frames: `ip link show {shown}` tells its kind"
            )));
        }
        let mtu = control.mtu(&name).map_or(1500, clamp);
        let mut status = Vec::new();
        if let Ok((driver, version)) = ethtool::driver(&control, &name) {
            status.extend([("driver_name".into(), driver), ("driver_version".into(), version)]);
        }
        Ok(NetDevice {
            control,
            name,
            index,
            mtu: Arc::new(AtomicU16::new(mtu)),
            link_changes: AtomicU64::new(0),
            subscriber: Subscriber::default(),
            fixed: PortInfo { status, ..PortInfo::default() },
        })
    }

    /// Adds a fact to `Interface.status`.
    pub(super) fn add_status(&mut self, key: &str, value: String) {
        self.fixed.status.push((key.into(), value));
    }

    /// Says what is wrong though the port works.
    pub(super) fn set_error(&mut self, error: String) {
        self.fixed.error = Some(error);
    }

    /// Receive queues of the device itself, as far as its driver tells.
    pub(super) fn hardware_queues(&self) -> u16 {
        let queues = ethtool::receive_queues(&self.control, &self.name);
        queues.ok().and_then(|queues| u16::try_from(queues).ok()).unwrap_or(1).max(1)
    }

    /// Says how many receive queues the port has.
    pub(super) fn set_queues(&mut self, rx_queues: u16) {
        self.fixed.rx_queues = rx_queues;
        self.add_status("n_rxq", rx_queues.to_string());
    }

    pub(super) fn index(&self) -> u32 {
        self.index
    }

    /// Name it was opened by.
    pub(super) fn name(&self) -> &InterfaceName {
        &self.name
    }

    /// The last known MTU, followed by whoever holds this.
    pub(super) fn mtu(&self) -> &Arc<AtomicU16> {
        &self.mtu
    }

    pub(super) fn set_mtu(&self, mtu: u16) -> Result<(), PmdError> {
        let now = self.control.name(self.index).and_then(|name| self.control.set_mtu(&name, i32::from(mtu)));
        now.map_err(|e| {
            let what = format!("setting MTU {mtu} on {}", self.name.as_str());
            PmdError::system(what, "`ip -d link show` tells the device's limits; it needs CAP_NET_ADMIN", e)
        })?;
        self.mtu.store(mtu, Ordering::Relaxed);
        self.subscriber.notify();
        Ok(())
    }
}

impl Watched for NetDevice {
    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn info(&self) -> PortInfo {
        let mut info = self.fixed.clone();
        info.link_resets = self.link_changes.load(Ordering::Relaxed);
        info.mtu = self.mtu.load(Ordering::Relaxed);
        let Ok(name) = self.control.name(self.index) else {
            info.gone = true;
            info.error = Some(format!(
                "network device {} was deleted or moved away; the port starts again when one of that name appears",
                self.name.as_str()
            ));
            return info;
        };
        if name.as_str() != self.name.as_str() {
            info.status.push(("device_name".into(), name.as_str().to_owned()));
        }
        if self.control.is_up(&name).is_ok_and(|(up, running)| up && running) {
            info.link = LinkState::Up;
        }
        if let Ok(mtu) = self.control.mtu(&name) {
            self.mtu.store(clamp(mtu), Ordering::Relaxed);
            info.mtu = clamp(mtu);
        }
        info.mac = self.control.mac(&name).ok();
        info.ifindex = Some(self.index);
        info
    }

    fn count_link_change(&self) {
        self.link_changes.fetch_add(1, Ordering::Relaxed);
    }

    fn subscriber(&self) -> &Subscriber {
        &self.subscriber
    }
}

/// The loopback device has more than a port can tell.
fn clamp(mtu: i32) -> u16 {
    u16::try_from(mtu).unwrap_or(u16::MAX)
}

//! The port: control side.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use pmd::port::{
    LinkState, Offloads, PmdError, Port, PortEvents, PortInfo, QueueCounters, RxQueue, TxQueue,
    offload_status,
};
use pmd::sys::sigbus::Alarm;
use pmd::virtio::features::VIRTIO_F_ACCESS_PLATFORM;

use crate::config::{Mode, VhostConfig};
use crate::net::{NetRules, Shared, VhostRx, VhostTx};
use crate::ring::RingFile;
use crate::session;
use crate::vdpa::{self, DeviceName};

/// Most queue pairs of a port: ring indexes are eight bits in some messages.
const MAX_QUEUE_PAIRS: u16 = 128;
/// Smallest MTU that IPv4 allows.
const MIN_MTU: u16 = 68;

/// A guest attached by a vhost-user socket.
///
/// A control thread of its own accepts or makes connections, one at a time, and handles the front-end's messages.
/// In listening mode a second client waits in the socket's backlog until the first has gone. Dropping the port stops the
/// thread, closes the connection, and removes the listening socket.
pub struct VhostPort {
    shared: Arc<Shared>,
    /// Devices that are to have the rings, while the port is up.
    devices: Mutex<Vec<DeviceName>>,
    control: Option<JoinHandle<()>>,
}

impl VhostPort {
    /// Opens a port. In listening mode the socket exists when this returns.
    ///
    /// Fails when the settings are out of range, when the path is in use by a live process, or cannot be created.
    pub fn open(config: VhostConfig) -> Result<Arc<dyn Port>, PmdError> {
        let name = &config.name;
        if !(1..=MAX_QUEUE_PAIRS).contains(&config.max_queue_pairs) {
            let asked = config.max_queue_pairs;
            return Err(PmdError::Config(format!(
                "{name}: {asked} queue pairs asked for; a vhost-user port can have 1 to {MAX_QUEUE_PAIRS}"
            )));
        }
        check_mtu(name, config.mtu)?;
        let alarm = Alarm::new()
            .map_err(|e| PmdError::system(format!("{name}: eventfd"), "raise the limit of open files", e))?;
        let rings = RingFile::for_port(&config)
            .map_err(|e| PmdError::system(format!("{name}: memfd"), "raise the limit of open files", e))?;
        let shared = Arc::new(Shared::new(config, alarm, rings));
        let control = session::start(&shared)?;
        Ok(Arc::new(VhostPort { shared, devices: Mutex::default(), control: Some(control) }))
    }

    /// Hands the rings to one of these devices, unless the port is down.
    fn want_devices(&self, devices: &[DeviceName]) {
        let wanted = if self.shared.admin_up.load(Ordering::Relaxed) { devices.to_vec() } else { Vec::new() };
        if self.shared.vdpa.want(wanted) {
            // The control thread opens them.
            self.shared.alarm.ring();
        }
    }
}

fn check_mtu(name: &str, mtu: u16) -> Result<(), PmdError> {
    if mtu < MIN_MTU {
        return Err(PmdError::Config(format!("{name}: MTU {mtu} is too small; use {MIN_MTU} to 65535")));
    }
    Ok(())
}

impl Port for VhostPort {
    fn driver(&self) -> &'static str {
        match self.shared.config.mode {
            Mode::Listen(_) => "vhost-user",
            Mode::Connect(_) => "vhost-user-client",
        }
    }

    fn info(&self) -> PortInfo {
        let shared = &self.shared;
        let peer = shared.peer();
        let mtu = shared.mtu.load(Ordering::Relaxed);
        let mut status = Vec::new();
        let mut say = |key: &str, value: String| status.push((key.to_owned(), value));
        say("mode", if matches!(shared.config.mode, Mode::Listen(_)) { "server" } else { "client" }.into());
        say("status", if peer.connected { "connected" } else { "disconnected" }.into());
        say("socket", shared.path().display().to_string());
        if let Some(reason) = &peer.waiting {
            say("connect_error", reason.clone());
        }
        if let Some(reason) = shared.ring_file.unkept() {
            say("ring_file_error", reason.to_owned());
        }
        if peer.connected {
            say("features", format!("{:#018x}", peer.features));
            say("protocol_features", format!("{:#x}", peer.protocol_features));
            say("mtu", peer.mtu.unwrap_or(mtu).to_string());
            if let Some(pages) = peer.logged_pages {
                say("dirty_log", format!("on, {pages} pages"));
            }
            if let Some(pages) = peer.fetched_pages {
                say("postcopy", format!("on, {pages} pages fetched"));
            }
            say("num_of_vrings", peer.ring_sizes.iter().flatten().count().to_string());
            for (i, size) in peer.ring_sizes.iter().enumerate() {
                if let Some(size) = size {
                    say(&format!("vring_{i}_size"), size.to_string());
                }
            }
            say("n_rxq", shared.rx_queues().to_string());
            say("n_txq", shared.tx_queues().to_string());
            if peer.features & VIRTIO_F_ACCESS_PLATFORM != 0 {
                let iotlb = &shared.iotlb;
                say("iotlb_entries", iotlb.entries.load(Ordering::Relaxed).to_string());
                say("iotlb_misses", iotlb.misses.load(Ordering::Relaxed).to_string());
                say("iotlb_updates", iotlb.updates.load(Ordering::Relaxed).to_string());
                say("iotlb_invalidations", iotlb.invalidations.load(Ordering::Relaxed).to_string());
                say("iotlb_evicted", iotlb.evicted.load(Ordering::Relaxed).to_string());
                say(
                    "rings_awaiting_translation",
                    shared.rings.iter().filter(|r| r.awaiting()).count().to_string(),
                );
            }
            status.extend(offload_status(shared.offloads.get().limit(NetRules::new(peer.features).to_guest)));
        }
        let vdpa = shared.vdpa.status().clone();
        vdpa.say(&mut status);
        let admin_up = shared.admin_up.load(Ordering::Relaxed);
        PortInfo {
            link: if admin_up { peer.link } else { LinkState::Down },
            link_resets: peer.link_resets,
            mtu,
            mac: peer.mac.or(shared.config.mac),
            rx_queues: shared.rx_queues(),
            status,
            error: peer.error.clone().or_else(|| vdpa.error.clone()),
            moves: vdpa.switch_overs,
            counters: vdpa.counters(),
            ..PortInfo::default()
        }
    }

    fn counters_elsewhere(&self) -> Vec<(&'static str, u64)> {
        let uplink = self.shared.vdpa.status().counted_by().cloned();
        let counters = uplink.and_then(|uplink| (self.shared.config.function_counters)(&uplink));
        counters.map(vdpa::named).into_iter().flatten().collect()
    }

    fn rx_queue(&self, index: u16) -> Result<Box<dyn RxQueue>, PmdError> {
        let problem = |problem| PmdError::Queue { port: self.shared.config.name.clone(), index, problem };
        let rings = &self.shared.rings;
        let vring = rings.get(usize::from(index) * 2 + 1).ok_or_else(|| problem("does not exist"))?;
        if vring.taken.swap(true, Ordering::AcqRel) {
            return Err(problem("is in use"));
        }
        let counters = Arc::clone(&self.shared.rx_counters[usize::from(index)]);
        Ok(Box::new(VhostRx::new(Arc::clone(vring), counters)))
    }

    fn tx_queue(&self, worker: u16) -> Result<Box<dyn TxQueue>, PmdError> {
        Ok(Box::new(VhostTx::new(Arc::clone(&self.shared), worker)))
    }

    fn late_tx(&self) -> Option<Arc<QueueCounters>> {
        Some(Arc::clone(&self.shared.late_tx))
    }

    fn set_mtu(&self, mtu: u16) -> Result<(), PmdError> {
        check_mtu(&self.shared.config.name, mtu)?;
        self.shared.mtu.store(mtu, Ordering::Relaxed);
        // The control thread tells the front-end.
        self.shared.alarm.ring();
        self.shared.changed();
        Ok(())
    }

    fn set_offloads(&self, offloads: Offloads) -> Result<(), PmdError> {
        self.shared.offloads.set(offloads);
        self.shared.changed();
        Ok(())
    }

    fn set_vdpa(&self, devices: &[String]) -> Result<(), PmdError> {
        let names = devices.iter().map(|name| name.parse()).collect::<Result<Vec<_>, _>>();
        let mut wanted = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        *wanted = names.map_err(PmdError::Config)?;
        self.want_devices(&wanted);
        Ok(())
    }

    /// A front-end that reads the configuration space finds the link down there, and is told to look. A device would go on carrying frames, so it gives the
    /// rings back meanwhile.
    fn set_admin(&self, up: bool) {
        let shared = &self.shared;
        let wanted = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.admin_up.swap(up, Ordering::Relaxed) == up {
            return;
        }
        {
            let mut peer = shared.peer();
            peer.link_resets += u64::from(peer.link == LinkState::Up);
        }
        self.want_devices(&wanted);
        drop(wanted);
        // The control thread tells the front-end.
        shared.alarm.ring();
        shared.changed();
    }

    fn subscribe(&self, events: Arc<dyn PortEvents>) {
        self.shared.subscribe(events);
    }
}

impl Drop for VhostPort {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.alarm.ring();
        session::interrupt(&self.shared);
        if let Some(control) = self.control.take()
            && control.join().is_err()
        {
            log::error!("{}: the control thread died of a bug", self.shared.config.name);
        }
    }
}

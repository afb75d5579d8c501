//! A device of the kernel's vDPA bus: `/dev/vhost-vdpa-N`.
//!
//! Behind it may be a card with a vDPA driver in the kernel, or a program (VDUSE). The kernel watches the guest's kick eventfds and writes
//! its call eventfds by itself, so nothing here is on a packet's way.
//!
//! | | |
//! |---|---|
//! | memory | guest physical addresses are the I/O addresses; the kernel pins it, or maps it in the program |
//! | queue pairs | one: more need the device's control queue |
//! | where a ring begins | anywhere, if the device takes it; tried once when it is opened |
//! | where a ring stands | told if the device can be suspended |
//! | doorbell page | none: QEMU maps such a page readable, which the kernel does not allow here |
//!
//! The kernel tells nobody that it wants a device back; its name in /dev goes, and that is watched.
#![expect(unsafe_code, reason = "shows a guest's memory to a device")]

#[cfg(test)]
mod played;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pmd::memory::memlock_remedy;
use pmd::pci::{PciAddress, Sysfs};
use pmd::sys::vhost_vdpa::{VhostVdpa, VhostVdpaCalls, backend};
use pmd::virtio::features::*;
use pmd::virtio::pci::{net, status};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::inotify;

use super::device::{
    Capabilities, DeviceEvents, RingStart, Start, StartIndex, StartedRing, StoppedRing, Uplink, VdpaDev,
};
use super::error::{VdpaError, VdpaProblem};
use super::gated::GatedDoorbell;
use super::memory::DmaMapping;
use super::rules::{self, FOR_GUESTS, FOR_MEMORY};
use super::uplink::uplink_of;

/// Virtio's number for network cards.
const NETWORK_CARD: u32 = 1;
/// Rings that are used.
const RINGS: u16 = 2;

/// A device, open.
struct KernelDevice {
    capabilities: Capabilities,
    path: PathBuf,
    device: Box<dyn VhostVdpaCalls>,
    offered: u64,
    /// What the kernel can do with it: bits of [`backend`].
    backend: u64,
    config_len: u32,
    mappings: BTreeMap<u64, DmaMapping>,
    /// Of the rings that run.
    doorbells: Vec<Arc<GatedDoorbell>>,
    packed: bool,
    config_event: OwnedFd,
    name_watch: OwnedFd,
    /// An epoll of both.
    both: Arc<OwnedFd>,
    uplink: Uplink,
}

/// Opens a device by its path.
pub(super) fn open(path: &Path) -> Result<Box<dyn VdpaDev>, VdpaError> {
    let name = path.display();
    let device = VhostVdpa::open(path).map_err(|error| {
        let (problem, remedy) = match error.kind() {
            io::ErrorKind::NotFound => (
                VdpaProblem::Name,
                "`modprobe vhost_vdpa`; `vdpa dev show` lists devices, and one that virtio_vdpa has is not there",
            ),
            io::ErrorKind::ResourceBusy => (VdpaProblem::NotOurs, "another process has it: `fuser` finds it"),
            _ => (VdpaProblem::NotOurs, "run as root, or give this user the device"),
        };
        VdpaError::system(problem, format!("opening {name}"), remedy, error)
    })?;
    let asking = |error| {
        let what = format!("asking {name} what it is");
        VdpaError::system(VdpaProblem::Refused, what, "the kernel log may say why", error)
    };
    let kind = device.device_id().map_err(asking)?;
    if kind != NETWORK_CARD {
        let what = format!("{name} is a virtio device of kind {kind}, not a network card");
        return Err(VdpaError::new(VdpaProblem::Name, what, "`vdpa dev show` lists devices"));
    }
    let uplink = uplink(&device).unwrap_or_default();
    Ok(Box::new(KernelDevice::new(path, Box::new(device), uplink).map_err(asking)?))
}

impl KernelDevice {
    fn new(path: &Path, device: Box<dyn VhostVdpaCalls>, uplink: Uplink) -> io::Result<KernelDevice> {
        device.set_status(0)?;
        let wanted = backend::IOTLB_MSG_V2 | backend::SUSPEND | backend::IOTLB_PERSIST;
        let backend = device.backend_features()? & wanted;
        if backend & backend::IOTLB_MSG_V2 == 0 {
            return Err(io::Error::other("this kernel's vDPA takes no mappings of the second version"));
        }
        device.set_backend_features(backend)?;
        let offered = device.features()?;
        let config_len = device.config_size()?;
        let mut mac = [0; 6];
        let has_mac = offered & VIRTIO_NET_F_MAC != 0 && config_len >= 6;
        if has_mac {
            device.read_config(net::MAC as u32, &mut mac)?;
        }
        let (first, last) = device.iova_range()?;
        let config_event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // Not every device has changes to tell of.
        let _ = device.set_config_call(config_event.as_fd());
        let name_watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        // The name's going is a change of the number of links, since the device stays open here.
        inotify::add_watch(
            &name_watch,
            path,
            inotify::WatchFlags::ATTRIB | inotify::WatchFlags::DELETE_SELF,
        )?;
        let both = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        for event in [&config_event, &name_watch] {
            epoll::add(&both, event, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        }
        let start_index = start_index(&*device, offered)?;
        let capabilities = Capabilities {
            kind: "vhost-vdpa",
            name: path.display().to_string(),
            features: offered & FOR_GUESTS & !VIRTIO_NET_F_MQ,
            max_queue_pairs: RINGS / 2,
            max_ring_size: device.max_ring_size()?,
            start_index,
            reports_index: backend & backend::SUSPEND != 0,
            iova: vec![first..=last],
            granule: rustix::param::page_size() as u64,
            mac: has_mac.then_some(mac),
        };
        Ok(KernelDevice {
            capabilities,
            path: path.to_owned(),
            uplink,
            device,
            offered,
            backend,
            config_len,
            mappings: BTreeMap::new(),
            doorbells: Vec::new(),
            packed: false,
            config_event,
            name_watch,
            both,
        })
    }

    fn refused(&self, what: &str, error: io::Error) -> VdpaError {
        VdpaError::system(
            VdpaProblem::Refused,
            format!("{}: {what}", self.capabilities.name),
            "the kernel log may say why",
            error,
        )
    }

    fn run(&mut self, start: &Start<'_>) -> io::Result<Vec<StartedRing>> {
        self.halt()?;
        self.packed = start.features & VIRTIO_F_RING_PACKED != 0;
        negotiate(&*self.device, start.features | self.offered & FOR_MEMORY)?;
        let mut rings = Vec::new();
        for (i, ring) in (0..).zip(start.rings) {
            let kick = self.set_up_ring(i, ring)?;
            self.doorbells.push(Arc::new(GatedDoorbell::new(move || write_kick(&kick))));
        }
        self.device.set_status(RUNNING)?;
        if self.device.status()? & status::NEEDS_RESET != 0 {
            return Err(io::Error::other("it does not take the guest's rings"));
        }
        for (bell, ring) in self.doorbells.iter().zip(start.rings) {
            rings.push(StartedRing { doorbell: bell.clone(), watches_kick: ring.kick.is_some(), page: None });
        }
        Ok(rings)
    }

    /// Sets up a ring. Returns the eventfd by which it is kicked.
    fn set_up_ring(&self, index: u16, ring: &RingStart) -> io::Result<Arc<OwnedFd>> {
        let device = &self.device;
        device.set_ring_size(index, ring.size)?;
        device.set_ring_addresses(index, [ring.descriptors, ring.driver, ring.device])?;
        let at = u32::from(ring.index);
        device.set_ring_base(index, if self.packed { at | at << 16 } else { at })?;
        device.set_call(index, ring.call.as_ref().map(|call| call.as_fd()))?;
        let kick = self.watch_kick(index, ring.kick.clone())?;
        device.enable_ring(index)?;
        Ok(kick)
    }

    /// Has the kernel watch an eventfd, or one of ours. Returns it.
    fn watch_kick(&self, index: u16, kick: Option<Arc<OwnedFd>>) -> io::Result<Arc<OwnedFd>> {
        let ours = || Ok(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?));
        let kick = kick.map_or_else(ours, io::Result::Ok)?;
        self.device.set_kick(index, Some(kick.as_fd()))?;
        Ok(kick)
    }

    /// Resets the device: it has let go of the rings then.
    fn halt(&mut self) -> io::Result<()> {
        self.doorbells.drain(..).for_each(|doorbell| doorbell.close());
        self.device.set_status(0)?;
        for ring in 0..RINGS {
            // The guest's eventfds are its own again. A kernel that keeps them signals nothing after a reset.
            let _ = self.device.set_kick(ring, None);
            let _ = self.device.set_call(ring, None);
        }
        if self.backend & backend::IOTLB_PERSIST == 0 {
            // Some devices forget their mappings then, and the kernel does not notice.
            for (&iova, mapping) in &self.mappings {
                self.device.unmap(iova, mapping.memory.len())?;
                self.show(mapping)?;
            }
        }
        Ok(())
    }

    fn show(&self, mapping: &DmaMapping) -> io::Result<()> {
        let start = mapping.memory.addr() as *mut u8;
        // SAFETY: the memory stays mapped while its owner lives, and each mapping is kept until it has been unmapped or the device is closed;
        // guest memory is never behind a reference (contract of `HostMemory`).
        unsafe { self.device.map(mapping.iova, start, mapping.memory.len()) }
    }
}

/// Kicks by an eventfd.
fn write_kick(kick: &OwnedFd) {
    // A full counter means that the kernel has not looked yet.
    let _ = rustix::io::write(kick, &1u64.to_ne_bytes());
}

/// The status of a device that runs.
const RUNNING: u8 = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;

/// After a reset: takes features.
fn negotiate(device: &dyn VhostVdpaCalls, features: u64) -> io::Result<()> {
    device.set_status(status::ACKNOWLEDGE)?;
    device.set_status(status::ACKNOWLEDGE | status::DRIVER)?;
    device.set_features(features)?;
    device.set_status(RUNNING & !status::DRIVER_OK)?;
    if device.status()? & status::FEATURES_OK == 0 {
        let names = names(features).collect::<Vec<_>>().join(" ");
        return Err(io::Error::other(format!("it does not accept its own features: {names}")));
    }
    Ok(())
}

/// Whether a ring may begin where it is: tried, since nothing says so. Leaves the device reset.
fn start_index(device: &dyn VhostVdpaCalls, offered: u64) -> io::Result<StartIndex> {
    negotiate(device, offered & (VIRTIO_F_VERSION_1 | FOR_MEMORY))?;
    let anywhere = device.set_ring_base(0, 1).is_ok();
    let _ = device.set_ring_base(0, 0);
    device.set_status(0)?;
    Ok(if anywhere { StartIndex::Any } else { StartIndex::Zero })
}

/// The PCI function that the device is on, if it is on one.
fn uplink(device: &VhostVdpa) -> Option<Uplink> {
    let node = rustix::fs::fstat(device).ok()?.st_rdev;
    let (major, minor) = (rustix::fs::major(node), rustix::fs::minor(node));
    let place = std::fs::canonicalize(format!("/sys/dev/char/{major}:{minor}")).ok()?;
    let address: PciAddress =
        place.ancestors().find_map(|folder| folder.file_name()?.to_str()?.parse().ok())?;
    let sysfs = Sysfs::default();
    Some(uplink_of(&sysfs, &sysfs.info(address).ok()?))
}

impl VdpaDev for KernelDevice {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn read_config(&mut self, offset: u32, into: &mut [u8]) -> Result<(), VdpaError> {
        into.fill(0);
        let inside = self.config_len.saturating_sub(offset) as usize;
        let most = into.len().min(inside);
        if most == 0 {
            return Ok(());
        }
        let part = into.get_mut(..most).unwrap_or_default();
        self.device.read_config(offset, part).map_err(|e| self.refused("reading its configuration", e))
    }

    fn write_config(&mut self, offset: u32, bytes: &[u8]) -> Result<(), VdpaError> {
        let inside = self.config_len.saturating_sub(offset) as usize;
        let part = bytes.get(..bytes.len().min(inside)).unwrap_or_default();
        // Fields that are read only stay as they are: so does the whole, in a kernel that takes none.
        match self.device.write_config(offset, part) {
            Err(e) if e.raw_os_error() != Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) => {
                Err(self.refused("writing its configuration", e))
            }
            _ => Ok(()),
        }
    }

    fn map(&mut self, mapping: DmaMapping) -> Result<(), VdpaError> {
        self.show(&mapping).map_err(|error| {
            VdpaError::system(
                VdpaProblem::Memory,
                format!(
                    "{}: guest memory at {:#x}, {} MiB",
                    self.capabilities.name,
                    mapping.iova,
                    mapping.memory.len() >> 20
                ),
                // The kernel answers EFAULT to everything.
                format!("it is out of its reach, not shared, or {}", memlock_remedy()),
                error,
            )
        })?;
        self.mappings.insert(mapping.iova, mapping);
        Ok(())
    }

    fn unmap(&mut self, iova: u64) -> Result<(), VdpaError> {
        let Some(mapping) = self.mappings.remove(&iova) else {
            let what = format!("{}: nothing is mapped at {iova:#x}", self.capabilities.name);
            return Err(VdpaError::new(VdpaProblem::Memory, what, ""));
        };
        self.device.unmap(iova, mapping.memory.len()).map_err(|error| {
            // It must not reach the memory, come what may.
            let _ = self.device.set_status(0);
            self.refused("taking memory away from it", error)
        })
    }

    fn start(&mut self, start: Start<'_>) -> Result<Vec<StartedRing>, VdpaError> {
        rules::check(&self.capabilities, &start)?;
        let rings = self.run(&start).map_err(|error| {
            let _ = self.halt();
            self.refused("starting it", error)
        })?;
        // What waits in the rings already is looked at.
        rings.iter().for_each(|ring| ring.doorbell.ring());
        Ok(rings)
    }

    fn set_call(&mut self, ring: u16, call: Option<Arc<OwnedFd>>) -> Result<(), VdpaError> {
        let call = call.as_ref().map(|call| call.as_fd());
        self.device.set_call(ring, call).map_err(|e| self.refused("changing where its interrupts go", e))
    }

    fn set_kick(&mut self, ring: u16, kick: Option<Arc<OwnedFd>>) -> Result<(), VdpaError> {
        let Some(doorbell) = self.doorbells.get(usize::from(ring)) else {
            let what = format!("{}: it does not run ring {ring}", self.capabilities.name);
            return Err(VdpaError::new(VdpaProblem::Refused, what, ""));
        };
        let kick =
            self.watch_kick(ring, kick).map_err(|e| self.refused("changing by what it is kicked", e))?;
        doorbell.rewire(move || write_kick(&kick));
        Ok(())
    }

    fn set_queue_pairs(&mut self, pairs: u16) -> Result<(), VdpaError> {
        if pairs == 1 && !self.doorbells.is_empty() {
            return Ok(());
        }
        let what = format!("{}: {pairs} queue pairs of 1", self.capabilities.name);
        Err(VdpaError::new(VdpaProblem::Refused, what, "give the guest one queue"))
    }

    fn stop(&mut self) -> Result<Vec<StoppedRing>, VdpaError> {
        let rings = self.doorbells.len() as u16;
        let suspended = self.capabilities.reports_index && self.device.suspend().is_ok();
        let stand = |ring: u16| {
            let base = self.device.ring_base(ring).ok().filter(|_| suspended)?;
            let (driver, device) = (base as u16, (base >> 16) as u16);
            (!self.packed || driver == device).then_some(StoppedRing::At(driver))
        };
        let stands = (0..rings).map(|ring| stand(ring).unwrap_or(StoppedRing::Unknown)).collect();
        self.halt().map_err(|error| self.refused("stopping it", error))?;
        Ok(stands)
    }

    fn reset(&mut self) -> Result<(), VdpaError> {
        self.halt().map_err(|error| self.refused("resetting it", error))
    }

    fn event_fd(&self) -> Option<Arc<OwnedFd>> {
        Some(Arc::clone(&self.both))
    }

    fn poll(&mut self) -> DeviceEvents {
        let config_changed = rustix::io::read(&self.config_event, &mut [0; 8]).is_ok();
        while rustix::io::read(&self.name_watch, &mut [0; 512]).is_ok() {}
        let removed = !self.path.exists();
        let bits = self.device.status();
        let running = !self.doorbells.is_empty();
        let failed = match bits {
            Ok(bits) => running && (bits & status::NEEDS_RESET != 0 || bits & status::DRIVER_OK == 0),
            Err(_) => true,
        };
        DeviceEvents { config_changed, failed, removed }
    }

    fn uplink(&self) -> Uplink {
        self.uplink.clone()
    }
}

impl Drop for KernelDevice {
    fn drop(&mut self) {
        // With the descriptor goes every mapping; the device must not run then.
        if let Err(error) = self.halt() {
            log::warn!("{}: resetting it: {error}", self.capabilities.name);
        }
    }
}

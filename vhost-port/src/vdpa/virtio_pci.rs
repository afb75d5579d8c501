//! A virtio-net function of a card, through VFIO, for one guest.
//!
//! | | |
//! |---|---|
//! | memory | the function has an IOMMU context of its own, in which guest physical addresses are the I/O addresses |
//! | rings | the guest's own: their addresses go into the function's registers as they are |
//! | interrupts | a vector per ring, wired by the kernel straight to the guest's call eventfd |
//! | kicks | a page of registers per ring, if the function has its doorbells that far apart; else the port rings them |
//! | control queue | ours, in memory of ours at the end of the I/O addresses: number of pairs, addresses to receive |
//!
//! Rings start at index zero only and where they stand is not told: a virtio function has registers for neither. Nothing here
//! is on a packet's way; a kick that the port relays is one store.
//!
//! Trust: the function is another program's, or a guest hypervisor's. It can write into the guest's memory only, and what its registers
//! say is bounded before it is used.
#![expect(unsafe_code, reason = "shows a guest's memory to a device")]

mod events;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use pmd::drivers::virtio_net;
use pmd::memory::IoSpace;
use pmd::pci::{PciAddress, PciFn, Sysfs};
use pmd::port::PmdError;
use pmd::virtio::features::*;
use pmd::virtio::pci::{Control, NO_VECTOR, Transport, net, status};

use self::events::Events;
use super::device::{
    Capabilities, DeviceEvents, Doorbell, DoorbellPage, RingStart, Start, StartIndex, StartedRing,
    StoppedRing, Uplink, VdpaDev,
};
use super::error::{VdpaError, VdpaProblem};
use super::gated::GatedDoorbell;
use super::memory::DmaMapping;
use super::rules::{self, FOR_GUESTS, FOR_MEMORY};
use super::uplink::uplink_of;

/// What is taken beside what the guest uses, if it is there: how the function reaches memory, and what our control queue is for.
const FOR_US: u64 = FOR_MEMORY
    | VIRTIO_NET_F_STATUS
    | VIRTIO_NET_F_CTRL_VQ
    | VIRTIO_NET_F_CTRL_RX
    | VIRTIO_NET_F_CTRL_MAC_ADDR;

/// Most queue pairs that are used: as many as a vhost-user port has.
const MOST_PAIRS: u16 = 128;

/// A function with a guest's rings on it.
pub(super) struct VirtioFn {
    capabilities: Capabilities,
    /// Features the function offers, all of them.
    offered: u64,
    /// Queue pairs it has, which says where its control queue is.
    device_pairs: u16,
    uplink: Uplink,
    mappings: BTreeMap<u64, DmaMapping>,
    /// While it runs.
    running: Option<Running>,
    /// It has gone, or the kernel has asked for it. That stays so.
    removed: bool,
    transport: Transport,
    space: Arc<dyn IoSpace>,
    events: Events,
}

struct Running {
    rings: usize,
    doorbells: Vec<Arc<GatedDoorbell>>,
    control: Option<Control>,
    has_mq: bool,
}

/// Opens a function that is bound to `vfio-pci`.
pub(super) fn open(address: PciAddress) -> Result<Box<dyn VdpaDev>, VdpaError> {
    let sysfs = Sysfs::default();
    let info = sysfs.info(address).map_err(|e| VdpaError::new(VdpaProblem::Name, e.to_string(), ""))?;
    if !virtio_net::IDS.contains(&(info.vendor, info.device)) {
        return Err(VdpaError::new(
            VdpaProblem::Name,
            format!("{address} is {:04x}:{:04x}, no virtio network function", info.vendor, info.device),
            "only those can run a guest's rings here: use it as a port (type=pmd), or a virtio function for options:vdpa",
        ));
    }
    let uplink = uplink_of(&sysfs, &info);
    let (function, space) = pmd::vfio::open_apart(address)
        .map_err(|error| VdpaError::new(VdpaProblem::NotOurs, error.to_string(), ""))?;
    Ok(Box::new(VirtioFn::new(&function, space, uplink)?))
}

fn refused(error: &PmdError) -> VdpaError {
    VdpaError::new(VdpaProblem::Refused, error.to_string(), "")
}

impl VirtioFn {
    /// A function that nobody else uses, and what it finds at which address.
    fn new(
        function: &Arc<dyn PciFn>,
        space: Arc<dyn IoSpace>,
        uplink: Uplink,
    ) -> Result<VirtioFn, VdpaError> {
        let transport = Transport::new(function.clone()).map_err(|error| refused(&error))?;
        let name = function.address().to_string();
        let unfit = |what: String, remedy: &str| VdpaError::new(VdpaProblem::Unfit, what, remedy);
        let offered = transport.offered();
        let mut device_pairs = 1;
        if offered & VIRTIO_NET_F_MQ != 0 && offered & VIRTIO_NET_F_CTRL_VQ != 0 {
            device_pairs = transport.config().read16(net::MAX_PAIRS).clamp(1, 1 << 15);
        }
        let vectors = function.vectors();
        let pairs = device_pairs.min(MOST_PAIRS).min(vectors / 2);
        if pairs == 0 {
            return Err(unfit(
                format!("{name} has {vectors} interrupts, and two rings need one each"),
                "give it more: in QEMU, `vectors=4` on the device",
            ));
        }
        let max_ring_size = max_ring_size(&transport, pairs).map_err(|error| refused(&error))?;
        let mac = (offered & VIRTIO_NET_F_MAC != 0)
            .then(|| core::array::from_fn(|i| transport.config().read8(net::MAC + i)));
        let mut given = offered & FOR_GUESTS;
        if pairs == 1 {
            given &= !VIRTIO_NET_F_MQ;
        }
        let events = Events::new(&**function, vectors > 2 * pairs)?;
        let capabilities = Capabilities {
            kind: "virtio-pci",
            name,
            features: given,
            max_queue_pairs: pairs,
            max_ring_size,
            start_index: StartIndex::Zero,
            reports_index: false,
            iova: addresses(&**function, &*space).map_err(|error| refused(&error))?,
            granule: rustix::param::page_size() as u64,
            mac,
        };
        Ok(VirtioFn {
            capabilities,
            offered,
            device_pairs,
            uplink,
            mappings: BTreeMap::new(),
            running: None,
            removed: false,
            transport,
            space,
            events,
        })
    }

    fn error(&self, problem: VdpaProblem, what: &str, remedy: &str) -> VdpaError {
        VdpaError::new(problem, format!("{}: {what}", self.capabilities.name), remedy)
    }

    fn run(&mut self, start: &Start<'_>) -> Result<Running, PmdError> {
        self.transport.reset()?;
        let mut taken = start.features | self.offered & FOR_US;
        if taken & VIRTIO_NET_F_CTRL_VQ == 0 {
            taken &= !(VIRTIO_NET_F_CTRL_RX | VIRTIO_NET_F_CTRL_MAC_ADDR | VIRTIO_NET_F_MQ);
        } else {
            // Taken whenever it is there: it says where the control queue is.
            taken |= self.offered & VIRTIO_NET_F_MQ;
        }
        self.transport.accept(taken)?;
        let has_mq = taken & VIRTIO_NET_F_MQ != 0;
        let function = self.transport.function().clone();
        let own = self.events.config_event();
        let first = u16::from(own.is_some());
        let calls = start.rings.iter().map(|ring| ring.call.as_ref().map(|call| call.as_fd()));
        let vectors: Vec<_> = own.map(Some).into_iter().chain(calls).collect();
        function.set_vectors(&vectors)?;
        self.transport.set_config_vector(if own.is_some() { 0 } else { NO_VECTOR })?;
        let mut doorbells = Vec::new();
        for (queue, ring) in (0..).zip(start.rings) {
            let RingStart { size, descriptors, driver, device, .. } = *ring;
            let register =
                self.transport.set_up_queue(queue, size, [descriptors, driver, device], first + queue)?;
            doorbells.push(Arc::new(GatedDoorbell::new(move || register.write16(0, queue))));
        }
        let mut control = None;
        if taken & VIRTIO_NET_F_CTRL_VQ != 0 {
            let index = if has_mq { 2 * self.device_pairs } else { 2 };
            control = self.transport.control_queue(taken, index)?;
        }
        function.enable()?;
        self.transport.set_status(status::DRIVER_OK);
        let mut running = Running { rings: start.rings.len(), doorbells, control, has_mq };
        self.configure(&mut running, start, taken)?;
        if self.transport.status() & status::NEEDS_RESET != 0 {
            return Err(self.transport.failed("it does not take the guest's rings"));
        }
        Ok(running)
    }

    /// What is said to the function when it runs: how many pairs, and which frames are for it.
    fn configure(&self, running: &mut Running, start: &Start<'_>, taken: u64) -> Result<(), PmdError> {
        let (pairs, has_mq) = (start.queue_pairs, running.has_mq);
        let Some(control) = &mut running.control else { return Ok(()) };
        if has_mq && !control.set_pairs(pairs) {
            return Err(self.transport.failed(&format!("it does not take {pairs} queue pairs")));
        }
        // Without the feature it receives everything.
        if taken & VIRTIO_NET_F_CTRL_RX != 0 {
            let named =
                taken & VIRTIO_NET_F_CTRL_MAC_ADDR != 0 && start.mac.is_some_and(|mac| control.set_mac(mac));
            // A card gives a function frames of other addresses only if it is trusted; a guest that is no bridge does without.
            if !control.set_promiscuous() && !named {
                return Err(self.transport.failed(
                    "it receives frames for the guest neither by its address nor promiscuously: let the card trust it \
                     (`ip link set PF vf N trust on`)",
                ));
            }
            if !control.set_all_multicast() {
                log::warn!(
                    "{}: it does not take all multicast: the guest may miss some groups",
                    self.capabilities.name
                );
            }
        }
        Ok(())
    }

    /// Ends all that runs. Afterwards it neither writes memory nor interrupts.
    fn halt(&mut self) -> Result<(), PmdError> {
        if let Some(running) = &self.running {
            running.doorbells.iter().for_each(|doorbell| doorbell.close());
        }
        let silent = self.transport.silence();
        // Nothing is signalled for a function that is silent; should this fail, it is gone.
        let _ = self.transport.function().set_vectors(&[]);
        // With it goes the control queue, whose memory the function knew until now.
        self.running = None;
        silent
    }

    fn running(&mut self) -> Result<&mut Running, VdpaError> {
        let name = &self.capabilities.name;
        self.running
            .as_mut()
            .ok_or_else(|| VdpaError::new(VdpaProblem::Refused, format!("{name} has not been started"), ""))
    }
}

/// The longest ring that all rings of so many pairs can be. Leaves the function reset.
fn max_ring_size(transport: &Transport, pairs: u16) -> Result<u16, PmdError> {
    transport.reset()?;
    // Queues of further pairs may be there only when MQ has been accepted; so it is with QEMU's.
    let needed = VIRTIO_F_VERSION_1 | FOR_MEMORY | VIRTIO_NET_F_MQ | VIRTIO_NET_F_CTRL_VQ;
    transport.accept(transport.offered() & needed)?;
    let sizes = (0..2 * pairs).map(|queue| transport.queue_size(queue));
    let shortest = sizes.reduce(|one, other| Ok(one?.min(other?)));
    transport.reset()?;
    shortest.unwrap_or(Ok(0))
}

/// Addresses for the guest's memory: all that the IOMMU translates, but for the end, where our own memory goes.
fn addresses(
    function: &dyn PciFn,
    space: &dyn IoSpace,
) -> Result<Vec<std::ops::RangeInclusive<u64>>, PmdError> {
    let ours = function.dma("vDPA probe", 1)?.iova(0);
    let ranges = space.ranges()?.into_iter();
    Ok(ranges.filter(|&(first, _)| first < ours).map(|(first, last)| first..=last.min(ours - 1)).collect())
}

impl VdpaDev for VirtioFn {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn read_config(&mut self, offset: u32, into: &mut [u8]) -> Result<(), VdpaError> {
        let (config, len) = (self.transport.config(), self.transport.config_len());
        // Until nothing has changed meanwhile; a function that changes all the time is not waited for.
        for _ in 0..4 {
            let generation = self.transport.config_generation();
            for (at, byte) in (offset as usize..).zip(&mut *into) {
                *byte = if at < len { config.read8(at) } else { 0 };
            }
            if self.transport.config_generation() == generation {
                break;
            }
        }
        if self.transport.function().config_u16(0) == u16::MAX {
            return Err(self.error(VdpaProblem::Gone, "the device is gone", ""));
        }
        Ok(())
    }

    fn write_config(&mut self, offset: u32, bytes: &[u8]) -> Result<(), VdpaError> {
        let len = self.transport.config_len();
        for (at, &byte) in (offset as usize..len).zip(bytes) {
            self.transport.config().write8(at, byte);
        }
        Ok(())
    }

    fn map(&mut self, mapping: DmaMapping) -> Result<(), VdpaError> {
        let (first, last) = (mapping.iova, mapping.last());
        let reached =
            self.capabilities.iova.iter().any(|range| range.contains(&first) && range.contains(&last));
        let len = usize::try_from(mapping.memory.len()).ok().filter(|_| reached);
        let Some(len) = len else {
            let window: Vec<_> =
                self.capabilities.iova.iter().map(|r| format!("{:#x}-{:#x}", r.start(), r.end())).collect();
            return Err(self.error(
                VdpaProblem::Memory,
                &format!(
                    "its IOMMU does not reach the guest's memory at {first:#x}-{last:#x}, only {}",
                    window.join(", ")
                ),
                "give the guest less memory, or the machine an IOMMU with more address bits",
            ));
        };
        let start = mapping.memory.addr() as *mut u8;
        // SAFETY: the memory stays mapped while its owner lives, and `mapping` is kept until it has been unmapped or the function is closed;
        // guest memory is never behind a reference (contract of `HostMemory`).
        unsafe { self.space.map(first, start, len) }.map_err(|error| {
            VdpaError::new(
                VdpaProblem::Memory,
                format!("{}: guest memory at {first:#x}: {}", self.capabilities.name, error.what),
                error.remedy,
            )
        })?;
        self.mappings.insert(first, mapping);
        Ok(())
    }

    fn unmap(&mut self, iova: u64) -> Result<(), VdpaError> {
        let Some(mapping) = self.mappings.remove(&iova) else {
            let what = format!("nothing is mapped at {iova:#x}");
            return Err(self.error(VdpaProblem::Memory, &what, ""));
        };
        self.space.unmap(iova, mapping.memory.len() as usize).map_err(|error| {
            // It must not reach the memory, come what may.
            self.transport.function().silence();
            VdpaError::new(
                VdpaProblem::Memory,
                format!("{}: {}", self.capabilities.name, error.what),
                error.remedy,
            )
        })
    }

    fn start(&mut self, start: Start<'_>) -> Result<Vec<StartedRing>, VdpaError> {
        rules::check(&self.capabilities, &start)?;
        let running = match self.run(&start) {
            Ok(running) => running,
            Err(error) => {
                let _ = self.halt();
                return Err(refused(&error));
            }
        };
        let rings = (0..).zip(&running.doorbells).map(|(queue, doorbell)| StartedRing {
            doorbell: doorbell.clone(),
            watches_kick: false,
            page: self.transport.doorbell_place(queue).map(|place| DoorbellPage {
                fd: Arc::new(place.fd),
                offset: place.offset,
                len: place.len,
            }),
        });
        let rings = rings.collect();
        // What waits in the rings already is looked at.
        running.doorbells.iter().for_each(|doorbell| doorbell.ring());
        self.running = Some(running);
        Ok(rings)
    }

    fn set_call(&mut self, ring: u16, call: Option<Arc<OwnedFd>>) -> Result<(), VdpaError> {
        let rings = self.running()?.rings;
        if usize::from(ring) >= rings {
            return Err(self.error(VdpaProblem::Refused, &format!("it does not run ring {ring}"), ""));
        }
        let vector = ring + u16::from(self.events.config_event().is_some());
        let event = call.as_ref().map(|call| call.as_fd());
        self.transport.function().set_vector(vector, event).map_err(|error| refused(&error))
    }

    fn set_kick(&mut self, _: u16, _: Option<Arc<OwnedFd>>) -> Result<(), VdpaError> {
        // It hears none: the port rings its doorbells.
        Ok(())
    }

    fn set_queue_pairs(&mut self, pairs: u16) -> Result<(), VdpaError> {
        let running = self.running()?;
        let started = running.rings / 2;
        if pairs == 0 || usize::from(pairs) > started {
            let what = format!("{pairs} queue pairs of {started} that run");
            return Err(self.error(VdpaProblem::Refused, &what, ""));
        }
        if running.has_mq && running.control.as_mut().is_some_and(|control| !control.set_pairs(pairs)) {
            let what = format!("it does not take {pairs} queue pairs");
            return Err(self.error(VdpaProblem::Refused, &what, ""));
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<Vec<StoppedRing>, VdpaError> {
        let rings = self.running()?.rings;
        self.halt().map_err(|error| refused(&error))?;
        Ok(vec![StoppedRing::Unknown; rings])
    }

    fn reset(&mut self) -> Result<(), VdpaError> {
        self.halt().map_err(|error| refused(&error))
    }

    fn event_fd(&self) -> Option<Arc<OwnedFd>> {
        self.events.fd()
    }

    fn poll(&mut self) -> DeviceEvents {
        let (config_changed, asked_back) = self.events.take();
        let bits = self.transport.status();
        // Ones from an empty slot; and where the kernel has taken the registers away, the configuration space says so.
        let gone = bits == 0xff || self.transport.function().config_u16(0) == u16::MAX;
        let running = self.running.is_some();
        let failed = !gone && running && (bits & status::NEEDS_RESET != 0 || bits & status::DRIVER_OK == 0);
        self.removed |= gone || asked_back;
        DeviceEvents { config_changed, failed, removed: self.removed }
    }

    fn uplink(&self) -> Uplink {
        self.uplink.clone()
    }
}

impl Drop for VirtioFn {
    fn drop(&mut self) {
        if let Err(error) = self.halt() {
            log::warn!("{error}");
        }
        for (iova, mapping) in std::mem::take(&mut self.mappings) {
            // What cannot be unmapped goes with the container, which is closed next; the memory outlives the attempt.
            let _ = self.space.unmap(iova, mapping.memory.len() as usize);
        }
    }
}

//! A function that `vfio-pci` hands to this process.

use std::collections::BTreeSet;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vfio_ioctls::{VfioDevice, VfioError, VfioRegionInfoCap};

use super::container::{Container, shared};
use crate::memory::{DmaArena, IoSpace};
use crate::pci::{Bar, PciAddress, PciFn, Sysfs};
use crate::port::PmdError;
use crate::sys;
use crate::sys::sigbus::Alarm;

/// Regions and interrupts by their numbers (Linux `vfio.h`).
const LAST_BAR: u32 = 5;
const CONFIG_REGION: u32 = 7;
const MSI_X: u32 = 2;
const REQUEST: u32 = 4;
/// Region flag: can be mapped.
const CAN_MAP: u32 = 4;

/// Functions that this process has open.
static OPEN: Mutex<BTreeSet<PciAddress>> = Mutex::new(BTreeSet::new());

/// Whether this process has the function open.
pub fn is_open(address: PciAddress) -> bool {
    lock(&OPEN).contains(&address)
}

struct VfioFn {
    address: PciAddress,
    /// Taken only by drop.
    device: Option<VfioDevice>,
    container: Arc<Container>,
    lost: Arc<Alarm>,
    _claim: Claim,
}

/// The function is in [`OPEN`].
struct Claim(PciAddress);

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&OPEN).remove(&self.0);
    }
}

/// Opens a function that is bound to `vfio-pci`, and resets it.
///
/// # Errors
/// It is not bound, in use, or the kernel refuses: the text says what to do.
pub fn open(address: PciAddress) -> Result<Arc<dyn PciFn>, PmdError> {
    Ok(open_in(address, shared)?.0)
}

/// A function and its own addresses.
pub type Apart = (Arc<dyn PciFn>, Arc<dyn IoSpace>);

/// Opens a function that is bound to `vfio-pci` in a container of its own, and resets it. Which addresses mean what to it is then said
/// by its user, by the second of the two; [`PciFn::dma`] takes addresses from the end of the highest range.
///
/// # Errors
/// As [`open`].
pub fn open_apart(address: PciAddress) -> Result<Apart, PmdError> {
    let (function, container) = open_in(address, Container::private)?;
    Ok((function, container))
}

fn open_in(
    address: PciAddress,
    container: impl FnOnce() -> Result<Arc<Container>, PmdError>,
) -> Result<(Arc<dyn PciFn>, Arc<Container>), PmdError> {
    let sysfs = Sysfs::default();
    let info = sysfs.info(address)?;
    match info.driver.as_deref() {
        Some("vfio-pci") => {}
        other => {
            return Err(PmdError::Config(format!(
                "{address} is bound to {}, not to vfio-pci: `vsctl nic bind {address}`",
                other.map_or_else(|| "no driver".into(), |driver| format!("driver {driver}"))
            )));
        }
    }
    if !lock(&OPEN).insert(address) {
        return Err(PmdError::Config(format!(
            "{address} is a port of this switch already: remove that port first"
        )));
    }
    let claim = Claim(address);
    let container = container()?;
    let device = VfioDevice::new(&sysfs.device(address), container.vfio.clone(), false)
        .map_err(|error| refused(address, info.group, &error))?;
    let lost = Alarm::new().map_err(|e| PmdError::system("making an eventfd", "", e))?;
    let function =
        VfioFn { address, device: Some(device), container: container.clone(), lost, _claim: claim };
    function.reset();
    Ok((Arc::new(function), container))
}

fn refused(address: PciAddress, group: Option<u32>, error: &VfioError) -> PmdError {
    let group = group.unwrap_or_default();
    let remedy = match error {
        VfioError::OpenGroup(e, _) if e.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
            format!("another process has group {group}: `fuser /dev/vfio/{group}`")
        }
        VfioError::OpenGroup(..) => format!("run as root, or give this user /dev/vfio/{group}"),
        VfioError::GroupViable => {
            format!("the kernel still drives another device of group {group}: `vsctl nic list` shows groups")
        }
        VfioError::ContainerSetIOMMU(_) => {
            "the IOMMU cannot separate interrupts: enable interrupt remapping in the firmware, or accept the risk with \
             `echo 1 > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts`"
                .into()
        }
        _ => "the kernel log says why".into(),
    };
    PmdError::Config(format!("opening {address} through VFIO: {error} ({remedy})"))
}

/// Offset and length of the parts of a register space that can be mapped.
fn mappable(device: &VfioDevice, region: u32) -> Vec<(u64, u64)> {
    if region > LAST_BAR || device.get_region_flags(region) & CAN_MAP == 0 {
        return Vec::new();
    }
    let sparse = device.get_region_caps(region).into_iter().find_map(|cap| match cap {
        VfioRegionInfoCap::SparseMmap(cap) => {
            Some(cap.areas.iter().map(|area| (area.offset, area.size)).collect::<Vec<_>>())
        }
        _ => None,
    });
    sparse.unwrap_or_else(|| vec![(0, device.get_region_size(region))])
}

impl VfioFn {
    fn device(&self) -> Result<&VfioDevice, PmdError> {
        self.device.as_ref().filter(|_| !self.lost.tripped()).ok_or_else(|| self.gone())
    }

    fn gone(&self) -> PmdError {
        PmdError::Config(format!("{}: the device is gone", self.address))
    }

    fn descriptor(&self, device: &VfioDevice) -> Result<OwnedFd, PmdError> {
        sys::vfio::duplicate(device)
            .map_err(|e| PmdError::system(format!("{}: copying its descriptor", self.address), "", e))
    }
}

impl PciFn for VfioFn {
    fn address(&self) -> PciAddress {
        self.address
    }

    fn config_read(&self, offset: u16, bytes: &mut [u8]) -> Result<(), PmdError> {
        let device = self.device()?;
        sys::vfio::read_at(device, bytes, device.get_region_offset(CONFIG_REGION) + u64::from(offset))
            .map_err(|_| self.gone())
    }

    fn config_write(&self, offset: u16, bytes: &[u8]) -> Result<(), PmdError> {
        let device = self.device()?;
        sys::vfio::write_at(device, bytes, device.get_region_offset(CONFIG_REGION) + u64::from(offset))
            .map_err(|_| self.gone())
    }

    fn bar(&self, index: u8) -> Result<Bar, PmdError> {
        let device = self.device()?;
        let region = u32::from(index);
        let size = if region <= LAST_BAR { device.get_region_size(region) } else { 0 };
        let Some(len) = usize::try_from(size).ok().filter(|&len| len > 0) else {
            return Err(PmdError::Config(format!(
                "{}: there are no registers behind BAR {index}",
                self.address
            )));
        };
        let areas = mappable(device, region);
        let offset = device.get_region_offset(region);
        let map = sys::vfio::RegionMap::new(self.descriptor(device)?, offset, len, &areas, &self.lost)
            .map_err(|e| PmdError::system(format!("{}: mapping BAR {index}", self.address), "", e))?;
        Ok(Bar::mapped(map))
    }

    fn bar_file(&self, index: u8, offset: usize, len: usize) -> Option<(OwnedFd, u64)> {
        let device = self.device().ok()?;
        let inside = |start: u64, size: u64| {
            offset as u64 >= start
                && (offset as u64).checked_add(len as u64).is_some_and(|end| end <= start + size)
        };
        if !mappable(device, index.into()).iter().any(|&(start, size)| inside(start, size)) {
            return None;
        }
        let fd = self.descriptor(device).ok()?;
        Some((fd, device.get_region_offset(index.into()) + offset as u64))
    }

    fn dma(&self, name: &str, len: usize) -> Result<DmaArena, PmdError> {
        self.device()?;
        self.container.arena(name, len)
    }

    fn vectors(&self) -> u16 {
        let irq = self.device.as_ref().and_then(|device| device.get_irq_info(MSI_X));
        irq.map_or(0, |irq| u16::try_from(irq.count).unwrap_or(u16::MAX))
    }

    fn set_vectors(&self, events: &[Option<BorrowedFd<'_>>]) -> Result<(), PmdError> {
        let device = self.device()?;
        // The kernel keeps as many as were asked for first; to have another number, all go first.
        let _ = sys::vfio::set_interrupts(device, MSI_X, &[]);
        if events.is_empty() {
            return Ok(());
        }
        sys::vfio::set_interrupts(device, MSI_X, events).map_err(|e| {
            PmdError::system(format!("{}: setting {} MSI-X vectors", self.address, events.len()), "", e)
        })
    }

    fn set_vector(&self, vector: u16, event: Option<BorrowedFd<'_>>) -> Result<(), PmdError> {
        sys::vfio::set_interrupts_from(self.device()?, MSI_X, vector.into(), &[event])
            .map_err(|e| PmdError::system(format!("{}: setting MSI-X vector {vector}", self.address), "", e))
    }

    fn on_removal(&self, event: BorrowedFd<'_>) -> Result<(), PmdError> {
        sys::vfio::set_interrupts(self.device()?, REQUEST, &[Some(event)])
            .map_err(|e| PmdError::system(format!("{}: watching for its removal", self.address), "", e))
    }

    fn reset(&self) {
        if let Ok(device) = self.device() {
            device.reset();
        }
    }
}

impl Drop for VfioFn {
    fn drop(&mut self) {
        self.silence();
        self.reset();
        let Some(device) = self.device.take() else { return };
        // `vfio-ioctls` looks the group up in sysfs once more and panics when a device that was being unplugged has left it.
        let address = self.address;
        if catch_unwind(AssertUnwindSafe(|| drop(device))).is_err() {
            log::warn!("{address}: the device vanished while it was being closed");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

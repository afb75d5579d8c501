//! A function that `vfio-pci` hands to this process.

use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vfio_ioctls::{VfioDevice, VfioError, VfioRegionInfoCap};

use super::container::{Container, shared};
use crate::memory::{DmaArena, IoSpace};
use crate::pci::{Bar, PciAddress, PciFn, PciInfo, Sysfs};
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
    /// `vfio-ioctls` follows the name once more when it closes the device.
    _token: Option<TokenName>,
    _claim: Claim,
}

/// The kernel asks who opens a virtual function for the token of the physical one, where VFIO has both: he shall know that a process drives the
/// card. Whoever opens the physical function names it first. It is no secret: what keeps others out is who may open `/dev/vfio`. And it is always
/// the same, so that a switch that was started anew gets a card back whose virtual functions are in use.
const TOKEN: &str = "6f3a51c2-9d0e-4b7c-8a15-0c2f7e4d9b36";

/// Whether a function is opened with the token.
fn wants_token(sysfs: &Sysfs, info: &PciInfo) -> bool {
    let by_process =
        |physical| sysfs.info(physical).is_ok_and(|info| info.driver.as_deref() == Some("vfio-pci"));
    info.virtual_functions.is_some() || info.physical_function.is_some_and(by_process)
}

/// A path to a function in sysfs whose last part is the name the kernel wants, with the token: `vfio-ioctls` takes the name from there.
struct TokenName {
    folder: PathBuf,
    path: PathBuf,
}

impl TokenName {
    fn new(sysfs: &Sysfs, address: PciAddress) -> Result<TokenName, PmdError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("vswitch-{}-{number}", std::process::id()));
        let failed = |e| PmdError::system(format!("{address}: making {}", folder.display()), "", e);
        // Ours alone; one that is there already is somebody else's, or of a process that is no more.
        let _ = std::fs::remove_dir_all(&folder);
        DirBuilder::new().mode(0o700).create(&folder).map_err(failed)?;
        let path = folder.join(format!("{address} vf_token={TOKEN}"));
        let name = TokenName { folder: folder.clone(), path };
        symlink(sysfs.device(address), &name.path).map_err(failed)?;
        Ok(name)
    }
}

impl Drop for TokenName {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
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
    let open = |path: &Path| VfioDevice::new(path, container.vfio.clone(), false);
    let (own, is_virtual) = (sysfs.device(address), info.physical_function.is_some());
    let token = if wants_token(&sysfs, &info) { TokenName::new(&sysfs, address).map(Some) } else { Ok(None) };
    // A physical function works without one, but its virtual ones will not.
    let token = if is_virtual { token? } else { token.unwrap_or_default() };
    let device = open(token.as_ref().map_or(&own, |name| &name.path)).or_else(|error| {
        // A kernel that knows no tokens knows no device of such a name.
        if is_virtual || token.is_none() { Err(error) } else { open(&own) }
    });
    let device = device.map_err(|error| refused(address, info.group, &error))?;
    let lost = Alarm::new().map_err(|e| PmdError::system("making an eventfd", "", e))?;
    let container_of = container.clone();
    let function =
        VfioFn { address, device: Some(device), container: container_of, lost, _token: token, _claim: claim };
    function.reset();
    Ok((Arc::new(function), container))
}

fn refused(address: PciAddress, group: Option<u32>, error: &VfioError) -> PmdError {
    let group = group.unwrap_or_default();
    let remedy = match error {
        VfioError::OpenGroup(e, _) if e.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
            format!("another process has group {group}: `fuser /dev/vfio/{group}`")
        }
        VfioError::GroupGetDeviceFD(e) if e.errno() == rustix::io::Errno::ACCESS.raw_os_error() => {
            "the process that drives its physical function has given it another token, or none: that has to be this switch".into()
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

    fn virtual_functions(&self) -> u16 {
        Sysfs::default().virtual_function_count(self.address)
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

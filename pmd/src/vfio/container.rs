//! Containers, and memory in them: the one of the process, and those of single functions.
#![expect(unsafe_code, reason = "hands memory to devices")]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use vfio_ioctls::{VfioContainer, VfioError};

use super::window::Window;
use crate::memory::{Arena, DmaArena, IoMapError, IoSpace};
use crate::port::PmdError;
use crate::sys;

const ENOMEM: i32 = rustix::io::Errno::NOMEM.raw_os_error();
const ENOSPC: i32 = rustix::io::Errno::NOSPC.raw_os_error();

/// A container and the addresses in use in it.
pub(super) struct Container {
    pub(super) vfio: Arc<VfioContainer>,
    window: Mutex<Window>,
    /// Addresses are mostly its user's: our own memory goes to the end.
    private: bool,
}

/// The container of this process: made for the first function, gone with the last.
pub(super) fn shared() -> Result<Arc<Container>, PmdError> {
    static SHARED: Mutex<Weak<Container>> = Mutex::new(Weak::new());
    let mut shared = lock(&SHARED);
    if let Some(container) = shared.upgrade() {
        return Ok(container);
    }
    let container = Container::new(false)?;
    *shared = Arc::downgrade(&container);
    Ok(container)
}

impl Container {
    fn new(private: bool) -> Result<Arc<Container>, PmdError> {
        let vfio = VfioContainer::new(None).map_err(|error| {
            let remedy = match &error {
                VfioError::OpenContainer(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    "`modprobe vfio-pci`"
                }
                VfioError::OpenContainer(_) => "run as root, or give this user /dev/vfio/vfio",
                VfioError::VfioExtension => "`modprobe vfio_iommu_type1`",
                _ => "this kernel's VFIO is not the one known here",
            };
            PmdError::Config(format!("opening /dev/vfio/vfio: {error} ({remedy})"))
        })?;
        Ok(Arc::new(Container { vfio: Arc::new(vfio), window: Mutex::default(), private }))
    }

    /// A container of one function.
    pub(super) fn private() -> Result<Arc<Container>, PmdError> {
        Container::new(true)
    }

    /// Makes memory that all functions of the container see. At least one of them is open.
    pub(super) fn arena(self: &Arc<Container>, name: &str, len: usize) -> Result<DmaArena, PmdError> {
        let arena = Arc::new(Arena::create(name, len)?);
        let ranges = self.ranges()?;
        let len = arena.len() as u64;
        let mut window = lock(&self.window);
        let taken = if self.private { window.take_last(len, &ranges) } else { window.take(len, &ranges) };
        drop(window);
        let iova = taken.ok_or_else(|| {
            PmdError::Config(format!(
                "{name}: no room for {} MiB in the window of the IOMMU, which is {}: use fewer or shorter queues",
                arena.len() >> 20,
                ranges.iter().map(|(first, last)| format!("{first:#x}-{last:#x}")).collect::<Vec<_>>().join(", ")
            ))
        })?;
        // Unmapped and given back when this is dropped, whatever comes next.
        let mapping = Mapping { container: self.clone(), arena: arena.clone(), iova };
        // SAFETY: the range is a mapping of ours, which `mapping` keeps until it has been unmapped. It is only ever accessed through
        // `DmaArena`, by atomics and byte copies, never by reference.
        let mapped = unsafe { self.vfio.vfio_dma_map(iova, arena.len(), arena.start().as_ptr()) };
        mapped.map_err(|error| {
            let IoMapError { what, remedy, .. } = refused(arena.len(), &error);
            PmdError::Config(format!("{name}: {what} ({remedy})"))
        })?;
        Ok(DmaArena::new(arena, iova, Box::new(mapping)))
    }
}

impl IoSpace for Container {
    fn ranges(&self) -> Result<Vec<(u64, u64)>, PmdError> {
        sys::vfio::address_ranges(&*self.vfio)
            .map_err(|e| PmdError::system("asking the IOMMU for its window", "", e))
    }

    unsafe fn map(&self, iova: u64, start: *mut u8, len: usize) -> Result<(), IoMapError> {
        // SAFETY: forwarded.
        unsafe { self.vfio.vfio_dma_map(iova, len, start) }.map_err(|error| refused(len, &error))
    }

    fn unmap(&self, iova: u64, len: usize) -> Result<(), IoMapError> {
        let what = || format!("taking {} MiB at {iova:#x} out of the IOMMU", len >> 20);
        self.vfio.vfio_dma_unmap(iova, len).map_err(|error| IoMapError {
            limit: false,
            what: format!("{}: {error}", what()),
            remedy: "the kernel log says why".into(),
        })
    }
}

fn refused(len: usize, error: &VfioError) -> IoMapError {
    let errno = match error {
        VfioError::IommuDmaMap(e) => Some(e.errno()),
        _ => None,
    };
    let limit = errno == Some(ENOMEM);
    let remedy = if limit {
        crate::memory::memlock_remedy()
    } else if errno == Some(ENOSPC) {
        "more mappings than the kernel allows: raise /sys/module/vfio_iommu_type1/parameters/dma_entry_limit"
            .into()
    } else {
        "the kernel log says why".into()
    };
    IoMapError { limit, what: format!("mapping {} MiB for DMA: {error}", len >> 20), remedy }
}

/// Memory that devices see, until dropped.
struct Mapping {
    container: Arc<Container>,
    arena: Arc<Arena>,
    iova: u64,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Fails when it was never mapped, which is where a failed map ends.
        let _ = self.container.vfio.vfio_dma_unmap(self.iova, self.arena.len());
        lock(&self.container.window).give(self.iova);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The one container, and memory in it.
#![expect(unsafe_code, reason = "hands memory to devices")]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use vfio_ioctls::{VfioContainer, VfioError};

use super::window::Window;
use crate::memory::{Arena, DmaArena};
use crate::port::PmdError;
use crate::sys;

/// A container and the addresses in use in it.
pub(super) struct Container {
    pub(super) vfio: Arc<VfioContainer>,
    window: Mutex<Window>,
}

/// The container of this process: made for the first function, gone with the last.
pub(super) fn shared() -> Result<Arc<Container>, PmdError> {
    static SHARED: Mutex<Weak<Container>> = Mutex::new(Weak::new());
    let mut shared = lock(&SHARED);
    if let Some(container) = shared.upgrade() {
        return Ok(container);
    }
    let vfio = VfioContainer::new(None).map_err(|error| {
        let remedy = match &error {
            VfioError::OpenContainer(e) if e.kind() == std::io::ErrorKind::NotFound => "`modprobe vfio-pci`",
            VfioError::OpenContainer(_) => "run as root, or give this user /dev/vfio/vfio",
            VfioError::VfioExtension => "`modprobe vfio_iommu_type1`",
            _ => "this kernel's VFIO is not the one known here",
        };
        PmdError::Config(format!("opening /dev/vfio/vfio: {error} ({remedy})"))
    })?;
    let container = Arc::new(Container { vfio: Arc::new(vfio), window: Mutex::default() });
    *shared = Arc::downgrade(&container);
    Ok(container)
}

impl Container {
    /// Makes memory that all functions of the container see. At least one of them is open.
    pub(super) fn arena(self: &Arc<Container>, name: &str, len: usize) -> Result<DmaArena, PmdError> {
        let arena = Arc::new(Arena::create(name, len)?);
        let ranges = sys::vfio::address_ranges(&*self.vfio)
            .map_err(|e| PmdError::system("asking the IOMMU for its window", "", e))?;
        let iova = lock(&self.window).take(arena.len() as u64, &ranges).ok_or_else(|| {
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
        mapped.map_err(|error| refused(name, arena.len(), &error))?;
        Ok(DmaArena::new(arena, iova, Box::new(mapping)))
    }
}

fn refused(name: &str, len: usize, error: &VfioError) -> PmdError {
    let out_of_memory = |e: &vmm_errno::Error| e.errno() == vmm_errno::ENOMEM;
    let remedy = match error {
        VfioError::IommuDmaMap(e) if out_of_memory(e) => {
            let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
            let limit = limit.map_or_else(|| "unlimited".into(), |bytes| format!("{} KiB", bytes >> 10));
            format!(
                "more memory than this process may lock, RLIMIT_MEMLOCK is {limit}: `ulimit -l unlimited`, or \
                 LimitMEMLOCK=infinity in the systemd unit"
            )
        }
        _ => "the kernel log says why".into(),
    };
    PmdError::Config(format!("{name}: mapping {} MiB for DMA: {error} ({remedy})", len >> 20))
}

/// What of `vmm-sys-util` is in the errors of `vfio-ioctls`.
mod vmm_errno {
    pub(super) use vmm_sys_util::errno::Error;

    pub(super) const ENOMEM: i32 = rustix::io::Errno::NOMEM.raw_os_error();
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

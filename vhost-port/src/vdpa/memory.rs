//! Memory that a device is given to reach.
#![expect(unsafe_code, reason = "names memory by address")]

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use pmd::virtio::SharedPtr;

use crate::memory::Region;

/// A stretch of this process's memory that stays mapped as long as this, or a clone of it, lives.
#[derive(Clone)]
pub struct HostMemory {
    start: SharedPtr,
    len: u64,
    /// Unmaps when dropped.
    owner: Arc<dyn Any + Send + Sync>,
}

impl HostMemory {
    /// Names `len` bytes from `start`.
    ///
    /// # Safety
    /// They are mapped, readable and writable, and stay so as long as `owner` lives. Nobody holds a reference into them.
    pub unsafe fn new(start: SharedPtr, len: u64, owner: Arc<dyn Any + Send + Sync>) -> HostMemory {
        HostMemory { start, len, owner }
    }

    /// A region of a guest's memory.
    pub(crate) fn of_region(region: &Arc<Region>) -> Option<HostMemory> {
        let len = region.spec.len;
        let start = region.host(0, len)?;
        let owner: Arc<dyn Any + Send + Sync> = Arc::<Region>::clone(region);
        Some(HostMemory { start, len, owner })
    }

    /// Address of the first byte: what VFIO and vhost-vDPA are told.
    pub fn addr(&self) -> usize {
        self.start.addr()
    }

    /// Bytes.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The `len` bytes from `offset` on, if all of them lie inside. The pointer is good while this lives.
    pub fn at(&self, offset: u64, len: u64) -> Option<SharedPtr> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: offset <= len of the mapping.
        Some(unsafe { self.start.add(usize::try_from(offset).ok()?) })
    }

    /// Whether both are the same bytes of the same owner.
    pub fn same(&self, other: &HostMemory) -> bool {
        self.start == other.start && self.len == other.len && Arc::ptr_eq(&self.owner, &other.owner)
    }
}

impl fmt::Debug for HostMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} bytes at {:#x}", self.len, self.addr())
    }
}

/// Memory and where a device finds it.
#[derive(Clone, Debug)]
pub struct DmaMapping {
    /// I/O address of the first byte. Of a guest's memory that is the guest physical address.
    pub iova: u64,
    /// The memory. The device keeps it as long as it can reach it.
    pub memory: HostMemory,
}

impl DmaMapping {
    /// The last I/O address.
    pub fn last(&self) -> u64 {
        self.iova.saturating_add(self.memory.len().saturating_sub(1))
    }
}

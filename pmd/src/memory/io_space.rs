//! Addresses of a device whose meaning is its user's to say.
#![expect(unsafe_code, reason = "hands memory to devices")]

use std::fmt;

use crate::port::PmdError;

/// What a device finds at which address: the IOMMU context of a function that works for one guest. Implemented by VFIO
/// ([`crate::vfio::open_apart`]) and by [`crate::pci::FakeFn`]. Methods are for the control side; any thread may call them.
pub trait IoSpace: Send + Sync {
    /// Addresses that can be mapped: first and last of each range, ascending.
    ///
    /// # Errors
    /// The device is gone.
    fn ranges(&self) -> Result<Vec<(u64, u64)>, PmdError>;

    /// Shows the device `len` bytes of memory from `iova` on. All are whole pages.
    ///
    /// # Safety
    /// The bytes are mapped, readable and writable, and stay so until [`IoSpace::unmap`] has returned or the device is closed. Nobody holds
    /// a reference into them.
    ///
    /// # Errors
    /// The IOMMU does not reach there, something is mapped there, or too much memory is locked. Nothing is mapped then.
    unsafe fn map(&self, iova: u64, start: *mut u8, len: usize) -> Result<(), IoMapError>;

    /// Takes away what one [`IoSpace::map`] has shown.
    ///
    /// # Errors
    /// It was never mapped; or the device is gone, and with it what it could reach.
    fn unmap(&self, iova: u64, len: usize) -> Result<(), IoMapError>;
}

/// Why memory could not be mapped.
#[derive(Debug)]
pub struct IoMapError {
    /// More than this process may lock.
    pub limit: bool,
    /// What was tried, and the kernel's answer.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for IoMapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.what, self.remedy)
    }
}

impl std::error::Error for IoMapError {}

/// What to do when more memory is to be locked than this process may lock.
pub fn memlock_remedy() -> String {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    let limit = limit.map_or_else(|| "unlimited".into(), |bytes| format!("{} KiB", bytes >> 10));
    format!(
        "more memory than this process may lock, RLIMIT_MEMLOCK is {limit}: `ulimit -l unlimited`, or \
         LimitMEMLOCK=infinity in the systemd unit"
    )
}

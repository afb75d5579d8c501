//! What a driver needs of a PCI function.

use std::os::fd::{BorrowedFd, OwnedFd};

use super::{Bar, PciAddress};
use crate::memory::DmaArena;
use crate::port::PmdError;

/// Offset of the command register.
const COMMAND: u16 = 4;
/// Memory space on, bus mastering on, legacy interrupts off.
const COMMAND_RUN: u16 = 0x0006 | 0x0400;
/// Bus mastering.
const BUS_MASTER: u16 = 0x0004;

/// A function that is ours alone: over VFIO ([`crate::vfio::open`]) or played by a test ([`super::FakeFn`]).
///
/// Methods are for the control side and may block. Dropping the function resets it, so that it writes no memory any more.
pub trait PciFn: Send + Sync {
    /// Where it is.
    fn address(&self) -> PciAddress;

    /// Reads configuration space.
    ///
    /// # Errors
    /// The device is gone.
    fn config_read(&self, offset: u16, bytes: &mut [u8]) -> Result<(), PmdError>;

    /// Writes configuration space.
    ///
    /// # Errors
    /// The device is gone.
    fn config_write(&self, offset: u16, bytes: &[u8]) -> Result<(), PmdError>;

    /// Maps the registers behind base address register `index`, 0 to 5.
    ///
    /// # Errors
    /// The function has none there.
    fn bar(&self, index: u8) -> Result<Bar, PmdError>;

    /// The file in which another process can map `len` bytes from `offset` of these registers, and where in it they are. `None` when it
    /// cannot. Offset and length are whole pages. Holds the function open.
    fn bar_file(&self, index: u8, offset: usize, len: usize) -> Option<(OwnedFd, u64)>;

    /// Makes zeroed memory that the function can read and write.
    ///
    /// # Errors
    /// No memory, no room in the window of the IOMMU, or more than may be locked: the text says which and what to do.
    fn dma(&self, name: &str, len: usize) -> Result<DmaArena, PmdError>;

    /// MSI-X vectors there are.
    fn vectors(&self) -> u16;

    /// Has vector `i` signal `events[i]`, an eventfd, from now on; vectors without one are off. An empty slice turns all off.
    ///
    /// # Errors
    /// More events than vectors, or the kernel refuses.
    fn set_vectors(&self, events: &[Option<BorrowedFd<'_>>]) -> Result<(), PmdError>;

    /// Has one of the vectors that [`PciFn::set_vectors`] has set, with an event or none, signal another event, or none. The others are not
    /// touched.
    ///
    /// # Errors
    /// There is no such vector, or the kernel refuses.
    fn set_vector(&self, vector: u16, event: Option<BorrowedFd<'_>>) -> Result<(), PmdError>;

    /// An eventfd is signalled when the kernel wants the function back (it is being unplugged).
    ///
    /// # Errors
    /// The kernel refuses.
    fn on_removal(&self, event: BorrowedFd<'_>) -> Result<(), PmdError>;

    /// Resets the function, as if power had been cycled; what drivers wrote to its configuration is kept by the kernel.
    fn reset(&self);

    /// How many virtual functions it has now.
    fn virtual_functions(&self) -> u16 {
        0
    }

    /// Reads a 16-bit word of configuration space; all ones when the device is gone.
    fn config_u16(&self, offset: u16) -> u16 {
        let mut bytes = [0xff; 2];
        let _ = self.config_read(offset, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    /// Lets the function answer to memory accesses and start its own.
    ///
    /// # Errors
    /// The device is gone.
    fn enable(&self) -> Result<(), PmdError> {
        let command = self.config_u16(COMMAND) | COMMAND_RUN;
        self.config_write(COMMAND, &command.to_le_bytes())
    }

    /// Forbids the function to start memory accesses.
    fn silence(&self) {
        let command = self.config_u16(COMMAND) & !BUS_MASTER;
        // A device that is gone starts none.
        let _ = self.config_write(COMMAND, &command.to_le_bytes());
    }
}

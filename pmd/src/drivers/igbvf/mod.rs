//! A virtual function of the Intel 82576; QEMU's `igbvf`. The physical function stays with the kernel's `igb`.
//!
//! | | |
//! |---|---|
//! | receive | 2 KiB buffers, as many per frame as it needs |
//! | transmit | one copy into 2 KiB buffers; a report per batch |
//! | offloads | TCP and UDP checksum both ways; TCP segmentation on the way out |
//! | queues | one in each direction |
//! | addresses | its own, those asked for, all multicast: a virtual function cannot receive everything |
//! | link | that of the card; looked at once a second, and by interrupt of the mailbox |
//!
//! What a virtual function may not do itself it asks the physical function for (`mailbox`). When that is reset, it forgets all virtual
//! functions, and ours is started anew.
//!
//! Source: Intel 82576EB GbE Controller datasheet 2.63, chapters 7.10 and 8.26 on; section numbers refer to it. The messages are those of the
//! Linux drivers `igb` and `igbvf`, which define them.

mod bring_up;
mod mailbox;
mod registers;
mod rx;
mod stats;
mod tx;

use std::sync::Arc;

use crate::nic::{self, NicConfig};
use crate::pci::PciFn;
use crate::port::{PmdError, Port};

/// Vendor and device ids this driver is for.
pub const IDS: &[(u16, u16)] = &[(0x8086, 0x10ca)];

/// Opens a function as a port.
///
/// # Errors
/// The function is none, its physical function does not answer, or it does not start as configured.
pub fn open(config: NicConfig, function: Arc<dyn PciFn>) -> Result<Arc<dyn Port>, PmdError> {
    let card = bring_up::Igbvf::new(function.clone(), config.filters.clone())?;
    nic::open(config, function, card)
}

#[cfg(test)]
pub(crate) mod model;
#[cfg(test)]
mod tests;

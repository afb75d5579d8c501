//! Intel 82574L, a gigabit card with two queues in each direction; QEMU's `e1000e`.
//!
//! | | |
//! |---|---|
//! | receive | 2 KiB buffers, as many per frame as it needs |
//! | transmit | one copy into 2 KiB buffers; a report per batch |
//! | offloads | transport checksum both ways; TCP segmentation on the way out |
//! | queues | two, flows spread by a symmetric hash |
//! | link | by interrupt |
//!
//! Source: Intel 82574 GbE Controller Family datasheet 3.4; section numbers refer to it.

mod bring_up;
mod descriptors;
mod registers;
mod rx;
mod tx;

use std::sync::Arc;

use crate::nic::{self, NicConfig};
use crate::pci::PciFn;
use crate::port::{PmdError, Port};

/// Vendor and device ids this driver is for.
pub const IDS: &[(u16, u16)] = &[(0x8086, 0x10d3)];

/// Opens a function as a port.
///
/// # Errors
/// The function is none, or does not start as configured.
pub fn open(config: NicConfig, function: Arc<dyn PciFn>) -> Result<Arc<dyn Port>, PmdError> {
    let card = bring_up::E1000e::new(function.clone())?;
    nic::open(config, function, card)
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

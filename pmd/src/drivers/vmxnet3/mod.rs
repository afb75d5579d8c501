//! VMware's paravirtual card `vmxnet3`, revision 1 of its interface; also played by QEMU.
//!
//! | | |
//! |---|---|
//! | receive | a ring of heads and one of bodies, 2 KiB buffers; no merging by the card (LRO) |
//! | transmit | one copy into 4 KiB buffers; a completion per frame, which the card insists on |
//! | offloads | TCP and UDP checksum both ways, TCP segmentation on the way out |
//! | queues | up to eight; flows are spread by a symmetric hash if the card does that |
//! | link | by interrupt |
//!
//! The card has few registers. What it is to do lies in memory that both sides see (`area`), and a command register says when to look at it.
//! Rings have generation bits: a descriptor is the reader's when its bit has the value of this round, so no index is read over the bus.
//!
//! Source: the interface as Linux (`drivers/net/vmxnet3/vmxnet3_defs.h`, `upt1_defs.h`) and QEMU (`hw/net/vmxnet3.c`) know it; the names behind
//! constants are theirs.

mod area;
mod bring_up;
mod descriptors;
mod registers;
mod rx;
mod stats;
mod tx;

use std::sync::Arc;

use crate::nic::{self, NicConfig};
use crate::pci::PciFn;
use crate::port::{PmdError, Port};

/// Vendor and device ids this driver is for.
pub const IDS: &[(u16, u16)] = &[(0x15ad, 0x07b0)];

/// Opens a function as a port.
///
/// # Errors
/// The function is none, or does not start as configured.
pub fn open(config: NicConfig, function: Arc<dyn PciFn>) -> Result<Arc<dyn Port>, PmdError> {
    let card = bring_up::Vmxnet3::new(function.clone())?;
    nic::open(config, function, card)
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

//! A virtio network device on PCI, modern (VIRTIO 1.0 and later), with split or packed rings.
//!
//! In a virtual machine this is the machine's own card; on SmartNICs it is what a virtual function looks like. The queues are those of
//! [`crate::virtio::net_driver`], over the function as [`crate::virtio::pci`] sees it: one descriptor per buffer for good, so on both sides descriptors are written once.
//! What is here is where their memory lies for the device, how it is told, and what stops it.
//!
//! | | |
//! |---|---|
//! | receive | 2 KiB mergeable buffers, so frames of any length; without the feature, buffers as long as the MTU asks |
//! | transmit | one copy into one buffer, 64 KiB long where the device segments |
//! | offloads | checksum and TCP segmentation, both ways |
//! | queues | as many pairs as the device has, spread by its own hash |
//! | link | by interrupt |
//!
//! Trust: the device is another program's. Whatever it writes back is bounded before it is used; nonsense stops the ring and restarts the
//! device.

mod bring_up;
mod descriptors;
mod rx;
mod stats;
mod tx;

use std::sync::Arc;

use crate::nic::{self, NicConfig};
use crate::pci::PciFn;
use crate::port::{PmdError, Port};

/// Vendor and device ids this driver is for: modern, and transitional devices that also speak modern.
pub const IDS: &[(u16, u16)] = &[(0x1af4, 0x1041), (0x1af4, 0x1000)];

/// Opens a function as a port.
///
/// # Errors
/// The function is none, or does not start as configured.
pub fn open(config: NicConfig, function: Arc<dyn PciFn>) -> Result<Arc<dyn Port>, PmdError> {
    let card = bring_up::VirtioNet::new(function.clone())?;
    nic::open(config, function, card)
}

#[cfg(test)]
mod tests;

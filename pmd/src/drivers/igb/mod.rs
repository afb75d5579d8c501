//! Intel 82576, a gigabit card with sixteen queues in each direction; QEMU's `igb`. The physical function, which shares the card with its virtual
//! ones when there are any: `functions` decides what they may, `pools` is how the card tells their frames apart, `mailbox` is how they talk.
//!
//! | | |
//! |---|---|
//! | receive | 2 KiB buffers, as many per frame as it needs |
//! | transmit | one copy into 2 KiB buffers; a report per batch |
//! | offloads | TCP and UDP checksum both ways; TCP segmentation on the way out |
//! | queues | up to eight, flows spread by a symmetric hash; one with virtual functions |
//! | link | by interrupt |
//!
//! Source: Intel 82576EB GbE Controller datasheet 2.63; section numbers refer to it.

mod bring_up;
mod functions;
mod mailbox;
mod pools;
mod registers;
mod rx;
mod tx;

use std::sync::Arc;

use crate::nic::{self, NicConfig};
use crate::pci::PciFn;
use crate::port::{PmdError, Port};

/// Vendor and device ids this driver is for.
pub const IDS: &[(u16, u16)] = &[(0x8086, 0x10c9)];

/// Virtual functions that share the card with this driver, at most.
pub(super) const FUNCTIONS: u16 = functions::MOST as u16;

/// Opens a function as a port.
///
/// # Errors
/// The function is none, or does not start as configured.
pub fn open(config: NicConfig, function: Arc<dyn PciFn>) -> Result<Arc<dyn Port>, PmdError> {
    let card = bring_up::Igb::new(function.clone(), &config)?;
    nic::open(config, function, card)
}

#[cfg(test)]
pub(crate) mod model;
#[cfg(test)]
mod tests;

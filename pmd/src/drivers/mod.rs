//! The drivers.
//!
//! | driver | is | rx wakes by |
//! |---|---|---|
//! | [`tap`] | a kernel TAP device: multi-queue, checksum and segmentation offload both ways | its descriptor |
//! | [`af_packet`] | a network device that the kernel keeps: multi-queue, checksum and segmentation offload both ways | its descriptor |
//! | [`af_xdp`] | queues of a network device that the kernel keeps, before its stack: all frames or those of a filter | its descriptor |
//! | [`pair`] | two ports in this process, each other's far side | waker |
//! | [`null`] | a sink, and optionally a source at full rate | never sleeps as a source |
//! | [`e1000e`] | Intel 82574 | MSI-X |
//! | [`igb`] | Intel 82576 | MSI-X |
//! | [`igbvf`] | a virtual function of the Intel 82576 | MSI-X |
//! | [`virtio_net`] | a virtio network device on PCI | MSI-X |
//! | [`vmxnet3`] | VMware's paravirtual card | MSI-X |
//! | [`pcap`] | replays a capture file, records another | never sleeps while replaying |
//!
//! A driver is a function `open(config) -> Result<Arc<dyn Port>, PmdError>`. It never imports another driver; what they share is
//! `queue_slots` (who has which queue), `parked` (what a queue leaves behind), `netdev` and `link_watch` (devices of the kernel).
//! Drivers of cards share [`crate::nic`]; which is for which card is said here, in `driver_of`.

pub mod af_packet;
pub mod af_xdp;
pub mod e1000e;
pub mod igb;
pub mod igbvf;
pub mod null;
pub mod pair;
pub mod pcap;
pub mod tap;
pub mod virtio_net;
pub mod vmxnet3;

mod link_watch;
mod netdev;
mod parked;
pub(crate) mod queue_slots;
#[cfg(test)]
mod test_net;

use std::sync::Arc;

use crate::nic::NicConfig;
use crate::pci::PciFn;
use crate::port::{PmdError, Port};

type Open = fn(NicConfig, Arc<dyn PciFn>) -> Result<Arc<dyn Port>, PmdError>;

/// A driver of cards.
struct CardDriver {
    name: &'static str,
    /// Vendor and device ids.
    ids: &'static [(u16, u16)],
    open: Open,
    /// Virtual functions that it shares a card with, at most.
    functions: u16,
}

const CARDS: &[CardDriver] = &[
    CardDriver { name: "e1000e", ids: e1000e::IDS, open: e1000e::open, functions: 0 },
    CardDriver { name: "igb", ids: igb::IDS, open: igb::open, functions: igb::FUNCTIONS },
    CardDriver { name: "igbvf", ids: igbvf::IDS, open: igbvf::open, functions: 0 },
    CardDriver { name: "virtio-net", ids: virtio_net::IDS, open: virtio_net::open, functions: 0 },
    CardDriver { name: "vmxnet3", ids: vmxnet3::IDS, open: vmxnet3::open, functions: 0 },
];

/// The driver for a card of these ids, if there is one.
pub fn driver_of(vendor: u16, device: u16) -> Option<&'static str> {
    CARDS.iter().find(|card| card.ids.contains(&(vendor, device))).map(|card| card.name)
}

/// Whether the driver for a card of these ids shares it with virtual functions: answers them, and tells the card what is whose.
pub fn shares_with_functions(vendor: u16, device: u16) -> bool {
    CARDS.iter().any(|card| card.functions > 0 && card.ids.contains(&(vendor, device)))
}

/// The most virtual functions that any driver here shares a card with.
pub fn most_functions() -> u16 {
    CARDS.iter().map(|card| card.functions).max().unwrap_or(0)
}

/// Opens a card with the driver that is for it.
///
/// # Errors
/// There is none, or it fails.
pub fn open_card(config: NicConfig, function: Arc<dyn PciFn>) -> Result<Arc<dyn Port>, PmdError> {
    let (vendor, device) = (function.config_u16(0), function.config_u16(2));
    let Some(card) = CARDS.iter().find(|card| card.ids.contains(&(vendor, device))) else {
        return Err(PmdError::Config(format!(
            "{}: there is no driver for {vendor:04x}:{device:04x} here, only for {}: `vsctl nic unbind {}` and use it through the kernel",
            function.address(),
            CARDS.iter().map(|card| card.name).collect::<Vec<_>>().join(", "),
            function.address()
        )));
    };
    if !config.functions.is_empty() && card.functions == 0 {
        return Err(PmdError::Config(format!(
            "{}: options:vf0 and so on are for a card whose virtual functions this switch drives, not for driver {}",
            function.address(),
            card.name
        )));
    }
    if !config.filters.is_empty() && card.functions == 0 && card.name != "igbvf" {
        return Err(PmdError::Config(format!(
            "{}: options:vf-filter is for cards with virtual functions; driver {} receives everything: remove the option",
            function.address(),
            card.name
        )));
    }
    (card.open)(config, function)
}

//! From a port request to a running driver.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pmd::drivers::{self, af_packet, af_xdp, null, pcap, tap};
use pmd::nic::{Filters, NicConfig};
use pmd::packet::Pool;
use pmd::pci::{PciAddress, VfSettings};
use pmd::port::{PmdError, Port};
use vhost_port::front_end::{VirtioUserConfig, VirtioUserPort};
use vhost_port::{Mode, OffloadOffer, VhostConfig, VhostPort};

use super::port::PortRequest;

/// Kinds of ports and their options.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PortKind {
    /// A kernel TAP device of the port's name. Also what a bridge's own port is.
    Tap {
        /// Queue pairs.
        queues: u16,
        /// Brought up by the switch. Internal ports are the host's, which brings them up when it gives them an address.
        bring_up: bool,
    },
    /// A network device that the kernel keeps, of the port's name, by packet sockets.
    System {
        /// Receive queues.
        queues: u16,
        /// Send past queueing disciplines and taps.
        bypass_qdisc: bool,
    },
    /// Queues of a network device that the kernel keeps, of the port's name, before the kernel's stack.
    AfXdp {
        /// Receive queues; all of the device's if absent.
        queues: Option<u16>,
        /// How to get at them.
        mode: af_xdp::Mode,
        /// Which frames to take.
        filter: af_xdp::Filter,
    },
    /// A guest; we listen.
    VhostUser {
        /// Socket; `RUNDIR/NAME` if absent.
        path: Option<PathBuf>,
        /// Options of the guest side.
        guest: GuestOptions,
    },
    /// A guest; its QEMU listens and we connect for as long as it takes.
    VhostUserClient {
        /// Socket.
        path: PathBuf,
        /// Options of the guest side.
        guest: GuestOptions,
    },
    /// Another switch's vhost-user port, to which we are the guest.
    VirtioUser {
        /// Socket.
        path: PathBuf,
        /// We listen, and the other switch connects.
        server: bool,
        /// Most queue pairs.
        pairs: u16,
        /// Packed rings, if there are any.
        packed: bool,
    },
    /// A card, driven from this process through VFIO.
    Card {
        /// Where it is.
        address: PciAddress,
        /// Its rings.
        rings: RingOptions,
        /// What a virtual function receives beside what is for its own address.
        filters: Filters,
        /// What holds for virtual functions of the card, by number.
        functions: Vec<(u16, VfSettings)>,
    },
    /// Drops what it is sent.
    Null,
    /// Replays and records capture files.
    Pcap {
        /// File to replay once.
        replay: Option<PathBuf>,
        /// File to record to.
        record: Option<PathBuf>,
    },
}

/// Rings of a card.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingOptions {
    /// Queues in each direction.
    pub queues: u16,
    /// Descriptors of a receive ring.
    pub rx_descriptors: u16,
    /// Descriptors of a transmit ring.
    pub tx_descriptors: u16,
}

/// What a vhost-user port offers to its guest, beside all offloads: those are switched at the port, see [`super::PortOffloads`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestOptions {
    /// Most queue pairs the guest can use.
    pub max_queue_pairs: u16,
    /// MAC address of the guest's card, for front-ends that ask the switch for it.
    pub mac: Option<[u8; 6]>,
    /// Speed of the link in Mbit/s, to tell such front-ends.
    pub link_speed: Option<u32>,
}

impl Default for GuestOptions {
    fn default() -> Self {
        GuestOptions { max_queue_pairs: 16, mac: None, link_speed: None }
    }
}

/// Opens the driver of a request.
pub(super) fn open(
    request: &PortRequest,
    rundir: &Path,
    pool: &'static Pool,
) -> Result<Arc<dyn Port>, PmdError> {
    let name = request.name.clone();
    match &request.kind {
        PortKind::Tap { queues, bring_up } => {
            tap::open(&tap::TapConfig { name, queues: *queues, bring_up: *bring_up })
        }
        PortKind::System { queues, bypass_qdisc } => {
            let (queues, bypass_qdisc) = (*queues, *bypass_qdisc);
            af_packet::open(&af_packet::AfPacketConfig { name, queues, bypass_qdisc })
        }
        PortKind::AfXdp { queues, mode, filter } => {
            let (queues, mode, filter) = (*queues, *mode, filter.clone());
            af_xdp::open(&af_xdp::AfXdpConfig { name, queues, mode, filter })
        }
        PortKind::VhostUser { path, guest } => {
            let path = path.clone().unwrap_or_else(|| rundir.join(&name));
            VhostPort::open(vhost_config(name, Mode::Listen(path), *guest, rundir))
        }
        PortKind::VhostUserClient { path, guest } => {
            VhostPort::open(vhost_config(name, Mode::Connect(path.clone()), *guest, rundir))
        }
        PortKind::VirtioUser { path, server, pairs, packed } => {
            let mode = if *server { Mode::Listen } else { Mode::Connect }(path.clone());
            // A frame to be fragmented means something else to DPDK's back-end, so nobody is asked for that.
            let offload = OffloadOffer { ufo: false, ..OffloadOffer::default() };
            let (pairs, packed) = (*pairs, *packed);
            VirtioUserPort::open(VirtioUserConfig { name, mode, pairs, packed, offload })
        }
        PortKind::Card { address, rings, filters, functions } => {
            let config = NicConfig {
                name,
                queues: rings.queues,
                rx_descriptors: rings.rx_descriptors,
                tx_descriptors: rings.tx_descriptors,
                filters: filters.clone(),
                functions: functions.clone(),
                ..NicConfig::default()
            };
            drivers::open_card(config, pmd::vfio::open(*address)?)
        }
        PortKind::Null => null::open(null::NullConfig { name, ..null::NullConfig::default() }),
        PortKind::Pcap { replay, record } => pcap::open(pcap::PcapConfig {
            replay: replay.clone(),
            record: record.clone(),
            ..pcap::PcapConfig::new(name, pool)
        }),
    }
}

fn vhost_config(name: String, mode: Mode, guest: GuestOptions, rundir: &Path) -> VhostConfig {
    VhostConfig {
        max_queue_pairs: guest.max_queue_pairs,
        mac: guest.mac,
        link_speed: guest.link_speed,
        // A port's name has no slash (`config::validate`).
        ring_file: Some(rundir.join("rings").join(&name)),
        ..VhostConfig::new(name, mode)
    }
}

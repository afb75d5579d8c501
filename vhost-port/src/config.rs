//! What the operator says of a port.

use std::path::PathBuf;
use std::sync::Arc;

use crate::vdpa::{self, CountersOf, OpenDevice};

/// Who listens on the socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mode {
    /// We do; QEMU connects. Type `vhost-user`.
    Listen(PathBuf),
    /// QEMU does (`server=on`); we connect, again and again. Type `vhost-user-client`.
    Connect(PathBuf),
}

/// Offloads offered to the guest, for good. All on by default; what the guest does not take, or what the operator switches off
/// later, is done in software.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OffloadOffer {
    /// Partial checksums, both ways.
    pub csum: bool,
    /// TCP/IPv4 segmentation, both ways (needs `csum`).
    pub tso4: bool,
    /// TCP/IPv6 segmentation, both ways (needs `csum`).
    pub tso6: bool,
    /// Segmentation of TCP with ECN, both ways (needs one of the above).
    pub ecn: bool,
    /// UDP segmentation into datagrams, both ways (needs `csum`).
    pub uso: bool,
    /// UDP fragmentation, both ways (needs `csum`).
    pub ufo: bool,
}

impl Default for OffloadOffer {
    fn default() -> Self {
        OffloadOffer { csum: true, tso4: true, tso6: true, ecn: true, uso: true, ufo: true }
    }
}

/// Settings of a vhost-user port.
#[derive(Clone)]
pub struct VhostConfig {
    /// Name in logs and errors.
    pub name: String,
    /// Socket, and who listens on it.
    pub mode: Mode,
    /// Most queue pairs the guest may use, 1 to 128.
    pub max_queue_pairs: u16,
    /// Largest payload of a frame to the guest.
    pub mtu: u16,
    /// The guest's MAC address, for front-ends that ask the port for it (CONFIG); the others have one of their own.
    pub mac: Option<[u8; 6]>,
    /// Speed of the link in Mbit/s, to tell such front-ends.
    pub link_speed: Option<u32>,
    /// Offloads to offer.
    pub offload: OffloadOffer,
    /// Permission bits of the listening socket; the process's umask decides when none.
    pub socket_mode: Option<u32>,
    /// Owner and group of the listening socket, either may be left.
    pub socket_owner: Option<(Option<u32>, Option<u32>)>,
    /// Opens the devices of [`Port::set_vdpa`](pmd::port::Port::set_vdpa); [`vdpa::open`](crate::vdpa::open) but in tests.
    pub open_device: OpenDevice,
    /// Counters of a virtual function, where its physical one has them; a played one in tests.
    pub function_counters: CountersOf,
    /// File in which the state of packed rings outlives the process. On a tmpfs, or writing it may wait for a disk. Its folder is
    /// made if need be.
    pub ring_file: Option<PathBuf>,
}

impl VhostConfig {
    /// Settings with defaults: 16 queue pairs, MTU 1500, all offloads.
    pub fn new(name: impl Into<String>, mode: Mode) -> VhostConfig {
        VhostConfig {
            name: name.into(),
            mode,
            max_queue_pairs: 16,
            mtu: 1500,
            mac: None,
            link_speed: None,
            offload: OffloadOffer::default(),
            socket_mode: None,
            socket_owner: None,
            open_device: Arc::new(vdpa::open),
            function_counters: vdpa::counters_of,
            ring_file: None,
        }
    }
}

//! What a port's control thread, its queues and its callers share.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pmd::port::{LinkState, OffloadSwitches, PortEvents, QueueCounters, TxLimits};
use pmd::sys::sigbus::Alarm;

use crate::config::{Mode, VhostConfig};
use crate::memory::IotlbCounters;
use crate::ring::{RingFile, Vring};
use crate::vdpa::Desk;

/// Ethernet header and two tags: what a frame may have beyond its payload.
const L2_OVERHEAD: usize = 22;

/// What is known of the guest at the other end, for the operator.
#[derive(Default, Debug)]
pub(crate) struct Peer {
    pub(crate) connected: bool,
    pub(crate) link: LinkState,
    pub(crate) link_resets: u64,
    pub(crate) features: u64,
    pub(crate) protocol_features: u64,
    /// MTU the front-end told, if it did.
    pub(crate) mtu: Option<u16>,
    /// Pages for which there are bits in the dirty log, while the guest is being migrated.
    pub(crate) logged_pages: Option<u64>,
    /// Pages that were missing and waited for, while memory arrives.
    pub(crate) fetched_pages: Option<u64>,
    /// MAC address the guest's driver has set by the configuration space.
    pub(crate) mac: Option<[u8; 6]>,
    /// Sizes of the rings the front-end has set up, by index.
    pub(crate) ring_sizes: Vec<Option<u16>>,
    /// Why there is no connection, where we are the one who connects.
    pub(crate) waiting: Option<String>,
    /// What went wrong last; shown until the next connection.
    pub(crate) error: Option<String>,
}

impl Peer {
    /// The guest starts over; its front-end stays.
    pub(crate) fn forget_guest(&mut self) {
        self.features = 0;
        self.mac = None;
        self.ring_sizes.fill(None);
    }
}

/// See the module.
pub(crate) struct Shared {
    pub(crate) config: VhostConfig,
    pub(crate) rings: Box<[Arc<Vring>]>,
    /// What of them outlives the process.
    pub(crate) ring_file: Arc<RingFile>,
    /// Grows whenever a ring becomes usable or stops being so.
    pub(crate) generation: AtomicU64,
    pub(crate) mtu: AtomicU16,
    /// What of the guest's offloads the operator wants.
    pub(crate) offloads: OffloadSwitches,
    /// The operator has the port up.
    pub(crate) admin_up: AtomicBool,
    /// Wakes the control thread: stop asked for, a ring broken, memory gone.
    pub(crate) alarm: Arc<Alarm>,
    pub(crate) iotlb: IotlbCounters,
    pub(crate) stop: AtomicBool,
    peer: Mutex<Peer>,
    /// The connection, to be shut down from outside.
    connection: Mutex<Option<UnixStream>>,
    events: Mutex<Option<Arc<dyn PortEvents>>>,
    /// Counters of receive queues, which outlive the boxes.
    pub(crate) rx_counters: Box<[Arc<QueueCounters>]>,
    /// Devices that can run the rings.
    pub(crate) vdpa: Desk,
    /// What the control thread has sent, or dropped, for workers.
    pub(crate) late_tx: Arc<QueueCounters>,
}

impl Shared {
    pub(crate) fn new(config: VhostConfig, alarm: Arc<Alarm>, ring_file: RingFile) -> Shared {
        let rings = config.max_queue_pairs * 2;
        Shared {
            ring_file: Arc::new(ring_file),
            rings: (0..rings).map(|_| Arc::new(Vring::new(Arc::clone(&alarm)))).collect(),
            rx_counters: (0..config.max_queue_pairs).map(|_| Arc::default()).collect(),
            late_tx: Arc::default(),
            generation: AtomicU64::new(0),
            mtu: AtomicU16::new(config.mtu),
            offloads: OffloadSwitches::default(),
            admin_up: AtomicBool::new(true),
            alarm,
            iotlb: IotlbCounters::default(),
            stop: AtomicBool::new(false),
            peer: Mutex::default(),
            connection: Mutex::new(None),
            vdpa: Desk::new(Arc::clone(&config.open_device)),
            events: Mutex::new(None),
            config,
        }
    }

    /// The socket's path.
    pub(crate) fn path(&self) -> &Path {
        match &self.config.mode {
            Mode::Listen(path) | Mode::Connect(path) => path,
        }
    }

    /// What the operator allows to be sent to the guest, as of now.
    #[inline]
    pub(crate) fn limits(&self) -> TxLimits {
        let max_frame = usize::from(self.mtu.load(Ordering::Relaxed)) + L2_OVERHEAD;
        TxLimits { max_frame, offloads: self.offloads.get() }
    }

    /// The facts of the guest.
    pub(crate) fn peer(&self) -> MutexGuard<'_, Peer> {
        self.peer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection, if there is one.
    pub(crate) fn connection(&self) -> MutexGuard<'_, Option<UnixStream>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn subscribe(&self, events: Arc<dyn PortEvents>) {
        *self.events.lock().unwrap_or_else(PoisonError::into_inner) = Some(events);
    }

    /// Tells the subscriber that something has changed. Called without any lock held.
    pub(crate) fn changed(&self) {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(events) = events {
            events.port_changed();
        }
    }

    /// After rings became live or stopped: queues look again, the link follows, the subscriber is told.
    pub(crate) fn rings_changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
        let up = self.rings.iter().any(|ring| ring.live());
        let link = if up { LinkState::Up } else { LinkState::Down };
        let mut peer = self.peer();
        if peer.link != link {
            peer.link = link;
            peer.link_resets += 1;
            log::info!("{}: link {}", self.config.name, if up { "up" } else { "down" });
        }
        drop(peer);
        self.changed();
    }

    /// Receive queues worth polling: up to the last live transmit ring of the guest.
    pub(crate) fn rx_queues(&self) -> u16 {
        let last = self.rings.iter().skip(1).step_by(2).rposition(|ring| ring.live());
        last.map_or(0, |i| i as u16 + 1)
    }

    /// Transmit queues live now.
    pub(crate) fn tx_queues(&self) -> u16 {
        self.rings.iter().step_by(2).filter(|ring| ring.live()).count() as u16
    }
}

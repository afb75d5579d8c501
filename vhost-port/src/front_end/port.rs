//! Type `virtio-user`: the port, and what its control thread and its queues share.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;

use pmd::memory::Arena;
use pmd::port::{
    LinkState, OffloadSwitches, Offloads, PmdError, Port, PortEvents, PortInfo, RxQueue, TxQueue, Waker,
    offload_status,
};
use pmd::virtio::features::{
    VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1, VIRTIO_NET_F_MQ,
    VIRTIO_NET_F_MRG_RXBUF,
};
use pmd::virtio::net_driver::{NetRxRing, NetTxRing, device_offloads};

use super::control;
use super::queues::{VirtioRx, VirtioTx};
use super::session::Wanted;
use crate::config::{Mode, OffloadOffer, VhostConfig};
use crate::session::offload_features;

/// Most queue pairs of a port.
const MOST_PAIRS: u16 = 64;

/// Settings of a port.
#[derive(Clone, Debug)]
pub struct VirtioUserConfig {
    /// Name in logs and errors.
    pub name: String,
    /// Socket, and who listens on it.
    pub mode: Mode,
    /// Most queue pairs.
    pub pairs: u16,
    /// Packed rings, if the back-end has them.
    pub packed: bool,
    /// Offloads to take, if the back-end offers them.
    pub offload: OffloadOffer,
}

/// The receive ring of a conversation. The ring goes before the memory it lies in.
pub(super) struct LiveRx {
    pub(super) ring: NetRxRing,
    pub(super) kick: Arc<OwnedFd>,
    pub(super) call: Arc<OwnedFd>,
    #[expect(dead_code, reason = "keeps the ring's memory mapped")]
    pub(super) arena: Arc<Arena>,
}

/// The transmit ring of a conversation.
pub(super) struct LiveTx {
    pub(super) ring: NetTxRing,
    pub(super) kick: Arc<OwnedFd>,
    #[expect(dead_code, reason = "keeps the ring's memory mapped")]
    pub(super) arena: Arc<Arena>,
}

/// Where a receive queue finds the ring of a new conversation.
#[derive(Default)]
pub(super) struct RxPlace {
    /// Changes with every conversation, at its beginning and end.
    pub(super) generation: AtomicU64,
    pub(super) next: Mutex<Option<LiveRx>>,
    pub(super) waker: Mutex<Option<Waker>>,
    /// Whether a queue has it.
    pub(super) taken: AtomicBool,
}

/// What the operator sees.
#[derive(Default)]
struct State {
    up: bool,
    changes: u64,
    features: u64,
    error: Option<String>,
    subscriber: Option<Arc<dyn PortEvents>>,
}

/// What the control thread, the port and its queues share.
pub(super) struct Shared {
    /// Name and path, in the words of the other side's settings.
    pub(super) socket: VhostConfig,
    pub(super) wanted: Wanted,
    pub(super) stop: AtomicBool,
    pub(super) alarm: Waker,
    pub(super) connection: Mutex<Option<UnixStream>>,
    pub(super) mtu: AtomicU16,
    /// What of the back-end's offloads the operator wants.
    pub(super) offloads: OffloadSwitches,
    /// Queue pairs of this conversation; none while there is no conversation.
    pub(super) pairs: AtomicU16,
    pub(super) rx: Vec<RxPlace>,
    pub(super) tx: Vec<Mutex<Option<LiveTx>>>,
    /// A queue found that the back-end broke the rules.
    broken: AtomicBool,
    state: Mutex<State>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(super) fn path(&self) -> &Path {
        match &self.socket.mode {
            Mode::Listen(path) | Mode::Connect(path) => path,
        }
    }

    pub(super) fn give_rx(&self, pair: usize, ring: Option<LiveRx>) {
        let Some(place) = self.rx.get(pair) else { return };
        {
            let mut next = locked(&place.next);
            *next = ring;
            place.generation.fetch_add(1, Ordering::AcqRel);
        }
        if let Some(waker) = &*locked(&place.waker) {
            waker.wake();
        }
    }

    pub(super) fn give_tx(&self, pair: usize, ring: Option<LiveTx>) {
        if let Some(place) = self.tx.get(pair) {
            *locked(place) = ring;
        }
    }

    /// The conversation has begun.
    pub(super) fn connect(&self, pairs: u16, features: u64) {
        self.broken.store(false, Ordering::Release);
        self.pairs.store(pairs, Ordering::Release);
        let mut state = locked(&self.state);
        (state.up, state.features, state.error) = (true, features, None);
        state.changes += 1;
        drop(state);
        self.tell();
    }

    /// The conversation has ended, however far it had come.
    pub(super) fn disconnect(&self) {
        *locked(&self.connection) = None;
        self.pairs.store(0, Ordering::Release);
        for pair in 0..self.rx.len() {
            self.give_rx(pair, None);
            self.give_tx(pair, None);
        }
        let mut state = locked(&self.state);
        if std::mem::take(&mut state.up) {
            state.changes += 1;
            drop(state);
            self.tell();
        }
    }

    /// Changes what is wrong, and tells it once.
    pub(super) fn say(&self, error: Option<String>) {
        let mut state = locked(&self.state);
        if state.error == error {
            return;
        }
        if let Some(error) = &error {
            log::error!("{}: {error}", self.socket.name);
        }
        state.error = error;
        drop(state);
        self.tell();
    }

    fn tell(&self) {
        let subscriber = locked(&self.state).subscriber.clone();
        if let Some(subscriber) = subscriber {
            subscriber.port_changed();
        }
    }

    /// The back-end broke the rules of a ring: the conversation is to end. From a worker.
    pub(super) fn report_broken(&self) {
        if !self.broken.swap(true, Ordering::AcqRel) {
            self.alarm.wake();
        }
    }

    pub(super) fn fault(&self) -> Option<String> {
        let broken = self.broken.swap(false, Ordering::AcqRel);
        broken.then(|| "the back-end broke the rules of a ring; the connection was closed".into())
    }

    /// The transmit ring for a worker, if the conversation has one and nobody holds it for long.
    pub(super) fn try_tx(&self, pair: usize) -> Result<MutexGuard<'_, Option<LiveTx>>, ()> {
        /// Looks at the lock of another worker's burst before packets are given up.
        const SPINS: u32 = 4096;
        let place = self.tx.get(pair).ok_or(())?;
        for _ in 0..SPINS {
            match place.try_lock() {
                Ok(guard) => return Ok(guard),
                Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
            }
        }
        Err(())
    }
}

/// The port.
pub struct VirtioUserPort {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl VirtioUserPort {
    /// Opens the port. The back-end may come later, go, and come again.
    ///
    /// # Errors
    /// In listening mode the path cannot be had.
    pub fn open(config: VirtioUserConfig) -> Result<Arc<dyn Port>, PmdError> {
        let VirtioUserConfig { name, mode, pairs, packed, offload } = config;
        if pairs == 0 || pairs > MOST_PAIRS {
            return Err(PmdError::Config(format!("{name}: use 1 to {MOST_PAIRS} queue pairs")));
        }
        let when = |on: bool, bits: u64| if on { bits } else { 0 };
        let optional = VHOST_USER_F_PROTOCOL_FEATURES
            | VIRTIO_NET_F_MRG_RXBUF
            | when(pairs > 1, VIRTIO_NET_F_MQ)
            | when(packed, VIRTIO_F_RING_PACKED)
            | offload_features(offload);
        let alarm = Waker::new()
            .map_err(|e| PmdError::system(format!("{name}: eventfd"), "raise the limit of open files", e))?;
        let shared = Arc::new(Shared {
            socket: VhostConfig::new(name, mode),
            wanted: Wanted { required: VIRTIO_F_VERSION_1, optional, pairs },
            stop: AtomicBool::new(false),
            alarm,
            connection: Mutex::default(),
            mtu: AtomicU16::new(1500),
            offloads: OffloadSwitches::default(),
            pairs: AtomicU16::new(0),
            rx: (0..pairs).map(|_| RxPlace::default()).collect(),
            tx: (0..pairs).map(|_| Mutex::default()).collect(),
            broken: AtomicBool::new(false),
            state: Mutex::default(),
        });
        let thread = control::start(&shared)?;
        Ok(Arc::new(VirtioUserPort { shared, thread: Some(thread) }))
    }
}

impl Port for VirtioUserPort {
    fn driver(&self) -> &'static str {
        "virtio-user"
    }

    fn info(&self) -> PortInfo {
        let shared = &*self.shared;
        let state = locked(&shared.state);
        let pairs = shared.pairs.load(Ordering::Acquire);
        let path: PathBuf = shared.path().to_owned();
        let mode = if matches!(shared.socket.mode, Mode::Listen(_)) { "server" } else { "client" };
        let mut status = vec![
            ("mode".into(), mode.into()),
            ("socket".into(), path.display().to_string()),
            ("status".into(), if state.up { "connected" } else { "disconnected" }.into()),
        ];
        if state.up {
            let packed = state.features & VIRTIO_F_RING_PACKED != 0;
            status.push(("features".into(), format!("{:#x}", state.features)));
            status.push(("rings".into(), if packed { "packed" } else { "split" }.into()));
            status.push(("n_rxq".into(), pairs.to_string()));
            status.extend(offload_status(shared.offloads.get().limit(device_offloads(state.features))));
        }
        PortInfo {
            link: if state.up { LinkState::Up } else { LinkState::Down },
            link_resets: state.changes,
            mtu: shared.mtu.load(Ordering::Relaxed),
            rx_queues: pairs,
            status,
            error: state.error.clone(),
            ..PortInfo::default()
        }
    }

    fn rx_queue(&self, index: u16) -> Result<Box<dyn RxQueue>, PmdError> {
        let error = |problem| PmdError::Queue { port: self.shared.socket.name.clone(), index, problem };
        let place = self.shared.rx.get(usize::from(index)).ok_or_else(|| error("does not exist"))?;
        if place.taken.swap(true, Ordering::AcqRel) {
            return Err(error("is in use"));
        }
        Ok(Box::new(VirtioRx::new(self.shared.clone(), index.into())))
    }

    fn tx_queue(&self, worker: u16) -> Result<Box<dyn TxQueue>, PmdError> {
        Ok(Box::new(VirtioTx::new(self.shared.clone(), worker)))
    }

    fn set_mtu(&self, mtu: u16) -> Result<(), PmdError> {
        self.shared.mtu.store(mtu, Ordering::Relaxed);
        self.shared.tell();
        Ok(())
    }

    fn set_offloads(&self, offloads: Offloads) -> Result<(), PmdError> {
        self.shared.offloads.set(offloads);
        self.shared.tell();
        Ok(())
    }

    fn subscribe(&self, events: Arc<dyn PortEvents>) {
        locked(&self.shared.state).subscriber = Some(events);
    }
}

impl Drop for VirtioUserPort {
    fn drop(&mut self) {
        control::interrupt(&self.shared);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("{}: the control thread had panicked", self.shared.socket.name);
        }
    }
}

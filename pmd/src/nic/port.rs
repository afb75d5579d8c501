//! A card as a port.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use super::cell::Cell;
use super::filters::Filters;
use super::model::{Card, CardInfo, Link, Settings, TxRing as _};
use super::rx::NicRx;
use super::tx::{NicTx, TxShared};
use super::watch::{Signal, Watch};
use crate::drivers::queue_slots::{QueueSlots, Subscriber};
use crate::packet::OffloadCaps;
use crate::pci::{PciAddress, PciFn, VfSettings, VfState};
use crate::port::{
    LinkState, OffloadSwitches, Offloads, PmdError, Port, PortEvents, PortInfo, RxQueue, TxQueue,
    offload_status,
};

/// How a port over a card is to be.
#[derive(Clone, Debug)]
pub struct NicConfig {
    /// Name of the port.
    pub name: String,
    /// Queues in each direction.
    pub queues: u16,
    /// Descriptors of each receive ring.
    pub rx_descriptors: u16,
    /// Descriptors of each transmit ring.
    pub tx_descriptors: u16,
    /// Largest payload of a frame.
    pub mtu: u16,
    /// What a card that cannot receive everything receives beside what is for its own address.
    pub filters: Filters,
    /// What the operator wants of virtual functions, by their number, for a card whose physical function this is.
    pub functions: Vec<(u16, VfSettings)>,
    /// Time between two looks at the card's health.
    pub tick: Duration,
}

impl Default for NicConfig {
    fn default() -> NicConfig {
        NicConfig {
            name: String::new(),
            queues: 1,
            rx_descriptors: 512,
            tx_descriptors: 512,
            mtu: 1500,
            filters: Filters::default(),
            functions: Vec::new(),
            tick: Duration::from_secs(1),
        }
    }
}

/// A card that is open, and the function it is.
pub(super) struct Opened<C> {
    pub(super) card: C,
    pub(super) function: Arc<dyn PciFn>,
}

/// What is reported of a port.
#[derive(Default)]
pub(super) struct Health {
    pub(super) link: Link,
    pub(super) link_resets: u64,
    pub(super) restarts: u64,
    pub(super) error: Option<String>,
    pub(super) gone: bool,
    /// The card's address. A virtual function may get another with a restart.
    mac: [u8; 6],
    /// What the card's transmit rings do.
    caps: OffloadCaps,
    /// The card's counters as read last.
    counters: Vec<(&'static str, u64)>,
}

/// Everything of a port but its watch.
pub(super) struct Inner<C: Card> {
    name: String,
    info: CardInfo,
    /// What does not change of [`PortInfo::status`].
    facts: Vec<(String, String)>,
    settings: Mutex<Settings>,
    /// None when the card is gone.
    pub(super) opened: Mutex<Option<Opened<C>>>,
    rx: Vec<Arc<Cell<C::Rx>>>,
    pub(super) tx: Vec<Arc<Cell<C::Tx>>>,
    shared: Arc<TxShared>,
    slots: QueueSlots,
    /// The first is for the link, the others for the receive rings; those may be missing.
    pub(super) events: Vec<Arc<OwnedFd>>,
    pub(super) health: Mutex<Health>,
    pub(super) subscriber: Subscriber,
}

struct NicPort<C: Card> {
    // Ends its thread before the card is stopped.
    watch: Option<Watch>,
    inner: Arc<Inner<C>>,
}

/// Starts a card and makes a port of it.
///
/// # Errors
/// The configuration asks for what the card cannot, or the card does not start.
pub fn open<C: Card>(
    config: NicConfig,
    function: Arc<dyn PciFn>,
    card: C,
) -> Result<Arc<dyn Port>, PmdError> {
    let info = card.info().clone();
    check(&config, &info)?;
    let vectors = usize::from(function.vectors());
    // Without a vector for each ring the port works, but can only be polled.
    let wanted = 1 + usize::from(config.queues);
    let count = if vectors >= wanted { wanted } else { vectors.min(1) };
    let events = (0..count).map(|_| Ok(Arc::new(event()?))).collect::<Result<Vec<_>, PmdError>>()?;
    let signal = Arc::new(Signal::new(event()?));
    let shared = TxShared {
        mtu: AtomicU16::new(config.mtu),
        link_up: AtomicBool::new(false),
        offloads: OffloadSwitches::default(),
        signal,
    };
    let cells = usize::from(config.queues);
    let inner = Inner {
        facts: vec![
            ("driver_name".into(), info.driver.into()),
            ("pci".into(), function.address().to_string()),
            ("max_queues".into(), info.max_queues.to_string()),
            ("max_mtu".into(), info.max_mtu.to_string()),
        ],
        settings: Mutex::new(Settings {
            queues: config.queues,
            rx_descriptors: config.rx_descriptors,
            tx_descriptors: config.tx_descriptors,
            mtu: config.mtu,
        }),
        opened: Mutex::new(Some(Opened { card, function: function.clone() })),
        rx: (0..cells).map(|_| Arc::default()).collect(),
        tx: (0..cells).map(|_| Arc::default()).collect(),
        shared: Arc::new(shared),
        slots: QueueSlots::new(config.queues),
        events,
        health: Mutex::default(),
        subscriber: Subscriber::default(),
        name: config.name,
        info,
    };
    let inner = Arc::new(inner);
    inner.restart()?;
    let removal = Arc::new(event()?);
    // A kernel that cannot tell still takes the card; it then waits for us.
    let _ = function.on_removal(removal.as_fd());
    drop(function);
    let watch = Watch::start(inner.clone(), config.tick, inner.shared.signal.clone(), removal)?;
    Ok(Arc::new(NicPort { watch: Some(watch), inner }))
}

fn check(config: &NicConfig, info: &CardInfo) -> Result<(), PmdError> {
    let name = &config.name;
    if config.queues == 0 || config.queues > info.max_queues {
        return Err(PmdError::Config(format!(
            "{name}: n_rxq={} cannot be, this card has 1 to {} queues for driver {}",
            config.queues, info.max_queues, info.driver
        )));
    }
    check_mtu(name, config.mtu, info)?;
    for (option, n) in [("n_rxq_desc", config.rx_descriptors), ("n_txq_desc", config.tx_descriptors)] {
        if !n.is_power_of_two() || !(64..=4096).contains(&n) {
            return Err(PmdError::Config(format!(
                "{name}: {option}={n}: use a power of two from 64 to 4096"
            )));
        }
    }
    Ok(())
}

fn check_mtu(name: &str, mtu: u16, info: &CardInfo) -> Result<(), PmdError> {
    if !(68..=info.max_mtu).contains(&mtu) {
        return Err(PmdError::Config(format!(
            "{name}: MTU {mtu} cannot be, this card takes 68 to {} with driver {}",
            info.max_mtu, info.driver
        )));
    }
    Ok(())
}

fn event() -> Result<OwnedFd, PmdError> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|e| PmdError::system("making an eventfd", "raise the limit of open files", e))
}

impl<C: Card> Inner<C> {
    /// Stops the card if it runs, and starts it with fresh rings.
    pub(super) fn restart(&self) -> Result<(), PmdError> {
        let mut opened = lock(&self.opened);
        let Some(Opened { card, function }) = opened.as_mut() else { return Ok(()) };
        let mut rx: Vec<_> = self.rx.iter().map(|cell| cell.take()).collect();
        let mut tx: Vec<_> = self.tx.iter().map(|cell| cell.take()).collect();
        card.stop();
        // The card is silent: now its memory may go.
        rx.iter_mut().for_each(|ring| **ring = None);
        tx.iter_mut().for_each(|ring| **ring = None);
        let fds: Vec<_> = self.events.iter().map(|event| Some(event.as_fd())).collect();
        function.set_vectors(&fds)?;
        let settings = lock(&self.settings).clone();
        let queues = card.start(&settings, &self.events)?;
        {
            let mut health = lock(&self.health);
            health.mac = card.info().mac;
            if let Some(ring) = queues.tx.first() {
                health.caps = ring.caps();
            }
        }
        for (cell, ring) in rx.iter_mut().zip(queues.rx) {
            **cell = Some(ring);
        }
        for (cell, ring) in tx.iter_mut().zip(queues.tx) {
            **cell = Some(ring);
        }
        drop((rx, tx));
        self.rx.iter().for_each(|cell| cell.forget_fault());
        self.tx.iter().for_each(|cell| cell.forget_fault());
        let link = card.link();
        drop(opened);
        self.link_is(link);
        // Whoever slept through it looks at the new ring.
        self.events.iter().skip(1).for_each(|event| ring(event));
        Ok(())
    }

    /// Stops the card and lets go of it.
    pub(super) fn close(&self) {
        let mut opened = lock(&self.opened);
        let Some(Opened { mut card, function }) = opened.take() else { return };
        let rx: Vec<_> = self.rx.iter().map(|cell| cell.take()).collect();
        let tx: Vec<_> = self.tx.iter().map(|cell| cell.take()).collect();
        card.stop();
        rx.into_iter().for_each(|mut ring| *ring = None);
        tx.into_iter().for_each(|mut ring| *ring = None);
        let _ = function.set_vectors(&[]);
        drop((card, function));
        drop(opened);
        self.link_is(Link::default());
    }

    /// Notes the link and tells the subscriber when it has changed.
    pub(super) fn link_is(&self, link: Link) {
        let changed = {
            let mut health = lock(&self.health);
            let changed = health.link != link;
            health.link_resets += u64::from(health.link.up != link.up);
            health.link = link;
            changed
        };
        self.shared.link_up.store(link.up, Ordering::Relaxed);
        if changed {
            self.subscriber.notify();
        }
    }

    /// A fault a worker has met on any ring.
    pub(super) fn ring_fault(&self) -> Option<super::Fault> {
        let rx = self.rx.iter().find_map(|cell| cell.fault());
        rx.or_else(|| self.tx.iter().find_map(|cell| cell.fault()))
    }

    /// Name of the port.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The card's counters: of now, or of the last look while the card is being restarted.
    fn card_counters(&self) -> Vec<(&'static str, u64)> {
        let now = match self.opened.try_lock() {
            Ok(mut opened) => opened.as_mut().map(|opened| opened.card.counters()),
            Err(TryLockError::Poisoned(_) | TryLockError::WouldBlock) => None,
        };
        let mut health = lock(&self.health);
        if let Some(now) = now {
            health.counters = now;
        }
        health.counters.clone()
    }
}

fn ring(event: &OwnedFd) {
    // A full counter means that it is readable already.
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}

impl<C: Card> Port for NicPort<C> {
    fn driver(&self) -> &'static str {
        "pmd"
    }

    fn info(&self) -> PortInfo {
        let inner = &self.inner;
        let mut status = inner.facts.clone();
        let counters = inner.card_counters();
        let settings = lock(&inner.settings).clone();
        let health = lock(&inner.health);
        let mut fact = |name: &str, value: String| status.push((name.to_owned(), value));
        if let Some(speed) = health.link.speed.filter(|_| health.link.up) {
            fact("link_speed", format!("{speed} Mbit/s"));
        }
        fact("n_rxq", settings.queues.to_string());
        fact("n_txq", settings.queues.to_string());
        fact("n_rxq_desc", settings.rx_descriptors.to_string());
        fact("n_txq_desc", settings.tx_descriptors.to_string());
        fact("restarts", health.restarts.to_string());
        status.extend(offload_status(inner.shared.offloads.get().limit(health.caps)));
        PortInfo {
            link: if health.link.up { LinkState::Up } else { LinkState::Down },
            link_resets: health.link_resets,
            mtu: settings.mtu,
            mac: Some(health.mac),
            rx_queues: settings.queues,
            status,
            counters,
            gone: health.gone,
            error: health.error.clone(),
            ..PortInfo::default()
        }
    }

    fn rx_queue(&self, index: u16) -> Result<Box<dyn RxQueue>, PmdError> {
        let inner = &self.inner;
        let taken = inner.slots.take(&inner.name, index)?;
        let event = inner.events.get(1 + usize::from(index)).cloned();
        let cell = inner.rx[usize::from(index)].clone();
        Ok(Box::new(NicRx::new(cell, event, inner.shared.signal.clone(), taken)))
    }

    fn tx_queue(&self, worker: u16) -> Result<Box<dyn TxQueue>, PmdError> {
        let inner = &self.inner;
        let cell = inner.tx[usize::from(worker) % inner.tx.len()].clone();
        Ok(Box::new(NicTx::new(cell, inner.shared.clone())))
    }

    fn virtual_functions(&self, card: PciAddress) -> Vec<VfState> {
        let opened = lock(&self.inner.opened);
        let opened = opened.as_ref().filter(|opened| opened.function.address() == card);
        opened.map(|opened| opened.card.virtual_functions()).unwrap_or_default()
    }

    fn set_mtu(&self, mtu: u16) -> Result<(), PmdError> {
        let inner = &self.inner;
        check_mtu(&inner.name, mtu, &inner.info)?;
        let old = std::mem::replace(&mut lock(&inner.settings).mtu, mtu);
        if old != mtu {
            inner.shared.mtu.store(mtu, Ordering::Relaxed);
            let needs = lock(&inner.opened).as_ref().is_some_and(|opened| opened.card.mtu_needs_restart());
            if needs {
                inner.restart()?;
            }
            inner.subscriber.notify();
        }
        Ok(())
    }

    /// What comes in is as the card makes it.
    fn set_offloads(&self, offloads: Offloads) -> Result<(), PmdError> {
        self.inner.shared.offloads.set(offloads);
        self.inner.subscriber.notify();
        Ok(())
    }

    fn subscribe(&self, events: Arc<dyn PortEvents>) {
        self.inner.subscriber.set(events);
    }
}

impl<C: Card> Drop for NicPort<C> {
    fn drop(&mut self) {
        self.watch = None;
        self.inner.close();
    }
}

pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

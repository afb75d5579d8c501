//! The running switch: ports, workers, bridges and slow path, glued together.
//!
//! ```text
//!   config ─▶ Switch ──▶ Bridges  (what the slow path translates by)
//!   vs.* ──▶    │  └───▶ SlowPath (upcalls, megaflows, revalidation)
//!               ├──────▶ workers  (commands: queues, ports)
//!               └──────▶ ports    (drivers; changes come back as events)
//! ```
//!
//! All of this is control side and may block; one lock (`Switch::inner`) orders changes. Workers are reached by
//! command only and wait for nothing here. A change is live when the call returns and [`Switch::sync`] has been called.
//!
//! Lock order: `Switch::inner`, then whatever `Bridges` and `SlowPath` take inside. Port events arrive without
//! any lock and are handed to the maintenance thread.

mod assign;
mod balance;
mod events;
mod load;
mod open;
mod port;
mod queries;
mod workers;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowtable::key::PortNo;
use pmd::packet::Pool;
use pmd::port::PmdError;

use crate::bridge::{BridgeConfig, BridgeError, Bridges};
use crate::datapath::{IdlePolicy, UpcallSender, upcall_queue};
use crate::slowpath::{SinkList, SlowPath, SlowPathHandle};

pub use balance::{Assign, AutoBalance, Balance};
pub use open::{GuestOptions, PortKind, RingOptions};
pub use port::{PortChange, PortOffloads, PortRequest};
pub use queries::{DpFlow, PortReport, QueueReport, RxqReport, WorkerReport};

use events::Maintenance;
use port::PortEntry;
use workers::WorkerEntry;

/// Chunks of the pool for packets that wait: 64 MiB of address space, touched only as far as packets wait.
const POOL_CHUNKS: u32 = 32 * 1024;

/// Why the switch could not do what it was asked. The text is for the operator.
#[derive(thiserror::Error, Debug)]
pub enum SwitchError {
    /// A driver refused.
    #[error(transparent)]
    Port(#[from] PmdError),
    /// The bridge refused.
    #[error(transparent)]
    Bridge(#[from] BridgeError),
    /// The name is taken or unknown, or a request cannot be.
    #[error("{0}")]
    Request(String),
    /// The kernel refused a thread or a descriptor.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
}

/// What the switch needs to start.
#[derive(Clone, Debug)]
pub struct SwitchConfig {
    /// Where vhost-user sockets go that name no path.
    pub rundir: PathBuf,
}

/// The running switch. Dropping it stops workers and closes ports.
pub struct Switch {
    rundir: PathBuf,
    bridges: Arc<Bridges>,
    slow: SlowPathHandle,
    sinks: SinkList,
    pool: &'static Pool,
    upcalls: UpcallSender,
    inner: Mutex<Inner>,
    maintenance: Maintenance,
    watchers: Mutex<Vec<Sender<()>>>,
}

/// What changes.
#[derive(Default)]
struct Inner {
    ports: BTreeMap<PortNo, PortEntry>,
    names: HashMap<String, PortNo>,
    workers: Vec<WorkerEntry>,
    next_worker: u16,
    idle: IdlePolicy,
    balance: Balance,
    /// When queues were last spread.
    spread_at: Option<std::time::Instant>,
    /// The time-stamp counter in the last minute.
    clock: load::Recent,
}

impl Switch {
    /// Starts a switch with one worker and no bridges.
    pub fn start(config: SwitchConfig) -> Result<Arc<Switch>, SwitchError> {
        let system = |what| move |source| SwitchError::System { what, source };
        let pool = Pool::create(POOL_CHUNKS)?;
        let (upcalls, receiver) = upcall_queue().map_err(system("making the upcall queue"))?;
        let bridges = Arc::new(Bridges::new());
        let sinks = SinkList::default();
        let slow = SlowPath::start(bridges.clone(), receiver, sinks.clone())
            .map_err(system("starting the slow path"))?;
        let switch = Arc::new_cyclic(|weak| Switch {
            rundir: config.rundir,
            bridges,
            slow,
            sinks,
            pool,
            upcalls,
            inner: Mutex::new(Inner {
                clock: load::Recent::from(pmd::sys::clock::cycles()),
                ..Inner::default()
            }),
            maintenance: Maintenance::start(weak.clone()),
            watchers: Mutex::default(),
        });
        switch.set_workers(None)?;
        Ok(switch)
    }

    /// The bridges: rules, learned addresses, translation.
    pub fn bridges(&self) -> &Arc<Bridges> {
        &self.bridges
    }

    /// Adds a bridge, or changes the one of that name.
    pub fn set_bridge(&self, config: BridgeConfig) -> Result<(), SwitchError> {
        Ok(self.bridges.set_bridge(config)?)
    }

    /// Removes a bridge and every port still on it.
    pub fn remove_bridge(&self, name: &str) -> Result<(), SwitchError> {
        let ports: Vec<String> = {
            let inner = self.lock();
            inner.ports.values().filter(|p| p.bridge == name).map(|p| p.name.clone()).collect()
        };
        for port in ports {
            self.remove_port(&port)?;
        }
        Ok(self.bridges.remove_bridge(name)?)
    }

    /// Returns once every change made before is live: every installed megaflow agrees with the bridges as they are,
    /// and every worker has carried out what it was told.
    pub fn sync(&self) {
        self.slow.revalidate_now();
        let handles: Vec<_> = self.lock().workers.iter().map(|w| w.handle.clone()).collect();
        for handle in handles {
            handle.barrier();
        }
    }

    /// Sends `()` whenever a port's facts (link, status, error) may have changed.
    pub fn watch(&self) -> Receiver<()> {
        let (sender, receiver) = channel();
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        receiver
    }

    fn notify_watchers(&self) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|watcher| watcher.send(()).is_ok());
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic of another control thread leaves the maps as they were before or after one whole change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.maintenance.stop();
        let mut inner = self.lock();
        workers::stop_all(&mut inner);
        inner.ports.clear();
    }
}

#[cfg(test)]
mod tests;

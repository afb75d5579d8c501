//! The loop: wait for a change, make the switch so, say so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use vswitch_ovsdb::{Db, OvsdbError, Snapshot, Subscription};

use super::apply::Running;
use super::diff::diff;
use super::model::Desired;
use super::report;
use super::target::Target;
use crate::switch::PortReport;

/// How long to wait before what failed is tried again though nothing was asked for.
const RETRY: Duration = Duration::from_secs(2);

/// Passes over the database, one at a time. [`ConfigThread`] runs them; tests call them directly.
pub struct Reconciler {
    db: Db,
    target: Arc<dyn Target>,
    running: Running,
    desired: Desired,
}

impl Reconciler {
    /// A reconciler of a switch on which nothing runs yet. Creates the `Open_vSwitch` row if there is none.
    pub fn new(db: Db, target: Arc<dyn Target>) -> Result<Reconciler, OvsdbError> {
        report::ensure_root(&db)?;
        Ok(Reconciler { db, target, running: Running::default(), desired: Desired::default() })
    }

    /// What runs.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// How often statistics are wanted.
    pub fn stats_interval(&self) -> Duration {
        self.desired.stats_interval
    }

    /// Makes the switch agree with a snapshot and writes the outcome. What failed before is tried again.
    pub fn configure(&mut self, snapshot: &Snapshot) -> Result<(), OvsdbError> {
        self.desired = Desired::from_snapshot(snapshot);
        for report in self.target.reports().iter().filter(|report| report.info.gone) {
            log::warn!("interface {}: {}", report.name, report.info.error.as_deref().unwrap_or("gone"));
            self.running.remove_port(&*self.target, &report.name);
        }
        let steps = diff(&self.running, &self.desired);
        let changed = !steps.is_empty();
        self.running.apply(&*self.target, steps);
        if changed {
            self.target.sync();
        }
        self.write(&self.target.reports(), true)
    }

    /// Whether something failed that may succeed later without any change of the database.
    pub fn failing(&self) -> bool {
        self.running.failing() || self.target.reports().iter().any(|report| report.info.gone)
    }

    /// Refreshes statistics, link state and status.
    pub fn refresh(&self) -> Result<(), OvsdbError> {
        let mut reports = self.target.reports();
        for report in &mut reports {
            report.info.counters.extend(self.target.counters_elsewhere(&report.name));
        }
        self.write(&reports, false)
    }

    fn write(&self, reports: &[PortReport], configured: bool) -> Result<(), OvsdbError> {
        report::write(&self.db, &self.desired, &self.running, reports, configured)
    }
}

/// The thread that keeps switch and database in agreement. Dropping it ends the thread; the switch stays as it is.
pub struct ConfigThread {
    db: Db,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl ConfigThread {
    /// Configures the switch from the database and returns when that has been done once; then follows every change.
    ///
    /// `port_changes` tells that [`Target::reports`] may differ, as from [`crate::switch::Switch::watch`]; its sender
    /// must go when the switch does.
    pub fn start(
        db: &Db,
        target: Arc<dyn Target>,
        port_changes: Receiver<()>,
    ) -> Result<ConfigThread, ConfigError> {
        let mut changes = db.subscribe();
        let mut reconciler = Reconciler::new(db.clone(), target)?;
        reconciler.configure(&db.snapshot())?;
        let nudge = db.clone();
        thread::Builder::new().name("port-changes".into()).spawn(move || {
            while port_changes.recv().is_ok() {
                nudge.nudge();
            }
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let again = db.clone();
        let thread = thread::Builder::new()
            .name("config".into())
            .spawn(move || follow(&again, &mut changes, &mut reconciler, &stopping))?;
        Ok(ConfigThread { db: db.clone(), stop, thread: Some(thread) })
    }
}

/// The thread's work, until it is to stop.
fn follow(db: &Db, changes: &mut Subscription, reconciler: &mut Reconciler, stopping: &AtomicBool) {
    let mut refresh_at = Instant::now() + reconciler.stats_interval();
    let mut retry_at = Instant::now() + RETRY;
    while !stopping.load(Ordering::Acquire) {
        let wake_at = if reconciler.failing() { retry_at.min(refresh_at) } else { refresh_at };
        let woken = changes.wait(Some(wake_at.saturating_duration_since(Instant::now())));
        if stopping.load(Ordering::Acquire) {
            return;
        }
        let now = Instant::now();
        let mut done = Ok(());
        let retry = woken.is_none() && reconciler.failing() && retry_at <= now;
        if let Some(snapshot) = woken.clone().or_else(|| retry.then(|| db.snapshot())) {
            done = reconciler.configure(&snapshot);
            retry_at = Instant::now() + RETRY;
        }
        // Woken before the time and without a commit: a port has changed.
        let nudged = woken.is_none() && now < wake_at;
        if nudged || refresh_at <= now {
            refresh_at = now + reconciler.stats_interval();
            done = done.and_then(|()| reconciler.refresh());
        }
        if let Err(fault) = done {
            log::error!("cannot write the switch's state to the database: {fault}");
        }
    }
}

/// Why configuration could not start.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The database refused.
    #[error("cannot write to the database: {0}")]
    Database(#[from] OvsdbError),
    /// No thread.
    #[error("cannot start the configuration thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl Drop for ConfigThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.db.nudge();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the configuration thread had panicked");
        }
    }
}

//! The database handle: one writer at a time, any number of readers, notice of commits.
//!
//! Readers clone an `Arc` under a lock held for that long only. Writers queue on a mutex that covers the
//! transaction and its journal record, so the journal has commits in the order snapshots appear.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use super::{Snapshot, Working};
use crate::journal::{self, Journal, OpenError, Warning};
use crate::{DatabaseSchema, ErrorKind, OvsdbError};

/// Called after every commit, on the committing thread: must return at once.
pub(crate) type Hook = dyn Fn() + Send + Sync;

struct Inner {
    current: RwLock<Arc<Snapshot>>,
    writer: Mutex<Option<Journal>>,
    /// Sequence of the current snapshot, and how often waiters were nudged.
    published: Mutex<(u64, u64)>,
    changed: Condvar,
    hooks: Mutex<Vec<Weak<Hook>>>,
}

/// A database. Cloning gives another handle to the same one.
#[derive(Clone)]
pub struct Db {
    inner: Arc<Inner>,
}

/// What a transaction wants of its commit.
#[derive(Debug, Default)]
pub(crate) struct CommitOptions {
    /// Reach the disk before success is reported.
    pub(crate) durable: bool,
    /// Goes into the journal record for people to read.
    pub(crate) comment: String,
}

/// Why nothing was committed.
pub(crate) enum Failure<E> {
    /// The transaction itself failed.
    Body(E),
    /// It ran, but its result breaks a rule or could not be written.
    Commit(OvsdbError),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere cannot leave these half-changed: each holds one value replaced in one step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Db {
    /// Opens the journal at `path`, creating it if there is none, and holds it locked until dropped.
    ///
    /// Damage is repaired, not fatal: a torn tail is dropped, an unreadable remainder moved aside; the
    /// warnings say so and should be logged. Errors are those of the file system, a lock held by another
    /// process, or a file that is no database of this name.
    pub fn open(path: &Path, schema: DatabaseSchema) -> Result<(Db, Vec<Warning>), OpenError> {
        let (journal, snapshot, warnings) = journal::open(path, &Arc::new(schema))?;
        Ok((Db::with(snapshot, Some(journal)), warnings))
    }

    /// An empty database that lives and dies with the process.
    pub fn in_memory(schema: DatabaseSchema) -> Db {
        Db::with(Snapshot::empty(Arc::new(schema)), None)
    }

    fn with(snapshot: Snapshot, journal: Option<Journal>) -> Db {
        Db {
            inner: Arc::new(Inner {
                published: Mutex::new((snapshot.sequence(), 0)),
                current: RwLock::new(Arc::new(snapshot)),
                writer: Mutex::new(journal),
                changed: Condvar::new(),
                hooks: Mutex::new(Vec::new()),
            }),
        }
    }

    /// The current state.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.inner.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What tables and columns there are.
    pub fn schema(&self) -> Arc<DatabaseSchema> {
        Arc::clone(self.snapshot().schema())
    }

    /// Notice of every commit from now on.
    pub fn subscribe(&self) -> Subscription {
        let seen = *lock(&self.inner.published);
        Subscription { db: self.clone(), seen }
    }

    /// Makes every waiting [`Subscription::wait`] return `None` now: for shutting down its thread.
    pub fn nudge(&self) {
        let mut published = lock(&self.inner.published);
        published.1 = published.1.wrapping_add(1);
        drop(published);
        self.inner.changed.notify_all();
    }

    /// Calls `hook` after each commit for as long as the caller keeps it alive.
    pub(crate) fn on_commit(&self, hook: &Arc<Hook>) {
        let mut hooks = lock(&self.inner.hooks);
        hooks.retain(|hook| hook.strong_count() > 0);
        hooks.push(Arc::downgrade(hook));
    }

    /// Runs one transaction: `body` changes the working copy, then the rules are checked, the record is
    /// written and the new snapshot published. All or nothing.
    pub(crate) fn commit<T, E>(
        &self,
        body: impl FnOnce(&mut Working, &mut CommitOptions) -> Result<T, E>,
    ) -> Result<T, Failure<E>> {
        let mut writer = lock(&self.inner.writer);
        let base = self.snapshot();
        let mut working = Working::on(Arc::clone(&base));
        let mut options = CommitOptions::default();
        let result = body(&mut working, &mut options).map_err(Failure::Body)?;
        let next = working.settle().map_err(Failure::Commit)?;
        if let Some(next) = next {
            if let Some(journal) = writer.as_mut() {
                journal.commit(&base, &next, &options).map_err(|fault| {
                    Failure::Commit(OvsdbError::new(ErrorKind::IoError, fault.to_string()))
                })?;
            }
            self.publish(next);
        }
        Ok(result)
    }

    fn publish(&self, next: Snapshot) {
        let sequence = next.sequence();
        *self.inner.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        lock(&self.inner.published).0 = sequence;
        self.inner.changed.notify_all();
        let hooks: Vec<Arc<Hook>> = lock(&self.inner.hooks).iter().filter_map(Weak::upgrade).collect();
        for hook in hooks {
            hook();
        }
    }
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let snapshot = self.snapshot();
        f.debug_struct("Db")
            .field("name", &snapshot.schema().name)
            .field("sequence", &snapshot.sequence())
            .finish()
    }
}

/// A place in the stream of commits. Commits between two waits fall together: what counts is the state.
#[derive(Debug)]
pub struct Subscription {
    db: Db,
    seen: (u64, u64),
}

impl Subscription {
    /// The state after the next commit, as soon as there is one newer than last returned; `None` when
    /// `timeout` (forever if `None`) passes or [`Db::nudge`] is called.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Option<Arc<Snapshot>> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let inner = Arc::clone(&self.db.inner);
        let mut published = lock(&inner.published);
        loop {
            if published.1 != self.seen.1 {
                self.seen.1 = published.1;
                return None;
            }
            if published.0 != self.seen.0 {
                self.seen.0 = published.0;
                drop(published);
                return Some(self.db.snapshot());
            }
            published = match deadline {
                None => inner.changed.wait(published).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    inner.changed.wait_timeout(published, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Like [`Subscription::wait`], without waiting.
    pub fn try_next(&mut self) -> Option<Arc<Snapshot>> {
        self.wait(Some(Duration::ZERO))
    }
}

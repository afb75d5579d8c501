//! The file itself: opening with repair, locking, appending, compaction.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;

use super::load::{load, transaction_record};
use super::record::{DamageKind, encode, replay};
use crate::DatabaseSchema;
use crate::database::{CommitOptions, Snapshot};

/// Something the operator should know although the database opened. The text does not name the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning(String);

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a database file could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The kernel refused.
    #[error("{path}: {what}: {source}; check that the directory exists and this user may write to it")]
    System {
        /// The file.
        path: String,
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Another process has it.
    #[error("{path} is in use by another process; stop that one or choose another file (--db-file)")]
    Locked {
        /// The file.
        path: String,
    },
    /// A database of another kind.
    #[error("{path} {what}; move it away or choose another file (--db-file)")]
    NotOurs {
        /// The file.
        path: String,
        /// What it is instead.
        what: String,
    },
}

fn system(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.display().to_string();
    move |source| OpenError::System { path, what, source }
}

/// Below this size a journal is never rewritten.
const COMPACT_ABOVE: u64 = 256 * 1024;
/// Rewritten when it has grown by this factor.
const COMPACT_GROWTH: u64 = 4;

/// An open database file.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    /// Bytes of whole records: where the next one goes.
    length: u64,
    /// Length after the last compaction.
    compacted: u64,
    /// Held, not used: the lock goes when this is dropped.
    _lock: File,
}

/// Opens or creates the file, repairing what is broken, and loads it.
pub(crate) fn open(
    path: &Path,
    schema: &Arc<DatabaseSchema>,
) -> Result<(Journal, Snapshot, Vec<Warning>), OpenError> {
    // The real file, so that compaction replaces that and not a symbolic link to it.
    let path =
        &fs::canonicalize(path).or_else(|_| std::path::absolute(path)).map_err(system(path, "bad path"))?;
    let lock = take_lock(path)?;
    let mut warnings = Vec::new();
    let mut warn = |what: String| warnings.push(Warning(what));
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(fault) => return Err(system(path, "cannot read")(fault)),
    };
    let replay = replay(&bytes);
    let stored = replay.records.first().map(DatabaseSchema::from_json);
    let usable = match &stored {
        Some(Ok(stored)) if stored.name != schema.name => {
            let what = format!("holds database {}, not {}", stored.name, schema.name);
            return Err(OpenError::NotOurs { path: path.display().to_string(), what });
        }
        Some(Ok(_)) => true,
        Some(Err(fault)) => {
            set_aside(path, &bytes, &format!("its schema is not understood ({fault})"), &mut warn)?;
            false
        }
        None => {
            refuse_cluster(path, &bytes)?;
            if !bytes.is_empty() {
                set_aside(path, &bytes, "it has no readable schema", &mut warn)?;
            }
            false
        }
    };
    if usable && let Some(damage) = &replay.damage {
        let lost = bytes.len() - replay.good;
        match damage.kind {
            DamageKind::TornTail => warn(format!("{}; the {lost} bytes were dropped", damage.what)),
            DamageKind::Corrupt => {
                let what = format!("{} at byte {}; kept what is before it", damage.what, replay.good);
                set_aside(path, &bytes, &what, &mut warn)?;
            }
        }
    }
    let transactions = if usable { replay.records.get(1..).unwrap_or_default() } else { &[] };
    let (snapshot, losses) = load(Arc::clone(schema), transactions);
    let mut stale = !usable || replay.damage.is_some() || !matches!(stored, Some(Ok(s)) if s == **schema);
    for loss in losses.report() {
        stale = true;
        warn(loss);
    }
    let mut journal = Journal::reuse(path, replay.good as u64, lock)?;
    if stale {
        journal.compact(&snapshot).map_err(system(path, "cannot write"))?;
    }
    Ok((journal, snapshot, warnings))
}

/// Keeps a copy of a file that is about to be replaced by what could be saved of it.
fn set_aside(path: &Path, bytes: &[u8], why: &str, warn: &mut impl FnMut(String)) -> Result<(), OpenError> {
    for number in 0..1000 {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".damaged-{number}"));
        let copy = path.with_file_name(name);
        match OpenOptions::new().write(true).create_new(true).open(&copy) {
            Ok(mut file) => {
                file.write_all(bytes)
                    .and_then(|()| file.sync_all())
                    .map_err(system(&copy, "cannot write"))?;
                warn(format!("{why}; the file as it was is kept in {}", copy.display()));
                return Ok(());
            }
            Err(fault) if fault.kind() == io::ErrorKind::AlreadyExists => {}
            Err(fault) => return Err(system(&copy, "cannot create")(fault)),
        }
    }
    let what = "is damaged, and there are a thousand damaged copies beside it already".to_owned();
    Err(OpenError::NotOurs { path: path.display().to_string(), what })
}

fn refuse_cluster(path: &Path, bytes: &[u8]) -> Result<(), OpenError> {
    if bytes.starts_with(b"OVSDB CLUSTER") {
        let what = "is a clustered database; convert it with ovsdb-tool cluster-to-standalone".to_owned();
        return Err(OpenError::NotOurs { path: path.display().to_string(), what });
    }
    Ok(())
}

/// Locks `.NAME.~lock~` beside the file: the name `ovsdb-server` uses, with the lock it uses (`fcntl`), and
/// with `flock`, which also tells two openers within one process apart.
fn take_lock(path: &Path) -> Result<File, OpenError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let lock_path = path.with_file_name(format!(".{name}.~lock~"));
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(system(&lock_path, "cannot create the lock file"))?;
    let exclusive = FlockOperation::NonBlockingLockExclusive;
    let both = rustix::fs::flock(&file, exclusive).and_then(|()| rustix::fs::fcntl_lock(&file, exclusive));
    match both {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => {
            Err(OpenError::Locked { path: path.display().to_string() })
        }
        Err(fault) => Err(system(&lock_path, "cannot lock")(fault.into())),
    }
}

impl Journal {
    fn reuse(path: &Path, length: u64, lock: File) -> Result<Journal, OpenError> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(system(path, "cannot open for writing"))?;
        Ok(Journal { file, path: path.to_owned(), length, compacted: length, _lock: lock })
    }

    /// Writes the difference between two snapshots as one record.
    pub(crate) fn commit(
        &mut self,
        old: &Snapshot,
        new: &Snapshot,
        options: &CommitOptions,
    ) -> io::Result<()> {
        let before = self.length;
        let record = transaction_record(old, new, options);
        let written = record.map_or(Ok(()), |record| self.append(&encode(&record)));
        let synced = written.and_then(|()| if options.durable { self.file.sync_data() } else { Ok(()) });
        if let Err(fault) = synced {
            // The transaction fails, so its record must not be found at the next start. If even this fails, the next
            // append does it.
            self.length = before;
            let _ = self.file.set_len(before);
            return Err(self.explain(&fault));
        }
        if self.length > COMPACT_ABOVE && self.length / COMPACT_GROWTH > self.compacted {
            // The records are safe either way; a full disk must not fail the transaction that is written.
            if let Err(fault) = self.compact(new) {
                log::warn!("{}: cannot compact: {fault}", self.path.display());
                self.compacted = self.length;
            }
        }
        Ok(())
    }

    fn explain(&self, fault: &io::Error) -> io::Error {
        let what = format!(
            "cannot write {}: {fault}; make room or fix the permissions, then retry",
            self.path.display()
        );
        io::Error::new(fault.kind(), what)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        // Whatever an earlier failed write left behind is cut off first.
        if self.file.seek(SeekFrom::End(0))? != self.length {
            self.file.set_len(self.length)?;
            self.file.seek(SeekFrom::Start(self.length))?;
        }
        self.file.write_all(bytes)?;
        self.length = self.length.saturating_add(bytes.len() as u64);
        Ok(())
    }

    /// Replaces the file by one with the schema and a single transaction, atomically.
    pub(crate) fn compact(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let mut bytes = encode(&snapshot.schema.to_json());
        let options = CommitOptions { comment: "compacted".to_owned(), ..CommitOptions::default() };
        let empty = Snapshot::empty(Arc::clone(&snapshot.schema));
        if let Some(record) = transaction_record(&empty, snapshot, &options) {
            bytes.extend(encode(&record));
        }
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".tmp");
        let fresh_path = self.path.with_file_name(name);
        let mut fresh =
            OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&fresh_path)?;
        fresh.write_all(&bytes)?;
        fresh.sync_all()?;
        let permissions = self.file.metadata()?.permissions();
        fresh.set_permissions(permissions)?;
        fs::rename(&fresh_path, &self.path)?;
        if let Some(directory) = self.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        self.file = fresh;
        self.length = bytes.len() as u64;
        self.compacted = self.length;
        Ok(())
    }
}

//! Moving a running guest from one QEMU to another.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Guest;
use super::monitor::Monitor;
use crate::failure::{During as _, Failure, Result};

/// How long a migration may take on a busy machine.
const MIGRATION: Duration = Duration::from_secs(120);

/// What QEMU says of a migration that has ended well.
#[derive(Debug, Clone, Copy)]
pub struct Migrated {
    /// Times it went over memory for what had been written meanwhile.
    pub passes: u64,
    /// How long the guest stood still, in milliseconds.
    pub downtime: u64,
    /// From the first page to the last, in milliseconds.
    pub total: u64,
}

impl Guest {
    /// Executes a command of QEMU's monitor.
    ///
    /// # Errors
    /// QEMU is gone or refuses; the message holds its reason.
    pub fn monitor(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        if self.monitor.is_none() {
            let path = self.monitor_path.clone();
            self.monitor = Some(self.process()?.until("monitor", MIGRATION, |_| Monitor::connect(&path))?);
        }
        let monitor = self.monitor.as_mut().ok_or_else(|| Failure::new("no monitor"))?;
        monitor.execute(command, arguments).during(format_args!("guest {}", self.name))
    }

    /// Bounds how fast pages are sent, in bytes per second, and for how many milliseconds the guest may stand still: the less of
    /// both, the more often memory is gone over.
    ///
    /// # Errors
    /// As [`Guest::monitor`].
    pub fn limit_migration(&mut self, bandwidth: u64, downtime: u64) -> Result<()> {
        let limits = json!({"max-bandwidth": bandwidth, "downtime-limit": downtime});
        self.monitor("migrate-set-parameters", &limits).map(drop)
    }

    /// Allows the guest to run at its new home before its memory has arrived there. To be said on both sides before anything is moved.
    /// From then on `bandwidth` bytes per second are sent beside the pages asked for.
    ///
    /// # Errors
    /// As [`Guest::monitor`]; the kernel or a device cannot do it.
    pub fn allow_postcopy(&mut self, bandwidth: u64) -> Result<()> {
        let on = json!({"capabilities": [{"capability": "postcopy-ram", "state": true}]});
        self.monitor("migrate-set-capabilities", &on)?;
        self.monitor("migrate-set-parameters", &json!({"max-postcopy-bandwidth": bandwidth})).map(drop)
    }

    /// Has the guest run at its new home now, once the migration is under way.
    ///
    /// # Errors
    /// As [`Guest::monitor`], or the migration fails.
    pub fn start_postcopy(&mut self) -> Result<()> {
        let deadline = Instant::now() + MIGRATION;
        loop {
            match self.migration()? {
                state if state["status"] == "active" => break,
                state if state["status"] == "failed" || Instant::now() > deadline => {
                    return Err(Failure::new(format!("guest {} is not moved: {state}", self.name)));
                }
                _ => thread::sleep(Duration::from_millis(20)),
            }
        }
        self.monitor("migrate-start-postcopy", &json!({})).map(drop)
    }

    /// Begins to move the guest to the QEMU that waits at `socket`.
    ///
    /// # Errors
    /// As [`Guest::monitor`]; QEMU refuses when a device cannot be moved.
    pub fn start_migration(&mut self, socket: &Path) -> Result<()> {
        self.monitor("migrate", &json!({"uri": format!("unix:{}", socket.display())})).map(drop)
    }

    /// What QEMU says of the migration now.
    ///
    /// # Errors
    /// As [`Guest::monitor`].
    pub fn migration(&mut self) -> Result<Value> {
        self.monitor("query-migrate", &json!({}))
    }

    /// Waits until all of the guest has been moved; here it stands still then, and goes on there.
    ///
    /// # Errors
    /// The migration fails or does not end; the message holds what QEMU says of it.
    pub fn finish_migration(&mut self) -> Result<Migrated> {
        let deadline = Instant::now() + MIGRATION;
        loop {
            let state = self.migration()?;
            let failed = match state["status"].as_str() {
                Some("completed") => {
                    return Ok(Migrated {
                        passes: state["ram"]["dirty-sync-count"].as_u64().unwrap_or(0),
                        downtime: state["downtime"].as_u64().unwrap_or(0),
                        total: state["total-time"].as_u64().unwrap_or(0),
                    });
                }
                Some("failed" | "cancelled") => true,
                _ => Instant::now() > deadline,
            };
            if failed {
                return Err(Failure::new(format!("guest {} is not moved: {state}", self.name)));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The file that is the guest's memory.
    ///
    /// # Errors
    /// QEMU is gone.
    pub fn memory(&self) -> Result<File> {
        let qemu = self.process.as_ref().ok_or_else(|| Failure::new("its QEMU is in a host guest"))?;
        let folder = PathBuf::from(format!("/proc/{}/fd", qemu.pid()));
        let is_memory = |path: &PathBuf| {
            fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:memory-backend"))
        };
        let mut entries = fs::read_dir(&folder).during(folder.display())?.flatten().map(|entry| entry.path());
        let path = entries.find(is_memory).ok_or_else(|| Failure::new("QEMU has no memory file"))?;
        File::open(&path).during(path.display())
    }
}

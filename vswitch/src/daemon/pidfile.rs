//! One daemon per run directory.
//!
//! The file holds the process number and is locked for as long as the daemon lives, so a file left by a killed one does not
//! stand in the way. The lock is the POSIX one that `ovs-appctl` asks for.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, fcntl_lock, ftruncate};

use super::DaemonError;

/// The locked file; removed when dropped.
pub(super) struct PidFile {
    path: PathBuf,
    /// Closing any descriptor of the file would drop the lock, so this one stays open.
    _file: File,
}

impl PidFile {
    pub(super) fn create(rundir: &Path) -> Result<PidFile, DaemonError> {
        let path = rundir.join("vswitchd.pid");
        let failed = |source: std::io::Error| DaemonError::File {
            what: "writing the pid file",
            path: path.clone(),
            hint: " (choose a directory you may write with --rundir)",
            source,
        };
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        if fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            return Err(DaemonError::Running { pid: pid.trim().to_owned(), rundir: rundir.to_owned() });
        }
        ftruncate(&file, 0).map_err(|e| failed(e.into()))?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(PidFile { path, _file: file })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

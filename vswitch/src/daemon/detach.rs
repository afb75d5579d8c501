//! `--detach`: the same program started once more without a terminal; the first one waits until it serves.
//!
//! A process with threads cannot fork and go on, so the child is a fresh start with the same options. It tells through a
//! pipe that it serves; if the pipe closes first, it has failed and has said why in its log.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};

use super::DaemonError;

/// Set in the child; its standard output is then the pipe.
const MARK: &str = "VSWITCHD_DETACHED";

/// What the child says when it serves.
const READY: &[u8] = b"ready";

/// Starts the child and returns when it serves.
pub(super) fn spawn_and_wait(rundir: &Path) -> Result<(), DaemonError> {
    let log = rundir.join("vswitchd.log");
    let failed = |what| move |source| DaemonError::System { what, source };
    let errors = File::options().create(true).append(true).open(&log).map_err(|source| {
        DaemonError::File { what: "opening the log", path: log.clone(), hint: "", source }
    })?;
    let program = std::env::current_exe().map_err(failed("finding this program"))?;
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--detach");
    let mut child = Command::new(program)
        .args(arguments)
        .env(MARK, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .map_err(failed("starting the background process"))?;
    let mut said = Vec::new();
    if let Some(mut pipe) = child.stdout.take() {
        let _ = pipe.read_to_end(&mut said);
    }
    if said == READY {
        return Ok(());
    }
    let source = std::io::Error::other(format!("it ended before it served; see {}", log.display()));
    Err(DaemonError::System { what: "waiting for the background process", source })
}

/// What the child owes its parent.
pub(super) struct Detached(bool);

/// Leaves the terminal's session, if this is the child.
pub(super) fn begin() -> Detached {
    let child = std::env::var_os(MARK).is_some();
    if child {
        // It fails only for a process group leader, which a fresh child is not.
        let _ = rustix::process::setsid();
    }
    Detached(child)
}

impl Detached {
    /// Tells the parent that the switch serves, and lets go of the pipe.
    pub(super) fn ready(&self) {
        if !self.0 {
            return;
        }
        let mut out = std::io::stdout();
        let _ = out.write_all(READY).and_then(|()| out.flush());
        if let Ok(null) = File::options().write(true).open("/dev/null") {
            let _ = rustix::stdio::dup2_stdout(null.as_fd());
        }
    }
}

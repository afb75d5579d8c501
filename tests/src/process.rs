//! Programs the lab starts, and the promise that none of them outlives its test.
//!
//! Every program gets a log file and is killed and reaped by its own process id when its handle is dropped. Should the
//! test process itself be killed, the kernel does it instead: the program is started through `setpriv --pdeathsig`,
//! which ties it to the thread that started it, so a handle must stay with that thread. Nothing is ever looked up or
//! killed by name.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::failure::{During as _, Failure, Result};

/// A running program with its log.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    kept: bool,
}

impl Process {
    /// Starts `program` with `arguments`, both output streams appended to `log`, standard input open for [`Self::say`].
    ///
    /// With `keep` the program outlives this process and this handle, for `make demo KEEP=1`.
    ///
    /// # Errors
    /// The log cannot be opened or the program cannot be started.
    pub fn start(name: &str, program: &Path, arguments: &[String], log: &Path, keep: bool) -> Result<Self> {
        let open = || File::options().create(true).append(true).open(log);
        let out = open().during(format_args!("log of {name}, {}", log.display()))?;
        let err = out.try_clone().during("log")?;
        let mut command = if keep {
            let mut c = Command::new("setsid");
            c.arg(program);
            c.stdin(Stdio::null());
            c
        } else {
            let mut c = Command::new("setpriv");
            c.args(["--pdeathsig", "KILL", "--"]).arg(program);
            c.stdin(Stdio::piped());
            c
        };
        let child = command
            .args(arguments)
            .stdout(out)
            .stderr(err)
            .spawn()
            .during(format_args!("starting {name} ({})", program.display()))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), kept: keep })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its output goes.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Everything it has printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    /// It has gone away.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let Some(stdin) = self.child.stdin.as_mut() else {
            return Err(Failure::new(format!("{} has no standard input", self.name)));
        };
        writeln!(stdin, "{line}").during(format_args!("talking to {}", self.name))
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// An error if it has ended, with the last lines of its log.
    ///
    /// # Errors
    /// It has ended.
    pub fn must_run(&mut self) -> Result<()> {
        match self.ended() {
            None => Ok(()),
            Some(status) => Err(Failure::new(format!(
                "{} ended unexpectedly ({status}); its last words:\n{}",
                self.name,
                last_lines(&self.log(), 25)
            ))),
        }
    }

    /// Polls `ready` until it gives a value, the program ends or `patience` is over.
    ///
    /// # Errors
    /// The last two cases, each with the end of the log.
    pub fn until<T>(
        &mut self,
        what: &str,
        patience: Duration,
        mut ready: impl FnMut(&mut Self) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(value) = ready(self) {
                return Ok(value);
            }
            self.must_run()?;
            if Instant::now() > deadline {
                return Err(Failure::new(format!(
                    "{}: no {what} within {} s; its last words:\n{}",
                    self.name,
                    patience.as_secs(),
                    last_lines(&self.log(), 25)
                )));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have just ended; whoever cares asks `ended`.
            let _ = kill_process(pid, signal);
        }
    }

    /// Kills it without a chance to clean up (`kill -9`) and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end (`SIGTERM`), waits up to `patience`, then kills it. True if it ended by itself.
    pub fn stop(&mut self, patience: Duration) -> bool {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if self.ended().is_some() {
                return true;
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.kill();
        false
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.kept {
            self.kill();
        }
    }
}

/// Runs a program to its end and gives its standard output.
///
/// # Errors
/// It cannot be started or fails; the message holds the command and what it printed.
pub fn run(program: &Path, arguments: &[&str]) -> Result<String> {
    let out = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .during(format_args!("starting {}", program.display()))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    Err(Failure::new(format!(
        "`{} {}` failed ({}): {}{}",
        program.display(),
        arguments.join(" "),
        out.status,
        String::from_utf8_lossy(&out.stderr),
        String::from_utf8_lossy(&out.stdout)
    )))
}

/// The last `count` lines of `text`.
#[must_use]
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
}

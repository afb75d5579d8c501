//! The switch under test: `vswitchd` in a run folder of its own, and `vsctl` against it.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::failure::{During as _, Failure, Result};
use crate::lab::{Binaries, Lab};
use crate::process::{Process, last_lines};

/// How long `vswitchd` may take until its socket answers.
const START: Duration = Duration::from_secs(20);

/// A running `vswitchd`; stopped when dropped.
#[derive(Debug)]
pub struct Vswitchd {
    program: PathBuf,
    vsctl: PathBuf,
    rundir: PathBuf,
    log: PathBuf,
    keep: bool,
    process: Option<Process>,
}

impl Vswitchd {
    /// Starts the switch with the run folder `run` in the scratch folder and waits until it takes requests.
    ///
    /// # Errors
    /// It does not come up; the message holds the end of its log.
    pub fn start(lab: &Lab) -> Result<Self> {
        Self::start_kept(lab, false)
    }

    /// Like [`Self::start`]; with `keep` the switch outlives its handle.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_kept(lab: &Lab, keep: bool) -> Result<Self> {
        Self::start_build(lab, lab.binaries(), keep)
    }

    /// Like [`Self::start_kept`], of another build than the lab's own.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_build(lab: &Lab, binaries: &Binaries, keep: bool) -> Result<Self> {
        Self::start_in(lab, binaries, "run", keep)
    }

    /// Starts another switch beside the first, with the run folder `run` in the scratch folder.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_beside(lab: &Lab, run: &str) -> Result<Self> {
        Self::start_in(lab, lab.binaries(), run, false)
    }

    fn start_in(lab: &Lab, binaries: &Binaries, run: &str, keep: bool) -> Result<Self> {
        let rundir = lab.path(run);
        std::fs::create_dir_all(&rundir).during(rundir.display())?;
        let mut switch = Self {
            program: binaries.vswitchd(),
            vsctl: binaries.vsctl(),
            rundir,
            log: lab.path(&format!("vswitchd-{run}.log")),
            keep,
            process: None,
        };
        switch.launch()?;
        Ok(switch)
    }

    fn launch(&mut self) -> Result<()> {
        let arguments = ["--rundir".to_owned(), self.rundir.display().to_string()];
        let mut process = Process::start("vswitchd", &self.program, &arguments, &self.log, self.keep)?;
        let socket = self.socket();
        process.until("answer on db.sock", START, |_| UnixStream::connect(&socket).ok().map(drop))?;
        self.process = Some(process);
        Ok(())
    }

    /// The run folder.
    #[must_use]
    pub fn rundir(&self) -> &Path {
        &self.rundir
    }

    /// The management socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.rundir.join("db.sock")
    }

    /// The management socket the way OVSDB clients want it: `unix:PATH`.
    #[must_use]
    pub fn remote(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    /// The process.
    ///
    /// # Errors
    /// It has been killed.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().ok_or_else(|| Failure::new("vswitchd has been killed"))
    }

    /// What it has logged, over all its lives.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Starts it again on the same run folder.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        self.launch()
    }

    /// Ends it by `SIGTERM`. True if it went by itself.
    pub fn stop(&mut self) -> bool {
        self.process.take().is_none_or(|mut p| p.stop(Duration::from_secs(10)))
    }

    /// Runs `vsctl` with `line` split at blanks, and gives what it printed.
    ///
    /// # Errors
    /// It fails; the message holds what it and the switch said.
    pub fn vsctl(&self, line: &str) -> Result<String> {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        self.vsctl_with(&arguments)
    }

    /// Runs `vsctl` with `arguments`, and gives what it printed.
    ///
    /// # Errors
    /// As [`Self::vsctl`].
    pub fn vsctl_with(&self, arguments: &[&str]) -> Result<String> {
        let (success, output, error) = self.try_vsctl(arguments)?;
        if success {
            return Ok(output);
        }
        Err(Failure::new(format!(
            "`vsctl {}` failed: {error}{output}\nvswitchd's last words:\n{}",
            arguments.join(" "),
            last_lines(&self.log(), 15)
        )))
    }

    /// Runs a `vsctl` that is allowed to fail: whether it succeeded, its output, its error output.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn try_vsctl(&self, arguments: &[&str]) -> Result<(bool, String, String)> {
        let out = Command::new(&self.vsctl)
            .args(["--db", &self.remote()])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .during(format_args!("starting {}", self.vsctl.display()))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((out.status.success(), text(&out.stdout), text(&out.stderr)))
    }

    /// Repeats `vsctl line` until it succeeds with an output that satisfies `good`.
    ///
    /// # Errors
    /// It does not within `patience`; the message holds the last output.
    pub fn vsctl_until(&self, line: &str, patience: Duration, good: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + patience;
        loop {
            // A key that is not there yet is an error to vsctl and a reason to wait to us.
            let output = match self.vsctl(line) {
                Ok(output) if good(&output) => return Ok(output),
                Ok(output) => output,
                Err(e) => e.to_string(),
            };
            if Instant::now() > deadline {
                return Err(Failure::new(format!(
                    "`vsctl {line}` did not become what it should within {} s; last: {output}",
                    patience.as_secs()
                )));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The value of a counter in an interface's `statistics` column.
    ///
    /// # Errors
    /// There is no such interface or counter.
    pub fn statistic(&self, interface: &str, counter: &str) -> Result<u64> {
        let text = self.vsctl(&format!("get Interface {interface} statistics:{counter}"))?;
        text.trim().parse().during(format_args!("statistics:{counter} of {interface}, {text:?}"))
    }

    /// Processor time it has used so far, in clock ticks (hundredths of a second).
    ///
    /// # Errors
    /// It is not running.
    pub fn cpu_ticks(&self) -> Result<u64> {
        let stat = self.proc_file("stat")?;
        // Fields 14 and 15, counted after the name, which may hold blanks but ends at the last parenthesis.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let field = |i: usize| fields.get(i).and_then(|f| f.parse::<u64>().ok());
        match (field(11), field(12)) {
            (Some(user), Some(system)) => Ok(user + system),
            _ => Err(Failure::new(format!("cannot read /proc/PID/stat: {stat}"))),
        }
    }

    /// Resident memory in KiB.
    ///
    /// # Errors
    /// It is not running.
    pub fn resident(&self) -> Result<u64> {
        self.proc_file("status")?
            .lines()
            .find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok())
            .ok_or_else(|| Failure::new("no VmRSS in /proc/PID/status"))
    }

    /// Entries of a folder under `/proc/PID`: `fd` for open descriptors, `task` for threads.
    ///
    /// # Errors
    /// It is not running.
    pub fn proc_entries(&self, name: &str) -> Result<usize> {
        let path = self.proc_path(name)?;
        Ok(std::fs::read_dir(&path).during(path)?.count())
    }

    /// What its open descriptors are, as the kernel names them.
    ///
    /// # Errors
    /// It is not running.
    pub fn descriptor_targets(&self) -> Result<Vec<String>> {
        let path = self.proc_path("fd")?;
        let entries = std::fs::read_dir(&path).during(path)?;
        // One that is closed meanwhile is none.
        let links = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        Ok(links.map(|link| link.display().to_string()).collect())
    }

    /// A file under `/proc/PID`.
    ///
    /// # Errors
    /// It is not running.
    pub fn proc_file(&self, name: &str) -> Result<String> {
        let path = self.proc_path(name)?;
        std::fs::read_to_string(&path).during(path)
    }

    fn proc_path(&self, name: &str) -> Result<String> {
        let pid =
            self.process.as_ref().map(Process::pid).ok_or_else(|| Failure::new("vswitchd is not running"))?;
        Ok(format!("/proc/{pid}/{name}"))
    }
}

impl Drop for Vswitchd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The scratch folder goes away with the test; its most telling part should not.
            eprintln!("vswitchd's last words:\n{}", last_lines(&self.log(), 40));
        }
        if !self.keep {
            // SIGTERM first, so that it removes what it created (TAP devices go with the process anyway).
            self.stop();
        }
    }
}

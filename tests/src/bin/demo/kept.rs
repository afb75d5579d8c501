//! What a demo consists of, as a file: so that one that was kept can be found, talked to and ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tests::failure::{During as _, Failure, Result};
use tests::guest::run_in_running_guest;
use tests::lab;

/// Everything a demo has created.
#[derive(Debug, Clone)]
pub(crate) struct Description {
    /// The scratch folder: sockets, logs, the switch's run folder.
    pub(crate) folder: PathBuf,
    /// The namespace that plays the host.
    pub(crate) netns: String,
    /// The switch and the two guests.
    pub(crate) processes: Vec<u32>,
    /// Command channels of the guests.
    pub(crate) consoles: Vec<PathBuf>,
    /// iproute2 of the cache.
    pub(crate) ip: PathBuf,
}

impl Description {
    /// Writes it where [`stop`] finds it.
    pub(crate) fn save(&self) -> Result<()> {
        let text = json!({
            "folder": self.folder,
            "netns": self.netns,
            "processes": self.processes,
            "consoles": self.consoles,
            "ip": self.ip,
        });
        fs::write(file()?, text.to_string()).during("noting what the demo has started")
    }

    fn load() -> Result<Option<Self>> {
        let Ok(text) = fs::read_to_string(file()?) else { return Ok(None) };
        let value: Value = serde_json::from_str(&text).during("the note of a kept demo")?;
        let path = |v: &Value| PathBuf::from(v.as_str().unwrap_or_default());
        let list = |key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        Ok(Some(Self {
            folder: path(&value["folder"]),
            netns: value["netns"].as_str().unwrap_or_default().to_owned(),
            processes: list("processes").iter().filter_map(|v| u32::try_from(v.as_u64()?).ok()).collect(),
            consoles: list("consoles").iter().map(path).collect(),
            ip: path(&value["ip"]),
        }))
    }

    /// True while one of its programs runs.
    fn runs(&self) -> bool {
        self.processes.iter().any(|&pid| self.owns(pid))
    }

    /// A process id alone may long belong to somebody else; ours has the scratch folder on its command line.
    fn owns(&self, pid: u32) -> bool {
        let folder = self.folder.display().to_string();
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&folder))
    }

    /// Ends and removes everything. Errors are not of interest: what is gone is gone.
    pub(crate) fn remove(&self) {
        for signal in [Signal::TERM, Signal::KILL] {
            let left: Vec<u32> = self.processes.iter().copied().filter(|&pid| self.owns(pid)).collect();
            for pid in left.iter().filter_map(|&pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
                let _ = kill_process(pid, signal);
            }
            for _ in 0..100 {
                if !self.runs() {
                    break;
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
        let _ = Command::new(&self.ip).args(["netns", "del", &self.netns]).stderr(Stdio::null()).status();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The description while the demo is being built, shared with whoever cleans up when it is interrupted: on Ctrl-C or
/// `kill`, destructors do not run.
#[derive(Clone)]
pub(crate) struct Growing(Arc<Mutex<Description>>);

impl Growing {
    /// Starts with what is known at first, and does from now on what destructors would do when a signal comes.
    pub(crate) fn guard(description: Description) -> Result<Self> {
        let growing = Self(Arc::new(Mutex::new(description)));
        let seen = growing.clone();
        let mut signals = Signals::new([SIGINT, SIGTERM]).during("signal handler")?;
        thread::spawn(move || {
            if signals.forever().next().is_some() {
                eprintln!("\ndemo: interrupted, cleaning up");
                seen.now().remove();
                std::process::exit(130);
            }
        });
        Ok(growing)
    }

    /// The description as of now.
    pub(crate) fn now(&self) -> Description {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes a program that has been started and, for a guest, its command channel.
    pub(crate) fn started(&self, pid: u32, console: Option<&Path>) {
        let mut description = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        description.processes.push(pid);
        description.consoles.extend(console.map(Path::to_owned));
    }
}

/// An error if a demo that was kept still runs.
pub(crate) fn refuse_if_running() -> Result<()> {
    match Description::load()? {
        Some(demo) if demo.runs() => Err(Failure::new(
            "a demo that was kept (KEEP=1) is still running: end it with `make demo-stop` first",
        )),
        _ => Ok(()),
    }
}

/// Ends a demo that was kept.
pub(crate) fn stop() -> Result<()> {
    let Some(demo) = Description::load()? else {
        println!("no demo is up");
        return Ok(());
    };
    demo.remove();
    fs::remove_file(file()?).during("forgetting the demo")?;
    println!("the demo is gone");
    Ok(())
}

/// Runs a command in a guest of a demo that was kept.
pub(crate) fn guest(number: &str, command: &str) -> Result<()> {
    let demo = Description::load()?.filter(Description::runs);
    let Some(demo) = demo else {
        return Err(Failure::new("no demo is up: start one with `make demo KEEP=1`"));
    };
    let console = number.parse::<usize>().ok().and_then(|n| demo.consoles.get(n.checked_sub(1)?));
    let Some(console) = console else {
        return Err(Failure::new(format!("there is no guest {number}, only 1 to {}", demo.consoles.len())));
    };
    let (status, output) = run_in_running_guest(console, command, Duration::from_secs(60))?;
    println!("{output}");
    if status == 0 { Ok(()) } else { Err(Failure::new(format!("the command ended with status {status}"))) }
}

fn file() -> Result<PathBuf> {
    let folder = lab::cache_folder();
    fs::create_dir_all(&folder).during(folder.display())?;
    Ok(Path::new(&folder).join("demo.json"))
}

//! The machine measured on: what it is, how near its processors are to each other, who else uses it.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

use pmd::sys::cpu::pin_current_thread;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::{Value, json};
use tests::failure::{During as _, Failure, Result};

/// Processor of the packet generator.
pub(crate) const GENERATOR_CPU: u32 = 0;
/// Processor of the switch under test.
pub(crate) const SWITCH_CPU: u32 = 1;
/// Clock ticks per second in /proc; a constant of Linux's interface.
pub(crate) const TICKS: f64 = 100.0;

/// Round trips per look, and looks; the quickest look counts, because the others were interrupted.
const TRIPS: u32 = 5_000;
const LOOKS: usize = 20;

/// What a reader needs to know about the machine.
pub(crate) fn describe() -> Value {
    let cpu_info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        cpu_info
            .lines()
            .find(|l| l.starts_with(name))
            .and_then(|l| l.split(": ").nth(1))
            .unwrap_or("unknown")
            .to_owned()
    };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "cpu": field("model name"),
        "cpu family/model": format!("{}/{}", field("cpu family"), field("model\t")),
        "mhz": field("cpu MHz"),
        "processors": thread::available_parallelism().map_or(1, usize::from),
        "kernel": kernel.trim(),
        "load at start": load(),
    })
}

/// Load average of the last minute.
pub(crate) fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|w| w.parse().ok()).unwrap_or(f64::NAN)
}

/// Keeps a thread of another process on one processor; by the process's number its main thread, and those that it starts from now on.
pub(crate) fn pin(thread: u32, cpu: u32) -> Result<()> {
    let thread = i32::try_from(thread).ok().and_then(Pid::from_raw);
    let mut set = CpuSet::new();
    set.set(cpu as usize);
    sched_setaffinity(thread, &set).during(format_args!("pinning {thread:?} to CPU {cpu}"))
}

/// Nanoseconds a cache line takes from the generator's processor to the switch's and back. Rings live on such lines, so
/// rates follow it, and on virtual machines it changes from minute to minute.
pub(crate) fn round_trip() -> Result<f64> {
    let line = Arc::new(AtomicU32::new(0));
    let theirs = Arc::clone(&line);
    let end = TRIPS * 2 * u32::try_from(LOOKS).unwrap_or(u32::MAX);
    let other = thread::spawn(move || {
        let pinned = pin_current_thread(SWITCH_CPU);
        bounce(&theirs, 1, end);
        pinned
    });
    // In a thread of its own: this one must stay free to run anywhere.
    let ours = thread::spawn(move || -> std::io::Result<f64> {
        let pinned = pin_current_thread(GENERATOR_CPU);
        let mut best = f64::INFINITY;
        for look in 0..u32::try_from(LOOKS).unwrap_or(0) {
            let began = Instant::now();
            bounce(&line, look * TRIPS * 2, (look + 1) * TRIPS * 2);
            best = best.min(began.elapsed().as_secs_f64() * 1e9 / f64::from(TRIPS));
        }
        pinned.map(|()| best)
    });
    let panicked = |_| Failure::new("the round-trip thread panicked");
    let measured = ours.join().map_err(panicked)?;
    other.join().map_err(panicked)?.during("pinning to the switch's processor")?;
    measured.during("pinning to the generator's processor")
}

/// Adds one whenever the other side has made the number `from`, `from + 2`, … until `end`.
fn bounce(line: &AtomicU32, from: u32, end: u32) {
    let mut turn = from;
    while turn < end {
        while line.load(Ordering::Acquire) != turn {
            std::hint::spin_loop();
        }
        line.store(turn + 1, Ordering::Release);
        turn += 2;
    }
}

/// Processor time a process has used, in ticks.
pub(crate) fn cpu_ticks(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).during(&path)?;
    // Fields 14 and 15, counted after the name, which may hold blanks but ends at the last parenthesis.
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
    let mut next = || fields.next().and_then(|f| f.parse::<f64>().ok());
    match (next(), next()) {
        (Some(user), Some(system)) => Ok(user + system),
        _ => Err(Failure::new(format!("cannot read {path}: {stat}"))),
    }
}

/// A number of `/proc/PID/status`, for example `VmRSS` (KiB) or `Threads`.
pub(crate) fn status(pid: u32, name: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).during(&path)?;
    text.lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(':')?.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| Failure::new(format!("no {name} in {path}")))
}

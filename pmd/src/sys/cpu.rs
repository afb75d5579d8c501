//! CPUs: which there are, where they are, and staying on one.

use std::fs;
use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// CPUs this process may run on, ascending, as of the first call: threads pinned since do not narrow it.
pub fn online() -> &'static [u32] {
    static ONLINE: std::sync::OnceLock<Vec<u32>> = std::sync::OnceLock::new();
    ONLINE.get_or_init(|| {
        let Ok(set) = sched_getaffinity(None) else { return vec![0] };
        (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).map(|cpu| cpu as u32).collect()
    })
}

/// Keeps the calling thread on one CPU.
pub fn pin_current_thread(cpu: u32) -> io::Result<()> {
    let cpu = cpu as usize;
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// NUMA node of a CPU, if the kernel tells.
pub fn numa_node(cpu: u32) -> Option<u32> {
    let entries = fs::read_dir(format!("/sys/devices/system/cpu/cpu{cpu}")).ok()?;
    entries.flatten().find_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok())
}

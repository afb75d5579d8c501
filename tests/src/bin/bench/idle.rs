//! What the switch costs when nothing happens: two guests attached, no traffic; and how soon guests talk again after
//! `kill -9`.

use std::thread;
use std::time::{Duration, Instant};

use tests::failure::Result;
use tests::guest::{Guest, GuestConfig, Nic, Socket};
use tests::switch::Vswitchd;

use crate::Bench;
use crate::machine::{self, TICKS};
use crate::report::{Report, Table};

/// How long idleness is watched.
const WATCH: Duration = Duration::from_secs(30);
/// Long enough for a ping on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Boots two guests on a fresh switch and lets them find each other: the addresses are 10.1.0.1 and 10.1.0.2.
pub(crate) fn two_guests(bench: &Bench) -> Result<(Vswitchd, [Guest; 2])> {
    let lab = &bench.lab;
    let _ = std::fs::remove_dir_all(lab.path("run"));
    let switch = Vswitchd::start(lab)?;
    switch.vsctl("add-br br0")?;
    let start = |number: u8| {
        let path = lab.path(&format!("vm{number}.sock"));
        let settings = format!("type=vhost-user-client options:path={}", path.display());
        switch.vsctl(&format!("add-port br0 vm{number} -- set Interface vm{number} {settings}"))?;
        let config = GuestConfig::new(&format!("vm{number}"), Nic::new(path, Socket::QemuListens, number));
        Guest::start(lab, &config)
    };
    let mut guests = [start(1)?, start(2)?];
    for (number, guest) in (1..).zip(&mut guests) {
        guest.wait_ready()?;
        guest.address("eth0", &format!("10.1.0.{number}/24"))?;
    }
    let [first, _] = &mut guests;
    first.reaches("10.1.0.2", PATIENCE)?;
    Ok((switch, guests))
}

/// Measures the row.
pub(crate) fn idle(bench: &Bench, report: &mut Report) -> Result<()> {
    let (mut switch, [mut first, _second]) = two_guests(bench)?;
    let pid = switch.process()?.pid();
    let before = machine::cpu_ticks(pid)?;
    thread::sleep(WATCH);
    let ticks = machine::cpu_ticks(pid)? - before;
    let mut share = Table::new("two idle guests: processor time of the switch", "% of a core");
    share.add("vswitchd", ticks / TICKS / WATCH.as_secs_f64() * 100.0);
    share.remark(format!("{ticks:.0} ticks of 10 ms in {} s", WATCH.as_secs()));
    report.push(share);
    let mut memory = Table::new("two idle guests: resident memory of the switch", "MiB");
    memory.add("vswitchd, all", machine::status(pid, "VmRSS")? / 1024.0);
    memory.add("vswitchd, without shared memory and files", machine::status(pid, "RssAnon")? / 1024.0);
    memory.remark(format!("{} threads", machine::status(pid, "Threads")?));
    report.push(memory);

    // A ping sent while there is no switch waits in the guest's ring and is the first packet the new one forwards.
    let mut gap = Table::new("kill -9, start again, a guest's waiting ping is answered", "ms");
    for _ in 0..bench.rounds {
        switch.kill();
        first.run("ping -c 1 -W 30 10.1.0.2 >/tmp/first 2>&1 &")?;
        let began = Instant::now();
        switch.restart()?;
        first.run_for("until grep -q 'bytes from' /tmp/first; do usleep 2000; done", PATIENCE)?;
        gap.add("vswitchd", began.elapsed().as_secs_f64() * 1000.0);
    }
    gap.remark("seen from inside an emulated guest, which adds some tens of milliseconds");
    report.push(gap);
    Ok(())
}

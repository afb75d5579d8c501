//! What a switch costs when nothing happens: two guests attached, no traffic; and how soon guests talk again after
//! `kill -9`.
//!
//! When the back-end of a vhost-user card goes away, QEMU takes the guest's carrier down, and Linux then forgets the
//! neighbours of that card. So a ping after the restart waits for ARP, whose first request was sent while there was no
//! carrier and is sent again only a second later (`retrans_time_ms`). That second is the guest's; the switch's part shows
//! when the guests know each other's address by heart, and is measured apart.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use tests::failure::{Failure, Result};
use tests::guest::{Guest, GuestConfig, Nic, Socket};
use tests::hugepages::Hugepages;
use tests::lab::Lab;
use tests::ovs::OpenVswitch;
use tests::switch::Vswitchd;

use crate::Bench;
use crate::machine::{self, TICKS};
use crate::report::{Report, Table};

/// How long idleness is watched.
const WATCH: Duration = Duration::from_secs(30);
/// Hugepages of 2 MiB that Open vSwitch is given: what it asks for, and some to spare.
pub(crate) const OVS_PAGES: u64 = 320;
/// Long enough for a ping on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Boots two guests on a fresh switch and lets them find each other: the addresses are 10.1.0.1 and 10.1.0.2.
pub(crate) fn two_guests(bench: &Bench) -> Result<(Vswitchd, [Guest; 2])> {
    let lab = &bench.lab;
    let _ = std::fs::remove_dir_all(lab.path("run"));
    let switch = Vswitchd::start(lab)?;
    switch.vsctl("add-br br0")?;
    let port = |number: u8| -> Result<PathBuf> {
        let path = lab.path(&format!("vm{number}.sock"));
        let settings = format!("type=vhost-user-client options:path={}", path.display());
        switch.vsctl(&format!("add-port br0 vm{number} -- set Interface vm{number} {settings}"))?;
        Ok(path)
    };
    let guests = boot(lab, [port(1)?, port(2)?], Socket::QemuListens)?;
    Ok((switch, guests))
}

/// Boots two guests on two ports and lets them find each other.
fn boot(lab: &Lab, ports: [PathBuf; 2], socket: Socket) -> Result<[Guest; 2]> {
    let start = |path: PathBuf, number: u8| {
        let config = GuestConfig::new(&format!("vm{number}"), Nic::new(path, socket, number));
        Guest::start(lab, &config)
    };
    let [first, second] = ports;
    let mut guests = [start(first, 1)?, start(second, 2)?];
    for (number, guest) in (1..).zip(&mut guests) {
        guest.wait_ready()?;
        guest.address("eth0", &format!("10.1.0.{number}/24"))?;
    }
    let [first, _] = &mut guests;
    first.reaches("10.1.0.2", PATIENCE)?;
    Ok(guests)
}

/// Names of the series.
const OURS: &str = "vswitchd";
const OVS: &str = "OVS-DPDK";

/// Measures the row.
pub(crate) fn idle(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut share = Table::new("two idle guests: processor time of the switch", "% of a core");
    let mut memory = Table::new("two idle guests: memory of the switch", "MiB");
    let (mut switch, mut guests) = two_guests(bench)?;
    watch(OURS, switch.process()?.pid(), &mut share, &mut memory)?;
    let gap = gap(&mut switch, &mut guests, bench.rounds)?;
    drop(guests);
    drop(switch);
    if bench.peers {
        let _pages = Hugepages::reserve(OVS_PAGES)?;
        let ovs = OpenVswitch::start(&bench.lab)?;
        let ports = [ovs.vhost_port("p0")?, ovs.vhost_port("p1")?];
        let _guests = boot(&bench.lab, ports, Socket::SwitchListens)?;
        watch(OVS, ovs.pid(), &mut share, &mut memory)?;
        share.compare(OURS, OVS);
        share.remark("less is better; a thread of OVS-DPDK polls without end, by design");
        memory.compare(&all(OURS), &all(OVS));
        memory.remark("less is better; with the hugepages a switch has mapped");
    }
    report.push(share);
    report.push(memory);
    report.push(gap);
    Ok(())
}

/// Series of all memory.
fn all(name: &str) -> String {
    format!("{name}, all")
}

/// Looks at a process for a while in which nothing happens.
fn watch(name: &str, pid: u32, share: &mut Table, memory: &mut Table) -> Result<()> {
    let before = machine::cpu_ticks(pid)?;
    thread::sleep(WATCH);
    let ticks = machine::cpu_ticks(pid)? - before;
    share.add(name, ticks / TICKS / WATCH.as_secs_f64() * 100.0);
    share.remark(format!("{name}: {ticks:.0} ticks of 10 ms in {} s", WATCH.as_secs()));
    let mib = |field| Ok::<f64, Failure>(machine::status(pid, field)? / 1024.0);
    let (resident, huge) = (mib("VmRSS")?, mib("HugetlbPages")?);
    // Hugepages are not part of what Linux calls the resident set.
    memory.add(&all(name), resident + huge);
    memory.add(&format!("{name}, its own: without shared memory, files and hugepages"), mib("RssAnon")?);
    let threads = machine::status(pid, "Threads")?;
    memory.remark(format!("{name}: {threads} threads, {huge:.0} MiB in hugepages"));
    Ok(())
}

/// Kills and restarts the switch, and measures until a guest's ping is answered.
fn gap(switch: &mut Vswitchd, guests: &mut [Guest; 2], rounds: usize) -> Result<Table> {
    let mut table = Table::new("kill -9, start again, a guest's ping is answered", "ms");
    for _ in 0..rounds {
        // A ping sent while there is no switch waits for the address of the other guest, unless that is known: then it is lost.
        let waiting = answered(switch, guests, "arp -d 10.1.0.2; ping -c 1 -W 30")?;
        table.add("vswitchd, guests ask for addresses (ARP)", waiting);
        let known = |guest: &mut Guest, other: u8| {
            guest.run(&format!("arp -s 10.1.0.{other} 52:54:00:00:00:0{other}"))
        };
        let [first, second] = guests;
        known(first, 2)?;
        known(second, 1)?;
        table.add("vswitchd, guests know addresses", answered(switch, guests, "ping -i 0.02 -c 1500")?);
        let [first, second] = guests;
        first.run("killall ping; arp -d 10.1.0.2")?;
        second.run("arp -d 10.1.0.1")?;
        first.reaches("10.1.0.2", PATIENCE)?;
    }
    table.remark("less is better; seen from inside an emulated guest, which adds some tens of milliseconds");
    table.remark("a guest loses its carrier with the switch, and repeats an ARP request that was lost so after one second");
    Ok(table)
}

/// Milliseconds from the restart of a killed switch until `ping`, begun before, has an answer.
fn answered(switch: &mut Vswitchd, [first, _]: &mut [Guest; 2], ping: &str) -> Result<f64> {
    switch.kill();
    first.run(&format!("{ping} 10.1.0.2 >/tmp/first 2>&1 &"))?;
    let began = Instant::now();
    switch.restart()?;
    let answer = "until grep -q 'bytes from' /tmp/first; do usleep 2000; done";
    if let Err(e) = first.run_for(answer, PATIENCE) {
        let (_, seen) = first.try_run("cat /tmp/first; ip neigh; ip link", PATIENCE)?;
        return Err(Failure::new(format!("{ping}: {e}\n{seen}\n{}", switch.vsctl("dp flows")?)));
    }
    Ok(began.elapsed().as_secs_f64() * 1000.0)
}

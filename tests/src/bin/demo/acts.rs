//! The demo, act by act.

use std::io::{self, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tests::failure::{During as _, Failure, Result};
use tests::guest::{Guest, GuestConfig, Nic, Socket, receiver_rate};
use tests::lab::Lab;
use tests::process::run;
use tests::switch::Vswitchd;

use crate::kept::{Description, Growing};

/// Long enough for a first ping on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long each transfer runs, seconds.
const TRANSFER: u32 = 6;
/// The namespace that plays the host.
const NETNS: &str = "vswitch-demo";
/// The TAP port's device in it.
const TAP: &str = "vswdemo0";
/// Addresses of the two guests and the namespace.
const GUESTS: [&str; 2] = ["10.99.0.1", "10.99.0.2"];
const HOST: &str = "10.99.0.100";

/// What is on stage. Fields are dropped in this order: guests, switch, namespace, scratch folder.
pub(crate) struct Set {
    guests: [Guest; 2],
    switch: Vswitchd,
    netns: NetnsName,
    lab: Lab,
    description: Growing,
    started: Instant,
    lines: Vec<String>,
}

/// The namespace, by name: [`tests::netns::Netns`] borrows the lab, which here lives beside it.
struct NetnsName {
    ip: std::path::PathBuf,
    kept: bool,
}

impl NetnsName {
    fn ip(&self, arguments: &[&str]) -> Result<String> {
        run(&self.ip, arguments)
    }
}

impl Drop for NetnsName {
    fn drop(&mut self) {
        if !self.kept {
            let _ = self.ip(&["netns", "del", NETNS]);
        }
    }
}

/// One line with the time since the start.
fn say(started: Instant, text: &str) {
    println!("[{:5.1} s] {text}", started.elapsed().as_secs_f64());
    let _ = io::stdout().flush();
}

impl Set {
    /// Fetches what is missing, starts the switch and boots the guests.
    pub(crate) fn build(keep: bool) -> Result<Self> {
        let started = Instant::now();
        say(
            started,
            "looking for QEMU, a guest kernel and busybox (fetched on first use, nothing is installed)",
        );
        let lab = Lab::open()?;
        say(started, &format!("cache {}", lab.cache().display()));

        let description = Growing::guard(Description {
            folder: lab.scratch().to_owned(),
            netns: NETNS.to_owned(),
            processes: Vec::new(),
            consoles: Vec::new(),
            ip: lab.program("ip"),
        })?;

        let mut switch = Vswitchd::start_kept(&lab, keep)?;
        description.started(switch.process()?.pid(), None);
        say(started, &format!("vswitchd runs, its folder is {}", switch.rundir().display()));
        switch.vsctl("add-br br0")?;
        switch.vsctl("add-port br0 vm1 -- set Interface vm1 type=vhost-user")?;
        let path = lab.path("vm2.sock");
        let listens = format!("type=vhost-user-client options:path={}", path.display());
        switch.vsctl(&format!("add-port br0 vm2 -- set Interface vm2 {listens}"))?;
        switch.vsctl(&format!("add-port br0 {TAP} -- set Interface {TAP} type=tap"))?;
        say(started, "bridge br0 with vm1 (the switch listens), vm2 (QEMU listens) and a TAP");

        let netns = NetnsName { ip: lab.program("ip"), kept: false };
        netns.ip(&["netns", "add", NETNS])?;
        netns.ip(&["link", "set", TAP, "netns", NETNS])?;
        netns.ip(&["-n", NETNS, "addr", "add", &format!("{HOST}/24"), "dev", TAP])?;
        netns.ip(&["-n", NETNS, "link", "set", TAP, "up"])?;
        say(started, &format!("the TAP is {HOST} in namespace {NETNS}"));

        let cards = [
            Nic::new(switch.rundir().join("vm1"), Socket::SwitchListens, 1),
            Nic::new(path, Socket::QemuListens, 2),
        ];
        let mut number = 0;
        let mut start = |nic: Nic| -> Result<Guest> {
            number += 1;
            let mut guest =
                Guest::start(&lab, &GuestConfig { keep, ..GuestConfig::new(&format!("vm{number}"), nic) })?;
            description.started(guest.process()?.pid(), Some(guest.console_path()));
            Ok(guest)
        };
        let [first, second] = cards;
        let mut guests = [start(first)?, start(second)?];
        say(started, "two guests boot under QEMU's software emulation; this takes some seconds");
        for (i, (guest, address)) in guests.iter_mut().zip(GUESTS).enumerate() {
            guest.wait_ready()?;
            guest.address("eth0", &format!("{address}/24"))?;
            say(started, &format!("guest {} is up: {}, {address}", i + 1, guest.run("uname -sr")?));
        }
        Ok(Self { guests, switch, netns, lab, description, started, lines: Vec::new() })
    }

    /// Leaves everything up and says how to go on.
    pub(crate) fn keep(mut self) -> Result<()> {
        self.description.now().save()?;
        self.netns.kept = true;
        self.lab.keep_scratch();
        let vsctl = format!("{} --db {}", self.lab.binaries().vsctl().display(), self.switch.remote());
        println!("\nEverything stays up. Look around:");
        for command in ["show", "top", "fdb show br0", "dp flows", "pmd"] {
            println!("  {vsctl} {command}");
        }
        println!("  {vsctl} add-flow br0 'priority=100,icmp,actions=drop'     (and del-flows br0 icmp)");
        println!("  make demo-guest GUEST=1 CMD='ping -c 3 {}'", GUESTS[1]);
        println!("  {} netns exec {NETNS} ping -c 3 {}", self.lab.program("ip").display(), GUESTS[0]);
        println!("Logs and sockets: {}", self.lab.scratch().display());
        println!("Stop it: make demo-stop");
        Ok(())
    }
}

/// Guest to guest, guest to host.
pub(crate) fn ping(set: &mut Set) -> Result<()> {
    for (name, peer) in [("guest 2", GUESTS[1]), ("the host namespace", HOST)] {
        set.guests[0].reaches(peer, PATIENCE)?;
        let report = set.guests[0].run(&format!("ping -c 10 -i 0.2 {peer} | tail -n 2"))?;
        say(set.started, &format!("guest 1 pings {name} ({peer}):"));
        for line in report.lines() {
            println!("          {line}");
        }
        let trip = report.lines().last().and_then(|l| l.split('=').nth(1)).unwrap_or("?").trim().to_owned();
        set.lines.push(format!("ping guest 1 -> {name:<20} min/avg/max {trip}"));
    }
    Ok(())
}

/// TCP between the guests with the live table beside it.
pub(crate) fn guest_to_guest(set: &mut Set) -> Result<()> {
    set.guests[1].serve_iperf()?;
    transfer(set, "guest 2", GUESTS[1])
}

/// TCP from a guest through the TAP into the host's namespace.
pub(crate) fn guest_to_host(set: &mut Set) -> Result<()> {
    let log = set.lab.path("iperf.log");
    let iperf = set.lab.program("iperf3").display().to_string();
    let arguments = ["netns", "exec", NETNS, &iperf, "-s"].map(str::to_owned);
    let server = tests::process::Process::start("iperf3", &set.lab.program("ip"), &arguments, &log, false)?;
    let outcome = transfer(set, "the host namespace", HOST);
    drop(server);
    outcome
}

fn transfer(set: &mut Set, name: &str, address: &str) -> Result<()> {
    say(set.started, &format!("TCP from guest 1 to {name} for {TRANSFER} s; `vsctl top` meanwhile:"));
    let command = format!(
        "rm -f /tmp/done; (iperf3 -c {address} -t {TRANSFER} -i 0 -f m >/tmp/report 2>&1; touch /tmp/done) \
         >/dev/null 2>&1 &"
    );
    set.guests[0].run(&command)?;
    let table = Command::new(set.lab.binaries().vsctl())
        .args(["--db", &set.switch.remote(), "top", "--interval", "2", "--iterations", "3"])
        .stdin(Stdio::null())
        .status()
        .during("starting vsctl top")?;
    if !table.success() {
        return Err(Failure::new("`vsctl top` failed; its message is above"));
    }
    set.guests[0].run_for("until [ -e /tmp/done ]; do sleep 0.1; done", Duration::from_secs(60))?;
    let report = set.guests[0].run("cat /tmp/report")?;
    let Some(rate) = receiver_rate(&report) else {
        return Err(Failure::new(format!("iperf3 moved nothing from guest 1 to {name}: {report}")));
    };
    say(set.started, &format!("TCP guest 1 -> {name}: {rate} Mbit/s"));
    set.lines.push(format!("TCP  guest 1 -> {name:<20} {rate} Mbit/s"));
    Ok(())
}

/// The same on one screen.
pub(crate) fn summary(set: &mut Set) -> Result<()> {
    println!("\n{}", set.switch.vsctl("show")?.trim_end());
    println!("\nSummary");
    for line in &set.lines {
        println!("  {line}");
    }
    println!("  vswitchd: {} MiB resident", set.switch.resident()? / 1024);
    println!(
        "  (guests under software emulation set the pace, not the switch: see `make bench` for the switch)"
    );
    say(set.started, "done");
    Ok(())
}

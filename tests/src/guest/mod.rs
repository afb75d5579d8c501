//! A Linux guest under QEMU, attached to the switch by vhost-user.
//!
//! Always software emulation (`-accel tcg`): the lab must run where there is no usable `/dev/kvm`. Guest memory is a
//! shared memfd, which vhost-user needs. A guest is usable about five seconds after its start; boot two by
//! [`Guest::start`] twice, then [`Guest::wait_ready`] on each.

mod config;
mod console;
mod host;
mod migration;
mod monitor;
mod nested;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use config::{GuestConfig, Nic, Qemu, Socket};
use console::Console;
pub use migration::Migrated;
use monitor::Monitor;

use crate::failure::{Failure, Result};
use crate::lab::Lab;
use crate::process::{Process, last_lines};

pub use host::{Card, HostConfig, HostGuest, Wire};
pub use nested::NestedConfig;

/// How long a boot may take on a machine that is busy with other things.
const BOOT: Duration = Duration::from_secs(180);
/// How long a command in the guest may take unless [`Guest::run_for`] says otherwise.
const COMMAND: Duration = Duration::from_secs(30);
/// How long a transfer of some megabytes may take.
const TRANSFER: Duration = Duration::from_secs(120);

/// Where a guest can be talked to.
struct Channels<'a> {
    console: &'a Path,
    serial: &'a Path,
    monitor: &'a Path,
}

/// What every guest has: emulation, kernel and image, console and command channel.
fn base_arguments(
    lab: &Lab,
    name: &str,
    image: &Path,
    kernel_arguments: &str,
    channels: &Channels<'_>,
) -> Vec<String> {
    let mut list: Vec<String> = [
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max",
        "-bios",
        "qboot.rom",
        "-nodefaults",
        "-display",
        "none",
    ]
    .map(str::to_owned)
    .into();
    list.extend([
        "-name".into(),
        name.to_owned(),
        "-kernel".into(),
        lab.kernel().display().to_string(),
        "-initrd".into(),
        image.display().to_string(),
        "-append".into(),
        format!("console=ttyS0 quiet panic=-1 no_timer_check {kernel_arguments}"),
        "-serial".into(),
        format!("file:{}", channels.serial.display()),
        "-chardev".into(),
        format!("socket,id=con,path={},server=on,wait=off", channels.console.display()),
        "-serial".into(),
        "chardev:con".into(),
        "-qmp".into(),
        format!("unix:{},server=on,wait=off", channels.monitor.display()),
    ]);
    list
}

/// A running guest; killed when dropped.
#[derive(Debug)]
pub struct Guest {
    name: String,
    /// QEMU; `None` when it runs in a host guest.
    process: Option<Process>,
    console_path: PathBuf,
    console: Console,
    serial: PathBuf,
    monitor_path: PathBuf,
    /// Opened when it is used first.
    monitor: Option<Monitor>,
}

impl Guest {
    /// Starts QEMU and returns before the guest has booted.
    ///
    /// # Errors
    /// QEMU cannot be started, or QEMU 11 not be fetched.
    pub fn start(lab: &Lab, config: &GuestConfig) -> Result<Self> {
        let qemu = config.qemu.program(lab)?;
        Self::launch(lab, &qemu, &config.name, config.keep, |channels| config.arguments(lab, channels))
    }

    /// Starts `qemu` with `arguments`, made from the paths of its channels.
    fn launch(
        lab: &Lab,
        qemu: &Path,
        name: &str,
        keep: bool,
        arguments: impl FnOnce(&Channels<'_>) -> Vec<String>,
    ) -> Result<Self> {
        let console_path = lab.path(&format!("{name}.con"));
        let serial = lab.path(&format!("{name}.serial.log"));
        let log = lab.path(&format!("{name}.qemu.log"));
        // A socket left by a killed QEMU of the same name would accept nobody.
        let _ = std::fs::remove_file(&console_path);
        let monitor_path = lab.path(&format!("{name}.qmp"));
        let arguments =
            arguments(&Channels { console: &console_path, serial: &serial, monitor: &monitor_path });
        let mut process = Process::start(name, qemu, &arguments, &log, keep)?;
        // At once, because what the guest says while nobody is connected is lost.
        let console = process.until("command channel", BOOT, |_| Console::connect(&console_path))?;
        let name = name.to_owned();
        let process = Some(process);
        Ok(Self { name, process, console, console_path, serial, monitor_path, monitor: None })
    }

    /// An error if its QEMU has ended; that of a nested guest is looked after by its host guest.
    fn alive(process: &mut Option<Process>) -> Result<()> {
        process.as_mut().map_or(Ok(()), Process::must_run)
    }

    /// Starts QEMU and waits until the guest takes commands.
    ///
    /// # Errors
    /// As [`Self::start`] and [`Self::wait_ready`].
    pub fn boot(lab: &Lab, config: &GuestConfig) -> Result<Self> {
        let mut guest = Self::start(lab, config)?;
        guest.wait_ready()?;
        Ok(guest)
    }

    /// Waits until the guest takes commands, after its start or after [`Self::reboot`].
    ///
    /// # Errors
    /// QEMU ends or the guest stays silent; the message holds the end of both logs.
    pub fn wait_ready(&mut self) -> Result<()> {
        let process = &mut self.process;
        // A guest in a guest has a small part of a processor, on a busy machine.
        let patience = if process.is_some() { BOOT } else { 3 * BOOT };
        self.console.ready(patience, || Self::alive(process)).map_err(|e| {
            let serial = std::fs::read_to_string(&self.serial).unwrap_or_default();
            Failure::new(format!(
                "guest {} did not boot: {e}\nserial console:\n{}",
                self.name,
                last_lines(&serial, 15)
            ))
        })
    }

    /// Runs a shell command line in the guest and gives what it printed.
    ///
    /// # Errors
    /// It fails, or takes longer than half a minute.
    pub fn run(&mut self, command: &str) -> Result<String> {
        self.run_for(command, COMMAND)
    }

    /// Like [`Self::run`], for a command that may take long.
    ///
    /// # Errors
    /// It fails, or takes longer than `patience`.
    pub fn run_for(&mut self, command: &str, patience: Duration) -> Result<String> {
        let (status, output) = self.try_run(command, patience)?;
        if status == 0 {
            return Ok(output);
        }
        Err(Failure::new(format!("guest {}: `{command}` failed with status {status}: {output}", self.name)))
    }

    /// Runs a command that is allowed to fail: its exit status and what it printed.
    ///
    /// # Errors
    /// The guest does not answer.
    pub fn try_run(&mut self, command: &str, patience: Duration) -> Result<(i32, String)> {
        let process = &mut self.process;
        self.console
            .run(command, patience, || Self::alive(process))
            .map_err(|e| Failure::new(format!("guest {}: {e}", self.name)))
    }

    /// Gives a card an address and brings it up.
    ///
    /// # Errors
    /// The card does not exist.
    pub fn address(&mut self, device: &str, address: &str) -> Result<()> {
        self.run(&format!("ip addr add {address} dev {device} && ip link set {device} up")).map(drop)
    }

    /// Waits until `peer` answers a ping: the number of tries.
    ///
    /// # Errors
    /// It does not within `patience`.
    pub fn reaches(&mut self, peer: &str, patience: Duration) -> Result<()> {
        let tries = patience.as_secs().max(1);
        let command =
            format!("for i in $(seq {tries}); do ping -c1 -W1 {peer} >/dev/null && exit 0; done; exit 1");
        let (status, _) = self.try_run(&command, patience * 2 + COMMAND)?;
        if status == 0 {
            return Ok(());
        }
        let state = self.try_run("ip addr; ip neigh; cat /proc/net/dev; dmesg | tail -n 5", COMMAND)?.1;
        Err(Failure::new(format!(
            "guest {} does not reach {peer} in {tries} tries; its state:\n{state}",
            self.name
        )))
    }

    /// True if `count` quick pings to `peer` all go unanswered.
    ///
    /// # Errors
    /// The guest does not answer commands.
    pub fn is_cut_off(&mut self, peer: &str, count: u32) -> Result<bool> {
        let (_, output) = self.try_run(&format!("ping -c {count} -i 0.2 -W 1 {peer}"), COMMAND)?;
        Ok(output.contains(" 0 packets received"))
    }

    /// Sends `count` pings to `peer`, five per second, and gives how many were answered.
    ///
    /// # Errors
    /// The guest does not answer commands or ping prints no summary.
    pub fn ping(&mut self, peer: &str, count: u32) -> Result<u32> {
        let patience = Duration::from_millis(u64::from(count) * 200) + COMMAND;
        let (_, output) = self.try_run(&format!("ping -c {count} -i 0.2 -W 2 {peer}"), patience)?;
        output
            .lines()
            .find_map(|l| l.split(" packets transmitted, ").nth(1)?.split(' ').next()?.parse().ok())
            .ok_or_else(|| Failure::new(format!("ping printed no summary: {output}")))
    }

    /// Makes `megabytes` of random data and serves it by HTTP on port 9000 as `/data`; gives its checksum.
    ///
    /// # Errors
    /// The guest has not enough memory.
    pub fn serve_data(&mut self, megabytes: u32) -> Result<String> {
        self.run("mkdir -p /tmp/web; pidof httpd >/dev/null || httpd -p 9000 -h /tmp/web")?;
        self.run_for(
            &format!("dd if=/dev/urandom of=/tmp/web/data bs=1M count={megabytes} 2>/dev/null"),
            TRANSFER,
        )?;
        self.run("md5sum </tmp/web/data")
    }

    /// Fetches `/data` from port 9000 of `address` and gives the checksum of what arrived.
    ///
    /// # Errors
    /// The transfer fails or is cut short.
    pub fn fetch_data(&mut self, address: &str) -> Result<String> {
        let command = format!(
            "timeout 60 wget -q -O /tmp/got http://{address}:9000/data && md5sum </tmp/got && rm /tmp/got"
        );
        self.run_for(&command, TRANSFER)
    }

    /// Fetches `megabytes` of random data from guest `from` at `address` by TCP and compares checksums at both ends.
    ///
    /// # Errors
    /// The data does not arrive, or not as it was sent.
    pub fn fetches_intact(&mut self, from: &mut Self, address: &str, megabytes: u32) -> Result<()> {
        let sent = from.serve_data(megabytes)?;
        let got = self.fetch_data(address)?;
        if got == sent {
            return Ok(());
        }
        Err(Failure::new(format!(
            "{megabytes} MiB from {address} to {} arrived as {got}, not {sent}",
            self.name
        )))
    }

    /// Starts an iperf3 server in the background; it listens when this returns.
    ///
    /// # Errors
    /// It does not start.
    pub fn serve_iperf(&mut self) -> Result<()> {
        // Port 5201 in hexadecimal.
        self.run("iperf3 -s -D && until grep -q :1451 /proc/net/tcp /proc/net/tcp6; do sleep 0.1; done")
            .map(drop)
    }

    /// TCP throughput to the iperf3 server at `address` over `seconds`, in Mbit/s at the receiver; with `reverse` from
    /// there to here.
    ///
    /// # Errors
    /// iperf3 fails or moves nothing.
    pub fn tcp_rate(&mut self, address: &str, seconds: u32, reverse: bool) -> Result<f64> {
        let direction = if reverse { "-R" } else { "" };
        let command = format!("iperf3 -c {address} -t {seconds} -i 0 -f m {direction}");
        let output = self.run_for(&command, Duration::from_secs(u64::from(seconds)) + COMMAND)?;
        receiver_rate(&output).ok_or_else(|| Failure::new(format!("iperf3 shows no receiver rate: {output}")))
    }

    /// Restarts the guest's kernel; QEMU stays. Follow with [`Self::wait_ready`].
    ///
    /// # Errors
    /// The command channel is gone.
    pub fn reboot(&mut self) -> Result<()> {
        self.console.send("reboot -f").map(drop)
    }

    /// Kills QEMU without warning.
    pub fn kill(&mut self) {
        self.process.iter_mut().for_each(Process::kill);
    }

    /// QEMU's process.
    ///
    /// # Errors
    /// It runs in a host guest.
    pub fn process(&mut self) -> Result<&mut Process> {
        let name = &self.name;
        self.process.as_mut().ok_or_else(|| Failure::new(format!("QEMU of {name} runs in a host guest")))
    }

    /// The socket of its command channel.
    #[must_use]
    pub fn console_path(&self) -> &Path {
        &self.console_path
    }
}

/// Runs a command in a guest that somebody else started and nobody is connected to, by its command channel: its exit
/// status and output.
///
/// # Errors
/// The guest is gone or does not answer.
pub fn run_in_running_guest(console: &Path, command: &str, patience: Duration) -> Result<(i32, String)> {
    let Some(mut console) = Console::connect(console) else {
        return Err(Failure::new(format!("nobody answers at {}", console.display())));
    };
    console.run(command, patience, || Ok(()))
}

/// The Mbit/s in the last "receiver" line of iperf3's report, unless it is zero.
#[must_use]
pub fn receiver_rate(report: &str) -> Option<f64> {
    let line = report.lines().rfind(|l| l.contains("receiver"))?;
    let rate = line.split(" Mbits/sec").next()?.split_whitespace().last()?.parse().ok()?;
    (rate > 0.0).then_some(rate)
}

#[cfg(test)]
mod tests {
    use super::receiver_rate;

    #[test]
    fn the_receivers_rate_is_found() {
        let report = "[  5]   0.00-5.00   sec   219 MBytes   367 Mbits/sec    0             sender\n\
                      [  5]   0.00-5.02   sec   218 MBytes   365 Mbits/sec                  receiver\n";
        assert_eq!(receiver_rate(report), Some(365.0));
        assert_eq!(receiver_rate("iperf3: error"), None);
    }
}

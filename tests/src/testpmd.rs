//! DPDK's `dpdk-testpmd`: an independent vhost-user front-end (virtio-user) and back-end (`net_vhost`).
//!
//! Runs without hugepages and without PCI. It polls, so it costs a full core while it lives.

use std::path::Path;
use std::time::Duration;

use crate::failure::{Failure, Result};
use crate::lab::Lab;
use crate::process::Process;

/// How long testpmd may take to its prompt.
const START: Duration = Duration::from_secs(40);

/// A running, interactive testpmd; killed when dropped.
#[derive(Debug)]
pub struct Testpmd {
    process: Process,
}

/// Packet counters of one testpmd port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Packets received.
    pub received: u64,
    /// Packets sent.
    pub sent: u64,
    /// Packets per second received since the last look.
    pub receive_rate: u64,
}

impl Testpmd {
    /// Starts testpmd with virtual devices, for example `net_vhost0,iface=PATH,queues=1`, and waits for its prompt.
    ///
    /// `lcores` is DPDK's `--lcores`, `application` what follows `--`.
    ///
    /// # Errors
    /// It does not come up; the message holds the end of its log.
    pub fn start(
        lab: &Lab,
        name: &str,
        lcores: &str,
        devices: &[String],
        application: &[&str],
    ) -> Result<Self> {
        let mut arguments: Vec<String> =
            ["--no-huge", "--no-shconf", "--no-pci", "--lcores", lcores, "-m", "512"]
                .map(str::to_owned)
                .into();
        arguments.extend(["--file-prefix".to_owned(), format!("vsl{}{name}", std::process::id())]);
        for device in devices {
            arguments.extend(["--vdev".to_owned(), device.clone()]);
        }
        arguments.extend(["--", "-i", "--total-num-mbufs=16384"].map(str::to_owned));
        arguments.extend(application.iter().map(|s| (*s).to_owned()));
        let log = lab.path(&format!("{name}.log"));
        // Its runtime folder would otherwise be left behind in /var/run/dpdk.
        let runtime = format!("RUNTIME_DIRECTORY={}", lab.scratch().display());
        arguments.splice(0..0, [runtime, lab.program("dpdk-testpmd").display().to_string()]);
        let mut process = Process::start(name, Path::new("env"), &arguments, &log, false)?;
        process.until("prompt", START, |p| p.log().contains("testpmd> ").then_some(()))?;
        Ok(Self { process })
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Types `command` and gives what testpmd printed until its next prompt.
    ///
    /// # Errors
    /// It ends or does not come back.
    pub fn command(&mut self, command: &str) -> Result<String> {
        let before = self.process.log().len();
        self.process.say(command)?;
        self.process.until("answer", Duration::from_secs(20), |p| {
            let log = p.log();
            let fresh = log.get(before..)?;
            fresh.contains("testpmd> ").then(|| fresh.to_owned())
        })
    }

    /// The counters of `port`.
    ///
    /// # Errors
    /// The port does not exist.
    pub fn counters(&mut self, port: u32) -> Result<PortCounters> {
        let text = self.command(&format!("show port stats {port}"))?;
        let number = |key: &str| -> Option<u64> {
            text.split(key).nth(1)?.split_whitespace().next()?.trim_end_matches(',').parse().ok()
        };
        match (number("RX-packets:"), number("TX-packets:"), number("Rx-pps:")) {
            (Some(received), Some(sent), Some(receive_rate)) => {
                Ok(PortCounters { received, sent, receive_rate })
            }
            _ => Err(Failure::new(format!("testpmd shows no counters for port {port}: {text}"))),
        }
    }
}

//! DPDK's `dpdk-testpmd`: an independent vhost-user front-end (virtio-user) and back-end (`net_vhost`).
//!
//! Runs without PCI, and without hugepages unless asked ([`Memory`]). It polls, so it costs a full core while it lives.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType, connect, recv, send, socket,
};
use serde_json::Value;

use crate::failure::{During as _, Failure, Result};
use crate::lab::Lab;
use crate::process::Process;

/// How long testpmd may take to its prompt.
const START: Duration = Duration::from_secs(40);

/// How long its telemetry may have no answer, as it does now and then while a port is being started.
const TELEMETRY: Duration = Duration::from_secs(2);

/// A running, interactive testpmd; killed when dropped.
#[derive(Debug)]
pub struct Testpmd {
    process: Process,
    telemetry: PathBuf,
}

/// What testpmd keeps its packets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Ordinary pages: works everywhere.
    Ordinary,
    /// Hugepages, for measurements; somebody must have reserved them ([`crate::hugepages`]).
    Huge,
}

impl Memory {
    fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Ordinary => ["--no-huge", "--no-shconf", "-m", "512"],
            // One file, because a virtio-user device can share only a few.
            Self::Huge => ["--in-memory", "--single-file-segments", "-m", "256"],
        }
    }
}

/// Packet counters of one testpmd port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Packets received.
    pub received: u64,
    /// Packets sent.
    pub sent: u64,
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
        Self::start_with(lab, name, lcores, Memory::Ordinary, devices, application)
    }

    /// Like [`Self::start`], with the memory it is to use.
    ///
    /// # Errors
    /// As [`Self::start`]; with [`Memory::Huge`] also when too few hugepages are free.
    pub fn start_with(
        lab: &Lab,
        name: &str,
        lcores: &str,
        memory: Memory,
        devices: &[String],
        application: &[&str],
    ) -> Result<Self> {
        let mut arguments: Vec<String> = memory.arguments().map(str::to_owned).into();
        arguments.extend(["--no-pci", "--lcores", lcores].map(str::to_owned));
        let prefix = name.to_owned();
        arguments.extend(["--file-prefix".to_owned(), prefix.clone()]);
        for device in devices {
            arguments.extend(["--vdev".to_owned(), device.clone()]);
        }
        arguments.extend(["--", "-i", "--total-num-mbufs=16384"].map(str::to_owned));
        arguments.extend(application.iter().map(|s| (*s).to_owned()));
        let log = lab.path(&format!("{name}.log"));
        // The prompt waited for is this one's, not that of an earlier testpmd of the same name.
        let _ = std::fs::remove_file(&log);
        // Its runtime folder would otherwise be left behind in /var/run/dpdk.
        let runtime = format!("RUNTIME_DIRECTORY={}", lab.scratch().display());
        arguments.splice(0..0, [runtime, lab.program("dpdk-testpmd").display().to_string()]);
        let mut process = Process::start(name, Path::new("env"), &arguments, &log, false)?;
        process.until("prompt", START, |p| p.log().contains("testpmd> ").then_some(()))?;
        let telemetry = lab.path("dpdk").join(prefix).join("dpdk_telemetry.v2");
        Ok(Self { process, telemetry })
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Polls `ready` until it says yes.
    ///
    /// # Errors
    /// It ends, or `patience` is over.
    pub fn until(
        &mut self,
        what: &str,
        patience: Duration,
        mut ready: impl FnMut(&mut Self) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + patience;
        while !ready(self) {
            self.process.must_run()?;
            if Instant::now() > deadline {
                return Err(Failure::new(format!("testpmd: no {what} within {} s", patience.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Types `command` and waits for the next prompt. What testpmd prints stays in its buffers for long (it does not
    /// flush to a file), so there is nothing to return; numbers come from [`Self::counters`].
    ///
    /// # Errors
    /// It ends or does not come back.
    pub fn command(&mut self, command: &str) -> Result<()> {
        let before = self.process.log().len();
        self.process.say(command)?;
        self.process.until("prompt", Duration::from_secs(20), |p| {
            p.log().get(before..).is_some_and(|fresh| fresh.contains("testpmd> ")).then_some(())
        })
    }

    /// The counters of `port`, from DPDK's telemetry socket.
    ///
    /// # Errors
    /// The port does not exist.
    pub fn counters(&mut self, port: u32) -> Result<PortCounters> {
        let deadline = Instant::now() + TELEMETRY;
        loop {
            self.process.must_run()?;
            let answer = ask(&self.telemetry, &format!("/ethdev/stats,{port}"))?;
            let stats = &answer["/ethdev/stats"];
            match (stats["ipackets"].as_u64(), stats["opackets"].as_u64()) {
                (Some(received), Some(sent)) => return Ok(PortCounters { received, sent }),
                _ if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                _ => return Err(Failure::new(format!("testpmd has no counters for port {port}: {answer}"))),
            }
        }
    }
}

/// One request on DPDK's telemetry socket, a sequenced-packet socket that greets first and answers in JSON.
fn ask(path: &Path, request: &str) -> Result<Value> {
    let name = path.display();
    let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).during("telemetry socket")?;
    let address = SocketAddrUnix::new(path).during(&name)?;
    connect(&socket, &address).during(&name)?;
    let mut buffer = vec![0; 1 << 16];
    recv(&socket, buffer.as_mut_slice(), RecvFlags::empty()).during(&name)?;
    send(&socket, request.as_bytes(), SendFlags::empty()).during(&name)?;
    let (length, _) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty()).during(&name)?;
    serde_json::from_slice(buffer.get(..length).unwrap_or_default()).during(&name)
}

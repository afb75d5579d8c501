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
use crate::process::{Process, last_lines};

/// How long testpmd may take to its prompt.
const START: Duration = Duration::from_secs(40);

/// How often one is started that comes up without one of its devices.
///
/// `net_af_packet` joins a fanout group whose number it makes of the numbers of process and device (`pid ^ ifindex`). Two testpmds on neighbouring
/// devices now and then mean the same number; the kernel then refuses the second, and testpmd goes on without that device. Its
/// successor has another process number.
const STARTS: usize = 3;

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
        let mut starts = 1;
        loop {
            let testpmd = Self::launch(lab, name, lcores, memory, devices, application)?;
            let answer = ask(&testpmd.telemetry, "/ethdev/list")?;
            if ports(&answer) == Some(devices.len()) {
                return Ok(testpmd);
            }
            if starts == STARTS {
                let words = last_lines(&testpmd.process.log(), 25);
                return Err(Failure::new(format!(
                    "{name}: {answer} of {devices:?}; its last words:\n{words}"
                )));
            }
            starts += 1;
        }
    }

    /// Starts it once. Devices may be missing.
    fn launch(
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
        self.process.must_run()?;
        let answer = ask(&self.telemetry, &format!("/ethdev/stats,{port}"))?;
        let none = || Failure::new(format!("testpmd has no counters for port {port}: {answer}"));
        counters(&answer).ok_or_else(none)
    }
}

/// How many ports an answer to `/ethdev/list` names.
fn ports(answer: &Value) -> Option<usize> {
    answer["/ethdev/list"].as_array().map(Vec::len)
}

/// What an answer to `/ethdev/stats` says; of a port that is not there it says `null`.
fn counters(answer: &Value) -> Option<PortCounters> {
    let stats = &answer["/ethdev/stats"];
    Some(PortCounters { received: stats["ipackets"].as_u64()?, sent: stats["opackets"].as_u64()? })
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

#[cfg(test)]
mod tests {
    use super::{PortCounters, counters, ports};
    use serde_json::json;

    #[test]
    fn counters_of_a_port_that_is_there_are_found() {
        let answer =
            json!({"/ethdev/stats": {"ipackets": 7, "opackets": 9, "ibytes": 448, "q_ipackets": [7, 0]}});
        assert_eq!(counters(&answer), Some(PortCounters { received: 7, sent: 9 }));
    }

    #[test]
    fn of_a_port_that_is_not_there_nothing_is_made_up() {
        assert_eq!(counters(&json!({"/ethdev/stats": null})), None);
        assert_eq!(counters(&json!({"/ethdev/stats": {"ipackets": 7}})), None);
        assert_eq!(counters(&json!("")), None);
    }

    #[test]
    fn ports_are_counted() {
        assert_eq!(ports(&json!({"/ethdev/list": [0, 1]})), Some(2));
        assert_eq!(ports(&json!({"/ethdev/list": []})), Some(0));
        assert_eq!(ports(&json!({"/ethdev/list": null})), None);
    }
}

//! Network namespaces: where the host's side of a test lives, apart from the machine's own network.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::failure::{Failure, Result};
use crate::lab::Lab;
use crate::process::{Process, run};

/// A named network namespace with loopback up; deleted when dropped, with everything in it.
#[derive(Debug)]
pub struct Netns<'lab> {
    lab: &'lab Lab,
    name: String,
    kept: bool,
}

impl<'lab> Netns<'lab> {
    /// Makes a namespace with a name of its own.
    ///
    /// # Errors
    /// The kernel refuses (no root, no namespaces).
    pub fn new(lab: &'lab Lab) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("vsl{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self::named(lab, &name)
    }

    /// Makes a namespace called `name`.
    ///
    /// # Errors
    /// As [`Self::new`], or the name is taken.
    pub fn named(lab: &'lab Lab, name: &str) -> Result<Self> {
        lab.run("ip", &["netns", "add", name])?;
        let netns = Self { lab, name: name.to_owned(), kept: false };
        netns.ip(&["link", "set", "lo", "up"])?;
        Ok(netns)
    }

    /// Leaves it behind when dropped.
    pub fn keep(&mut self) {
        self.kept = true;
    }

    /// Its name, as `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `ip ARGUMENTS` inside.
    ///
    /// # Errors
    /// As [`run`].
    pub fn ip(&self, arguments: &[&str]) -> Result<String> {
        let mut list = vec!["-n", self.name.as_str()];
        list.extend_from_slice(arguments);
        self.lab.run("ip", &list)
    }

    /// Moves a device of the machine in here, gives it an address and brings it up.
    ///
    /// # Errors
    /// There is no such device.
    pub fn adopt(&self, device: &str, address: &str) -> Result<()> {
        self.lab.run("ip", &["link", "set", device, "netns", &self.name])?;
        self.ip(&["addr", "add", address, "dev", device])?;
        self.ip(&["link", "set", device, "up"])?;
        Ok(())
    }

    /// Runs a program of the cache inside, to its end.
    ///
    /// # Errors
    /// As [`run`].
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let program = self.lab.program(program);
        let mut list = vec!["netns", "exec", self.name.as_str()];
        let path = program.to_string_lossy();
        list.push(&path);
        list.extend_from_slice(arguments);
        self.lab.run("ip", &list)
    }

    /// Runs a program of the cache inside that is allowed to fail: whether it succeeded, and what it printed.
    #[must_use]
    pub fn try_run(&self, program: &str, arguments: &[&str]) -> (bool, String) {
        match self.run(program, arguments) {
            Ok(output) => (true, output),
            Err(e) => (false, e.to_string()),
        }
    }

    /// Starts a program of the cache inside and leaves it running.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self, program: &str, arguments: &[&str], log: &Path) -> Result<Process> {
        let mut list: Vec<String> = ["netns", "exec", &self.name].map(str::to_owned).into();
        list.push(self.lab.program(program).display().to_string());
        list.extend(arguments.iter().map(|s| (*s).to_owned()));
        Process::start(program, &self.lab.program("ip"), &list, log, false)
    }

    /// Starts an iperf3 server inside. It listens when this returns: a client that comes before is refused.
    ///
    /// # Errors
    /// It cannot be started, or does not listen within ten seconds.
    pub fn serve_iperf3(&self, log: &Path) -> Result<Process> {
        let mut server = self.start("iperf3", &["-s", "--forceflush"], log)?;
        let listens = |server: &mut Process| server.log().contains("listening").then_some(());
        server.until("\"listening\" in its log", Duration::from_secs(10), listens)?;
        Ok(server)
    }

    /// Sends up to `tries` pings to `peer`, one per second, until one is answered.
    ///
    /// # Errors
    /// None is.
    pub fn reaches(&self, peer: &str, tries: u32) -> Result<()> {
        for _ in 0..tries {
            if self.try_run("busybox", &["ping", "-c1", "-W1", peer]).0 {
                return Ok(());
            }
        }
        let state = self.ip(&["-s", "addr"]).unwrap_or_default();
        Err(Failure::new(format!(
            "namespace {} does not reach {peer} in {tries} tries; its state:\n{state}",
            self.name
        )))
    }

    /// A pair of connected devices, one end in each namespace, both up and with their addresses.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn connect(
        &self,
        device: &str,
        address: &str,
        other: &Self,
        peer: &str,
        peer_address: &str,
    ) -> Result<()> {
        self.ip(&["link", "add", device, "type", "veth", "peer", "name", peer, "netns", &other.name])?;
        for (netns, device, address) in [(self, device, address), (other, peer, peer_address)] {
            netns.ip(&["addr", "add", address, "dev", device])?;
            netns.ip(&["link", "set", device, "up"])?;
        }
        Ok(())
    }
}

impl Drop for Netns<'_> {
    fn drop(&mut self) {
        if !self.kept {
            let _ = Command::new(self.lab.program("ip"))
                .args(["netns", "del", &self.name])
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// The names of all network devices of the machine's own namespace.
///
/// # Errors
/// As [`run`].
pub fn devices(lab: &Lab) -> Result<Vec<String>> {
    let out = run(&lab.program("ip"), &["-o", "link"])?;
    Ok(out
        .lines()
        .filter_map(|l| l.split(": ").nth(1))
        .map(|n| n.split('@').next().unwrap_or(n).to_owned())
        .collect())
}

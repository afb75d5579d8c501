//! A host on a wire: a namespace at one end of a veth pair, whose other end becomes a port.

use std::time::Instant;

use tests::guest::receiver_rate;
use tests::lab::Lab;
use tests::netns::Netns;

use crate::stage::PATIENCE;

/// A namespace behind the device of its port.
pub(crate) struct Host<'lab> {
    lab: &'lab Lab,
    pub(crate) netns: Netns<'lab>,
    /// The end of the pair on the switch's side.
    pub(crate) device: String,
    address: &'static str,
}

impl<'lab> Host<'lab> {
    pub(crate) fn new(lab: &'lab Lab, role: &str, address: &'static str) -> Self {
        let host = Self { lab, netns: Netns::new(lab).unwrap(), device: lab.device(role), address };
        host.plug();
        host
    }

    /// Makes the pair of devices.
    pub(crate) fn plug(&self) {
        let peer = ["type", "veth", "peer", "name", "eth0", "netns", self.netns.name()];
        self.lab.run("ip", &[&["link", "add", &self.device], &peer[..]].concat()).unwrap();
        self.lab.run("ip", &["link", "set", &self.device, "up"]).unwrap();
        self.netns.ip(&["addr", "add", &format!("{}/24", self.address), "dev", "eth0"]).unwrap();
        self.netns.ip(&["link", "set", "eth0", "up"]).unwrap();
    }

    pub(crate) fn unplug(&self) {
        self.lab.run("ip", &["link", "del", &self.device]).unwrap();
    }

    /// Moves TCP to another host and back.
    pub(crate) fn exchange(&self, other: &Host<'_>) {
        let server = other.netns.serve_iperf3(&self.lab.path("iperf.log")).unwrap();
        for direction in [&[][..], &["-R"]] {
            let client = ["-c", other.address, "-t", "1", "-i", "0", "-f", "m", "--connect-timeout", "5000"];
            let deadline = Instant::now() + PATIENCE;
            let report = loop {
                // The server listens; without another try the exchange was still seen to fail once in three times.
                match self.netns.run("iperf3", &[&client, direction].concat()) {
                    Ok(report) => break report,
                    Err(error) => assert!(Instant::now() < deadline, "{error}"),
                }
            };
            println!(
                "{direction:?}: {} Mbit/s",
                receiver_rate(&report).unwrap_or_else(|| panic!("{report}"))
            );
        }
        drop(server);
    }
}

impl Drop for Host<'_> {
    /// At once: with the namespace the kernel would do it some time later, and the name would be taken.
    fn drop(&mut self) {
        let _ = self.lab.run("ip", &["link", "del", &self.device]);
    }
}

//! A guest that plays the host: a virtual IOMMU, network cards behind root ports, and our own programs inside.
//!
//! The machines this runs on have no VFIO, so a driver for a physical card can only run inside a guest. Each card's wire ends in a pair of
//! datagram sockets on our side ([`Wire`]): one datagram is one frame, whatever is in it.
//!
//! The image is the ordinary guest image with a second archive behind it: the VFIO modules, and `vswitchd` and `vsctl` with this
//! machine's own loader and libraries, since the guest's may be older.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Channels, Guest, base_arguments};
use crate::failure::{During as _, Failure, Result};
use crate::lab::Lab;

/// A card of the host guest.
#[derive(Debug, Clone)]
pub struct Card {
    /// QEMU's name of the model, for example `e1000e`.
    pub model: String,
    /// Its MAC address.
    pub mac: String,
    /// Further properties, each beginning with a comma; empty for none.
    pub properties: String,
    /// The wire ends in a TAP device of this name instead of a [`Wire`]; with two queues if the properties say `mq=on`.
    pub tap: Option<String>,
}

impl Card {
    /// A card with the locally administered address `52:54:00:11:22:number`.
    #[must_use]
    pub fn new(model: &str, number: u8, properties: &str) -> Self {
        Self {
            model: model.to_owned(),
            mac: format!("52:54:00:11:22:{number:02x}"),
            properties: properties.to_owned(),
            tap: None,
        }
    }
}

/// The other end of a card's wire.
#[derive(Debug)]
pub struct Wire {
    socket: UnixDatagram,
    card: PathBuf,
}

impl Wire {
    fn new(lab: &Lab, index: usize) -> Result<Self> {
        let here = lab.path(&format!("wire{index}.host"));
        let socket = UnixDatagram::bind(&here).during(here.display())?;
        socket.set_read_timeout(Some(Duration::from_secs(10))).during("wire")?;
        Ok(Self { socket, card: lab.path(&format!("wire{index}.card")) })
    }

    /// Sends a frame to the card. Waits while the card has no room.
    ///
    /// # Errors
    /// QEMU is gone.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        self.socket.send_to(frame, &self.card).during("sending a frame").map(drop)
    }

    /// The next frame from the card.
    ///
    /// # Errors
    /// None comes for ten seconds.
    pub fn receive(&self) -> Result<Vec<u8>> {
        let mut frame = vec![0; 70_000];
        let len = self.socket.recv(&mut frame).during("no frame came out of the card")?;
        frame.truncate(len);
        Ok(frame)
    }

    /// Takes frames until none has come for `quiet`, and gives how many there were.
    ///
    /// # Errors
    /// The socket cannot be set up.
    pub fn drain(&self, quiet: Duration) -> Result<usize> {
        self.socket.set_read_timeout(Some(quiet)).during("wire")?;
        let mut frames = 0;
        while self.socket.recv(&mut [0; 70_000]).is_ok() {
            frames += 1;
        }
        self.socket.set_read_timeout(Some(Duration::from_secs(10))).during("wire")?;
        Ok(frames)
    }
}

/// A running host guest with the switch inside.
#[derive(Debug)]
pub struct HostGuest {
    /// The guest, for commands.
    pub guest: Guest,
    /// The wire of each card, in their order.
    pub wires: Vec<Wire>,
    /// The PCI address of each card.
    pub addresses: Vec<String>,
}

impl HostGuest {
    /// Boots with these cards and starts the switch in it.
    ///
    /// # Errors
    /// As [`Guest::boot`].
    pub fn boot(lab: &Lab, cards: &[Card]) -> Result<Self> {
        let image = lab.path("host.cpio");
        let mut bytes = fs::read(lab.image()).during(lab.image().display())?;
        bytes.extend(lab.host_archive()?);
        fs::write(&image, bytes).during(image.display())?;
        let wires: Vec<Wire> = (0..cards.len()).map(|i| Wire::new(lab, i)).collect::<Result<_>>()?;
        let mut guest =
            Guest::launch(lab, "host", false, |channels| arguments(lab, cards, &image, channels))?;
        guest.wait_ready()?;
        let addresses = (0..cards.len()).map(|i| address(&mut guest, i)).collect::<Result<_>>()?;
        let mut host = Self { guest, wires, addresses };
        host.guest.run("mkdir -p /run/vs; ulimit -l unlimited; /host/vswitchd --rundir /run/vs >/tmp/vswitchd.log 2>&1 &")?;
        host.guest
            .run("for i in $(seq 100); do [ -S /run/vs/db.sock ] && exit 0; sleep 0.1; done; exit 1")?;
        Ok(host)
    }

    /// Runs `vsctl` in the guest and gives what it printed.
    ///
    /// # Errors
    /// It fails; the message holds what it and the switch said.
    pub fn vsctl(&mut self, line: &str) -> Result<String> {
        let (status, output) = self.try_vsctl(line)?;
        if status == 0 {
            return Ok(output);
        }
        let log = self.guest.run("tail -n 15 /tmp/vswitchd.log; dmesg | tail -n 5")?;
        Err(Failure::new(format!("`vsctl {line}` failed: {output}\nvswitchd's last words:\n{log}")))
    }

    /// Runs a `vsctl` that is allowed to fail: its exit status and what it printed.
    ///
    /// # Errors
    /// The guest does not answer.
    pub fn try_vsctl(&mut self, line: &str) -> Result<(i32, String)> {
        self.guest
            .try_run(&format!("/host/vsctl --db unix:/run/vs/db.sock -t 20 {line}"), Duration::from_secs(60))
    }

    /// Repeats `vsctl line` until its output satisfies `good`.
    ///
    /// # Errors
    /// It does not within `patience`; the message holds the last output.
    pub fn vsctl_until(
        &mut self,
        line: &str,
        patience: Duration,
        good: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let deadline = Instant::now() + patience;
        loop {
            let output = self.try_vsctl(line)?.1;
            if good(&output) {
                return Ok(output);
            }
            if Instant::now() > deadline {
                let log = self.guest.run("tail -n 15 /tmp/vswitchd.log; dmesg | tail -n 5")?;
                return Err(Failure::new(format!(
                    "`vsctl {line}` ended with: {output}\nvswitchd's last words:\n{log}"
                )));
            }
        }
    }
}

/// Slot of the root port of card `index`.
fn slot(index: usize) -> usize {
    index + 4
}

/// Firmware and kernel number buses as they like, so the guest is asked what is behind the root port.
fn address(guest: &mut Guest, index: usize) -> Result<String> {
    guest.run(&format!("cd /sys/bus/pci/devices/0000:00:{:02x}.0 && ls -d 0000:??:00.0", slot(index)))
}

fn arguments(lab: &Lab, cards: &[Card], image: &Path, channels: &Channels<'_>) -> Vec<String> {
    let mut list = base_arguments(lab, "host", image, "intel_iommu=on", channels);
    let more =
        |list: &mut Vec<String>, items: &[&str]| list.extend(items.iter().map(|&item| item.to_owned()));
    more(&mut list, &["-machine", "q35,kernel-irqchip=split", "-smp", "2", "-m", "1024"]);
    more(&mut list, &["-device", "intel-iommu,intremap=on,device-iotlb=on"]);
    for (i, card) in cards.iter().enumerate() {
        let (here, there) = (lab.path(&format!("wire{i}.card")), lab.path(&format!("wire{i}.host")));
        let datagrams = format!(
            "dgram,id=net{i},local.type=unix,local.path={},remote.type=unix,remote.path={}",
            here.display(),
            there.display()
        );
        let queues = if card.properties.contains("mq=on") { ",queues=2" } else { "" };
        let wire = card.tap.as_ref().map_or(datagrams, |tap| {
            format!("tap,id=net{i},ifname={tap},script=no,downscript=no,vhost=off{queues}")
        });
        // A root port of its own puts each card into an IOMMU group of its own.
        let port = format!("pcie-root-port,id=root{i},chassis={},slot={},addr={:#x}", i + 1, i + 1, slot(i));
        let device = format!(
            "{},netdev=net{i},bus=root{i},id=card{i},mac={},romfile={}",
            card.model, card.mac, card.properties
        );
        more(&mut list, &["-netdev", &wire, "-device", &port, "-device", &device]);
    }
    list
}

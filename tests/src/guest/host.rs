//! A guest that plays the host: a virtual IOMMU, network cards behind root ports, and our own programs inside.
//!
//! The machines this runs on have no VFIO, so a driver for a physical card can only run inside a guest. Each card's wire ends in a pair of
//! datagram sockets on our side ([`Wire`]): one datagram is one frame, whatever is in it.
//!
//! The image is the ordinary guest image with a second archive behind it: the VFIO modules, and `vswitchd` and `vsctl` with this
//! machine's own loader and libraries, since the guest's may be older. One with virtual functions or guests of its own
//! ([`HostConfig`]) runs on QEMU 11, and for the latter has a third archive.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::console::Console;
use super::{Channels, Guest, Qemu, base_arguments};
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

/// What a host guest has.
#[derive(Debug, Clone, Default)]
pub struct HostConfig {
    /// Cards, each behind a root port of its own.
    pub cards: Vec<Card>,
    /// Virtual functions of one more card, an SR-IOV virtio-net that the guest's kernel drives and that has no wire; at most seven.
    /// Each has a wire of its own.
    pub functions: Vec<Card>,
    /// How many guests it may run itself ([`HostGuest::nested`]), on the processor's virtualisation as QEMU emulates it.
    pub guests: usize,
    /// Further properties of the physical function, each beginning with a comma.
    pub physical: String,
    /// Programs of this machine that the guest has in `/host`.
    pub programs: Vec<PathBuf>,
    /// The host's kernel is one that has drivers of cards; they are there after [`HostGuest::load_igb`].
    pub kernel_with_cards: bool,
}

impl HostConfig {
    /// The cards of the host, and then the virtual functions.
    fn wired(&self) -> impl Iterator<Item = &Card> {
        self.cards.iter().chain(&self.functions)
    }

    /// QEMU 10.0.2 does not map the registers of igb's virtual functions.
    fn needs_qemu11(&self) -> bool {
        !self.functions.is_empty() || self.guests > 0 || self.kernel_with_cards
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
    /// The wire of each card, in their order, and then of each virtual function.
    pub wires: Vec<Wire>,
    /// The PCI address of each card.
    pub addresses: Vec<String>,
    /// The PCI address of each virtual function.
    pub functions: Vec<String>,
    /// Command channels that guests of this guest will answer on.
    pub(super) channels: Vec<Option<(Console, PathBuf)>>,
}

impl HostGuest {
    /// Boots with these cards and starts the switch in it.
    ///
    /// # Errors
    /// As [`Guest::boot`].
    pub fn boot(lab: &Lab, cards: &[Card]) -> Result<Self> {
        Self::boot_with(lab, &HostConfig { cards: cards.to_vec(), ..HostConfig::default() })
    }

    /// Boots as configured and starts the switch in it.
    ///
    /// # Errors
    /// As [`Guest::boot`].
    pub fn boot_with(lab: &Lab, config: &HostConfig) -> Result<Self> {
        let qemu = if config.needs_qemu11() { Qemu::Eleven } else { Qemu::Ten }.program(lab)?;
        let (image, mut kernel) = (lab.path("host.cpio"), None);
        let mut bytes = fs::read(lab.image()).during(lab.image().display())?;
        bytes.extend(lab.host_archive(&config.programs)?);
        if config.guests > 0 {
            bytes.extend(lab.nested_archive()?);
        }
        if config.kernel_with_cards {
            lab.fetch_cards_kernel()?;
            bytes.extend(lab.cards_archive()?);
            kernel = Some(lab.cards_kernel()?);
        }
        fs::write(&image, bytes).during(image.display())?;
        let wires: Vec<Wire> =
            (0..config.wired().count()).map(|i| Wire::new(lab, i)).collect::<Result<_>>()?;
        let mut guest = Guest::launch(lab, &qemu, "host", false, |channels| {
            let mut list = arguments(lab, config, &image, channels);
            // The last one counts.
            list.extend(
                kernel.iter().flat_map(|kernel| ["-kernel".to_owned(), kernel.display().to_string()]),
            );
            list
        })?;
        let channels = (0..config.guests).map(|i| channel(lab, i).map(Some)).collect::<Result<_>>()?;
        guest.wait_ready()?;
        let addresses = (0..config.cards.len()).map(|i| address(&mut guest, i)).collect::<Result<_>>()?;
        let mut host = Self { guest, wires, addresses, functions: Vec::new(), channels };
        if !config.functions.is_empty() {
            host.make_functions(config)?;
        }
        host.guest.run("mkdir -p /run/vs; ulimit -l unlimited; /host/vswitchd --rundir /run/vs >/tmp/vswitchd.log 2>&1 &")?;
        host.guest
            .run("for i in $(seq 100); do [ -S /run/vs/db.sock ] && exit 0; sleep 0.1; done; exit 1")?;
        Ok(host)
    }

    /// Gives the cards that `igb` is for to the kernel, which is [`HostConfig::kernel_with_cards`].
    ///
    /// # Errors
    /// The guest does not answer.
    pub fn load_igb(&mut self) -> Result<()> {
        self.guest.run("for m in /host/modules/*.ko; do insmod $m; done").map(drop)
    }

    fn make_functions(&mut self, config: &HostConfig) -> Result<()> {
        let physical = address(&mut self.guest, config.cards.len())?;
        let count = config.functions.len();
        self.guest.run(&format!("echo {count} > /sys/bus/pci/devices/{physical}/sriov_numvfs"))?;
        let slot = physical.trim_end_matches('0');
        self.functions = (1..=count).map(|number| format!("{slot}{number}")).collect();
        Ok(())
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

/// Connects to the serial port that guest `index` of the host guest will use; at once, lest its first words are lost.
fn channel(lab: &Lab, index: usize) -> Result<(Console, PathBuf)> {
    let path = nested_port(lab, index);
    let console = Console::connect(&path)
        .ok_or_else(|| Failure::new(format!("QEMU has not made {}", path.display())))?;
    Ok((console, path))
}

fn nested_port(lab: &Lab, index: usize) -> PathBuf {
    lab.path(&format!("nested{index}.con"))
}

fn arguments(lab: &Lab, config: &HostConfig, image: &Path, channels: &Channels<'_>) -> Vec<String> {
    let mut list = base_arguments(lab, "host", image, "intel_iommu=on", channels);
    more(&mut list, &["-machine", "q35,kernel-irqchip=split", "-smp", "2"]);
    more(&mut list, &["-device", "intel-iommu,intremap=on,device-iotlb=on"]);
    if config.guests > 0 {
        more(&mut list, &["-m", "2048", "-cpu", "max,svm=on,npt=on"]);
    } else {
        more(&mut list, &["-m", "1024"]);
    }
    for i in 0..config.guests {
        // The third and fourth port, on interrupts that no other device has.
        let (path, base, irq) = (nested_port(lab, i), 0x3e8 - 0x100 * i, 5 + 2 * i);
        let socket = format!("socket,id=nested{i},path={},server=on,wait=off", path.display());
        let port = format!("isa-serial,chardev=nested{i},index={},iobase={base:#x},irq={irq}", i + 2);
        more(&mut list, &["-chardev", &socket, "-device", &port]);
    }
    for (i, card) in config.wired().enumerate() {
        more(&mut list, &["-netdev", &wire(lab, card, i)]);
    }
    for (i, card) in config.cards.iter().enumerate() {
        more(&mut list, &["-device", &root_port(i), "-device", &device(card, i, &format!("bus=root{i}"))]);
    }
    let slot = config.cards.len();
    if !config.functions.is_empty() {
        more(&mut list, &["-netdev", "hubport,id=physical,hubid=0", "-device", &root_port(slot)]);
    }
    // Virtual functions come before the physical one.
    for (i, card) in config.functions.iter().enumerate() {
        let place = format!("bus=root{slot},addr=0x0.{:#x},sriov-pf=physical", i + 1);
        more(&mut list, &["-device", &device(card, slot + i, &place)]);
    }
    if !config.functions.is_empty() {
        let physical = format!(
            "virtio-net-pci,netdev=physical,bus=root{slot},addr=0x0.0x0,id=physical,romfile=,disable-legacy=on,iommu_platform=on,ats=on{}",
            config.physical
        );
        more(&mut list, &["-device", &physical]);
    }
    list
}

fn more(list: &mut Vec<String>, items: &[&str]) {
    list.extend(items.iter().map(|&item| item.to_owned()));
}

/// A root port of its own puts each card into an IOMMU group of its own.
fn root_port(index: usize) -> String {
    let (number, at) = (index + 1, slot(index));
    format!("pcie-root-port,id=root{index},chassis={number},slot={number},addr={at:#x}")
}

fn wire(lab: &Lab, card: &Card, index: usize) -> String {
    let (here, there) = (lab.path(&format!("wire{index}.card")), lab.path(&format!("wire{index}.host")));
    let datagrams = format!(
        "dgram,id=net{index},local.type=unix,local.path={},remote.type=unix,remote.path={}",
        here.display(),
        there.display()
    );
    let queues = if card.properties.contains("mq=on") { ",queues=2" } else { "" };
    card.tap.as_ref().map_or(datagrams, |tap| {
        format!("tap,id=net{index},ifname={tap},script=no,downscript=no,vhost=off{queues}")
    })
}

fn device(card: &Card, index: usize, place: &str) -> String {
    let (model, mac, properties) = (&card.model, &card.mac, &card.properties);
    format!("{model},netdev=net{index},{place},id=card{index},mac={mac},romfile={properties}")
}

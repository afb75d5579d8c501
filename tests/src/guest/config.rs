//! What a guest is made of: its machine and its network cards, as QEMU's command line has them.

use std::path::{Path, PathBuf};

use super::{Channels, base_arguments};
use crate::failure::Result;
use crate::lab::Lab;

/// Which end of the vhost-user socket listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// The switch listens (`vhost-user` port), QEMU connects and reconnects.
    SwitchListens,
    /// QEMU listens (`server=on`), the switch connects (`vhost-user-client` port).
    QemuListens,
}

/// One network card of a guest.
#[derive(Debug, Clone)]
pub struct Nic {
    /// Path of the vhost-user socket.
    pub path: PathBuf,
    /// Who listens there.
    pub socket: Socket,
    /// Its MAC address.
    pub mac: String,
    /// Queue pairs.
    pub queues: usize,
    /// Further properties of QEMU's `virtio-net-pci`, for example `mrg_rxbuf=off`; empty for none.
    pub properties: String,
}

impl Nic {
    /// A single-queue card with the locally administered address `52:54:00:00:00:number`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, socket: Socket, number: u8) -> Self {
        Self {
            path: path.into(),
            socket,
            mac: format!("52:54:00:00:00:{number:02x}"),
            queues: 1,
            properties: String::new(),
        }
    }

    pub(super) fn arguments(&self, index: usize) -> Vec<String> {
        let role = match self.socket {
            Socket::SwitchListens => "reconnect-ms=200",
            Socket::QemuListens => "server=on,wait=off",
        };
        // Two vectors per pair, one for configuration changes, one for the control queue.
        let mq =
            if self.queues > 1 { format!(",mq=on,vectors={}", 2 * self.queues + 2) } else { String::new() };
        let more = if self.properties.is_empty() { String::new() } else { format!(",{}", self.properties) };
        let queues = self.queues;
        vec![
            "-chardev".into(),
            format!("socket,id=c{index},path={},{role}", self.path.display()),
            "-netdev".into(),
            format!("vhost-user,id=n{index},chardev=c{index},queues={queues}"),
            "-device".into(),
            format!("virtio-net-pci,netdev=n{index},mac={},romfile={mq}{more}", self.mac),
        ]
    }
}

/// What a guest is made of.
#[derive(Debug, Clone)]
pub struct GuestConfig {
    /// Names its log files.
    pub name: String,
    /// Memory in MiB.
    pub memory: u32,
    /// Virtual processors.
    pub cpus: usize,
    /// Network cards; the first is `eth0` in the guest.
    pub nics: Vec<Nic>,
    /// Further words of the kernel's command line.
    pub kernel: String,
    /// Leave it running when the handle is dropped.
    pub keep: bool,
    /// Further arguments of QEMU, before those of the cards: devices may be among them that must be there first, as an IOMMU.
    pub more: Vec<String>,
    /// Which QEMU it runs on.
    pub qemu: Qemu,
}

/// A QEMU of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Qemu {
    /// QEMU 10.0.
    #[default]
    Ten,
    /// QEMU 11.1, which wants an answer to nearly every vhost-user message, eventfds among them.
    Eleven,
}

impl Qemu {
    /// The program, fetched when needed.
    pub(super) fn program(self, lab: &Lab) -> Result<PathBuf> {
        match self {
            Self::Ten => Ok(lab.program("qemu-system-x86_64")),
            Self::Eleven => {
                lab.fetch_qemu11()?;
                Ok(lab.qemu11())
            }
        }
    }
}

impl GuestConfig {
    /// A guest of one processor and 256 MiB with one network card.
    #[must_use]
    pub fn new(name: &str, nic: Nic) -> Self {
        Self {
            name: name.to_owned(),
            memory: 256,
            cpus: nic.queues,
            nics: vec![nic],
            kernel: String::new(),
            keep: false,
            more: Vec::new(),
            qemu: Qemu::Ten,
        }
    }

    /// The guest on another QEMU.
    #[must_use]
    pub fn on(self, qemu: Qemu) -> Self {
        Self { qemu, ..self }
    }

    /// The guest with an IOMMU in front of its cards, and `kernel` on its kernel's command line, for example `iommu.strict=1`. The
    /// IOMMU keeps copies of its translations in the cards (ATS), which a vhost-user card hands to the switch.
    #[must_use]
    pub fn with_iommu(mut self, kernel: &str) -> Self {
        self.more.extend(["-device", "intel-iommu,intremap=on,device-iotlb=on"].map(str::to_owned));
        self.kernel = format!("intel_iommu=on {kernel}");
        for nic in &mut self.nics {
            let comma = if nic.properties.is_empty() { "" } else { "," };
            nic.properties += &format!("{comma}disable-legacy=on,iommu_platform=on,ats=on");
        }
        self
    }

    /// The same machine, empty, for a guest that is moved to it by `socket`.
    #[must_use]
    pub fn incoming(&self, name: &str, nic: Nic, socket: &Path) -> Self {
        let incoming = vec!["-incoming".into(), format!("unix:{}", socket.display())];
        let more = [self.more.clone(), incoming].concat();
        Self { name: name.to_owned(), nics: vec![nic], more, ..self.clone() }
    }

    pub(super) fn arguments(&self, lab: &Lab, channels: &Channels<'_>) -> Vec<String> {
        let memory = self.memory;
        let mut list = base_arguments(lab, &self.name, lab.image(), &self.kernel, channels);
        list.extend([
            "-machine".into(),
            "q35,memory-backend=m0".into(),
            "-smp".into(),
            self.cpus.to_string(),
            "-m".into(),
            memory.to_string(),
            "-object".into(),
            format!("memory-backend-memfd,id=m0,size={memory}M,share=on"),
        ]);
        list.extend(self.more.iter().cloned());
        for (index, nic) in self.nics.iter().enumerate() {
            list.extend(nic.arguments(index));
        }
        list
    }
}

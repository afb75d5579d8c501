//! What nearly every scenario starts with: a switch with the bridge `br0`, vhost-user ports, guests on them.

use std::time::Duration;

use tests::guest::{Guest, GuestConfig, Nic, Qemu, Socket};
use tests::lab::Lab;
use tests::netns::Netns;
use tests::switch::Vswitchd;

/// Long enough for anything that takes a second or two on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running switch with an empty bridge `br0`.
pub(crate) struct Stage {
    pub(crate) switch: Vswitchd,
    pub(crate) lab: Lab,
}

impl Stage {
    pub(crate) fn open() -> Self {
        let lab = Lab::open().unwrap();
        let switch = Vswitchd::start(&lab).unwrap();
        switch.vsctl("add-br br0").unwrap();
        Self { switch, lab }
    }

    /// Adds a vhost-user port to `br0` and gives the card a guest needs to attach to it.
    pub(crate) fn vhost_port(&self, name: &str, socket: Socket, number: u8) -> Nic {
        self.vhost_port_on("br0", name, socket, number, "")
    }

    /// The same on any bridge, with further settings of the port, for example `tag=10`.
    pub(crate) fn vhost_port_on(
        &self,
        bridge: &str,
        name: &str,
        socket: Socket,
        number: u8,
        port: &str,
    ) -> Nic {
        let path = match socket {
            Socket::SwitchListens => {
                let command =
                    format!("add-port {bridge} {name} {port} -- set Interface {name} type=dpdkvhostuser");
                self.switch.vsctl(&command).unwrap();
                self.switch.rundir().join(name)
            }
            Socket::QemuListens => {
                let path = self.lab.path(&format!("{name}.qemu"));
                let command = format!(
                    "add-port {bridge} {name} {port} -- set Interface {name} type=dpdkvhostuserclient \
                     options:vhost-server-path={}",
                    path.display()
                );
                self.switch.vsctl(&command).unwrap();
                path
            }
        };
        Nic::new(path, socket, number)
    }

    /// Adds a TAP port to a bridge and moves the device, with `address`, to a namespace.
    pub(crate) fn tap_port(&self, bridge: &str, role: &str, netns: &Netns<'_>, address: &str) -> String {
        let device = self.lab.device(role);
        self.switch.vsctl(&format!("add-port {bridge} {device} -- set Interface {device} type=tap")).unwrap();
        netns.adopt(&device, address).unwrap();
        device
    }

    /// Boots guests at the same time; each is called like its address and has that on `eth0`.
    pub(crate) fn guests<const N: usize>(&self, cards: [(Nic, &str); N]) -> [Guest; N] {
        self.guests_on(cards.map(|(nic, address)| (nic, address, Qemu::default())))
    }

    /// The same, each on the QEMU named with it.
    pub(crate) fn guests_on<const N: usize>(&self, cards: [(Nic, &str, Qemu); N]) -> [Guest; N] {
        self.guests_of(cards.map(|(nic, address, qemu)| {
            (GuestConfig::new(&format!("guest-{address}"), nic).on(qemu), address)
        }))
    }

    /// The same for guests that are more than a card.
    pub(crate) fn guests_of<const N: usize>(&self, configs: [(GuestConfig, &str); N]) -> [Guest; N] {
        let started = configs.map(|(config, address)| (Guest::start(&self.lab, &config).unwrap(), address));
        started.map(|(mut guest, address)| {
            guest.wait_ready().unwrap();
            guest.address("eth0", &format!("{address}/24")).unwrap();
            guest
        })
    }

    /// Boots one guest.
    pub(crate) fn guest(&self, nic: Nic, address: &str) -> Guest {
        let [guest] = self.guests([(nic, address)]);
        guest
    }
}

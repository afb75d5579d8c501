//! A host guest with a virtual function, and what its guest and its switch are asked.

use std::time::Duration;

use tests::guest::{Card, Guest, HostConfig, HostGuest, NestedConfig, Nic, Socket};
use tests::lab::Lab;
use tests::netns::Netns;

/// A virtual function behind an IOMMU, with a page for each doorbell.
pub(crate) const FUNCTION: &str = ",disable-legacy=on,iommu_platform=on,ats=on,page-per-vq=on";

/// What is done in a guest within a guest takes its time, on a machine that has other things to do all the more.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) const OUTSIDE: &str = "10.4.0.100";

/// A host guest with a card and a virtual function on one network outside, and a bridge that the card is the uplink of.
pub(crate) struct Site<'lab> {
    pub(crate) host: HostGuest,
    pub(crate) functions: Vec<String>,
    pub(crate) outside: Netns<'lab>,
}

impl<'lab> Site<'lab> {
    /// With a guest for each of these functions, given by their properties.
    pub(crate) fn new(lab: &'lab Lab, functions: &[&str], programs: &[&str]) -> Site<'lab> {
        let uplink = lab.device("up");
        let wires: Vec<_> = (0..functions.len()).map(|i| lab.device(&format!("vf{i}"))).collect();
        let card = |tap: &str, number, properties| Card {
            tap: Some(tap.to_owned()),
            ..Card::new("virtio-net-pci", number, properties)
        };
        let config = HostConfig {
            cards: vec![card(&uplink, 1, FUNCTION)],
            functions: (2..)
                .zip(wires.iter().zip(functions))
                .map(|(n, (tap, of))| card(tap, n, of))
                .collect(),
            guests: functions.len(),
            programs: programs.iter().map(Into::into).collect(),
            ..HostConfig::default()
        };
        let mut host = HostGuest::boot_with(lab, &config).unwrap();
        let outside = bridge(lab, std::iter::once(&uplink).chain(&wires));
        let (card, functions) = (host.addresses[0].clone(), host.functions.clone());
        for address in std::iter::once(&card).chain(&functions) {
            host.vsctl(&format!("nic bind {address}")).unwrap();
        }
        let line = format!("add-br br0 -- add-port br0 up0 -- set Interface up0 type=pmd options:pci={card}");
        host.vsctl(&line).unwrap();
        Site { host, functions, outside }
    }

    /// Adds a port with this device. Returns the card of its guest.
    pub(crate) fn port(&mut self, name: &str, device: &str, queues: usize) -> Nic {
        let path = format!("/run/vs/{name}.sock");
        let port = format!("add-port br0 {name} -- set Interface {name} type=vhost-user options:path={path}");
        self.host.vsctl(&format!("{port} options:vdpa={device}")).unwrap();
        Nic {
            properties: "disable-legacy=on,page-per-vq=on".into(),
            queues,
            ..Nic::new(path, Socket::SwitchListens, 2)
        }
    }

    /// Adds a port with this device, and starts a guest that has reached the outside by it when this returns.
    pub(crate) fn guest(&mut self, device: &str, queues: usize) -> Guest {
        let nic = self.port("vm0", device, queues);
        let host = &mut self.host;
        let mut guest = host.nested(&NestedConfig::new(nic)).unwrap();
        if let Err(error) = guest.wait_ready() {
            panic!("{error}\n{}", host.nested_log(0));
        }
        guest.address("eth0", "10.4.0.2/24").unwrap();
        if let Err(error) = guest.reaches(OUTSIDE, PATIENCE) {
            panic!("{error}\n{}", site_state(host));
        }
        until_engine(host, "vm0", "direct");
        guest
    }
}

/// A namespace in which these TAP devices are one network.
fn bridge<'lab>(lab: &'lab Lab, taps: impl Iterator<Item = impl AsRef<str>>) -> Netns<'lab> {
    let outside = Netns::new(lab).unwrap();
    outside.ip(&["link", "add", "net0", "type", "bridge"]).unwrap();
    for tap in taps {
        let tap = tap.as_ref();
        lab.run("ip", &["link", "set", tap, "netns", outside.name()]).unwrap();
        outside.ip(&["link", "set", tap, "master", "net0", "up"]).unwrap();
    }
    outside.ip(&["addr", "add", &format!("{OUTSIDE}/24"), "dev", "net0"]).unwrap();
    outside.ip(&["link", "set", "net0", "up"]).unwrap();
    outside
}

/// Who moves the guest's frames, as the port tells.
pub(crate) fn until_engine(host: &mut HostGuest, port: &str, engine: &str) {
    let line = format!("get Interface {port} status:vdpa-engine");
    if let Err(error) = host.vsctl_until(&line, PATIENCE, |text| text.trim_matches('"') == engine) {
        panic!("{error}\n{}", site_state(host));
    }
}

/// Frames that the switch itself has moved from the guest.
pub(crate) fn moved(host: &mut HostGuest) -> u64 {
    // As they are now; those in the database may be some seconds old.
    let table = host.vsctl("--format=csv stats").unwrap();
    let row = table.lines().find(|line| line.starts_with("vm0,")).unwrap();
    row.split(',').nth(5).unwrap().parse().unwrap()
}

/// Starts pings to the outside, twenty a second, and waits for the first answers.
pub(crate) fn begin_pings(guest: &mut Guest, host: &mut HostGuest) {
    guest
        .run(&format!("rm -f /tmp/pings; ping -i 0.05 {OUTSIDE} >/tmp/pings 2>&1 & echo $! >/tmp/ping.pid"))
        .unwrap();
    more_answers(guest, host);
}

/// Waits until some more pings have been answered.
pub(crate) fn more_answers(guest: &mut Guest, host: &mut HostGuest) {
    let answers = "grep -c seq= /tmp/pings";
    let wait = format!("n=$({answers}); until [ $({answers}) -gt $((n + 5)) ]; do sleep 0.1; done");
    if let Err(error) = guest.run_for(&wait, PATIENCE) {
        panic!("the pings are not answered any more: {error}\n{}", site_state(host));
    }
}

/// What the host says of the guest's port, and the switch and the guest's QEMU have said.
pub(crate) fn site_state(host: &mut HostGuest) -> String {
    let port = host.try_vsctl("list Interface").unwrap().1;
    let logs = host.guest.run("tail -n 30 /tmp/vswitchd.log; dmesg | tail -n 5").unwrap();
    format!("{port}\n{logs}\n{}", host.nested_log(0))
}

/// Ends the pings: how many were not answered of those before the last answer. The others may still be on their way.
pub(crate) fn lost_pings(guest: &mut Guest) -> usize {
    let text = guest.run("kill -INT $(cat /tmp/ping.pid); cat /tmp/pings").unwrap();
    let number = |line: &str| line.split("seq=").nth(1)?.split(' ').next()?.parse::<usize>().ok();
    let answered: Vec<usize> = text.lines().filter_map(number).collect();
    let sent = answered.iter().max().map_or(0, |last| last + 1);
    println!("{} of {sent} pings answered", answered.len());
    sent - answered.len()
}

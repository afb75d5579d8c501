//! A guest in the host guest whose frames go out by a virtual function, moved by the switch.

use std::time::Duration;

use tests::guest::{Card, Guest, HostConfig, HostGuest, NestedConfig, Nic, Socket};
use tests::lab::Lab;
use tests::netns::Netns;

use crate::nested::twice_at_most;

/// A virtual function behind an IOMMU, with a page for each doorbell.
const FUNCTION: &str = ",disable-legacy=on,iommu_platform=on,ats=on,page-per-vq=on";
/// The same with two queue pairs.
const TWO_PAIRS: &str = ",disable-legacy=on,iommu_platform=on,ats=on,page-per-vq=on,mq=on,vectors=6";

/// What is done in a guest within a guest takes its time, on a machine that has other things to do all the more.
const PATIENCE: Duration = Duration::from_secs(90);

const OUTSIDE: &str = "10.4.0.100";

/// A host guest with a card and a virtual function on one network outside, and a bridge that the card is the uplink of.
struct Site<'lab> {
    host: HostGuest,
    functions: Vec<String>,
    outside: Netns<'lab>,
}

impl<'lab> Site<'lab> {
    /// With a guest for each of these functions, given by their properties.
    fn new(lab: &'lab Lab, functions: &[&str], programs: &[&str]) -> Site<'lab> {
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
    fn port(&mut self, name: &str, device: &str, queues: usize) -> Nic {
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
    fn guest(&mut self, device: &str, queues: usize) -> Guest {
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

    /// The guest's pings are answered, and the switch has no part in it.
    fn passes_the_switch_by(&mut self, guest: &mut Guest) {
        let before = moved(&mut self.host);
        // Ends with the last answer; waits for it as long as it takes on a busy machine.
        let said = guest.run_for(&format!("ping -c 5 -i 0.2 -W 60 {OUTSIDE}"), PATIENCE).unwrap();
        assert!(said.contains(" 5 packets received"), "{said}");
        assert_eq!(moved(&mut self.host), before, "frames went by the switch");
    }

    /// Changes who moves the frames to `engine` while pings go on. Returns how many were lost.
    fn change_under_pings(
        &mut self,
        guest: &mut Guest,
        engine: &str,
        change: impl FnOnce(&mut HostGuest),
    ) -> usize {
        begin_pings(guest, &mut self.host);
        change(&mut self.host);
        until_engine(&mut self.host, "vm0", engine);
        more_answers(guest, &mut self.host);
        lost_pings(guest)
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
fn until_engine(host: &mut HostGuest, port: &str, engine: &str) {
    let line = format!("get Interface {port} status:vdpa-engine");
    if let Err(error) = host.vsctl_until(&line, PATIENCE, |text| text.trim_matches('"') == engine) {
        panic!("{error}\n{}", site_state(host));
    }
}

/// Frames that the switch itself has moved from the guest.
fn moved(host: &mut HostGuest) -> u64 {
    // As they are now; those in the database may be some seconds old.
    let table = host.vsctl("--format=csv stats").unwrap();
    let row = table.lines().find(|line| line.starts_with("vm0,")).unwrap();
    row.split(',').nth(5).unwrap().parse().unwrap()
}

/// Starts pings to the outside, twenty a second, and waits for the first answers.
fn begin_pings(guest: &mut Guest, host: &mut HostGuest) {
    guest
        .run(&format!("rm -f /tmp/pings; ping -i 0.05 {OUTSIDE} >/tmp/pings 2>&1 & echo $! >/tmp/ping.pid"))
        .unwrap();
    more_answers(guest, host);
}

/// Waits until some more pings have been answered.
fn more_answers(guest: &mut Guest, host: &mut HostGuest) {
    let answers = "grep -c seq= /tmp/pings";
    let wait = format!("n=$({answers}); until [ $({answers}) -gt $((n + 5)) ]; do sleep 0.1; done");
    if let Err(error) = guest.run_for(&wait, PATIENCE) {
        panic!("the pings are not answered any more: {error}\n{}", site_state(host));
    }
}

/// What the host says of the guest's port, and the switch and the guest's QEMU have said.
fn site_state(host: &mut HostGuest) -> String {
    let port = host.try_vsctl("list Interface").unwrap().1;
    let logs = host.guest.run("tail -n 30 /tmp/vswitchd.log; dmesg | tail -n 5").unwrap();
    format!("{port}\n{logs}\n{}", host.nested_log(0))
}

/// Ends the pings: how many were not answered of those before the last answer. The others may still be on their way.
fn lost_pings(guest: &mut Guest) -> usize {
    let text = guest.run("kill -INT $(cat /tmp/ping.pid); cat /tmp/pings").unwrap();
    let number = |line: &str| line.split("seq=").nth(1)?.split(' ').next()?.parse::<usize>().ok();
    let answered: Vec<usize> = text.lines().filter_map(number).collect();
    let sent = answered.iter().max().map_or(0, |last| last + 1);
    println!("{} of {sent} pings answered", answered.len());
    sent - answered.len()
}

/// Has a guest of one processor, which would use one pair, use two, and send by the second: the answers come by the pair of the questions.
fn use_second_pair(guest: &mut Guest, host: &mut HostGuest) {
    guest
        .run("ethtool -L eth0 combined 2; cd /sys/class/net/eth0/queues; echo 0 >tx-0/xps_cpus; echo 1 >tx-1/xps_cpus")
        .unwrap();
    let line = "get Interface vm0 status:n_rxq";
    host.vsctl_until(line, PATIENCE, |text| text.trim_matches('"') == "2").unwrap();
}

/// Interrupts that the guest's second receive ring has had.
fn interrupts_of_second_pair(guest: &mut Guest) -> u64 {
    let line = guest.run("grep input.1 /proc/interrupts").unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Gives the guest's card to its driver anew.
fn restart_driver(guest: &mut Guest) {
    let driver = "/sys/bus/virtio/drivers/virtio_net";
    guest
        .run(&format!(
            "d=$(basename $(ls -d {driver}/virtio*)); echo $d > {driver}/unbind; echo $d > {driver}/bind"
        ))
        .unwrap();
    guest.address("eth0", "10.4.0.2/24").unwrap();
}

/// The whole way of a guest with `options:vdpa`: its frames go by the virtual function and not by the switch, until the option is taken away;
/// then by the switch, without a word to the guest; back by the function; and by the switch again when the function goes.
#[test]
fn a_guest_is_moved_to_a_virtual_function_and_back() {
    twice_at_most("a_guest_is_moved_to_a_virtual_function_and_back", to_a_virtual_function_and_back);
}

fn to_a_virtual_function_and_back() {
    let lab = Lab::open().unwrap();
    let mut site = Site::new(&lab, &[TWO_PAIRS], &[]);
    let function = site.functions[0].clone();
    let mut guest = site.guest(&function, 2);
    use_second_pair(&mut guest, &mut site.host);
    // The guest's processors write the function's registers themselves, one for each ring.
    let doorbells = site.host.vsctl("get Interface vm0 status:vdpa-doorbells").unwrap();
    assert_eq!(doorbells.trim_matches(['"', '\n']), "4");
    site.host.guest.run("grep -q vfio /proc/$(cat /tmp/nested0.pid)/maps").unwrap();
    // The switch has nothing to do: its workers sleep, and count none of the guest's frames.
    let before = interrupts_of_second_pair(&mut guest);
    site.passes_the_switch_by(&mut guest);
    assert!(interrupts_of_second_pair(&mut guest) > before, "answers came by the first pair");
    site.host.vsctl_until("--format=csv pmd", PATIENCE, |text| text.contains("sleeping")).unwrap();
    // What the function has moved is seen in its rings. QEMU's cards count nothing for their functions, which is not the same as zero.
    let counters = site.host.vsctl("get Interface vm0 statistics").unwrap();
    assert!(counters.contains("vdpa_rx_buffers") && !counters.contains("vdpa_rx_packets"), "{counters}");

    let before = moved(&mut site.host);
    let lost = site.change_under_pings(&mut guest, "software", |host| {
        host.vsctl("remove Interface vm0 options vdpa").unwrap();
    });
    assert!(lost <= 20 && moved(&mut site.host) > before, "{lost} pings lost");

    // Back, behind a relay: the function can begin only with rings that nobody has used. With a driver that starts it has the guest's own.
    let lost = site.change_under_pings(&mut guest, "shadow", |host| {
        host.vsctl(&format!("set Interface vm0 options:vdpa={function}")).unwrap();
    });
    assert!(lost <= 20, "{lost} pings lost");
    site.passes_the_switch_by(&mut guest);
    restart_driver(&mut guest);
    guest.reaches(OUTSIDE, PATIENCE).unwrap();
    until_engine(&mut site.host, "vm0", "direct");

    // The function goes while it is in use, and the kernel gets it.
    let lost = site.change_under_pings(&mut guest, "software", |host| {
        let physical = function.replace(".1", ".0");
        let file = format!("/sys/bus/pci/devices/{physical}/sriov_numvfs");
        host.guest.run_for(&format!("echo 0 > {file}"), PATIENCE).unwrap();
    });
    let error = site.host.vsctl("get Interface vm0 status:vdpa-error").unwrap();
    assert!(lost <= 20 && error.contains(&function), "{lost} pings lost; {error}");
    drop(site.outside);
}

/// Devices without switch and guest first: the virtual function, and a device of the kernel's vDPA bus that a program plays. Then a guest on
/// the latter, which can be given a guest that runs already, and back.
#[test]
fn a_guest_is_moved_to_a_device_of_the_kernel_and_back() {
    twice_at_most("a_guest_is_moved_to_a_device_of_the_kernel_and_back", to_a_device_of_the_kernel_and_back);
}

fn to_a_device_of_the_kernel_and_back() {
    let lab = Lab::open().unwrap();
    let mut site =
        Site::new(&lab, &[FUNCTION], &[env!("CARGO_BIN_EXE_vdpa_device"), env!("CARGO_BIN_EXE_vduse")]);
    let function = site.functions[0].clone();
    let try_device = |site: &mut Site<'_>, device: &str| {
        let line = format!("ulimit -l unlimited; /host/vdpa_device {device} 10.4.0.3 {OUTSIDE}");
        let (status, said) = site.host.guest.try_run(&line, PATIENCE).unwrap();
        let log = site.host.guest.run("tail -n 40 /tmp/vduse.log; dmesg | tail -n 5").unwrap();
        assert!(status == 0 && said.ends_with("all well"), "{said}\n{log}");
        println!("{said}");
    };
    site.host.guest.run(">/tmp/vduse.log").unwrap();
    try_device(&mut site, &function);

    // Behind the kernel's device is the function again, as the kernel drives it.
    site.host.vsctl(&format!("nic unbind {function}")).unwrap();
    let devices = format!("ls /sys/bus/pci/devices/{function}/virtio*/net");
    let wire = site.host.guest.run(&devices).unwrap();
    site.host
        .guest
        .run(&format!(
            "ip link set {wire} up; /host/vduse card0 {wire} >/tmp/vduse.log 2>&1 & \
        until [ -e /dev/vduse/card0 ]; do sleep 0.1; done; vdpa dev add name card0 mgmtdev vduse"
        ))
        .unwrap();
    let device = "/dev/vhost-vdpa-0";
    try_device(&mut site, device);

    let mut guest = site.guest(device, 1);
    site.passes_the_switch_by(&mut guest);
    let lost = site.change_under_pings(&mut guest, "software", |host| {
        host.vsctl("remove Interface vm0 options vdpa").unwrap();
    });
    assert!(lost <= 20, "{lost} pings lost");
    // It can begin anywhere, so the guest's driver need not start anew.
    let lost = site.change_under_pings(&mut guest, "direct", |host| {
        host.vsctl(&format!("set Interface vm0 options:vdpa={device}")).unwrap();
    });
    assert!(lost <= 20, "{lost} pings lost");
    site.passes_the_switch_by(&mut guest);
    // The kernel waits for whoever has it open, and takes its name away before.
    let lost = site.change_under_pings(&mut guest, "software", |host| {
        host.guest.run_for("vdpa dev del card0", PATIENCE).unwrap();
    });
    let error = site.host.vsctl("get Interface vm0 status:vdpa-error").unwrap();
    assert!(lost <= 20 && error.contains(device), "{lost} pings lost; {error}");
    drop(site.outside);
}

/// A guest is migrated from one virtual function to another while it pings: here its own rings are on the function until pages are to be logged,
/// there a relay goes on where they stopped.
#[test]
#[ignore = "two guests in a guest, on two processors that are emulated: `make vdpa-migration`"]
fn a_guest_is_migrated_from_function_to_function() {
    let lab = Lab::open().unwrap();
    let mut site = Site::new(&lab, &[FUNCTION, FUNCTION], &[]);
    let [here, there] = [0, 1].map(|i| site.functions[i].clone());
    let mut guest = site.guest(&here, 1);
    let nic = site.port("vm1", &there, 1);
    let socket = "/tmp/migration";
    let config = NestedConfig { arrives_at: Some(socket.into()), ..NestedConfig::new(nic) };
    let mut arrived = site.host.nested(&config).unwrap();
    site.host.guest.run_for(&format!("until [ -S {socket} ]; do sleep 0.1; done"), PATIENCE).unwrap();
    begin_pings(&mut guest, &mut site.host);
    let before = moved(&mut site.host);
    let said = site.host.migrate_nested(0, socket, PATIENCE);
    let said = said.unwrap_or_else(|error| panic!("{error}\n{}", site_state(&mut site.host)));
    said.lines().filter(|line| line.contains("downtime=")).for_each(|line| println!("{line}"));
    until_engine(&mut site.host, "vm1", "shadow");
    more_answers(&mut arrived, &mut site.host);
    let lost = lost_pings(&mut arrived);
    let log = site.host.guest.run("grep -E 'vm[01]' /tmp/vswitchd.log").unwrap();
    println!("{log}");
    assert!(log.contains("the guest is being moved"), "it left the function before that");
    assert_eq!(moved(&mut site.host), before, "frames went by the switch");
    assert!(lost <= 20, "{lost} pings lost");
    drop(site.outside);
}

//! A guest in the host guest whose frames go out by a virtual function, moved by the switch.

use std::path::PathBuf;

use tests::guest::{Card, Guest, HostConfig, HostGuest, NestedConfig, Nic, Socket};
use tests::lab::Lab;
use tests::netns::Netns;

use crate::stage::PATIENCE;

/// A virtual function behind an IOMMU, with a page for each doorbell.
const FUNCTION: &str = ",disable-legacy=on,iommu_platform=on,ats=on,page-per-vq=on";

const OUTSIDE: &str = "10.4.0.100";

/// A host guest with these virtual functions whose wires end in a bridge of the namespace.
fn host(lab: &Lab, taps: &[String], programs: &[PathBuf]) -> HostGuest {
    let functions = taps.iter().zip(1..).map(|(tap, number)| Card {
        tap: Some(tap.clone()),
        ..Card::new("virtio-net-pci", number, FUNCTION)
    });
    let (functions, programs) = (functions.collect(), programs.to_vec());
    let config = HostConfig { functions, guests: 1, programs, ..HostConfig::default() };
    HostGuest::boot_with(lab, &config).unwrap()
}

/// A namespace in which these TAP devices are one network.
fn bridge<'lab>(lab: &'lab Lab, taps: &[&str]) -> Netns<'lab> {
    let outside = Netns::new(lab).unwrap();
    outside.ip(&["link", "add", "net0", "type", "bridge"]).unwrap();
    for tap in taps {
        lab.run("ip", &["link", "set", tap, "netns", outside.name()]).unwrap();
        outside.ip(&["link", "set", tap, "master", "net0", "up"]).unwrap();
    }
    outside.ip(&["addr", "add", &format!("{OUTSIDE}/24"), "dev", "net0"]).unwrap();
    outside.ip(&["link", "set", "net0", "up"]).unwrap();
    outside
}

/// Both kinds of real devices, each without switch and without guest: a virtual function, and a device of the kernel's vDPA bus that
/// a program plays.
#[test]
fn devices_run_a_drivers_rings() {
    let lab = Lab::open().unwrap();
    let tap = lab.device("vf");
    let programs = [env!("CARGO_BIN_EXE_vdpa_device"), env!("CARGO_BIN_EXE_vduse")].map(Into::into);
    let mut host = host(&lab, std::slice::from_ref(&tap), &programs);
    let outside = Netns::new(&lab).unwrap();
    outside.adopt(&tap, &format!("{OUTSIDE}/24")).unwrap();
    let function = host.functions[0].clone();
    host.vsctl(&format!("nic bind {function}")).unwrap();
    let device = format!("/host/vdpa_device {function} 10.4.0.2 {OUTSIDE}");
    let (status, said) = host.guest.try_run(&device, PATIENCE).unwrap();
    println!("{said}");
    assert!(status == 0 && said.ends_with("all well"), "{said}");

    host.guest
        .run(
            "/host/vduse card0 out0 >/tmp/vduse.log 2>&1 & until [ -e /dev/vduse/card0 ]; do sleep 0.1; done",
        )
        .unwrap();
    host.guest.run("ip addr add 10.5.0.100/24 dev out0 && ip link set out0 up").unwrap();
    host.guest.run("vdpa dev add name card0 mgmtdev vduse").unwrap();
    let device = "ulimit -l unlimited; /host/vdpa_device /dev/vhost-vdpa-0 10.5.0.2 10.5.0.100";
    let (status, said) = host.guest.try_run(device, PATIENCE).unwrap();
    println!("{said}");
    let log = host.guest.run("tail -n 40 /tmp/vduse.log; dmesg | tail -n 5").unwrap();
    assert!(status == 0 && said.ends_with("all well"), "{said}\nthe card:\n{log}");
}

/// Who moves the guest's frames, as the port tells.
fn until_engine(host: &mut HostGuest, engine: &str) {
    let line = "get Interface vm0 status:vdpa-engine";
    if let Err(error) = host.vsctl_until(line, PATIENCE, |text| text.trim_matches('"') == engine) {
        let port = host.try_vsctl("list Interface vm0").unwrap().1;
        panic!("{error}\n{port}");
    }
}

/// Frames that the switch itself has moved from the guest.
fn moved(host: &mut HostGuest) -> u64 {
    let text = host.vsctl("get Interface vm0 statistics:rx_packets").unwrap();
    text.trim().parse().unwrap()
}

/// Starts pings to the outside, ten a second, that are counted by [`answered`].
fn begin_pings(guest: &mut Guest, count: u32) {
    guest.run(&format!("ping -c {count} -i 0.1 -W 2 {OUTSIDE} >/tmp/pings 2>&1 &")).unwrap();
}

/// How many of the pings were answered, when all have been sent.
fn answered(guest: &mut Guest) -> u32 {
    let end = "until grep -q received /tmp/pings; do sleep 0.2; done; cat /tmp/pings";
    let text = guest.run_for(end, 3 * PATIENCE).unwrap();
    let line = text.lines().find(|line| line.contains("received")).unwrap();
    let words: Vec<_> = line.split(' ').collect();
    println!("{line}");
    words[3].parse().unwrap()
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
    let lab = Lab::open().unwrap();
    let [uplink, vf] = ["up", "vf"].map(|role| lab.device(role));
    let card = |tap: &str, number| Card {
        tap: Some(tap.to_owned()),
        ..Card::new("virtio-net-pci", number, FUNCTION)
    };
    let config = HostConfig {
        cards: vec![card(&uplink, 1)],
        functions: vec![card(&vf, 2)],
        guests: 1,
        ..HostConfig::default()
    };
    let mut host = HostGuest::boot_with(&lab, &config).unwrap();
    let outside = bridge(&lab, &[&uplink, &vf]);
    let (card, function) = (host.addresses[0].clone(), host.functions[0].clone());
    for address in [&card, &function] {
        host.vsctl(&format!("nic bind {address}")).unwrap();
    }
    host.vsctl(&format!("add-br br0 -- add-port br0 up0 -- set Interface up0 type=pmd options:pci={card}"))
        .unwrap();
    let port = "add-port br0 vm0 -- set Interface vm0 type=vhost-user options:path=/run/vs/vm0.sock";
    host.vsctl(&format!("{port} options:vdpa={function}")).unwrap();
    let nic = Nic {
        properties: "disable-legacy=on,page-per-vq=on".into(),
        ..Nic::new("/run/vs/vm0.sock", Socket::SwitchListens, 2)
    };
    let mut guest = host.nested(&NestedConfig::new(nic)).unwrap();
    if let Err(error) = guest.wait_ready() {
        panic!("{error}\n{}", host.nested_log(0));
    }
    guest.address("eth0", "10.4.0.2/24").unwrap();
    if let Err(error) = guest.reaches(OUTSIDE, PATIENCE) {
        let port = host.try_vsctl("list Interface vm0").unwrap().1;
        panic!("{error}\n{port}\n{}", host.guest.run("tail -n 30 /tmp/vswitchd.log").unwrap());
    }
    until_engine(&mut host, "direct");
    println!("{}", host.vsctl("get Interface vm0 status").unwrap());

    // The guest's processors write the function's registers themselves.
    host.guest.run("grep -q vfio /proc/$(cat /tmp/nested0.pid)/maps").unwrap();

    // The switch has nothing to do: its workers sleep, and count none of these.
    let before = moved(&mut host);
    assert_eq!(guest.ping(OUTSIDE, 20).unwrap(), 20);
    assert_eq!(moved(&mut host), before, "frames went by the switch");
    host.vsctl_until("--format=csv pmd", PATIENCE, |text| text.contains("sleeping")).unwrap();
    println!("{}", host.vsctl("--format=csv pmd").unwrap());

    begin_pings(&mut guest, 50);
    host.vsctl("remove Interface vm0 options vdpa").unwrap();
    until_engine(&mut host, "software");
    let lost = 50 - answered(&mut guest);
    println!("to the switch: {lost} of 50 pings lost");
    assert!(moved(&mut host) > before);
    assert!(lost <= 2, "{lost} pings lost");

    // Back: the function can begin with a driver that starts.
    host.vsctl(&format!("set Interface vm0 options:vdpa={function}")).unwrap();
    restart_driver(&mut guest);
    guest.reaches(OUTSIDE, PATIENCE).unwrap();
    until_engine(&mut host, "direct");

    // The function goes while it is in use, and the kernel gets it.
    begin_pings(&mut guest, 50);
    let physical = function.replace(".1", ".0");
    host.guest.run_for(&format!("echo 0 > /sys/bus/pci/devices/{physical}/sriov_numvfs"), PATIENCE).unwrap();
    until_engine(&mut host, "software");
    let lost = 50 - answered(&mut guest);
    println!("function gone: {lost} of 50 pings lost");
    let error = host.vsctl("get Interface vm0 status:vdpa-error").unwrap();
    println!("{error}");
    assert!(error.contains(&function), "{error}");
    assert!(lost <= 10, "{lost} pings lost");
    drop(outside);
}

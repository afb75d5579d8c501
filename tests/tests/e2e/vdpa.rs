//! A guest in the host guest whose frames go out by a virtual function, moved by the switch.

use std::path::PathBuf;

use tests::guest::{Card, HostConfig, HostGuest, NestedConfig, Nic, Socket};
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

#[test]
fn a_nested_guest_reaches_outside_by_a_virtual_function() {
    let lab = Lab::open().unwrap();
    let tap = lab.device("vf");
    let mut host = host(&lab, std::slice::from_ref(&tap), &[]);
    let outside = Netns::new(&lab).unwrap();
    outside.adopt(&tap, &format!("{OUTSIDE}/24")).unwrap();
    let function = host.functions[0].clone();
    host.vsctl("add-br br0").unwrap();
    host.vsctl(&format!("nic bind {function}")).unwrap();
    host.vsctl(&format!("add-port br0 up0 -- set Interface up0 type=pmd options:pci={function}")).unwrap();
    host.vsctl("add-port br0 vm0 -- set Interface vm0 type=vhost-user options:path=/run/vs/vm0.sock")
        .unwrap();
    let mut guest =
        host.nested(&NestedConfig::new(Nic::new("/run/vs/vm0.sock", Socket::SwitchListens, 2))).unwrap();
    if let Err(error) = guest.wait_ready() {
        panic!("{error}\n{}", host.nested_log(0));
    }
    guest.address("eth0", "10.4.0.2/24").unwrap();
    guest.reaches(OUTSIDE, PATIENCE).unwrap();
    assert_eq!(guest.ping(OUTSIDE, 10).unwrap(), 10);
}

//! A guest in the host guest whose frames go out by a virtual function, moved by the switch.

use tests::guest::{Card, HostConfig, HostGuest, NestedConfig, Nic, Socket};
use tests::lab::Lab;
use tests::netns::Netns;

use crate::stage::PATIENCE;

/// A virtual function behind an IOMMU, with a page for each doorbell.
const FUNCTION: &str = ",disable-legacy=on,iommu_platform=on,ats=on,page-per-vq=on";

const OUTSIDE: &str = "10.4.0.100";

/// A host guest with these virtual functions whose wires end in a bridge of the namespace.
fn host(lab: &Lab, taps: &[String]) -> HostGuest {
    let functions = taps.iter().zip(1..).map(|(tap, number)| Card {
        tap: Some(tap.clone()),
        ..Card::new("virtio-net-pci", number, FUNCTION)
    });
    let config = HostConfig { functions: functions.collect(), guests: 1, ..HostConfig::default() };
    HostGuest::boot_with(lab, &config).unwrap()
}

#[test]
fn a_nested_guest_reaches_outside_by_a_virtual_function() {
    let lab = Lab::open().unwrap();
    let tap = lab.device("vf");
    let mut host = host(&lab, std::slice::from_ref(&tap));
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

//! Two bridges of one switch share nothing; a port moved from one to the other changes sides.

use tests::guest::Socket;
use tests::netns::Netns;

use crate::stage::{PATIENCE, Stage};

#[test]
fn two_bridges_are_isolated() {
    let stage = Stage::open();
    stage.switch.vsctl("add-br br1").unwrap();
    let left = Netns::new(&stage.lab).unwrap();
    let right = Netns::new(&stage.lab).unwrap();
    stage.tap_port("br0", "l", &left, "10.1.0.101/24");
    stage.tap_port("br1", "r", &right, "10.1.0.102/24");
    let cards = [
        (stage.vhost_port_on("br0", "vma", Socket::SwitchListens, 0xa, ""), "10.1.0.1"),
        (stage.vhost_port_on("br1", "vmb", Socket::SwitchListens, 0xb, ""), "10.1.0.2"),
    ];
    let [mut a, mut b] = stage.guests(cards);

    left.reaches("10.1.0.1", 10).unwrap();
    right.reaches("10.1.0.2", 10).unwrap();
    // Broadcasts (ARP) and unicasts alike stay on their bridge.
    assert!(a.is_cut_off("10.1.0.2", 5).unwrap(), "br0 leaks into br1");
    assert!(b.is_cut_off("10.1.0.101", 5).unwrap(), "br1 leaks into br0");

    stage
        .switch
        .vsctl("del-port br1 vmb -- add-port br0 vmb -- set Interface vmb type=dpdkvhostuser")
        .unwrap();
    b.reaches("10.1.0.1", PATIENCE).unwrap();
    left.reaches("10.1.0.2", 10).unwrap();
    assert!(!right.try_run("busybox", &["ping", "-c2", "-W1", "10.1.0.2"]).0, "vmb is still on br1");

    // A bridge goes with all that is on it and nothing else.
    stage.switch.vsctl("del-br br1").unwrap();
    assert_eq!(stage.switch.vsctl("list-br").unwrap().trim(), "br0");
    assert_eq!(a.ping("10.1.0.2", 10).unwrap(), 10);
}

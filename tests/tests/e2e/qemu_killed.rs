//! QEMU dies under load: the switch and the other ports carry on, and the next QEMU can use the port.

use tests::guest::Socket;
use tests::netns::Netns;

use crate::stage::{PATIENCE, Stage};

#[test]
fn the_switch_survives_a_killed_qemu_and_the_port_is_usable_again() {
    let stage = Stage::open();
    let host = Netns::new(&stage.lab).unwrap();
    stage.tap_port("br0", "t", &host, "10.1.0.100/24");
    let listening = stage.vhost_port("vma", Socket::SwitchListens, 0xa);
    let connecting = stage.vhost_port("vmb", Socket::QemuListens, 0xb);
    let [mut a, mut b] = stage.guests([(listening.clone(), "10.1.0.1"), (connecting.clone(), "10.1.0.2")]);
    a.reaches("10.1.0.2", PATIENCE).unwrap();
    host.reaches("10.1.0.1", 5).unwrap();

    // Killed while frames for it are on their way.
    let flood = host
        .start("busybox", &["ping", "-q", "-i", "0.01", "10.1.0.1"], &stage.lab.path("flood.log"))
        .unwrap();
    a.kill();
    stage.switch.vsctl_until("get Interface vma link_state", PATIENCE, |t| t.trim() == "down").unwrap();
    host.reaches("10.1.0.2", 5).unwrap();
    assert_eq!(b.ping("10.1.0.100", 10).unwrap(), 10);

    let mut a = stage.guest(listening, "10.1.0.1");
    a.reaches("10.1.0.2", PATIENCE).unwrap();
    host.reaches("10.1.0.1", 5).unwrap();
    drop(flood);

    // The same for the port where QEMU listens: the switch keeps calling until somebody answers.
    b.kill();
    stage.switch.vsctl_until("get Interface vmb link_state", PATIENCE, |t| t.trim() == "down").unwrap();
    assert_eq!(a.ping("10.1.0.100", 10).unwrap(), 10);
    let mut b = stage.guest(connecting, "10.1.0.2");
    b.reaches("10.1.0.1", PATIENCE).unwrap();
    b.fetches_intact(&mut a, "10.1.0.1", 4).unwrap();
}

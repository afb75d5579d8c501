//! A guest's kernel restarts: the driver leaves without good-bye and comes back on the same connection.

use tests::guest::Socket;

use crate::stage::{PATIENCE, Stage};

#[test]
fn traffic_comes_back_after_each_guest_reboot() {
    let stage = Stage::open();
    let cards = [
        (stage.vhost_port("vma", Socket::SwitchListens, 0xa), "10.1.0.1"),
        (stage.vhost_port("vmb", Socket::QemuListens, 0xb), "10.1.0.2"),
    ];
    let [mut a, mut b] = stage.guests(cards);
    a.reaches("10.1.0.2", PATIENCE).unwrap();

    // The peer keeps sending into the port whose guest is away.
    b.run("ping -q -i 0.05 10.1.0.1 >/dev/null 2>&1 &").unwrap();
    for _ in 0..2 {
        a.reboot().unwrap();
        a.wait_ready().unwrap();
        a.address("eth0", "10.1.0.1/24").unwrap();
        a.reaches("10.1.0.2", PATIENCE).unwrap();
    }
    b.run("killall ping").unwrap();
    a.fetches_intact(&mut b, "10.1.0.2", 4).unwrap();

    // The same where QEMU listens.
    b.reboot().unwrap();
    b.wait_ready().unwrap();
    b.address("eth0", "10.1.0.2/24").unwrap();
    a.reaches("10.1.0.2", PATIENCE).unwrap();
    // QEMU said so each time.
    let resets = |port: &str| stage.switch.log().matches(&format!("{port}: the front-end resets")).count();
    assert!(resets("vma") >= 2 && resets("vmb") >= 1, "{}", stage.switch.log());
}

//! `kill -9 vswitchd` while guests run: after a restart on the same run folder the configuration is back and traffic
//! resumes, with neither guest touched.

use tests::guest::Socket;

use crate::stage::{PATIENCE, Stage};

#[test]
fn guests_live_on_when_the_switch_is_killed_and_restarted() {
    let mut stage = Stage::open();
    let cards = [
        (stage.vhost_port("vma", Socket::SwitchListens, 0xa), "10.1.0.1"),
        (stage.vhost_port("vmb", Socket::QemuListens, 0xb), "10.1.0.2"),
    ];
    let [mut a, mut b] = stage.guests(cards);
    a.reaches("10.1.0.2", PATIENCE).unwrap();
    let ports = stage.switch.vsctl("list-ports br0").unwrap();

    for _ in 0..3 {
        // Traffic both ways at the moment of death, and all the while.
        a.run("ping -q -i 0.02 10.1.0.2 >/dev/null 2>&1 &").unwrap();
        stage.switch.kill();
        assert!(b.is_cut_off("10.1.0.1", 3).unwrap(), "traffic without a switch?");
        stage.switch.restart().unwrap();
        assert_eq!(stage.switch.vsctl("list-ports br0").unwrap(), ports);
        a.run("killall ping").unwrap();
        a.reaches("10.1.0.2", PATIENCE).unwrap();
        b.reaches("10.1.0.1", PATIENCE).unwrap();
    }
    b.fetches_intact(&mut a, "10.1.0.1", 8).unwrap();
    a.fetches_intact(&mut b, "10.1.0.2", 8).unwrap();

    // And an orderly end: it goes when asked to, and the next start finds everything again.
    assert!(stage.switch.stop(), "vswitchd does not end on SIGTERM; its log: {}", stage.switch.log());
    stage.switch.restart().unwrap();
    a.reaches("10.1.0.2", PATIENCE).unwrap();
}

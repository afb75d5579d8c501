//! `kill -9 vswitchd` while guests run: after a restart on the same run folder the configuration is back and traffic
//! resumes, with neither guest touched. One of the two runs on QEMU 11, which wants an answer to messages that QEMU 10 only says.

use tests::guest::{Guest, Nic, Qemu, Socket};

use crate::stage::{PATIENCE, Stage};

#[test]
fn guests_live_on_when_the_switch_is_killed_and_restarted() {
    let mut stage = Stage::open();
    let cards = [
        (stage.vhost_port("vma", Socket::SwitchListens, 0xa), "10.1.0.1", Qemu::Ten),
        (stage.vhost_port("vmb", Socket::QemuListens, 0xb), "10.1.0.2", Qemu::Eleven),
    ];
    let [mut a, mut b] = stage.guests_on(cards);
    a.reaches("10.1.0.2", PATIENCE).unwrap();
    let ports = stage.switch.vsctl("list-ports br0").unwrap();

    for _ in 0..3 {
        kill_under_traffic(&mut stage, &mut a, &mut b);
        assert_eq!(stage.switch.vsctl("list-ports br0").unwrap(), ports);
    }
    b.fetches_intact(&mut a, "10.1.0.1", 8).unwrap();
    a.fetches_intact(&mut b, "10.1.0.2", 8).unwrap();

    // And an orderly end: it goes when asked to, and the next start finds everything again.
    assert!(stage.switch.stop(), "vswitchd does not end on SIGTERM; its log: {}", stage.switch.log());
    stage.switch.restart().unwrap();
    a.reaches("10.1.0.2", PATIENCE).unwrap();
}

/// QEMU does not know where a packed ring stands and says something: with other back-ends the ring stalls.
#[test]
fn packed_rings_live_on_too() {
    let mut stage = Stage::open();
    let packed = |nic: Nic, queues| Nic { properties: "packed=on".into(), queues, ..nic };
    let cards = [
        (packed(stage.vhost_port("vma", Socket::SwitchListens, 0xa), 1), "10.1.0.1", Qemu::Eleven),
        (packed(stage.vhost_port("vmb", Socket::QemuListens, 0xb), 2), "10.1.0.2", Qemu::Ten),
    ];
    let [mut a, mut b] = stage.guests_on(cards);
    b.run("ethtool -L eth0 combined 2").unwrap();
    a.reaches("10.1.0.2", PATIENCE).unwrap();
    for port in ["vma", "vmb"] {
        let features = stage.switch.vsctl(&format!("get Interface {port} status:features")).unwrap();
        let features = u64::from_str_radix(features.trim().trim_matches('"').trim_start_matches("0x"), 16);
        assert!(features.unwrap() >> 34 & 1 == 1, "{port} has no packed rings");
    }

    kill_under_traffic(&mut stage, &mut a, &mut b);
    // An orderly end does not ask QEMU for positions either.
    assert!(stage.switch.stop());
    stage.switch.restart().unwrap();
    a.reaches("10.1.0.2", PATIENCE).unwrap();

    // A guest that starts anew while there is no switch has other rings, maybe in the same places.
    stage.switch.kill();
    b.reboot().unwrap();
    b.wait_ready().unwrap();
    stage.switch.restart().unwrap();
    b.address("eth0", "10.1.0.2/24").unwrap();
    a.reaches("10.1.0.2", PATIENCE).unwrap();
    b.fetches_intact(&mut a, "10.1.0.1", 8).unwrap();
    a.fetches_intact(&mut b, "10.1.0.2", 8).unwrap();
}

/// Kills the switch with traffic both ways at that moment and all the while, and starts it again.
fn kill_under_traffic(stage: &mut Stage, a: &mut Guest, b: &mut Guest) {
    a.run("ping -q -i 0.02 10.1.0.2 >/dev/null 2>&1 &").unwrap();
    stage.switch.kill();
    assert!(b.is_cut_off("10.1.0.1", 3).unwrap(), "traffic without a switch?");
    stage.switch.restart().unwrap();
    a.reaches("10.1.0.2", PATIENCE).unwrap();
    b.reaches("10.1.0.1", PATIENCE).unwrap();
    a.run("killall ping").unwrap();
}

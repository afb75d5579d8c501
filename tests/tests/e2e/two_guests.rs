//! Two guests on one bridge: ping, TCP both ways, and what the switch reports about them.

use pmd::virtio::features::VIRTIO_F_RING_PACKED;
use tests::guest::{Nic, Qemu, Socket};

use crate::stage::{PATIENCE, Stage};

#[test]
fn ping_and_tcp_where_the_switch_listens() {
    ping_and_tcp(Socket::SwitchListens, "", Qemu::Ten);
}

#[test]
fn ping_and_tcp_where_qemu_11_listens() {
    ping_and_tcp(Socket::QemuListens, "", Qemu::Eleven);
}

#[test]
fn ping_and_tcp_through_packed_rings() {
    ping_and_tcp(Socket::SwitchListens, "packed=on", Qemu::Ten);
}

/// The second guest always has split rings.
fn ping_and_tcp(socket: Socket, properties: &str, qemu: Qemu) {
    let stage = Stage::open();
    let first = Nic { properties: properties.to_owned(), ..stage.vhost_port("vma", socket, 0xa) };
    let second = stage.vhost_port("vmb", socket, 0xb);
    let [mut a, mut b] = stage.guests_on([(first, "10.1.0.1", qemu), (second, "10.1.0.2", qemu)]);
    let features = stage.switch.vsctl("get Interface vma status:features").unwrap();
    let features = u64::from_str_radix(features.trim().trim_matches('"').trim_start_matches("0x"), 16);
    assert_eq!(features.unwrap() & VIRTIO_F_RING_PACKED != 0, properties.contains("packed=on"));

    a.reaches("10.1.0.2", PATIENCE).unwrap();
    assert_eq!(a.ping("10.1.0.2", 20).unwrap(), 20);
    assert_eq!(b.ping("10.1.0.1", 20).unwrap(), 20);

    b.fetches_intact(&mut a, "10.1.0.1", 16).unwrap();
    a.fetches_intact(&mut b, "10.1.0.2", 16).unwrap();

    b.serve_iperf().unwrap();
    let forth = a.tcp_rate("10.1.0.2", 3, false).unwrap();
    let back = a.tcp_rate("10.1.0.2", 3, true).unwrap();
    println!(
        "TCP between two guests, QEMU {qemu:?}, {socket:?} {properties}: {forth} Mbit/s there, {back} Mbit/s back"
    );

    // A frame larger than one descriptor's worth and not a multiple of anything.
    a.run("ping -c 3 -s 1471 10.1.0.2").unwrap();

    for port in ["vma", "vmb"] {
        assert_eq!(stage.switch.vsctl(&format!("get Interface {port} link_state")).unwrap().trim(), "up");
    }
    stage
        .switch
        .vsctl_until("fdb show br0", PATIENCE, |t| {
            t.contains("52:54:00:00:00:0a") && t.contains("52:54:00:00:00:0b")
        })
        .unwrap();
    // Statistics are written to the database now and then, not per packet.
    stage
        .switch
        .vsctl_until("get Interface vmb statistics:tx_bytes", PATIENCE, |t| {
            t.trim().parse::<u64>().is_ok_and(|bytes| bytes > 16 << 20)
        })
        .unwrap();
}

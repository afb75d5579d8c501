//! Offloads between real kernels: what passes whole, what is cut or merged here, and both changed while TCP runs.

use std::fs;
use std::net::UdpSocket;
use std::os::fd::AsFd as _;
use std::thread;

use pmd::sys::udp;
use pmd::virtio::features::{VIRTIO_NET_F_GUEST_UFO, VIRTIO_NET_F_HOST_UFO};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tests::guest::{Guest, Nic, Socket, receiver_rate};
use tests::netns::Netns;

use crate::stage::{PATIENCE, Stage};

/// A counter of an interface, as the switch has written it to the database last.
fn counter(stage: &Stage, port: &str, name: &str) -> u64 {
    let text = stage.switch.vsctl(&format!("--if-exists get Interface {port} statistics:{name}")).unwrap();
    text.trim().parse().unwrap_or(0)
}

/// Waits until a counter of an interface is beyond `than`.
fn await_more(stage: &Stage, port: &str, name: &str, than: u64) {
    let grown = |text: &str| text.trim().parse::<u64>().is_ok_and(|n| n > than);
    stage.switch.vsctl_until(&format!("get Interface {port} statistics:{name}"), PATIENCE, grown).unwrap();
}

/// Bytes per frame that a namespace's device received or sent between two looks, and the last look.
struct Sizes<'a> {
    host: &'a Netns<'a>,
    device: &'a str,
    before: [(u64, u64); 2],
}

impl Sizes<'_> {
    fn look(host: &Netns<'_>, device: &str) -> [(u64, u64); 2] {
        let text = host.ip(&["-s", "link", "show", device]).unwrap();
        ["RX:", "TX:"].map(|direction| {
            let line = text.lines().skip_while(|l| !l.trim_start().starts_with(direction)).nth(1).unwrap();
            let numbers: Vec<u64> = line.split_whitespace().map_while(|w| w.parse().ok()).collect();
            (numbers[0], numbers[1])
        })
    }

    fn of<'a>(host: &'a Netns<'a>, device: &'a str) -> Sizes<'a> {
        Sizes { host, device, before: Sizes::look(host, device) }
    }

    /// Mean length of the frames that came in, and of those that went out.
    fn means(&mut self) -> [u64; 2] {
        let before = std::mem::replace(&mut self.before, Sizes::look(self.host, self.device));
        [0, 1].map(|i| (self.before[i].0 - before[i].0) / (self.before[i].1 - before[i].1).max(1))
    }
}

#[test]
fn a_tap_is_switched_while_tcp_runs() {
    let stage = Stage::open();
    let (one, two) = (Netns::new(&stage.lab).unwrap(), Netns::new(&stage.lab).unwrap());
    let tap = stage.tap_port("br0", "t", &one, "10.1.0.1/24");
    let other = stage.tap_port("br0", "u", &two, "10.1.0.2/24");
    stage.switch.vsctl("set Open_vSwitch . other_config:stats-update-interval=200").unwrap();
    one.reaches("10.1.0.2", 20).unwrap();
    let server = two.serve_iperf3(&stage.lab.path("iperf.log")).unwrap();
    let client = ["-c", "10.1.0.2", "-t", "600", "-i", "0"];
    let load = one.start("iperf3", &client, &stage.lab.path("client.log")).unwrap();

    let set = |port: &str, options: &str| {
        stage.switch.vsctl(&format!("set Interface {port} options={{{options}}}")).unwrap();
    };
    let status = |port: &str, key: &str| {
        stage
            .switch
            .vsctl(&format!("get Interface {port} status:{key}"))
            .unwrap()
            .trim()
            .trim_matches('"')
            .to_owned()
    };
    let (mut sent, mut received) = (Sizes::of(&one, &tap), Sizes::of(&two, &other));
    // A look over the next megabytes, once the setting is in force.
    let mut next = |stage: &Stage| {
        for megabytes in [4u64, 32] {
            let from = counter(stage, &other, "tx_bytes");
            await_more(stage, &other, "tx_bytes", from + (megabytes << 20));
            if megabytes == 4 {
                sent.means();
                received.means();
            }
        }
        (sent.means()[1], received.means()[0])
    };

    let (out, inward) = next(&stage);
    assert!(out > 20_000 && inward > 20_000, "large frames pass: {out} bytes sent, {inward} received");
    assert_eq!(counter(&stage, &other, "tx_sw_gso_packets"), 0);

    // The receiver's port takes none any more: the switch cuts.
    set(&other, "tso=false");
    assert_eq!(status(&other, "tx_tcp_seg_offload"), "false");
    let (out, inward) = next(&stage);
    assert!(out > 20_000 && inward < 1515, "the switch cuts: {out} bytes sent, {inward} received");
    await_more(&stage, &other, "tx_sw_gso_segments", 1000);

    // And without checksums it completes those, too.
    set(&other, "csum=false");
    let (_, inward) = next(&stage);
    assert!(inward < 1515, "{inward} bytes received");
    await_more(&stage, &other, "tx_sw_csum_packets", 0);

    // The sender's kernel cuts, and what comes in small is merged.
    set(&other, "");
    set(&tap, "tso=false");
    let (out, inward) = next(&stage);
    assert!(out < 1515 && inward > 2 * out, "merged: {out} bytes sent, {inward} received");
    let merged = [counter(&stage, &other, "tx_sw_gro_packets"), counter(&stage, &other, "tx_sw_gro_frames")];
    assert!(merged[0] > 2 * merged[1] && merged[1] > 100, "{merged:?} packets and frames");

    // Unless it is not to be.
    set(&tap, "tso=false,gro=false");
    let (out, inward) = next(&stage);
    assert!(out < 1515 && inward < 1515, "as it came: {out} bytes sent, {inward} received");

    set(&tap, "");
    let (out, inward) = next(&stage);
    assert!(out > 20_000 && inward > 20_000, "large frames again: {out} bytes sent, {inward} received");
    let shown = stage.switch.vsctl(&format!("stats {other}")).unwrap();
    assert!(shown.contains("tx_sw_gso_segments") && shown.contains("tso"), "{shown}");
    drop((load, server));
}

#[test]
fn guests_with_and_without_large_frames() {
    let stage = Stage::open();
    let host = Netns::new(&stage.lab).unwrap();
    stage.tap_port("br0", "t", &host, "10.1.0.100/24");
    stage.switch.vsctl("set Open_vSwitch . other_config:stats-update-interval=200").unwrap();
    // QEMU 10 masks USO for vhost-user, so UFO is the UDP offload a Linux guest can get.
    let plain = "host_tso4=off,host_tso6=off,host_ufo=off,guest_tso4=off,guest_tso6=off,guest_ufo=off";
    let first = Nic { properties: plain.into(), ..stage.vhost_port("vma", Socket::SwitchListens, 0xa) };
    let cards = [(first, "10.1.0.1"), (stage.vhost_port("vmb", Socket::SwitchListens, 0xb), "10.1.0.2")];
    let [mut a, mut b] = stage.guests(cards);
    let features = stage.switch.vsctl("get Interface vmb status:features").unwrap();
    let features =
        u64::from_str_radix(features.trim().trim_matches('"').trim_start_matches("0x"), 16).unwrap();
    assert!(features & VIRTIO_NET_F_HOST_UFO != 0 && features & VIRTIO_NET_F_GUEST_UFO != 0, "{features:#x}");
    a.reaches("10.1.0.2", PATIENCE).unwrap();

    // From the guest without TSO: small frames, merged on the way to the other.
    a.fetches_intact(&mut b, "10.1.0.2", 8).unwrap();
    b.fetches_intact(&mut a, "10.1.0.1", 8).unwrap();
    await_more(&stage, "vmb", "tx_sw_gro_frames", 0);
    await_more(&stage, "vma", "tx_sw_gso_packets", 0);
    let [packets, frames] =
        ["tx_sw_gro_packets", "tx_sw_gro_frames"].map(|name| counter(&stage, "vmb", name));
    println!("{packets} packets of the guest without TSO arrived as {frames}");
    assert!(packets >= 2 * frames);

    // Datagrams that the host's kernel leaves uncut are cut for the guests: none of them takes USO.
    host.reaches("10.1.0.1", 20).unwrap();
    for (guest, port, address) in [(&mut a, "vma", "10.1.0.1"), (&mut b, "vmb", "10.1.0.2")] {
        // To a port where nobody listens: those with a right checksum are counted as such.
        let before = [udp_counter(guest, "NoPorts"), counter(&stage, port, "tx_sw_gso_segments")];
        send_datagrams(host.name(), address, 30_000, 1000);
        await_more(&stage, port, "tx_sw_gso_segments", before[1] + 29);
        let arrived = (0..200).any(|_| udp_counter(guest, "NoPorts") >= before[0] + 30);
        assert!(arrived, "{} of 30 datagrams", udp_counter(guest, "NoPorts") - before[0]);
        assert_eq!(udp_counter(guest, "InCsumErrors"), 0);
    }
}

/// A counter of UDP in a guest's kernel.
fn udp_counter(guest: &mut Guest, name: &str) -> u64 {
    let text = guest.run("grep ^Udp: /proc/net/snmp").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Udp:")).map(|line| line.split_whitespace());
    let (mut names, mut values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.position(|field| field == name).unwrap();
    values.nth(at).unwrap().parse().unwrap()
}

/// Sends `len` bytes from a namespace to UDP port 700 in datagrams of `size`, which the kernel puts in one frame.
fn send_datagrams(netns: &str, address: &str, len: usize, size: u16) {
    let path = format!("/run/netns/{netns}");
    let target = format!("{address}:700");
    let send = move || {
        let netns = fs::File::open(path).unwrap();
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        udp::set_segment_size(&socket, size).unwrap();
        assert_eq!(socket.send_to(&vec![7; len], target).unwrap(), len);
    };
    thread::spawn(send).join().unwrap();
}

#[test]
fn jumbo_frames_cross_between_guests_and_to_the_host() {
    let stage = Stage::open();
    let host = Netns::new(&stage.lab).unwrap();
    let tap = stage.lab.device("t");
    stage
        .switch
        .vsctl(&format!("add-port br0 {tap} -- set Interface {tap} type=tap mtu_request=9000"))
        .unwrap();
    host.adopt(&tap, "10.1.0.100/24").unwrap();
    let cards = [
        (stage.vhost_port("vma", Socket::SwitchListens, 0xa), "10.1.0.1"),
        (stage.vhost_port("vmb", Socket::SwitchListens, 0xb), "10.1.0.2"),
    ];
    let [mut a, mut b] = stage.guests(cards);
    for guest in [&mut a, &mut b] {
        guest.run("ip link set eth0 mtu 9000").unwrap();
    }
    a.reaches("10.1.0.2", PATIENCE).unwrap();
    // Not before both ports allow it.
    let (status, _) = a.try_run("ping -c 1 -W 1 -s 8972 10.1.0.2", PATIENCE).unwrap();
    assert_ne!(status, 0);
    for port in ["vma", "vmb"] {
        stage.switch.vsctl(&format!("set Interface {port} mtu_request=9000")).unwrap();
    }
    for address in ["10.1.0.2", "10.1.0.100"] {
        a.run(&format!("ping -c 5 -i 0.2 -W 2 -s 8972 {address} | grep ' 5 packets received'")).unwrap();
    }
    host.run("busybox", &["ping", "-c", "3", "-W", "2", "-s", "8972", "10.1.0.1"]).unwrap();
    a.fetches_intact(&mut b, "10.1.0.2", 8).unwrap();
    // Jumbo frames that are not segmented, there and back.
    a.run("ethtool -K eth0 tso off gso off").unwrap();
    b.run("ethtool -K eth0 tso off gso off").unwrap();
    a.fetches_intact(&mut b, "10.1.0.2", 8).unwrap();
    let server = host.serve_iperf3(&stage.lab.path("iperf.log")).unwrap();
    assert!(a.tcp_rate("10.1.0.100", 1, false).unwrap() > 0.0);
    drop(server);
    a.serve_iperf().unwrap();
    let report = host.run("iperf3", &["-c", "10.1.0.1", "-t", "1", "-i", "0", "-f", "m"]).unwrap();
    assert!(receiver_rate(&report).is_some(), "{report}");
}

//! Ports on network devices that the kernel keeps: two namespaces talk through the switch over veth pairs.

use std::time::Instant;

use tests::lab::Lab;
use tests::switch::Vswitchd;

use crate::host::Host;
use crate::stage::{PATIENCE, Stage};

/// Descriptors and threads of the switch.
fn holdings(switch: &mut Vswitchd) -> (usize, usize) {
    let pid = switch.process().unwrap().pid();
    let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    (count("fd"), count("task"))
}

/// Times a port is removed and added again.
const ROUNDS: usize = 10;

/// Removes and adds the port again and again: nothing is left of one that has gone.
fn nothing_is_left_behind(switch: &mut Vswitchd, device: &str, settings: &str) {
    let flap = |switch: &Vswitchd| {
        switch.vsctl(&format!("del-port {device}")).unwrap();
        switch.vsctl(&format!("add-port br0 {device} -- set Interface {device} {settings}")).unwrap();
    };
    flap(switch);
    let before = holdings(switch);
    for _ in 0..ROUNDS {
        flap(switch);
    }
    // A descriptor or two come and go with the clients; one left per round would be more.
    let now = holdings(switch);
    assert!(now.0 < before.0 + ROUNDS / 2 && now.1 < before.1 + ROUNDS / 2, "{now:?} after {before:?}");
}

#[test]
fn namespaces_talk_over_packet_sockets() {
    let Stage { mut switch, lab } = Stage::open();
    let (a, b) = (Host::new(&lab, "a", "10.1.0.1"), Host::new(&lab, "b", "10.1.0.2"));
    // No type means a device of the kernel, as in Open vSwitch.
    switch.vsctl(&format!("add-port br0 {}", a.device)).unwrap();
    let settings = "type=afpacket options:n_rxq=2 options:qdisc-bypass=true";
    switch.vsctl(&format!("add-port br0 {0} -- set Interface {0} {settings}", b.device)).unwrap();
    a.netns.reaches("10.1.0.2", 20).unwrap();
    a.exchange(&b);
    // Segments crossed whole: the mean frame is longer than any wire takes.
    let received = format!("get Interface {} statistics:rx_packets", a.device);
    switch.vsctl_until(&received, PATIENCE, |t| t.trim().parse::<u64>().is_ok_and(|n| n > 100)).unwrap();
    let statistic = |counter: &str| switch.statistic(&a.device, counter).unwrap();
    let mean = statistic("rx_bytes") / statistic("rx_packets");
    assert!(mean > 3000, "frames of {mean} bytes on average");

    // The link goes and comes; the device goes and another of its name comes.
    let link = |host: &Host<'_>, wanted: &str| {
        let query = format!("get Interface {} link_state", host.device);
        switch.vsctl_until(&query, PATIENCE, |t| t.trim() == wanted).unwrap();
    };
    b.netns.ip(&["link", "set", "eth0", "down"]).unwrap();
    link(&b, "down");
    b.netns.ip(&["link", "set", "eth0", "up"]).unwrap();
    link(&b, "up");
    a.netns.reaches("10.1.0.2", 20).unwrap();
    a.unplug();
    let error = format!("get Interface {} error", a.device);
    switch.vsctl_until(&error, PATIENCE, |t| t.contains(&a.device)).unwrap();
    a.plug();
    link(&a, "up");
    a.netns.reaches("10.1.0.2", 20).unwrap();

    nothing_is_left_behind(&mut switch, &b.device, "options:n_rxq=3");
    a.netns.reaches("10.1.0.2", 20).unwrap();
}

/// Whether a program is attached to a device of the machine.
fn has_program(lab: &Lab, device: &str) -> bool {
    lab.run("ip", &["link", "show", "dev", device]).unwrap().contains("prog/xdp")
}

#[test]
fn the_switch_takes_its_share_of_a_device_and_the_kernel_keeps_the_rest() {
    let Stage { mut switch, lab } = Stage::open();
    let (a, b) = (Host::new(&lab, "a", "10.1.0.1"), Host::new(&lab, "b", "10.1.0.2"));
    for host in [&a, &b] {
        // Nothing completes a checksum on this way.
        host.netns.run("ethtool", &["-K", "eth0", "tx", "off"]).unwrap();
        let device = &host.device;
        switch.vsctl(&format!("add-port br0 {device} -- set Interface {device} type=afxdp")).unwrap();
    }
    let in_use = format!("get Interface {} status:xdp-mode-in-use", a.device);
    assert_eq!(switch.vsctl_until(&in_use, PATIENCE, |_| true).unwrap().trim(), "native");
    a.netns.reaches("10.1.0.2", 20).unwrap();
    a.exchange(&b);

    // With a filter the machine itself is on the same wire: it is reached by its address on the device, the other host as before.
    let mac = |host: &Host<'_>| {
        let text = host.netns.run("busybox", &["cat", "/sys/class/net/eth0/address"]).unwrap();
        text.trim().to_owned()
    };
    let (mac_a, mac_b) = (mac(&a), mac(&b));
    a.netns
        .ip(&["neigh", "replace", "10.1.0.2", "lladdr", &mac_b, "dev", "eth0", "nud", "permanent"])
        .unwrap();
    b.netns
        .ip(&["neigh", "replace", "10.1.0.1", "lladdr", &mac_a, "dev", "eth0", "nud", "permanent"])
        .unwrap();
    let filter = format!("set Interface {} options:xdp-filter=\"mac={mac_b},udp=4789\"", a.device);
    switch.vsctl(&filter).unwrap();
    lab.run("ip", &["addr", "add", "10.1.9.9/24", "dev", &a.device]).unwrap();
    a.netns.ip(&["addr", "add", "10.1.9.1/24", "dev", "eth0"]).unwrap();
    a.netns.reaches("10.1.9.9", 20).unwrap();
    a.netns.reaches("10.1.0.2", 20).unwrap();
    a.exchange(&b);
    a.netns.run("busybox", &["ping", "-c", "5", "-W", "2", "10.1.9.9"]).unwrap();

    nothing_is_left_behind(&mut switch, &b.device, "type=afxdp options:xdp-mode=generic");
    a.netns.reaches("10.1.0.2", 20).unwrap();
    // The program goes with its port, and with the switch however that ends.
    assert!(has_program(&lab, &a.device) && has_program(&lab, &b.device));
    switch.vsctl(&format!("del-port {}", b.device)).unwrap();
    assert!(has_program(&lab, &a.device) && !has_program(&lab, &b.device));
    switch.kill();
    let deadline = Instant::now() + PATIENCE;
    while has_program(&lab, &a.device) {
        assert!(Instant::now() < deadline, "a program is left on {}", a.device);
        std::thread::yield_now();
    }
    switch.restart().unwrap();
    a.netns.reaches("10.1.9.9", 20).unwrap();
}

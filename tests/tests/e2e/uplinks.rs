//! Another switch's vhost-user port as uplink: our own, and DPDK's `net_vhost`, a device nobody here wrote.

use tests::switch::Vswitchd;
use tests::testpmd::Testpmd;

use crate::host::Host;
use crate::stage::{PATIENCE, Stage};

fn connected(switch: &Vswitchd, port: &str) {
    let query = format!("get Interface {port} status:status");
    switch.vsctl_until(&query, PATIENCE, |text| text.trim() == "connected").unwrap();
}

#[test]
fn two_switches_are_joined_and_one_of_them_is_killed() {
    let Stage { switch, lab } = Stage::open();
    let mut other = Vswitchd::start_beside(&lab, "another").unwrap();
    let (a, b) = (Host::new(&lab, "a", "10.1.0.1"), Host::new(&lab, "b", "10.1.0.2"));
    other.vsctl("add-br br9").unwrap();
    other.vsctl("add-port br9 down -- set Interface down type=vhost-user").unwrap();
    other.vsctl(&format!("add-port br9 {}", b.device)).unwrap();
    switch.vsctl(&format!("add-port br0 {}", a.device)).unwrap();
    let path = other.rundir().join("down");
    let settings =
        format!("type=virtio-user options:packed=true options:n_rxq=2 options:path={}", path.display());
    switch.vsctl(&format!("add-port br0 up -- set Interface up {settings}")).unwrap();
    connected(&switch, "up");
    a.netns.reaches("10.1.0.2", 20).unwrap();
    a.exchange(&b);
    // Large frames cross the uplink as they are.
    let received = "get Interface up statistics:tx_packets";
    switch.vsctl_until(received, PATIENCE, |t| t.trim().parse::<u64>().is_ok_and(|n| n > 1000)).unwrap();
    let mean = switch.statistic("up", "tx_bytes").unwrap() / switch.statistic("up", "tx_packets").unwrap();
    assert!(mean > 3000, "frames of {mean} bytes on average");

    other.kill();
    switch.vsctl_until("get Interface up link_state", PATIENCE, |t| t.trim() == "down").unwrap();
    other.restart().unwrap();
    connected(&switch, "up");
    a.netns.reaches("10.1.0.2", 20).unwrap();
}

#[test]
fn dpdk_at_the_other_end_of_two_uplinks() {
    let Stage { switch, lab } = Stage::open();
    let (a, b) = (Host::new(&lab, "a", "10.1.0.1"), Host::new(&lab, "b", "10.1.0.2"));
    switch.vsctl("add-br br1").unwrap();
    // One listens and one connects; rings of either kind. testpmd joins the two.
    let sockets = ["up0", "up1"].map(|name| lab.path(name).display().to_string());
    let ports = [("br0", &a, "up0", "packed=true"), ("br1", &b, "up1", "server=true")];
    for ((bridge, host, name, option), path) in ports.into_iter().zip(&sockets) {
        switch.vsctl(&format!("add-port {bridge} {}", host.device)).unwrap();
        // testpmd passes frames on but not what their headers ask for, so there shall be nothing to ask.
        let settings = format!("type=virtio-user options:{option} options:csum=false options:path={path}");
        switch.vsctl(&format!("add-port {bridge} {name} -- set Interface {name} {settings}")).unwrap();
    }
    let devices = [
        format!("net_vhost0,iface={},queues=1", sockets[0]),
        format!("net_vhost1,iface={},queues=1,client=1", sockets[1]),
    ];
    let arguments = ["--forward-mode=io", "--auto-start"];
    let first = Testpmd::start(&lab, "backend", "0@0,1@0", &devices, &arguments).unwrap();
    for name in ["up0", "up1"] {
        connected(&switch, name);
    }
    a.netns.reaches("10.1.0.2", 20).unwrap();
    a.exchange(&b);
    let rings = |name: &str| switch.vsctl(&format!("get Interface {name} status:rings")).unwrap();
    assert_eq!((rings("up0").trim(), rings("up1").trim()), ("packed", "split"));

    // It goes, another comes: both kinds of uplink find it.
    drop(first);
    // DPDK does not listen where a file is.
    std::fs::remove_file(&sockets[0]).unwrap();
    switch.vsctl_until("get Interface up0 link_state", PATIENCE, |t| t.trim() == "down").unwrap();
    let _second = Testpmd::start(&lab, "backend2", "0@0,1@0", &devices, &arguments).unwrap();
    for name in ["up0", "up1"] {
        connected(&switch, name);
    }
    a.netns.reaches("10.1.0.2", 20).unwrap();
}

//! Rules given by `vsctl add-flow` act on traffic that is already flowing, and their counters say so.

use tests::guest::Socket;
use tests::netns::Netns;

use crate::stage::{PATIENCE, Stage};

#[test]
fn rules_drop_count_and_redirect_live_traffic() {
    let stage = Stage::open();
    let switch = &stage.switch;
    let cards = [
        (stage.vhost_port("vma", Socket::SwitchListens, 0xa), "10.1.0.1"),
        (stage.vhost_port("vmb", Socket::SwitchListens, 0xb), "10.1.0.2"),
    ];
    let [mut a, mut b] = stage.guests(cards);
    let rule = |rule: &str| switch.vsctl_with(&["add-flow", "br0", rule]).unwrap();
    a.reaches("10.1.0.2", PATIENCE).unwrap();
    b.serve_iperf().unwrap();

    // Drop ICMP only: a flow that has been cached already must stop, TCP must not.
    rule("priority=100,icmp,in_port=vma,actions=drop");
    assert!(a.is_cut_off("10.1.0.2", 5).unwrap(), "ICMP passes although a rule drops it");
    a.tcp_rate("10.1.0.2", 1, false).unwrap();
    let listed = switch
        .vsctl_until("dump-flows br0", PATIENCE, |t| t.lines().any(|l| l.contains("icmp") && counted(l) >= 5))
        .unwrap();
    assert!(listed.lines().any(|l| l.contains("priority=100")), "{listed}");

    switch.vsctl_with(&["del-flows", "br0", "icmp"]).unwrap();
    a.reaches("10.1.0.2", PATIENCE).unwrap();

    // Redirect what a sends to b into a namespace that looks exactly like b.
    let decoy = Netns::new(&stage.lab).unwrap();
    let tap = stage.tap_port("br0", "d", &decoy, "10.1.0.2/32");
    decoy.ip(&["link", "set", &tap, "down"]).unwrap();
    decoy.ip(&["link", "set", &tap, "address", "52:54:00:00:00:0b"]).unwrap();
    decoy.ip(&["link", "set", &tap, "up"]).unwrap();
    decoy.ip(&["route", "add", "10.1.0.1/32", "dev", &tap]).unwrap();
    decoy.ip(&["neigh", "replace", "10.1.0.1", "lladdr", "52:54:00:00:00:0a", "dev", &tap]).unwrap();
    rule(&format!("priority=200,ip,in_port=vma,nw_dst=10.1.0.2,actions=output:{tap}"));
    rule(&format!("priority=200,ip,in_port={tap},actions=output:vma"));
    b.run("ip link set eth0 down").unwrap();
    a.reaches("10.1.0.2", PATIENCE).unwrap();
    b.run("ip link set eth0 up").unwrap();

    // Without rules it is an ordinary learning switch again.
    switch.vsctl_with(&["del-port", "br0", &tap]).unwrap();
    switch.vsctl_with(&["del-flows", "br0"]).unwrap();
    switch.vsctl_with(&["add-flow", "br0", "priority=0,actions=normal"]).unwrap();
    b.reaches("10.1.0.1", PATIENCE).unwrap();
}

/// The packet counter of a line of `dump-flows`.
fn counted(line: &str) -> u64 {
    line.split("n_packets=").nth(1).and_then(|t| t.split([',', ' ']).next()?.parse().ok()).unwrap_or(0)
}

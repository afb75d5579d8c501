//! TCP by iperf3: between two emulated guests, and between two network namespaces, where the Linux bridge and the user-space
//! datapath of Open vSwitch are the other contestants, the latter with both kinds of ports an operator would give it. Beside them stands
//! a bare relay ([`crate::relaying`]): how much of the number two copies in one thread are.
//!
//! A guest without KVM is slower than any switch: its row is there to see regressions, not to compare.

use tests::failure::{Failure, Result};
use tests::guest::receiver_rate;
use tests::lab::Lab;
use tests::netns::Netns;
use tests::ovs::OpenVswitch;
use tests::switch::Vswitchd;

use crate::Bench;
use crate::idle::two_guests;
use crate::relaying::Relay;
use crate::report::{Report, Table};

/// Length of one transfer, seconds.
const TRANSFER: u32 = 5;
/// Addresses of the two namespaces.
const ADDRESSES: [&str; 2] = ["10.2.0.1", "10.2.0.2"];

/// Measures the row.
pub(crate) fn tcp(bench: &Bench, report: &mut Report) -> Result<()> {
    report.push(guests(bench)?);
    report.push(namespaces(bench)?);
    Ok(())
}

fn guests(bench: &Bench) -> Result<Table> {
    let (_switch, [mut first, mut second]) = two_guests(bench)?;
    let mut table = Table::new("TCP between two guests under software emulation", "Mbit/s");
    second.serve_iperf()?;
    for _ in 0..bench.rounds {
        table.add("vswitchd", first.tcp_rate("10.1.0.2", TRANSFER, false)?);
        table.add("vswitchd, reverse", first.tcp_rate("10.1.0.2", TRANSFER, true)?);
    }
    table.remark("the guests share the two processors with the switch: they are the limit");
    Ok(table)
}

/// Names of the series.
const OURS: &str = "vswitchd, TAP ports";
/// What no user-space switch can exceed between TAP devices.
const BARE: &str = "nothing but reading and writing, TAP devices";
const BRIDGE: &str = "Linux bridge, veth pairs";
const OVS_TAP: &str = "OVS netdev, TAP ports";
const OVS_VETH: &str = "OVS netdev, veth pairs";

fn namespaces(bench: &Bench) -> Result<Table> {
    let lab = &bench.lab;
    let mut table = Table::new("TCP between two network namespaces", "Mbit/s");
    for _ in 0..bench.rounds {
        table.add(OURS, through_switch(lab)?);
        table.add(BARE, through_relay(lab)?);
        table.add(BRIDGE, through_bridge(lab)?);
        if bench.peers {
            table.add(OVS_TAP, through_ovs(lab, Devices::Tap)?);
            table.add(OVS_VETH, through_ovs(lab, Devices::Veth)?);
        }
    }
    table.compare(OURS, BRIDGE);
    table.compare(OURS, BARE);
    table.compare(BARE, BRIDGE);
    if bench.peers {
        table.compare(OURS, OVS_TAP);
        table.compare(OURS, OVS_VETH);
        table.remark("OVS without DPDK, userspace-tso-enable=true: its main thread serves kernel devices, and sleeps as ours");
    }
    table.remark("the bridge passes buffers from socket to socket inside the kernel; a TAP copies each byte out and in");
    Ok(table)
}

/// How Open vSwitch reaches the namespaces.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Devices {
    /// Interfaces of `type=tap`.
    Tap,
    /// Interfaces of `type=system`: one end of a pair, by a packet socket.
    Veth,
}

fn through_ovs(lab: &Lab, devices: Devices) -> Result<f64> {
    let (left, right) = (Netns::new(lab)?, Netns::new(lab)?);
    let ovs = OpenVswitch::start_without_dpdk(lab, true)?;
    for ((netns, address), role) in [&left, &right].into_iter().zip(ADDRESSES).zip(["a", "b"]) {
        let (device, address) = (lab.device(role), format!("{address}/24"));
        match devices {
            Devices::Tap => {
                ovs.vsctl(&["add-port", "br0", &device, "--", "set", "Interface", &device, "type=tap"])?;
                netns.adopt(&device, &address)?;
            }
            Devices::Veth => {
                netns.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", &device])?;
                netns.ip(&["link", "set", &device, "netns", &std::process::id().to_string()])?;
                lab.run("ip", &["link", "set", &device, "up"])?;
                netns.ip(&["addr", "add", &address, "dev", "eth0"])?;
                netns.ip(&["link", "set", "eth0", "up"])?;
                ovs.vsctl(&["add-port", "br0", &device])?;
            }
        }
    }
    transfer(lab, &left, &right)
}

fn through_switch(lab: &Lab) -> Result<f64> {
    let (left, right) = (Netns::new(lab)?, Netns::new(lab)?);
    let _ = std::fs::remove_dir_all(lab.path("run"));
    let switch = Vswitchd::start(lab)?;
    switch.vsctl("add-br br0")?;
    for ((netns, address), role) in [&left, &right].into_iter().zip(ADDRESSES).zip(["a", "b"]) {
        let device = lab.device(role);
        switch.vsctl(&format!("add-port br0 {device} -- set Interface {device} type=tap"))?;
        netns.adopt(&device, &format!("{address}/24"))?;
    }
    transfer(lab, &left, &right)
}

fn through_relay(lab: &Lab) -> Result<f64> {
    let (left, right) = (Netns::new(lab)?, Netns::new(lab)?);
    let devices = ["a", "b"].map(|role| lab.device(role));
    let _relay = Relay::start([&devices[0], &devices[1]])?;
    for ((netns, address), device) in [&left, &right].into_iter().zip(ADDRESSES).zip(&devices) {
        netns.adopt(device, &format!("{address}/24"))?;
    }
    transfer(lab, &left, &right)
}

fn through_bridge(lab: &Lab) -> Result<f64> {
    let (left, right, middle) = (Netns::new(lab)?, Netns::new(lab)?, Netns::new(lab)?);
    middle.ip(&["link", "add", "br0", "type", "bridge"])?;
    middle.ip(&["link", "set", "br0", "up"])?;
    for ((netns, address), port) in [&left, &right].into_iter().zip(ADDRESSES).zip(["v0", "v1"]) {
        let address = format!("{address}/24");
        netns.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", middle.name()])?;
        netns.ip(&["addr", "add", &address, "dev", "eth0"])?;
        netns.ip(&["link", "set", "eth0", "up"])?;
        middle.ip(&["link", "set", port, "master", "br0", "up"])?;
    }
    transfer(lab, &left, &right)
}

/// Mbit/s from one namespace to the other.
fn transfer(lab: &Lab, left: &Netns<'_>, right: &Netns<'_>) -> Result<f64> {
    left.reaches(ADDRESSES[1], 10)?;
    let log = lab.path("iperf3.log");
    let _ = std::fs::remove_file(&log);
    let _server = right.serve_iperf3(&log)?;
    let seconds = TRANSFER.to_string();
    let output = left.run("iperf3", &["-c", ADDRESSES[1], "-t", &seconds, "-i", "0", "-f", "m"])?;
    receiver_rate(&output).ok_or_else(|| Failure::new(format!("iperf3 shows no receiver rate: {output}")))
}

//! Guest to host through a TAP port: ping, TCP both ways, and whole TSO segments where both ends can take them.

use std::fs;

use tests::guest::{Socket, receiver_rate};
use tests::netns::Netns;

use crate::stage::{PATIENCE, Stage};

#[test]
fn a_guest_and_a_namespace_talk_through_a_tap() {
    let stage = Stage::open();
    let host = Netns::new(&stage.lab).unwrap();
    let tap = stage.tap_port("br0", "t", &host, "10.1.0.100/24");
    let mut guest = stage.guest(stage.vhost_port("vma", Socket::SwitchListens, 0xa), "10.1.0.1");
    guest.reaches("10.1.0.100", PATIENCE).unwrap();
    assert_eq!(guest.ping("10.1.0.100", 20).unwrap(), 20);

    // What arrives is what was sent, in both directions: a wrong checksum or a mangled segment shows here.
    let folder = stage.lab.path("web");
    fs::create_dir(&folder).unwrap();
    let data = folder.join("data").display().to_string();
    let sum = |text: &str| text.split_whitespace().next().unwrap_or_default().to_owned();

    let sent = guest.serve_data(16).unwrap();
    host.run("busybox", &["wget", "-q", "-O", &data, "http://10.1.0.1:9000/data"]).unwrap();
    assert_eq!(sum(&stage.lab.run("busybox", &["md5sum", &data]).unwrap()), sum(&sent));

    let arguments = ["httpd", "-f", "-p", "9000", "-h", &folder.display().to_string()];
    let server = host.start("busybox", &arguments, &stage.lab.path("httpd.log")).unwrap();
    assert_eq!(sum(&guest.fetch_data("10.1.0.100").unwrap()), sum(&sent));
    drop(server);

    // With checksum and segmentation offload on both sides, segments far larger than the MTU cross in one piece.
    let features = guest.run("ethtool -k eth0").unwrap();
    assert!(features.contains("tcp-segmentation-offload: on"), "the guest was offered no TSO: {features}");
    let server = host.serve_iperf3(&stage.lab.path("iperf.log")).unwrap();
    let before = counters(&host, &tap);
    let out = guest.tcp_rate("10.1.0.100", 3, false).unwrap();
    let after = counters(&host, &tap);
    let mean = (after.0 - before.0) / (after.1 - before.1).max(1);
    println!("guest to namespace: {out} Mbit/s in frames of {mean} bytes on average");
    assert!(
        mean > 3000,
        "segments were cut on the way to a TAP that takes them whole: {mean} bytes on average"
    );
    let back = guest.tcp_rate("10.1.0.100", 3, true).unwrap();
    println!("namespace to guest: {back} Mbit/s");
    drop(server);

    // Without them in the guest, the switch has nothing to rely on but itself.
    guest.run("ethtool -K eth0 tso off gso off tx off rx off gro off").unwrap();
    guest.serve_iperf().unwrap();
    let report = host.run("iperf3", &["-c", "10.1.0.1", "-t", "2", "-i", "0", "-f", "m"]).unwrap();
    assert!(receiver_rate(&report).is_some(), "{report}");
}

/// Bytes and frames the namespace has received on a device.
fn counters(host: &Netns<'_>, device: &str) -> (u64, u64) {
    let text = host.ip(&["-s", "link", "show", device]).unwrap();
    let mut lines = text.lines().skip_while(|l| !l.trim_start().starts_with("RX:")).skip(1);
    let numbers: Vec<u64> = lines.next().unwrap().split_whitespace().map_while(|w| w.parse().ok()).collect();
    (numbers[0], numbers[1])
}

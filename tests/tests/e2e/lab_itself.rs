//! The lab without our switch: a guest, DPDK's own vhost-user back-end and a TAP device. When this fails, look at the
//! machine or the cache before you look at the switch.

use std::time::Duration;

use tests::guest::{Guest, GuestConfig, Nic, Socket};
use tests::lab::Lab;
use tests::netns::Netns;
use tests::testpmd::Testpmd;

#[test]
fn a_guest_reaches_the_host_through_a_stock_back_end() {
    let lab = Lab::open().unwrap();
    let socket = lab.path("v0");
    let host = Netns::new(&lab).unwrap();
    let tap = format!("vslt{}", std::process::id() % 100_000);
    let _back_end = Testpmd::start(
        &lab,
        "backend",
        "0@0,1@1",
        &[format!("net_vhost0,iface={},queues=1", socket.display()), format!("net_tap0,iface={tap}")],
        &["--nb-cores=1", "--auto-start", "--forward-mode=io"],
    )
    .unwrap();
    host.adopt(&tap, "10.77.0.1/24").unwrap();

    let mut guest =
        Guest::boot(&lab, &GuestConfig::new("a", Nic::new(&socket, Socket::SwitchListens, 2))).unwrap();
    guest.address("eth0", "10.77.0.2/24").unwrap();
    guest.reaches("10.77.0.1", Duration::from_secs(20)).unwrap();
    host.reaches("10.77.0.2", 5).unwrap();
    assert_eq!(guest.run("echo $((6 * 7)); cat /proc/cmdline | grep -c console").unwrap(), "42\n1");
    assert_eq!(guest.try_run("exit 3", Duration::from_secs(5)).unwrap().0, 3);

    guest.reboot().unwrap();
    guest.wait_ready().unwrap();
    guest.address("eth0", "10.77.0.2/24").unwrap();
    guest.reaches("10.77.0.1", Duration::from_secs(20)).unwrap();
}

#[test]
fn a_testpmd_that_lacks_a_device_is_not_mistaken_for_a_whole_one() {
    let lab = Lab::open().unwrap();
    // testpmd itself goes on without it.
    let devices = ["net_null0", "net_af_packet0,iface=no-such-device"].map(str::to_owned);
    let error = Testpmd::start(&lab, "lacking", "0@0,1@0", &devices, &[]).unwrap_err().to_string();
    assert!(error.contains("[0]") && error.contains("failed to initialize net_af_packet0"), "{error}");
}

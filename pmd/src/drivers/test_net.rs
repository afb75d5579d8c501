//! What tests of drivers on kernel devices begin with: a network namespace of the test's own. Needs root, as the devices do.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::port::{LinkState, Port};
use crate::sys::netns;

/// Runs a test in a fresh network namespace.
pub(super) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    thread::spawn(move || {
        netns::enter_new().expect("run the driver tests as root: they make a network namespace");
        test();
    })
    .join()
    .unwrap();
}

/// Runs `ip ARGUMENTS`.
pub(super) fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("`ip` of iproute2 is needed");
    assert!(status.success(), "ip {arguments}");
}

/// Makes a pair of veth devices, up, with an MTU, without addresses of their own making.
pub(super) fn veth(one: &str, other: &str, mtu: u32) {
    ip(&format!("link add name {one} mtu {mtu} type veth peer name {other} mtu {mtu}"));
    for name in [one, other] {
        // Or neighbour discovery would be among the frames.
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1").unwrap();
        ip(&format!("link set dev {name} up"));
    }
}

/// An IPv6 address, in 32 digits, is the kernel's own only when a thread of it has made the route, some time after it was given.
pub(super) fn await_local(address: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let routes = || std::fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap();
    while !routes().lines().any(|route| route.starts_with(address) && route.contains(" 80")) {
        assert!(Instant::now() < deadline, "no route to {address}:\n{}", routes());
        thread::yield_now();
    }
}

/// The kernel tells of a carrier with a delay: its link watch works at most once a second.
pub(super) fn await_up(port: &dyn Port) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while port.info().link != LinkState::Up {
        assert!(Instant::now() < deadline, "no carrier: {:?}", port.info());
        thread::yield_now();
    }
}

/// A frame of `len` bytes that no other length or number has.
pub(super) fn frame(len: usize, number: u32) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5];
    frame.extend(number.to_be_bytes());
    frame.extend((frame.len()..len).map(|i| (i * 7 + len) as u8));
    frame
}

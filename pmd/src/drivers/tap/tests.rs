//! Against the kernel, in a network namespace of the test's own. Needs root, as the device does.

use std::net::UdpSocket;
use std::process::Command;
use std::thread;
use std::time::Duration;

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

use super::*;
use crate::packet::{BatchStorage, Offload};
use crate::sys::netns;

const OURS: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// Runs a test in a fresh network namespace.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    thread::spawn(move || {
        netns::enter_new().expect("run the TAP tests as root: they make a network namespace");
        test();
    })
    .join()
    .unwrap();
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("`ip` of iproute2 is needed");
    assert!(status.success(), "ip {arguments}");
}

fn open_with_address() -> Arc<dyn Port> {
    let port = open(&TapConfig { name: "tap0".into(), queues: 1 }).unwrap();
    ip("addr add 10.9.0.1/24 dev tap0");
    ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:09 dev tap0");
    port
}

/// Polls until a UDP frame comes; the kernel also sends neighbour discovery of its own.
fn receive_udp(rx: &mut dyn RxQueue, waker: &dyn Fn()) -> (Vec<u8>, Offload) {
    let mut storage = BatchStorage::new();
    loop {
        let mut found = None;
        {
            let mut batch = storage.begin();
            for slot in 0..rx.rx_burst(&mut batch) {
                let frame = batch.frame(slot as SlotId);
                let mut bytes = vec![0; frame.len()];
                frame.copy_to(&mut bytes);
                let transport = SlicedPacket::from_ethernet(&bytes).unwrap().transport;
                let is_udp = matches!(transport, Some(TransportSlice::Udp(_)));
                if is_udp {
                    found = Some((bytes, frame.offload));
                }
            }
        }
        rx.rx_done();
        if let Some(found) = found {
            return found;
        }
        waker();
    }
}

#[test]
fn the_kernel_sends_and_receives() {
    in_namespace(|| {
        let port = open_with_address();
        assert_eq!(port.info().link, LinkState::Up);
        assert_eq!(port.info().mtu, 1500);
        let (mut rx, mut tx) = (port.rx_queue(0).unwrap(), port.tx_queue(0).unwrap());
        let socket = UdpSocket::bind("10.9.0.1:700").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        socket.send_to(&[7; 1000], "10.9.0.2:701").unwrap();
        let fd = rx.wait_fd().unwrap();
        let wait = || {
            let mut fds = [rustix::event::PollFd::new(&*fd, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut fds, None).unwrap();
        };
        let (frame, offload) = receive_udp(&mut *rx, &wait);
        assert_eq!(&frame[..6], &OURS);
        assert_eq!(frame.len(), 1042);
        // With the checksum offload on, the kernel leaves it to us.
        assert!(offload.needs_csum);
        assert_eq!((offload.csum_start, offload.csum_offset), (34, 6));

        let mac = port.info().mac.unwrap();
        let mut reply = Vec::new();
        let builder = PacketBuilder::ethernet2(OURS, mac).ipv4([10, 9, 0, 2], [10, 9, 0, 1], 64);
        builder.udp(701, 700).write(&mut reply, &[8; 1200]).unwrap();
        let mut storage = BatchStorage::new();
        let mut batch = storage.begin();
        assert!(batch.receive(Span::from_slice(&reply)));
        assert_eq!(tx.tx_burst(&batch, &[0]), 1);
        let mut buffer = [0; 2000];
        let (len, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!((len, from.port()), (1200, 701));
    });
}

#[test]
fn frames_beyond_the_mtu_are_dropped_with_a_reason() {
    in_namespace(|| {
        let port = open_with_address();
        port.set_mtu(1000).unwrap();
        let mut tx = port.tx_queue(0).unwrap();
        let mut storage = BatchStorage::new();
        let mut batch = storage.begin();
        assert!(batch.receive(Span::from_slice(&[0; 1200])));
        assert_eq!(tx.tx_burst(&batch, &[0]), 0);
        assert_eq!(tx.counters().drops.get(DropReason::TxTooLong), 1);
    });
}

#[test]
fn many_queues() {
    in_namespace(|| {
        let port = open(&TapConfig { name: "tapmq".into(), queues: 4 }).unwrap();
        assert_eq!(port.info().rx_queues, 4);
        let _all: Vec<_> = (0..4).map(|i| port.rx_queue(i).unwrap()).collect();
        assert!(port.rx_queue(4).is_err());
        assert!(port.rx_queue(0).is_err());
    });
}

#[test]
fn bad_names_and_foreign_devices_are_refused_with_the_remedy() {
    in_namespace(|| {
        let error = |name: &str| open(&TapConfig { name: name.into(), queues: 1 }).err().unwrap().to_string();
        assert!(error("a name").contains("no space"), "{}", error("a name"));
        assert!(error("").contains("1 to 15 bytes"));
        ip("link add br9 type bridge");
        assert!(error("br9").contains("is no TAP"), "{}", error("br9"));
    });
}

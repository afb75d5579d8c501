//! Against the kernel, in a network namespace of the test's own. Needs root, as the device does.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use super::*;
use crate::drivers::test_net::{await_local, await_up, in_namespace, ip};
use crate::packet::{BatchStorage, Gso, Offload};
use crate::sys::{netns, udp};

mod link;

const OURS: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn open_with_address() -> Arc<dyn Port> {
    let port = open(&TapConfig { name: "tap0".into(), queues: 1, bring_up: true }).unwrap();
    ip("addr add 10.9.0.1/24 dev tap0");
    ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:09 dev tap0");
    port
}

/// Polls until UDP frames come and gives those of one burst; the kernel also sends neighbour discovery of its own.
fn receive_udp(rx: &mut dyn RxQueue, wait: &dyn Fn()) -> Vec<(Vec<u8>, Offload)> {
    let mut storage = BatchStorage::new();
    loop {
        let mut found = Vec::new();
        {
            let mut batch = storage.begin();
            for slot in 0..rx.rx_burst(&mut batch) {
                let frame = batch.frame(slot as SlotId);
                let mut bytes = vec![0; frame.len()];
                frame.copy_to(&mut bytes);
                let transport = SlicedPacket::from_ethernet(&bytes).unwrap().transport;
                let is_udp = matches!(transport, Some(TransportSlice::Udp(_)));
                found.extend(is_udp.then_some((bytes, frame.offload)));
            }
        }
        rx.rx_done();
        if !found.is_empty() {
            return found;
        }
        wait();
    }
}

#[test]
fn the_kernel_sends_and_receives() {
    in_namespace(|| {
        let port = open_with_address();
        await_up(&*port);
        assert_eq!(port.info().mtu, 1500);
        let (mut rx, mut tx) = (port.rx_queue(0).unwrap(), port.tx_queue(0).unwrap());
        let socket = UdpSocket::bind("10.9.0.1:700").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        socket.send_to(&[7; 1000], "10.9.0.2:701").unwrap();
        let fd = rx.wait_fd().unwrap();
        let wait = || {
            let mut fds = [PollFd::new(&*fd, PollFlags::IN)];
            poll(&mut fds, None).unwrap();
        };
        let [(frame, offload)] = receive_udp(&mut *rx, &wait).try_into().unwrap();
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
        let port = open(&TapConfig { name: "tapmq".into(), queues: 4, bring_up: true }).unwrap();
        assert_eq!(port.info().rx_queues, 4);
        let _all: Vec<_> = (0..4).map(|i| port.rx_queue(i).unwrap()).collect();
        assert!(port.rx_queue(4).is_err());
        assert!(port.rx_queue(0).is_err());
    });
}

#[test]
fn bad_names_and_foreign_devices_are_refused_with_the_remedy() {
    in_namespace(|| {
        let error = |name: &str| {
            open(&TapConfig { name: name.into(), queues: 1, bring_up: true }).err().unwrap().to_string()
        };
        assert!(error("a name").contains("no space"), "{}", error("a name"));
        assert!(error("").contains("1 to 15 bytes"));
        ip("link add br9 type bridge");
        assert!(error("br9").contains("is no TAP"), "{}", error("br9"));
    });
}

#[test]
fn without_the_right_the_error_names_device_capability_and_remedy() {
    in_namespace(|| {
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65534)).unwrap();
        let error =
            open(&TapConfig { name: "tap0".into(), queues: 1, bring_up: true }).err().unwrap().to_string();
        for part in ["tap0", "/dev/net/tun", "CAP_NET_ADMIN", "run as root"] {
            assert!(error.contains(part), "{error}");
        }
    });
}

#[test]
fn the_device_goes_with_its_last_queue_unless_it_was_persistent() {
    in_namespace(|| {
        let exists =
            |name: &str| Command::new("ip").args(["link", "show", name]).output().unwrap().status.success();
        drop(open(&TapConfig { name: "tap0".into(), queues: 2, bring_up: true }).unwrap());
        assert!(!exists("tap0"));
        ip("tuntap add dev kept mode tap vnet_hdr");
        drop(open(&TapConfig { name: "kept".into(), queues: 1, bring_up: true }).unwrap());
        assert!(exists("kept"));
    });
}

/// A host in a network namespace of its own behind a TAP device, with both kinds of addresses ending in `number`.
fn host<T: Send + 'static>(
    number: u8,
    program: impl FnOnce() -> T + Send + 'static,
) -> (Arc<dyn Port>, JoinHandle<T>) {
    let (sender, port) = mpsc::channel();
    let thread = thread::spawn(move || {
        netns::enter_new().expect("run the TAP tests as root: they make a network namespace");
        let tap = open(&TapConfig { name: "tap0".into(), queues: 1, bring_up: true }).unwrap();
        ip(&format!("addr add 10.9.0.{number}/24 dev tap0"));
        ip(&format!("addr add fd00::{number}/64 dev tap0 nodad"));
        sender.send(tap).unwrap();
        program()
    });
    (port.recv().unwrap(), thread)
}

/// What carries a frame from one queue to the other.
enum Carry {
    /// The driver, which passes large frames on.
    AsIs,
    /// Software that cuts and completes everything, written with an empty header: the kernel checks every checksum.
    Finished(Finisher),
}

/// Carries frames both ways until `stop`; returns the longest frame and the kinds of segmentation seen.
fn carry(ports: &[Arc<dyn Port>; 2], mut how: Carry, stop: &Waker) -> (usize, Vec<Gso>) {
    let mut rx = [ports[0].rx_queue(0).unwrap(), ports[1].rx_queue(0).unwrap()];
    let mut tx = [ports[1].tx_queue(0).unwrap(), ports[0].tx_queue(0).unwrap()];
    let raw = [rx[1].wait_fd().unwrap(), rx[0].wait_fd().unwrap()];
    let mut storage = BatchStorage::new();
    let (mut longest, mut kinds) = (0, Vec::new());
    loop {
        let mut work = false;
        for side in 0..2 {
            let mut batch = storage.begin();
            let slots: Vec<SlotId> = (0..rx[side].rx_burst(&mut batch) as SlotId).collect();
            work |= !slots.is_empty();
            for &slot in &slots {
                let frame = batch.frame(slot);
                longest = longest.max(frame.len());
                if !kinds.contains(&frame.offload.gso) {
                    kinds.push(frame.offload.gso);
                }
                if let Carry::Finished(finisher) = &mut how {
                    let sent = finisher.finish(frame, OffloadCaps::default(), 1514, |piece| {
                        let _ = gather::write_frame(raw[side].as_fd(), &[0; NetHeader::LEN], &piece);
                    });
                    assert!(sent.is_ok());
                }
            }
            if matches!(how, Carry::AsIs) {
                tx[side].tx_burst(&batch, &slots);
            }
            rx[side].rx_done();
        }
        if !work && rx.iter_mut().all(|rx| rx.arm() == Armed::Idle) {
            let waits = [rx[0].wait_fd().unwrap(), rx[1].wait_fd().unwrap()];
            let mut fds = [
                PollFd::new(&*waits[0], PollFlags::IN),
                PollFd::new(&*waits[1], PollFlags::IN),
                PollFd::new(stop, PollFlags::IN),
            ];
            poll(&mut fds, None).unwrap();
            if !fds[2].revents().is_empty() {
                return (longest, kinds);
            }
        }
    }
}

/// Bytes of the stream that the two hosts exchange.
const STREAM: usize = 8 << 20;

fn stream() -> Vec<u8> {
    (0..STREAM).map(|i| (i / 7 + i / 65_521) as u8).collect()
}

/// TCP segments with a wrong checksum that this thread's network namespace has received.
fn bad_checksums() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split(' ').position(|name| name == "InCsumErrors").unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}

/// Sends the stream there and back between two kernels. The arguments are the listener's address and how frames cross.
fn exchange(address: &'static str, how: Carry) -> (usize, Vec<Gso>) {
    let (listening, ready) = mpsc::channel();
    let (port_a, server) = host(1, move || {
        let listener = TcpListener::bind(address).unwrap();
        listening.send(()).unwrap();
        let (mut socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut bytes = vec![0; STREAM];
        socket.read_exact(&mut bytes).unwrap();
        socket.write_all(&bytes).unwrap();
        bad_checksums()
    });
    let stop = Waker::new().unwrap();
    let stopped = stop.clone();
    let (port_b, client) = host(2, move || {
        ready.recv().unwrap();
        let result = std::panic::catch_unwind(|| {
            let mut socket = TcpStream::connect(address).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            let sent = stream();
            socket.write_all(&sent).unwrap();
            let mut bytes = vec![0; STREAM];
            socket.read_exact(&mut bytes).unwrap();
            assert!(bytes == sent, "the stream came back changed");
        });
        stopped.wake();
        result.unwrap();
        bad_checksums()
    });
    let seen = carry(&[port_a, port_b], how, &stop);
    assert_eq!(client.join().unwrap(), 0);
    assert_eq!(server.join().unwrap(), 0);
    seen
}

#[test]
fn tcp_frames_of_64_kib_cross_whole() {
    for (address, kind) in [("10.9.0.1:5000", Gso::TcpV4), ("[fd00::1]:5000", Gso::TcpV6)] {
        let (longest, kinds) = exchange(address, Carry::AsIs);
        assert!(longest > 60_000, "longest frame {longest}");
        assert!(kinds.contains(&kind));
    }
}

#[test]
fn kernels_accept_what_software_cuts() {
    for (address, kind) in [("10.9.0.1:5000", Gso::TcpV4), ("[fd00::1]:5000", Gso::TcpV6)] {
        let (longest, kinds) = exchange(address, Carry::Finished(Finisher::new()));
        assert!(longest > 10_000, "longest frame {longest}");
        assert!(kinds.contains(&kind));
    }
}

#[test]
fn the_kernel_follows_what_is_switched() {
    in_namespace(|| {
        let port = open_with_address();
        await_up(&*port);
        let (mut rx, tx) = (port.rx_queue(0).unwrap(), port.tx_queue(0).unwrap());
        let fd = rx.wait_fd().unwrap();
        let wait = || {
            poll(&mut [PollFd::new(&*fd, PollFlags::IN)], None).unwrap();
        };
        let socket = UdpSocket::bind("10.9.0.1:700").unwrap();
        udp::set_segment_size(&socket, 1000).unwrap();
        let all = Offloads::default();
        let none = Offloads { csum: false, ..all };
        // Cut by the kernel into datagrams of a thousand bytes, or left whole for the other side to cut.
        for (offloads, len, gso, needs_csum) in [
            (all, 42 + 4000, Gso::UdpL4, true),
            (Offloads { uso: false, ..all }, 42 + 1000, Gso::None, true),
            (none, 42 + 1000, Gso::None, false),
            (all, 42 + 4000, Gso::UdpL4, true),
        ] {
            port.set_offloads(offloads).unwrap();
            assert_eq!(tx.takes().caps.uso, offloads.uso && offloads.csum);
            socket.send_to(&[7; 4000], "10.9.0.2:701").unwrap();
            let mut left = 4000;
            while left > 0 {
                for (frame, offload) in receive_udp(&mut *rx, &wait) {
                    assert_eq!(
                        (frame.len(), offload.gso, offload.needs_csum),
                        (len, gso, needs_csum),
                        "{offloads:?}"
                    );
                    left -= frame.len() - 42;
                }
            }
        }
    });
}

/// A UDP frame of one large datagram from outside, with the pseudo-header's sum where the checksum belongs.
fn large_datagram(mac: [u8; 6], v6: bool, data: &[u8], gso: Gso, gso_size: u16) -> (Vec<u8>, Offload) {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(OURS, mac);
    let host = |last| [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    let builder =
        if v6 { builder.ipv6(host(2), host(1), 64) } else { builder.ipv4([10, 9, 0, 2], [10, 9, 0, 1], 64) };
    builder.udp(701, 700).write(&mut frame, data).unwrap();
    let (l4, addresses) = if v6 { (54, 22..54) } else { (34, 26..34) };
    let words = frame[addresses].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let sum = words.sum::<u32>() + 17 + data.len() as u32 + 8;
    let folded = (sum & 0xffff) + (sum >> 16);
    frame[l4 + 6..l4 + 8].copy_from_slice(&(folded as u16).to_be_bytes());
    let csum_start = l4 as u16;
    let offload =
        Offload { needs_csum: true, gso, gso_size, csum_start, csum_offset: 6, ..Offload::default() };
    (frame, offload)
}

#[test]
fn large_datagrams_are_cut_by_the_kernel_or_by_us() {
    in_namespace(|| {
        let port = open_with_address();
        // An address of IPv6 counts only once the link is up.
        await_up(&*port);
        ip("addr add fd00::1/64 dev tap0 nodad");
        await_local("fd000000000000000000000000000001");
        let (rx, mut tx) = (port.rx_queue(0).unwrap(), port.tx_queue(0).unwrap());
        let socket = UdpSocket::bind("[::]:700").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let data: Vec<u8> = (0..5000u32).map(|i| (i * 11) as u8).collect();
        let receive = |lens: &[usize]| {
            let mut joined = Vec::new();
            for &len in lens {
                let mut buffer = [0; 9000];
                assert_eq!(socket.recv(&mut buffer).unwrap(), len);
                joined.extend_from_slice(&buffer[..len]);
            }
            assert!(joined == data);
        };
        let mac = port.info().mac.unwrap();
        let fd = rx.wait_fd().unwrap();
        let mut storage = BatchStorage::new();
        // Segments are datagrams to the socket; fragments are put together for it.
        let kinds = [(Gso::UdpL4, 1200, &[1200, 1200, 1200, 1200, 200][..]), (Gso::Udp, 1440, &[5000])];
        for (v6, (gso, size, lens)) in [false, true].into_iter().flat_map(|v6| kinds.map(|kind| (v6, kind))) {
            let (frame, offload) = large_datagram(mac, v6, &data, gso, size);
            // Handed over whole, the kernel does it.
            let mut batch = storage.begin();
            assert!(batch.receive(Span::from_slice(&frame)));
            batch.packet_mut(0).offload = offload;
            assert_eq!(tx.tx_burst(&batch, &[0]), 1);
            receive(lens);
            // The same, done here; with an empty header the kernel checks every checksum.
            let spans = [Span::from_slice(&frame[100..])];
            let whole = Frame::new(&frame[..100], offload, &spans, frame.len() - 100);
            let cut = Finisher::new().finish(whole, OffloadCaps::default(), 1514, |piece| {
                gather::write_frame(fd.as_fd(), &[0; NetHeader::LEN], &piece).unwrap();
            });
            cut.unwrap();
            receive(lens);
        }
    });
}

#[test]
fn a_device_made_by_the_operator_needs_no_privilege() {
    in_namespace(|| {
        ip("tuntap add dev tap1 mode tap user root");
        ip("tuntap add dev tap2 mode tap user root");
        ip("link set tap1 up");
        // Of this thread only.
        let none = CapabilitySet::empty();
        let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
        set_capabilities(None, sets).unwrap();

        let refused =
            open(&TapConfig { name: "tap3".into(), queues: 1, bring_up: true }).err().unwrap().to_string();
        assert!(refused.contains("tap3") && refused.contains("ip tuntap add"), "{refused}");
        let down =
            open(&TapConfig { name: "tap2".into(), queues: 1, bring_up: true }).err().unwrap().to_string();
        assert!(down.contains("tap2") && down.contains("ip link set up"), "{down}");
        let port = open(&TapConfig { name: "tap1".into(), queues: 1, bring_up: true }).unwrap();
        await_up(&*port);
        assert!(port.info().ifindex.is_some_and(|index| index > 1));
    });
}

//! On one end of a veth pair, in a network namespace of the test's own; the other end is a packet socket.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;

use super::*;
use crate::drivers::test_net::{await_up, frame, in_namespace, ip, veth};
use crate::packet::{BURST, Gso, Offload};
use crate::port::test_bursts::{receive_burst, send_burst};
use crate::port::{Armed, DropReason};
use crate::sys::packet_socket::PacketSocket;

const MODES: [Mode; 2] = [Mode::BestEffort, Mode::Generic];

fn config(mode: Mode) -> AfXdpConfig {
    AfXdpConfig { name: "a".into(), queues: Some(1), mode, filter: Filter::All }
}

/// A port on device `a`, and the other end of the pair.
fn port(config: &AfXdpConfig, mtu: u32) -> (Arc<dyn Port>, PacketSocket) {
    veth("a", "b", mtu);
    let port = open(config).unwrap();
    await_up(&*port);
    (port, outside("b"))
}

fn outside(device: &str) -> PacketSocket {
    let socket = PacketSocket::open().unwrap();
    let device = NetDevice::find(device).unwrap();
    socket.set_buffers(16 << 20).unwrap();
    socket.ignore_outgoing().unwrap();
    socket.bind(device.index(), true).unwrap();
    socket
}

fn send(tx: &mut dyn TxQueue, frames: &[Vec<u8>], offload: Offload) -> usize {
    let sent = send_burst(tx, frames, offload);
    while !tx.notify() {}
    sent
}

fn receive(rx: &mut dyn RxQueue, count: usize) -> Vec<Vec<u8>> {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut frames = Vec::new();
    while frames.len() < count {
        let drops: Vec<_> = rx.counters().drops.nonzero().collect();
        assert!(Instant::now() < deadline, "{} of {count}, {drops:?}", frames.len());
        frames.extend(receive_burst(rx).into_iter().map(|(bytes, _)| bytes));
    }
    frames
}

fn inject(socket: &PacketSocket, frame: &[u8]) {
    assert_eq!(rustix::io::write(socket.as_fd(), frame), Ok(frame.len()));
}

fn capture(socket: &PacketSocket, count: usize) -> Vec<Vec<u8>> {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut frames = Vec::new();
    let mut buffer = vec![0; 70_000];
    while frames.len() < count {
        assert!(Instant::now() < deadline, "{} of {count}", frames.len());
        if let Ok(len) = rustix::io::read(socket.as_fd(), &mut buffer) {
            frames.push(buffer[..len].to_vec());
        }
    }
    frames
}

fn status(port: &dyn Port, key: &str) -> String {
    let status = port.info().status;
    status.into_iter().find(|(name, _)| name == key).map_or_else(String::new, |(_, value)| value)
}

#[test]
fn frames_of_every_size_cross_unchanged_both_ways() {
    for mode in MODES {
        in_namespace(move || {
            let (port, peer) = port(&config(mode), 9000);
            let (mut rx, mut tx) = (port.rx_queue(0).unwrap(), port.tx_queue(0).unwrap());
            for sizes in (60..=9018).collect::<Vec<_>>().chunks(BURST) {
                let frames: Vec<_> = sizes.iter().map(|&len| frame(len.min(9014), len as u32)).collect();
                frames.iter().for_each(|frame| inject(&peer, frame));
                assert!(receive(&mut *rx, frames.len()) == frames, "in, {mode:?}, {sizes:?}");
                assert_eq!(send(&mut *tx, &frames, Offload::default()), frames.len());
                assert!(capture(&peer, frames.len()) == frames, "out, {mode:?}, {sizes:?}");
            }
            assert_eq!(rx.counters().drops.nonzero().count() + tx.counters().drops.nonzero().count(), 0);
            let tagged: Vec<u8> = {
                let mut tagged = frame(9014, 1);
                tagged.splice(12..12, [0x81, 0, 0, 7]);
                tagged
            };
            assert_eq!(send(&mut *tx, std::slice::from_ref(&tagged), Offload::default()), 1);
            assert_eq!(send(&mut *tx, &[frame(9030, 1)], Offload::default()), 0);
            assert_eq!(tx.counters().drops.get(DropReason::TxTooLong), 1);
        });
    }
}

#[test]
fn what_is_in_use_is_told_with_the_reason() {
    in_namespace(|| {
        let (port, _peer) = port(&config(Mode::BestEffort), 1500);
        assert_eq!(status(&*port, "xdp-mode"), "best-effort");
        assert_eq!(status(&*port, "xdp-mode-in-use"), "native");
        assert!(status(&*port, "xdp-fallback").contains("zero-copy"), "{:?}", port.info());
        let taken = open(&config(Mode::Native)).err().unwrap().to_string();
        assert!(
            taken.contains("a: attaching the XDP program") && taken.contains("another program"),
            "{taken}"
        );
        drop(port);
        // A child of another test has the program's descriptor too until it runs what it was made for.
        let deadline = Instant::now() + Duration::from_secs(30);
        let open_again = |mode| loop {
            match open(&config(mode)).map_err(|error| error.to_string()) {
                Err(error) if error.contains("attaching") && Instant::now() < deadline => {
                    std::thread::yield_now();
                }
                result => return result,
            }
        };
        // Closed sockets keep a queue busy for a moment: opening anew waits for it.
        for _ in 0..5 {
            drop(open_again(Mode::Native).unwrap());
        }
        let error = open_again(Mode::NativeZeroCopy).err().unwrap();
        assert!(error.contains("binding an AF_XDP socket to queue 0"), "{error}");
        let many = AfXdpConfig { queues: Some(3), ..config(Mode::Generic) };
        let error = open(&many).err().unwrap().to_string();
        assert!(error.contains("n_rxq=3") && error.contains("ethtool -L a combined"), "{error}");
        let has_program = || {
            let shown = std::process::Command::new("ip").args(["link", "show", "dev", "a"]).output().unwrap();
            String::from_utf8_lossy(&shown.stdout).contains("xdp")
        };
        while has_program() {
            assert!(Instant::now() < deadline, "a program is left behind");
        }
    });
}

#[test]
fn the_filter_leaves_the_rest_to_the_kernel() {
    for mode in MODES {
        in_namespace(move || {
            let filter = "mac=02:00:00:00:00:01,vlan=7,udp=4789".parse().unwrap();
            let (port, peer) = port(&AfXdpConfig { filter, ..config(mode) }, 1500);
            let kernel = outside("a");
            let mut rx = port.rx_queue(0).unwrap();
            let ours = frame(100, 1);
            let mut other = frame(100, 2);
            other[5] = 9;
            let mut datagram = Vec::new();
            let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 9, 0, 1], [10, 9, 0, 2], 64);
            builder.udp(700, 4789).write(&mut datagram, &[5; 50]).unwrap();
            for _ in 0..10 {
                inject(&peer, &other);
                inject(&peer, &ours);
                inject(&peer, &datagram);
            }
            assert!(receive(&mut *rx, 20).chunks(2).all(|pair| pair == [ours.clone(), datagram.clone()]));
            assert!(capture(&kernel, 10).iter().all(|frame| *frame == other));
            assert!(receive_burst(&mut *rx).is_empty());
            assert!(rustix::io::read(kernel.as_fd(), &mut [0; 2000][..]).is_err());
        });
    }
}

#[test]
fn offloads_are_finished_on_the_way_out() {
    in_namespace(|| {
        let (port, peer) = port(&config(Mode::BestEffort), 1500);
        let mut tx = port.tx_queue(3).unwrap();
        let data: Vec<u8> = (0..64_000u32).map(|i| (i * 11) as u8).collect();
        let mut large = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 9, 0, 1], [10, 9, 0, 2], 64);
        builder.tcp(700, 701, 1, 1000).write(&mut large, &data).unwrap();
        let offload = Offload {
            needs_csum: true,
            gso: Gso::TcpV4,
            gso_size: 1448,
            hdr_len: 54,
            csum_start: 34,
            csum_offset: 16,
            ..Offload::default()
        };
        // More segments than the ring has entries.
        let frames = vec![large; BURST];
        for _ in 0..2 {
            assert_eq!(send(&mut *tx, &frames, offload), BURST);
            let segments = capture(&peer, BURST * 64_000_usize.div_ceil(1448));
            let joined: Vec<u8> = segments.iter().flat_map(|segment| &segment[54..]).copied().collect();
            assert!(joined.chunks(64_000).all(|one| one == data));
        }
    });
}

#[test]
fn what_is_lost_is_counted_and_a_queue_goes_on() {
    in_namespace(|| {
        let (port, peer) = port(&config(Mode::BestEffort), 1500);
        let mut rx = port.rx_queue(0).unwrap();
        for number in 0..3000 {
            inject(&peer, &frame(60, number));
        }
        assert_eq!(rx.arm(), Armed::Work);
        assert_eq!(receive(&mut *rx, 1024).len(), 1024);
        assert_eq!(rx.arm(), Armed::Idle);
        assert_eq!(rx.counters().drops.get(DropReason::RxRingFull), 3000 - 1024);
        // Chunks go back in large numbers, but all of them before the worker sleeps.
        for number in 0..1030 {
            inject(&peer, &frame(60, number));
        }
        assert_eq!(receive(&mut *rx, 1024).len(), 1024);
        assert_eq!(rx.arm(), Armed::Idle);
        assert_eq!(rx.counters().drops.get(DropReason::RxRingFull), 3000 + 1030 - 2 * 1024);
        assert!(port.rx_queue(0).err().unwrap().to_string().contains("in use"));
        drop(rx);
        inject(&peer, &frame(60, 1));
        let mut rx = port.rx_queue(0).unwrap();
        assert_eq!(receive(&mut *rx, 1), [frame(60, 1)]);
        // Of what is gone nothing comes, and its worker may sleep.
        let mut tx = port.tx_queue(0).unwrap();
        ip("link del dev a");
        assert!(receive_burst(&mut *rx).is_empty());
        assert_eq!(rx.arm(), Armed::Idle);
        for _ in 0..70 {
            send(&mut *tx, &vec![frame(60, 1); BURST], Offload::default());
        }
        assert!(tx.counters().drops.get(DropReason::TxLinkDown) > 0);
        assert!(port.info().gone);
    });
}

#[test]
fn queues_and_workers_may_be_of_any_number() {
    in_namespace(|| {
        ip("link add name a numrxqueues 2 numtxqueues 2 type veth peer name b numrxqueues 2 numtxqueues 2");
        ip("link set dev a up");
        ip("link set dev b up");
        let port = open(&AfXdpConfig { queues: None, ..config(Mode::BestEffort) }).unwrap();
        assert_eq!((port.info().rx_queues, port.info().error), (2, None));
        await_up(&*port);
        let peer = outside("b");
        // Four workers at a time on two rings: none is lost, none comes twice.
        let threads: Vec<_> = (0..4u16)
            .map(|worker| {
                let mut tx = port.tx_queue(worker).unwrap();
                std::thread::spawn(move || {
                    let mut sent = 0;
                    for round in 0..50 {
                        let frames: Vec<_> =
                            (0..8).map(|n| frame(60, u32::from(worker) << 16 | round << 8 | n)).collect();
                        sent += send(&mut *tx, &frames, Offload::default());
                    }
                    (sent, tx.counters().drops.nonzero().map(|(_, n)| n).sum::<u64>())
                })
            })
            .collect();
        let counts: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let sent: usize = counts.iter().map(|count| count.0).sum();
        assert_eq!(sent as u64 + counts.iter().map(|count| count.1).sum::<u64>(), 1600);
        let mut got: Vec<_> = capture(&peer, sent).into_iter().filter(|frame| frame[12] == 0x88).collect();
        got.sort();
        got.dedup();
        assert!(got.len() > 1600 / 2, "{} of {sent}", got.len());
        drop(port);
        let one = open(&config(Mode::BestEffort)).unwrap();
        assert!(one.info().error.unwrap().contains("set n_rxq=2"));
    });
}

//! The program against two real ports of ours, cross-connected by a loop that writes down what it forwards.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests; the lint only exempts functions marked as such"
)]

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use pmd::packet::{BatchStorage, Gso, Offload, SlotId};
use pmd::port::{Port, RxQueue, TxQueue};
use serde_json::Value;
use vhost_port::{Mode, VhostConfig, VhostPort};

/// First bytes of a frame, its length and offload.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Seen {
    head: Vec<u8>,
    len: usize,
    gso: bool,
    needs_csum: bool,
}

type Counted = HashMap<Seen, u64>;

/// Two ports and the thread between them. Each frame is noted by the port it came from; time stamps differ, so they are left out.
struct Wire {
    folder: tempfile::TempDir,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<[Counted; 2]>>,
}

struct Lane {
    rx: Box<dyn RxQueue>,
    tx: Box<dyn TxQueue>,
    seen: Counted,
}

impl Lane {
    fn forward(&mut self, storage: &mut BatchStorage) -> usize {
        let received = {
            let mut batch = storage.begin();
            let received = self.rx.rx_burst(&mut batch);
            let slots: Vec<SlotId> = (0..received as SlotId).collect();
            for &slot in &slots {
                let frame = batch.frame(slot);
                let mut head = vec![0; frame.len().min(1600)];
                frame.copy_to(&mut head);
                let len = frame.len();
                let Offload { gso, needs_csum, .. } = batch.packet(slot).offload;
                let seen = Seen { head, len, gso: gso == Gso::TcpV4, needs_csum };
                *self.seen.entry(seen).or_default() += 1;
            }
            if received > 0 {
                self.tx.tx_burst(&batch, &slots);
            }
            received
        };
        self.rx.rx_done();
        received
    }
}

impl Wire {
    fn new() -> Wire {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| -> Arc<dyn Port> {
            let socket: PathBuf = folder.path().join(name);
            VhostPort::open(VhostConfig::new(name, Mode::Listen(socket))).unwrap()
        };
        let (a, b) = (open("a"), open("b"));
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            let lane = |from: &Arc<dyn Port>, to: &Arc<dyn Port>| Lane {
                rx: from.rx_queue(0).unwrap(),
                tx: to.tx_queue(0).unwrap(),
                seen: Counted::new(),
            };
            let mut lanes = [lane(&a, &b), lane(&b, &a)];
            let mut storage = BatchStorage::new();
            while !ended.load(Ordering::Acquire) {
                let moved: usize = lanes.iter_mut().map(|lane| lane.forward(&mut storage)).sum();
                if moved == 0 {
                    std::thread::yield_now();
                }
            }
            lanes.map(|lane| lane.seen)
        });
        Wire { folder, end, thread: Some(thread) }
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn vsgen(&self, line: &str) -> Output {
        vsgen(&self.socket("a"), &self.socket("b"), line)
    }

    /// Runs the program, which must succeed, and gives its report and what came by from A and from B.
    fn measure(mut self, line: &str) -> (Value, [Counted; 2]) {
        let output = self.vsgen(line);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        assert_eq!(error, "");
        let report = serde_json::from_slice(&output.stdout).unwrap();
        self.end.store(true, Ordering::Release);
        let seen = self.thread.take().unwrap().join().unwrap();
        (report, seen)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn vsgen(a: &Path, b: &Path, line: &str) -> Output {
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let mut command = Command::new(env!("CARGO_BIN_EXE_vsgen"));
    command.arg(verb).arg("--a").arg(a).arg("--b").arg(b).args(rest.split_whitespace());
    command.output().unwrap()
}

/// A stream of which nothing was lost.
fn whole<'a>(report: &'a Value, name: &str) -> &'a Value {
    let streams = report["streams"].as_array().unwrap();
    let stream = streams.iter().find(|stream| stream["name"] == name).unwrap();
    assert!(stream["sent"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(stream["received"], stream["sent"], "{report}");
    assert_eq!((&stream["lost"], &stream["foreign"]), (&0.into(), &0.into()), "{report}");
    stream
}

/// Whether the IP header's checksum is right, and the TCP checksum as far as it is said to be.
fn check_sums(seen: &Seen) {
    let packet = SlicedPacket::from_ethernet(&seen.head).unwrap();
    let Some(NetSlice::Ipv4(ip)) = packet.net else { panic!("no IPv4: {seen:?}") };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum(), "{seen:?}");
    if let (Some(TransportSlice::Tcp(tcp)), false) = (packet.transport, seen.needs_csum) {
        let sum = tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()).unwrap();
        assert_eq!(tcp.checksum(), sum, "{seen:?}");
    }
}

/// Addresses and ports: the frame's 5-tuple.
fn flow(seen: &Seen) -> &[u8] {
    &seen.head[26..38]
}

#[test]
fn paced_both_ways_without_loss() {
    let (report, seen) = Wire::new()
        .measure("run --settle 0.1 --seconds 1 --hugepages no --ab rate=5k --ba rate=3k,size=1518");
    for (name, size) in [("ab", 64), ("ba", 1518)] {
        let stream = whole(&report, name);
        assert_eq!((&stream["size"], &stream["flows"]), (&size.into(), &1.into()));
        let latency = &stream["latency_ns"];
        assert_eq!(latency["samples"], stream["received"]);
        let order = ["min", "p50", "p90", "p99", "p999", "max"].map(|key| latency[key].as_u64().unwrap());
        assert!(order[0] > 0 && order.is_sorted(), "{latency}");
    }
    assert_eq!((&report["ring"], &report["ring_size"]), (&"split".into(), &1024.into()));
    assert_eq!(report["features"], "0x140008000");
    for (seen, len, macs) in [(&seen[0], 60, [0xb, 0xa]), (&seen[1], 1514, [0xa, 0xb])] {
        for frame in seen.keys() {
            check_sums(frame);
            assert_eq!((frame.len, [frame.head[5], frame.head[11]]), (len, macs));
        }
    }
}

#[test]
fn what_finds_the_ring_full_is_refused_and_not_sent() {
    let folder = tempfile::tempdir().unwrap();
    let sockets = ["a", "b"].map(|name| folder.path().join(name));
    // Nobody polls them.
    let open =
        |socket: &PathBuf| VhostPort::open(VhostConfig::new("p", Mode::Listen(socket.clone()))).unwrap();
    let _ports = [open(&sockets[0]), open(&sockets[1])];
    let line = "run --settle 0 --seconds 0.3 --hugepages no --learn=no --ring-size 64 --ab rate=5k";
    let output = vsgen(&sockets[0], &sockets[1], line);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let stream = &report["streams"][0];
    let number = |key: &str| stream[key].as_u64().unwrap();
    assert_eq!((number("sent"), number("received"), number("lost")), (64, 0, 64), "{report}");
    assert!(number("refused") > 0 && number("refused") <= number("offered") + 1 - 64, "{report}");
}

#[test]
fn a_closed_loop_loses_nothing() {
    let (report, _) = Wire::new().measure(
        "run --settle 0 --seconds 0.3 --hugepages no --ring-size 64 --ab size=64 --ba flows=1000,latency=yes",
    );
    assert!(whole(&report, "ab")["latency_ns"].is_null());
    let ba = whole(&report, "ba");
    assert_eq!(ba["latency_ns"]["samples"], ba["received"]);
    assert_eq!((&ba["flows"], &report["behind"]), (&1000.into(), &0.into()));
}

#[test]
fn flows_take_turns_over_networks() {
    let (report, [ab, _]) = Wire::new()
        .measure("run --settle 0 --seconds 0.5 --hugepages no --learn=no --ab rate=5k,flows=100,dst-nets=7,proto=tcp,size=100");
    let sent = whole(&report, "ab")["sent"].as_u64().unwrap();
    let mut counts: HashMap<&[u8], u64> = HashMap::new();
    for (frame, count) in &ab {
        check_sums(frame);
        *counts.entry(flow(frame)).or_default() += count;
    }
    assert_eq!(counts.values().sum::<u64>(), sent);
    assert!(counts.len() == 100 || sent < 100, "{} flows", counts.len());
    let (min, max) = (counts.values().min().unwrap(), counts.values().max().unwrap());
    assert!(max - min <= 1, "between {min} and {max} frames a flow");
    for flow in counts.keys() {
        assert_eq!((flow[0], flow[4], flow[5]), (10, 11, flow[3] % 7), "{flow:?}");
        assert_eq!(u16::from_be_bytes([flow[8], flow[9]]), 1024 + u16::from(flow[3]));
    }
}

#[test]
fn new_flows_are_all_distinct() {
    let (report, [ab, _]) = Wire::new()
        .measure("run --settle 0.1 --seconds 0.5 --hugepages no --learn=no --ab new=5k,dst-nets=3");
    assert!(whole(&report, "ab")["sent"].as_u64().unwrap() > 1);
    let mut seen = HashSet::new();
    for (frame, count) in &ab {
        check_sums(frame);
        assert!(*count == 1 && seen.insert(flow(frame)), "twice: {frame:?}");
    }
    assert!(seen.iter().all(|flow| flow[10..] == 5001u16.to_be_bytes()));
}

#[test]
fn large_frames_arrive_whole_with_their_headers() {
    let (report, [ab, _]) = Wire::new()
        .measure("run --settle 0 --seconds 0.5 --hugepages no --learn=no --offload tso --ab rate=500,size=65535,proto=tcp");
    let stream = whole(&report, "ab");
    // All bytes of all frames: nobody has cut them.
    let bits = stream["gbps"].as_f64().unwrap() * 1e9 * stream["seconds"].as_f64().unwrap();
    let expected = stream["received"].as_u64().unwrap() as f64 * 65_535.0 * 8.0;
    assert!((bits - expected).abs() < expected / 100.0, "{bits} instead of {expected} bits: {report}");
    for frame in ab.keys() {
        assert_eq!((frame.len, frame.gso, frame.needs_csum), (65_531, true, true));
        let head = &frame.head;
        assert_eq!((head[23], u16::from_be_bytes([head[16], head[17]])), (6, 65_517));
    }
}

#[test]
fn packed_rings_carry_the_same() {
    // Closed loops and paced streams, both ways; the smaller ring goes round more than once, but slowly enough for a busy machine:
    // a paced stream does not wait for its frames to arrive.
    for (size, streams) in [
        (64, "--ab size=64 --ba rate=400,size=1518"),
        (1024, "--ab rate=5k,size=64 --ba flows=1000,latency=yes"),
    ] {
        let line =
            format!("run --ring packed --ring-size {size} --settle 0 --seconds 0.5 --hugepages no {streams}");
        let (report, _) = Wire::new().measure(&line);
        assert_eq!(report["ring"], "packed");
        for way in ["ab", "ba"] {
            whole(&report, way);
        }
    }
}

#[test]
fn a_frame_after_silence() {
    let (report, _) = Wire::new().measure("wake --count 5 --gap 1");
    assert_eq!((&report["count"], &report["lost"]), (&5.into(), &0.into()));
    assert_eq!(report["latency_ns"]["samples"], 5);
    assert_eq!(report["first_ns"].as_array().unwrap().len(), 5);
}

#[test]
fn what_cannot_be_is_said() {
    let wire = Wire::new();
    for (line, code, words) in [
        ("run", 2, "--ab STREAM"),
        ("run --ab size=3", 2, "--ab: size=3"),
        ("run --ba size=9100", 2, "--offload tso"),
        ("run --ring-size 100 --ab size=64", 2, "--ring-size 100"),
        ("run --ring-size 16 --offload tso --ab size=65535,proto=tcp", 2, "too small"),
    ] {
        let output = wire.vsgen(line);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line}: {error}");
        assert!(error.contains(words) && output.stdout.is_empty(), "{line}: {error}");
    }
    let nobody = wire.socket("nobody");
    let output = vsgen(&nobody, &nobody, "run --ab size=64");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && error.contains("nobody"), "{error}");
}

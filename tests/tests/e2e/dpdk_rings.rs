//! Every kind of ring that DPDK's virtio-user can drive, against a driver nobody here wrote, byte by byte.
//!
//! The ports live in this process, and the test is the worker: frames go out by one port, round through testpmd, which
//! forwards between two virtio-user devices, and come in by the other. Each frame carries its number and bytes that follow from it; all
//! must come back once and whole.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pmd::packet::{BURST, BatchStorage, SlotId, Span};
use pmd::port::{LinkState, Port, RxQueue, TxQueue};
use tests::lab::Lab;
use tests::testpmd::Testpmd;
use vhost_port::{Mode, VhostConfig, VhostPort};

/// What virtio-user is asked for.
#[derive(Debug, Clone, Copy)]
struct Rings {
    packed: bool,
    mergeable: bool,
    in_order: bool,
    vectorized: bool,
    size: u16,
    pairs: u16,
    buffers: Buffers,
}

/// How testpmd's buffers are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Buffers {
    /// A frame fits one.
    Whole,
    /// They are short, so that many fit testpmd's memory, and frames are too.
    Short,
    /// They are short, but frames are not: each is received into several and sent as a chain.
    Chained,
}

impl Rings {
    const PLAIN: Rings = Rings {
        packed: true,
        mergeable: true,
        in_order: false,
        vectorized: false,
        size: 256,
        pairs: 1,
        buffers: Buffers::Whole,
    };

    fn device(self, index: usize, path: &str) -> String {
        let on = |option| u8::from(option);
        format!(
            "net_virtio_user{index},path={path},mac=52:54:00:00:00:0{index},queues={},queue_size={},packed_vq={},\
             mrg_rxbuf={},in_order={},vectorized={}",
            self.pairs,
            self.size,
            on(self.packed),
            on(self.mergeable),
            on(self.in_order),
            on(self.vectorized),
        )
    }

    fn name(self) -> &'static str {
        if self.packed { "packed" } else { "split" }
    }
}

/// Features in words, as the port tells them.
fn status(port: &Arc<dyn Port>, key: &str) -> String {
    port.info().status.into_iter().find(|(k, _)| k == key).map(|(_, v)| v).unwrap_or_default()
}

/// One end: a port with its queues.
struct End {
    port: Arc<dyn Port>,
    rx: Vec<Box<dyn RxQueue>>,
    tx: Vec<Box<dyn TxQueue>>,
}

/// Runs `frames` frames each way.
fn round_trip(lab: &Lab, name: &str, rings: Rings, frames: u32) {
    let ports = ["a", "b"].map(|end| {
        let path = lab.path(&format!("{name}-{end}"));
        let config = VhostConfig::new(end, Mode::Listen(path.clone()));
        let max_queue_pairs = rings.pairs.max(config.max_queue_pairs);
        let port = VhostPort::open(VhostConfig { max_queue_pairs, ..config }).unwrap();
        (port, path.display().to_string())
    });
    let devices: Vec<String> =
        ports.iter().enumerate().map(|(index, (_, path))| rings.device(index, path)).collect();
    let queues = [format!("--rxq={}", rings.pairs), format!("--txq={}", rings.pairs)];
    // All four rings may be full of them: the driver frees what was sent only when it needs room.
    let (size, pairs) = (u32::from(rings.size), u32::from(rings.pairs));
    let mbufs = format!("--total-num-mbufs={}", size * pairs * 4 + 8192);
    let ring = [format!("--rxd={size}"), format!("--txd={size}")];
    let mut arguments = vec!["--forward-mode=io", &queues[0], &queues[1], &mbufs, &ring[0], &ring[1]];
    if rings.buffers != Buffers::Whole {
        // The transmit offload is the one for chains.
        arguments.extend(["--mbuf-size=512", "--enable-scatter", "--tx-offloads=0x8000"]);
    }
    let mut testpmd = Testpmd::start(lab, name, "0@0,1@0", &devices, &arguments).unwrap();
    testpmd.command("start").unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut ends = ports.map(|(port, _)| {
        while port.info().link != LinkState::Up || port.info().rx_queues != rings.pairs {
            assert!(Instant::now() < deadline, "{rings:?}: not up: {:?}", port.info());
            std::thread::yield_now();
        }
        let features = u64::from_str_radix(status(&port, "features").trim_start_matches("0x"), 16).unwrap();
        let negotiated = (features >> 34 & 1 == 1, features >> 15 & 1 == 1, features >> 35 & 1 == 1);
        assert_eq!(negotiated, (rings.packed, rings.mergeable, rings.in_order), "{rings:?} not negotiated");
        let rx = (0..rings.pairs).map(|queue| port.rx_queue(queue).unwrap()).collect();
        let tx = (0..rings.pairs).map(|queue| port.tx_queue(queue).unwrap()).collect();
        End { port, rx, tx }
    });
    let longest = if rings.buffers == Buffers::Short { 360 } else { 1514 };
    for (from, to) in [(0, 1), (1, 0)] {
        let mut next = 0;
        while next < frames {
            let wanted = BURST as u32;
            for queue in 0..usize::from(rings.pairs) {
                send(&mut *ends[from].tx[queue], next + queue as u32 * wanted, longest);
            }
            let all = wanted * u32::from(rings.pairs);
            let mut missing: HashSet<u32> = (next..next + all).collect();
            while !missing.is_empty() {
                assert!(
                    Instant::now() < deadline,
                    "{rings:?}: {} of {all} frames from {next} on are missing; errors: {:?} {:?}",
                    missing.len(),
                    ends[from].port.info().error,
                    ends[to].port.info().error,
                );
                ends[to].rx.iter_mut().for_each(|queue| receive(&mut **queue, &mut missing, longest));
            }
            next += all;
        }
    }
}

/// Frame number `number`: lengths of all kinds up to `longest`, and bytes that depend on the number.
fn frame(number: u32, longest: usize) -> Vec<u8> {
    let len = 60 + (number as usize).wrapping_mul(7919) % (longest - 59);
    let mut frame = vec![0x52, 0x54, 0, 0, 0, 9, 0x52, 0x54, 0, 0, 0, 8, 0x88, 0xb5];
    frame.extend(number.to_be_bytes());
    let mut state = number.wrapping_mul(2_654_435_761) | 1;
    frame.resize_with(len, || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    });
    frame
}

/// Sends a burst of frames, numbered from `first` on.
fn send(queue: &mut dyn TxQueue, first: u32, longest: usize) {
    let frames: Vec<Vec<u8>> = (first..first + BURST as u32).map(|number| frame(number, longest)).collect();
    let mut storage = BatchStorage::new();
    let mut batch = storage.begin();
    frames.iter().for_each(|frame| assert!(batch.receive(Span::from_slice(frame))));
    let slots: Vec<SlotId> = (0..BURST as SlotId).collect();
    assert_eq!(queue.tx_burst(&batch, &slots), BURST, "{:?}", queue.counters());
    assert!(queue.notify());
}

/// Receives a burst, and crosses its frames off.
fn receive(queue: &mut dyn RxQueue, missing: &mut HashSet<u32>, longest: usize) {
    let mut storage = BatchStorage::new();
    let mut batch = storage.begin();
    for slot in 0..queue.rx_burst(&mut batch) as SlotId {
        let received = batch.frame(slot);
        let mut bytes = vec![0; received.len()];
        received.copy_to(&mut bytes);
        let number = u32::from_be_bytes(bytes[14..18].try_into().unwrap());
        assert_eq!(bytes, frame(number, longest), "frame {number} was mangled");
        assert!(missing.remove(&number), "frame {number} came twice, or unasked");
    }
    queue.rx_done();
}

#[test]
fn every_path_of_virtio_user_carries_every_byte() {
    let lab = Lab::open().unwrap();
    for bits in 0..16u8 {
        let on = |bit: u8| bits >> bit & 1 == 1;
        let rings =
            Rings { packed: on(3), mergeable: on(0), in_order: on(1), vectorized: on(2), ..Rings::PLAIN };
        round_trip(&lab, &format!("{}-{bits}", rings.name()), rings, 3000);
    }
}

#[test]
fn rings_of_every_size_carry_every_byte() {
    let lab = Lab::open().unwrap();
    for (packed, in_order, size) in [
        (false, false, 32),
        (true, false, 32),
        // Packed rings need no power of two.
        (true, true, 96),
        (true, false, 64),
        (true, true, 64),
        (true, true, 1024),
        (true, false, 4096),
        (true, false, 32768),
        (false, true, 32768),
    ] {
        let buffers = if size > 4096 { Buffers::Short } else { Buffers::Whole };
        let rings = Rings { packed, in_order, size, buffers, ..Rings::PLAIN };
        // More than twice round.
        round_trip(&lab, &format!("{}-{size}-{in_order}", rings.name()), rings, 2 * u32::from(size) + 1000);
    }
}

#[test]
fn many_queue_pairs_carry_every_byte() {
    let lab = Lab::open().unwrap();
    // virtio-user has 8 pairs at most; `protocol::each_of_128_queue_pairs_carries_frames` goes on from there.
    for pairs in [4, 8] {
        for (packed, in_order) in [(false, pairs == 4), (true, pairs == 8)] {
            let rings = Rings { packed, in_order, pairs, ..Rings::PLAIN };
            round_trip(&lab, &format!("{}-{pairs}-pairs", rings.name()), rings, 3000);
        }
    }
}

#[test]
fn frames_over_several_buffers_carry_every_byte() {
    let lab = Lab::open().unwrap();
    for packed in [false, true] {
        for in_order in [false, true] {
            let rings = Rings { packed, in_order, buffers: Buffers::Chained, ..Rings::PLAIN };
            round_trip(&lab, &format!("{}-chained-{in_order}", rings.name()), rings, 3000);
        }
    }
}

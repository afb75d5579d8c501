//! Trains against what a full look says of each packet.

use pmd::packet::{BatchStorage, Span};

use super::*;

/// Frames of several makes; some of them alike as far as a shallow look goes.
fn frames() -> Vec<Vec<u8>> {
    let ip = |host: u8, fragment: u8, protocol: u8| {
        let mut frame = vec![2, 0, 0, 0, 0, host, 2, 0, 0, 0, 0, 9, 8, 0, 0x45, 0, 0, 46, 0, 0, fragment, 0];
        frame.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, host, 4, 0, 0, 80, 0, 26, 0, 0, 0, 0, 0, 1]);
        frame.extend([0x50, 0x10, 0, 0]);
        frame.resize(60, 0);
        frame
    };
    let tag = |mut frame: Vec<u8>| {
        frame.splice(12..12, [0x81, 0, 0, 5]);
        frame
    };
    let mut other_port = ip(1, 0, 17);
    other_port[37] = 81;
    let mut llc = ip(1, 0, 17);
    llc[12..14].copy_from_slice(&[0, 46]);
    // Of these the key has fields far behind those of others.
    let mut arp = vec![0xff; 6];
    arp.extend([
        2, 0, 0, 0, 0, 9, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 10, 0, 0, 9, 0, 0, 0, 0, 0, 0,
    ]);
    arp.extend([10, 0, 0, 1]);
    vec![
        ip(1, 0, 17),
        other_port,
        ip(2, 0, 17),
        ip(2, 0x40, 6),
        ip(2, 0x20, 6),
        ip(2, 0x20, 17),
        tag(ip(1, 0, 17)),
        tag(ip(1, 0, 6)),
        llc,
        arp,
        vec![2, 0, 0, 0, 0, 1],
        Vec::new(),
    ]
}

#[test]
fn every_packet_is_in_a_train_of_its_key() {
    let frames = frames();
    let mut burst = Burst::new();
    let mut storage = BatchStorage::new();
    // Walks of different steps, so that each frame comes after every other, and bursts after other bursts.
    for round in 0..frames.len() * 4 {
        for depth in [Depth::Port, Depth::Link, Depth::Connection, Depth::Full] {
            let count = 1 + round * 7 % BURST;
            let picked: Vec<&Vec<u8>> =
                (0..count).map(|i| &frames[i / 2 * (1 + round) % frames.len()]).collect();
            let mut batch = storage.begin();
            assert!(picked.iter().all(|frame| batch.receive(Span::from_slice(frame))));
            burst.fill(&batch, PortNo(3), depth);
            assert_eq!(burst.keys().len(), burst.trains().len());
            let mut start = 0;
            for (train, key) in burst.trains().iter().zip(burst.keys()) {
                let (mut bytes, mut flags) = (0, 0);
                assert!(start < train.end);
                for slot in start..train.end {
                    let frame = picked[usize::from(slot)];
                    let mut full = FlowKey::default();
                    let layers = key::extract(frame, frame.len(), PortNo(3), &mut full);
                    let mut expected = depth.mask().apply(&full);
                    if depth != Depth::Full {
                        expected.in_port = 0;
                    }
                    assert_eq!(key, &expected, "{depth:?}, round {round}, slot {slot}");
                    assert_eq!(burst.layers(&batch, slot, PortNo(3)), layers);
                    bytes += frame.len() as u32;
                    flags |= full.tcp_flags.get();
                }
                assert_eq!((train.bytes, train.tcp_flags), (bytes, flags));
                start = train.end;
            }
            assert_eq!(usize::from(start), count);
        }
    }
}

#[test]
fn alike_packets_are_one_train_where_nobody_looks_deeper() {
    let frames = frames();
    let mut burst = Burst::new();
    let mut storage = BatchStorage::new();
    let mut batch = storage.begin();
    for i in 0..BURST {
        assert!(batch.receive(Span::from_slice(&frames[i % 4])));
    }
    for (depth, trains) in [(Depth::Port, 1), (Depth::Link, 16), (Depth::Connection, 32), (Depth::Full, 32)] {
        burst.fill(&batch, PortNo(1), depth);
        assert_eq!(burst.trains().len(), trains, "{depth:?}");
    }
}

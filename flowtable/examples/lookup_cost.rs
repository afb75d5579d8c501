//! What the lookup path costs on this machine, in nanoseconds per packet:
//! `cargo run --release -p flowtable --example lookup_cost`.
//!
//! Each line is the best of several runs over bursts of 32 packets, as a worker makes them. The packets are 64-byte
//! UDP frames of many flows in a shuffled order.

use std::hint::black_box;
use std::time::{Duration, Instant};

use flowtable::cache::SignatureCache;
use flowtable::key::{FlowKey, FlowMask, PortNo, extract, hash_key};
use flowtable::megaflow::{MegaflowTable, Place};

const BURST: usize = 32;
const PACKETS: usize = 1 << 14;
const RUNS: usize = 10;

fn main() {
    for (name, frames) in
        [("IPv4/UDP", frames_v4(256)), ("IPv6/UDP", frames_v6(256)), ("QinQ IPv4/UDP", tagged(256))]
    {
        let mut keys = vec![FlowKey::default(); BURST];
        report(&format!("extract {name}"), &frames, |frame, i| {
            black_box(extract(frame, frame.len(), PortNo(1), &mut keys[i % BURST]));
        });
        black_box(&keys);
    }
    report("hash_key", &keys(&frames_v4(1024)), |key, _| {
        black_box(hash_key(key));
    });
    for flows in [64, 1024, 4096, 100_000] {
        signatures(20, flows);
    }
    println!();
    for masks in [1, 8, 20] {
        for flows in [1, 1000, 10_000, 100_000, 1_000_000] {
            megaflow(masks, flows);
        }
    }
}

/// Runs `step` over `items` again and again and prints the best time per step.
fn report<T>(what: &str, items: &[T], mut step: impl FnMut(&T, usize)) {
    let mut best = f64::MAX;
    for _ in 0..RUNS {
        let start = Instant::now();
        for (i, item) in items.iter().cycle().take(PACKETS).enumerate() {
            step(item, i);
        }
        best = best.min(start.elapsed().as_nanos() as f64 / PACKETS as f64);
    }
    println!("{what:<60} {best:6.1} ns");
}

/// Every flow is equally likely, which is the worst case for a cache.
fn signatures(masks: usize, flows: usize) {
    let keys = keys(&frames_v4(flows));
    let (table, mut cache) = (table(masks, &keys), SignatureCache::new());
    let port = table.port(PortNo(1));
    let bursts: Vec<&[FlowKey]> = keys.chunks_exact(BURST).collect();
    let (mut values, mut places) = ([None; BURST], [Place::default(); BURST]);
    for burst in &bursts {
        port.lookup_burst(burst, u32::MAX, &mut values, &mut places);
        burst.iter().zip(places).for_each(|(key, place)| cache.put(hash_key(key), place));
    }
    let (mut hits, mut tries) = (0usize, 0usize);
    report_burst(&format!("signature cache, {masks} masks, {flows} flows"), &bursts, |burst| {
        for key in burst {
            let hit = cache.get(hash_key(key)).and_then(|place| port.get_at(place, key));
            hits += usize::from(black_box(hit).is_some());
        }
        tries += BURST;
    });
    println!("{:>50} % hits", hits * 100 / tries.max(1));
}

fn table(masks: usize, keys: &[FlowKey]) -> MegaflowTable<u64> {
    let mut table = MegaflowTable::with_seed(1);
    for (i, key) in keys.iter().enumerate() {
        table.insert(key, &mask(i % masks), i as u64);
    }
    table
}

/// Bytes a core has in its first- and second-level caches on the machines we measure on: what is beyond costs a wait.
const CACHES: usize = 2 << 20;

/// One lookup touches a bucket for each mask tried and an entry. A line is estimated to be far away as often as the
/// table does not fit the caches.
fn megaflow(masks: usize, flows: usize) {
    let mut keys = keys(&frames_v4(flows));
    let table = table(masks, &keys);
    while keys.len() < BURST {
        keys.push(keys[0]);
    }
    let port = table.port(PortNo(1));
    let bursts: Vec<&[FlowKey]> = keys.chunks_exact(BURST).collect();
    let (mut values, mut places) = ([None; BURST], [Place::default(); BURST]);
    // A bucket holds three to seven entries, an entry is a line.
    let bytes = flows * (64 + 64 / 5);
    let far = 1.0 - (CACHES as f64 / bytes as f64).min(1.0);
    let misses = far * (1.0 + (masks.min(flows) as f64 + 1.0) / 2.0);
    let what = format!("megaflow, {masks} masks, {flows} flows, {misses:.1} misses");
    report_burst(&format!("{what}, burst"), &bursts, |burst| {
        black_box(port.lookup_burst(burst, u32::MAX, &mut values, &mut places));
    });
    report_burst(&format!("{what}, one by one"), &bursts, |burst| {
        for key in burst {
            black_box(table.lookup(key));
        }
    });
}

/// Like [`report`], by bursts. The keys are copied to one place first, outside the time measured: a worker has just
/// extracted them, so they are in the first-level cache, and only the table's own lines may be far. Reading the
/// clock for each burst adds about one nanosecond per packet.
fn report_burst(what: &str, bursts: &[&[FlowKey]], mut step: impl FnMut(&[FlowKey])) {
    let mut best = f64::MAX;
    let mut keys = [FlowKey::default(); BURST];
    let count = (PACKETS / BURST).max(bursts.len());
    for _ in 0..RUNS {
        let mut time = Duration::ZERO;
        for burst in bursts.iter().cycle().take(count) {
            keys.copy_from_slice(burst);
            let start = Instant::now();
            step(black_box(&keys));
            time += start.elapsed();
        }
        best = best.min(time.as_nanos() as f64 / (count * BURST) as f64);
    }
    println!("{what:<60} {best:6.1} ns");
}

/// The i-th mask: what a bridge compares, and of the network and transport fields a part that only it has.
fn mask(i: usize) -> FlowMask {
    let mut mask = FlowMask::EXACT_BASE;
    mask.union(&FlowMask::EXACT_MACS);
    mask.fields.nw_src[..4].copy_from_slice(&[0xff; 4]);
    mask.fields.tp_src = u16::MAX.into();
    mask.fields.nw_dst[..4].copy_from_slice(&(u32::MAX << i).to_be_bytes());
    mask
}

fn keys(frames: &[Vec<u8>]) -> Vec<FlowKey> {
    let mut keys = vec![FlowKey::default(); frames.len()];
    for (frame, key) in frames.iter().zip(&mut keys) {
        extract(frame, frame.len(), PortNo(1), key);
    }
    keys
}

/// Shuffled flow numbers: a walk with a step that has no common factor with any count used here.
fn flow_numbers(flows: usize) -> impl Iterator<Item = u32> {
    (0..flows).map(move |i| ((i * 7_919) % flows) as u32)
}

const MACS: [u8; 12] = [0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1];

fn frames_v4(flows: usize) -> Vec<Vec<u8>> {
    let frame = |i: u32| {
        let mut frame = Vec::from(MACS);
        frame.extend([0x08, 0, 0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0, 10]);
        frame.extend(&i.to_be_bytes()[1..]);
        frame.extend([10, 1, 0, 1]);
        frame.extend((1024 + i as u16 % 1000).to_be_bytes());
        frame.extend([0, 53, 0, 26, 0, 0]);
        frame.resize(60, 0);
        frame
    };
    flow_numbers(flows).map(frame).collect()
}

fn frames_v6(flows: usize) -> Vec<Vec<u8>> {
    let frame = |i: u32| {
        let mut frame = Vec::from(MACS);
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64]);
        frame.extend([0xfd; 12]);
        frame.extend(i.to_be_bytes());
        frame.extend([0xfd; 16]);
        frame.extend([4, 0, 0, 53, 0, 8, 0, 0]);
        frame
    };
    flow_numbers(flows).map(frame).collect()
}

fn tagged(flows: usize) -> Vec<Vec<u8>> {
    let mut frames = frames_v4(flows);
    for frame in &mut frames {
        frame.splice(12..12, [0x88, 0xa8, 0, 100, 0x81, 0, 0, 101]);
    }
    frames
}

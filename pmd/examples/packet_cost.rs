//! What moving packets costs on this machine, in nanoseconds: `cargo run --release -p pmd --example packet_cost`.
//!
//! Each line is the best of several runs of bursts of 32 packets, without classification: the floor under the switch.

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use pmd::drivers::{null, pair};
use pmd::offload::Finisher;
use pmd::packet::{
    BURST, BatchStorage, Frame, Gso, HEAD_SPLIT, Offload, OffloadCaps, OwnedPacket, Pool, SlotId, Span,
};
use pmd::port::{RxQueue, TxQueue};

const RUNS: usize = 20;
const BURSTS: usize = 2000;

fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::create(16_384)?;
    for len in [60, 1514, 9014] {
        let mut source = null::open(generate(len))?.rx_queue(0)?;
        let mut sink = null::open(null::NullConfig::default())?.tx_queue(0)?;
        report(&format!("null to null, {len} B"), BURST, || burst(&mut *source, &mut *sink));

        let (near, far) = pair::open(pair::PairConfig { names: ["a".into(), "b".into()], queues: 1, pool })?;
        let (mut there, mut back) = (near.tx_queue(0)?, far.rx_queue(0)?);
        report(&format!("null to pair to null, {len} B"), BURST, || {
            burst(&mut *source, &mut *there) && burst(&mut *back, &mut *sink)
        });

        let mut cache = pool.cache();
        let bytes = vec![1; len];
        report(&format!("made whole in the pool and freed, {len} B"), BURST, || {
            (0..BURST).all(|_| {
                OwnedPacket::from_bytes(&bytes, &mut cache)
                    .map(|packet| packet.free_into(&mut cache))
                    .is_some()
            })
        });
    }
    software_offloads();
    Ok(())
}

fn generate(len: usize) -> null::NullConfig {
    null::NullConfig { generate: Some(vec![1; len]), ..null::NullConfig::default() }
}

/// One burst from a queue to another; whether it was a full one.
fn burst(rx: &mut dyn RxQueue, tx: &mut dyn TxQueue) -> bool {
    thread_local! {
        static STORAGE: std::cell::RefCell<BatchStorage> = std::cell::RefCell::new(BatchStorage::new());
    }
    const SLOTS: [SlotId; BURST] = {
        let mut slots = [0; BURST];
        let mut i = 0;
        while i < BURST {
            slots[i] = i as SlotId;
            i += 1;
        }
        slots
    };
    let sent = STORAGE.with_borrow_mut(|storage| {
        let mut batch = storage.begin();
        let received = rx.rx_burst(&mut batch);
        tx.tx_burst(&batch, &SLOTS[..received])
    });
    rx.rx_done();
    sent == BURST
}

/// A 64 KiB TCP frame, cut into segments and each summed, with its checksum only completed, and handed on.
fn software_offloads() {
    let mut frame = vec![7; 14 + 40 + 45 * 1448];
    frame[12..15].copy_from_slice(&[8, 0, 0x45]);
    frame[20..24].copy_from_slice(&[0, 0, 64, 6]);
    frame[46] = 0x50;
    let cut = Offload {
        needs_csum: true,
        gso: Gso::TcpV4,
        gso_size: 1448,
        csum_start: 34,
        csum_offset: 16,
        ..Offload::default()
    };
    let sum = Offload { gso: Gso::None, gso_size: 0, ..cut };
    let mut finisher = Finisher::new();
    for (name, offload, caps, frames) in [
        ("cut in software, per segment of 1448 B", cut, OffloadCaps::default(), 45),
        ("checksum in software, per 1448 B", sum, OffloadCaps::default(), 45),
        ("handed on as it is", cut, OffloadCaps { csum: true, tso4: true, ..OffloadCaps::default() }, 1),
    ] {
        let spans = [Span::from_slice(&frame[HEAD_SPLIT..])];
        let whole = Frame::new(&frame[..HEAD_SPLIT], offload, &spans, frame.len() - HEAD_SPLIT);
        report(&format!("64 KiB TCP frame {name}"), frames, || {
            let done = finisher.finish(black_box(whole), caps, usize::MAX, |piece| {
                black_box(piece.len());
            });
            done.is_ok()
        });
    }
}

/// Prints the nanoseconds of one of the `units` of a step, in the best run. A step that says false has failed.
fn report(name: &str, units: usize, mut step: impl FnMut() -> bool) {
    let mut best = f64::INFINITY;
    let mut failed = 0;
    for _ in 0..RUNS {
        let start = Instant::now();
        for _ in 0..BURSTS / units.min(8) {
            failed += usize::from(!step());
        }
        best = best.min(start.elapsed().as_nanos() as f64 / (BURSTS / units.min(8) * units) as f64);
    }
    let failed = if failed == 0 { String::new() } else { format!("  ({failed} steps failed)") };
    println!("{name:<60} {best:8.1} ns{failed}");
}

//! `vsgen wake`: how long one frame takes after a silence.
//!
//! The generator's own processor stays awake (it spins through the silence without touching a ring), so what is measured is the
//! switch: kick, wake-up, forwarding, used entry.

use std::hint::spin_loop;
use std::time::Duration;

use pmd::sys::clock::cycles;
use serde_json::{Value, json};

use crate::args::WakeArgs;
use crate::error::Error;
use crate::histogram::Histogram;
use crate::memory::HugePages;
use crate::pair::{Pair, Settings};
use crate::report::{latency, nanoseconds};
use crate::stream::Stream;

/// A frame that takes longer is lost.
const LOST: Duration = Duration::from_secs(1);
/// Latencies that are reported one by one: the first ones.
const FIRST: usize = 10;

/// Runs and gives the report.
pub(crate) fn wake(args: &WakeArgs) -> Result<Value, Error> {
    let settings = Settings { ring_size: 1024, packed: false, offload: false, huge: HugePages::Auto };
    // The stamp makes the receiver look at each frame and take its time.
    let stream = Stream { latency: true, ..Stream::default() };
    let mut pair = Pair::connect(&args.ports, settings, [Some(&stream), None])?;
    pair.learn()?;
    let hz = pair.hz();
    let gap = hz.saturating_mul(u64::from(args.gap)) / 1000;
    let patience = hz * LOST.as_secs();
    let (mut histogram, mut first, mut lost) = (Histogram::new(), Vec::new(), 0u32);
    for _ in 0..args.count {
        let silence = cycles();
        while cycles().wrapping_sub(silence) < gap {
            spin_loop();
        }
        // Late ones of before do not count for this one.
        while pair.receive()? > 0 {}
        let before = pair.ways[0].receiver.received;
        let start = cycles();
        if !pair.send_one(start)? {
            return Err(Error::Failed("the switch does not take what guest A sends".into()));
        }
        let ticks = loop {
            pair.receive()?;
            let ticks = cycles().wrapping_sub(start);
            if pair.ways[0].receiver.received > before {
                break Some(ticks);
            }
            if ticks > patience {
                break None;
            }
        };
        match ticks {
            Some(ticks) => {
                histogram.record(ticks);
                if first.len() < FIRST {
                    first.push(nanoseconds(ticks));
                }
            }
            None => lost += 1,
        }
    }
    pair.drain()?;
    Ok(json!({ "count": args.count, "lost": lost, "latency_ns": latency(&histogram), "first_ns": first }))
}

//! `vsgen run`: learn, settle, measure, wait for stragglers, report.
//!
//! Between settling and measuring the loop runs empty, so every frame that is counted as received was counted as sent, without looking at sequence
//! numbers; filling the loop again takes microseconds.

use std::time::Duration;

use serde_json::{Value, json};

use crate::args::{Layout, Offload, RunArgs, YesNo};
use crate::error::Error;
use crate::pair::{Pair, Settings};
use crate::report::{StreamResult, nanoseconds, rounded};
use crate::stream::{Rate, Stream};

/// Runs and gives the report.
pub(crate) fn run(args: &RunArgs) -> Result<Value, Error> {
    let packed = args.ring == Layout::Packed;
    let offload = args.offload == Offload::Tso;
    let parse = |option: &str, text: &Option<String>| {
        let parsed = text.as_deref().map(|text| Stream::parse(text, offload)).transpose();
        parsed.map_err(|why| Error::Usage(format!("{option}: {why}")))
    };
    let streams = [parse("--ab", &args.ab)?, parse("--ba", &args.ba)?];
    if streams.iter().all(Option::is_none) {
        return Err(Error::Usage("nothing to send: give --ab STREAM, --ba STREAM or both".into()));
    }
    let settings = Settings { ring_size: args.ring_size, packed, offload, huge: args.hugepages };
    let mut pair = Pair::connect(&args.ports, settings, streams.each_ref().map(Option::as_ref))?;
    if args.learn == YesNo::Yes {
        pair.learn()?;
    }
    let outages = pair.outlive(args.restarts)?;
    if args.settle > 0.0 {
        pair.restart();
        pair.exchange(Duration::from_secs_f64(args.settle))?;
        pair.drain()?;
    }
    pair.restart();
    let (turns, seconds) = pair.exchange(Duration::from_secs_f64(args.seconds))?;
    let behind: u64 = pair.ways.iter().map(|way| way.sender.behind()).sum();
    pair.drain()?;
    if turns.stalls > 0 {
        eprintln!("vsgen: {} times all frames of a closed loop were lost", turns.stalls);
    }
    let mut results = Vec::new();
    for ((stream, way), name) in streams.iter().zip(&pair.ways).zip(["ab", "ba"]) {
        let Some(stream) = stream else { continue };
        let sent = way.sender.sent();
        let offered = match stream.rate {
            Rate::Paced(rate) => (rate as f64 * seconds).round() as u64,
            Rate::Closed | Rate::Max => sent,
        };
        let result = StreamResult {
            name,
            size: stream.size,
            flows: stream.flows,
            seconds,
            offered,
            sent,
            refused: way.sender.refused(),
            received: way.receiver.received,
            bytes: way.receiver.bytes,
            foreign: way.receiver.foreign,
            latency: way.receiver.latency.as_ref(),
        };
        results.push(result.to_json());
    }
    if args.restarts > 0 {
        pair.count_buffers()?;
    }
    Ok(json!({
        "streams": results,
        "ring": if packed { "packed" } else { "split" },
        "ring_size": args.ring_size,
        "features": format!("{:#x}", pair.features()),
        "generator_busy": rounded(turns.busy as f64 / turns.all.max(1) as f64, 4),
        "behind": behind,
        "outages_ms": outages.iter().map(|&ticks| rounded(nanoseconds(ticks) as f64 / 1e6, 3)).collect::<Vec<_>>(),
    }))
}

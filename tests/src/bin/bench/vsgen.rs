//! Our own generator, `vsgen`: two guests in one polling thread on the generator's processor (`tools/vsgen`).

use std::path::Path;

use ::tests::failure::{During as _, Failure, Result};
use ::tests::process::run;
use serde_json::Value;

use crate::Bench;
use crate::contestants::Contestant;
use crate::machine::GENERATOR_CPU;

/// Beyond its own time: connecting, memory, stragglers, and what a busy machine adds.
const PATIENCE: u64 = 60;

/// A histogram's marks, microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Latency {
    /// Half of the frames were faster.
    pub(crate) p50: f64,
    /// All but one of a hundred were faster.
    pub(crate) p99: f64,
    /// All but one of a thousand were faster.
    pub(crate) p999: f64,
}

/// What became of one direction.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stream {
    /// Frames sent.
    pub(crate) sent: f64,
    /// Frames the pacer wanted to send; `sent` is less if the ring was full or the generator late.
    pub(crate) offered: f64,
    /// Frames that were due and found the ring full.
    pub(crate) refused: f64,
    /// Frames that arrived.
    pub(crate) received: f64,
    /// Frames that did not.
    pub(crate) lost: f64,
    /// Frames that arrived and were not sent like this: cut, changed, or somebody else's.
    pub(crate) foreign: f64,
    /// Millions of frames received per second.
    pub(crate) mpps: f64,
    /// Received on the wire, Gbit/s.
    pub(crate) gbps: f64,
    /// If frames were stamped.
    pub(crate) latency: Option<Latency>,
}

/// The arguments that differ from run to run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Offer {
    /// What A sends to B, for example `size=64,flows=1000`.
    pub(crate) ab: Option<String>,
    /// What B sends to A.
    pub(crate) ba: Option<String>,
    /// Settling time, seconds.
    pub(crate) settle: f64,
    /// Measured time, seconds.
    pub(crate) seconds: f64,
    /// Frames larger than the MTU.
    pub(crate) tso: bool,
}

/// Sends what is offered through `contestant`, and gives what became of it: A to B, then B to A, of what was
/// offered.
///
/// # Errors
/// The program is missing, fails, or prints something else than it should.
pub(crate) fn send(bench: &Bench, contestant: &Contestant, offer: &Offer) -> Result<Vec<Stream>> {
    let mut arguments = vec![
        "--settle".to_owned(),
        offer.settle.to_string(),
        "--seconds".to_owned(),
        offer.seconds.to_string(),
    ];
    if offer.tso {
        arguments.extend(["--offload", "tso"].map(str::to_owned));
    }
    for (name, stream) in [("--ab", &offer.ab), ("--ba", &offer.ba)] {
        if let Some(stream) = stream {
            arguments.extend([name.to_owned(), stream.clone()]);
        }
    }
    let output = start(bench, "run", contestant, &arguments, offer.settle + offer.seconds)?;
    streams(&parse(&output)?)
}

/// Wakes `contestant` `count` times, `gap` milliseconds apart, and gives how long the first frame took.
///
/// # Errors
/// As [`send`]; also if a frame was lost.
pub(crate) fn wake(bench: &Bench, contestant: &Contestant, count: u32, gap: u32) -> Result<Latency> {
    let arguments = ["--count".to_owned(), count.to_string(), "--gap".to_owned(), gap.to_string()];
    let seconds = f64::from(count) * f64::from(gap) / 1000.0;
    let value = parse(&start(bench, "wake", contestant, &arguments, seconds)?)?;
    if number(&value, "lost")? > 0.0 {
        return Err(Failure::new(format!("vsgen wake lost {} of {count} frames", value["lost"])));
    }
    latency(&value["latency_ns"])?.ok_or_else(|| Failure::new("vsgen wake printed no latency"))
}

fn start(
    bench: &Bench,
    verb: &str,
    contestant: &Contestant,
    more: &[String],
    seconds: f64,
) -> Result<String> {
    let program = bench.lab.binaries().folder().join("vsgen");
    if !program.exists() {
        return Err(Failure::new(format!("there is no {}; `make bench` builds it", program.display())));
    }
    let core = GENERATOR_CPU.to_string();
    // Should a switch stop answering, the bench must not wait for ever.
    let bound = format!("{:.0}", seconds.ceil() + PATIENCE as f64);
    let [a, b] = contestant.ports().map(|p| p.display().to_string());
    let program = program.display().to_string();
    let mut arguments = vec!["--kill-after=5", &bound, &program, verb, "--a", &a, "--b", &b, "--core", &core];
    arguments.extend(more.iter().map(String::as_str));
    run(Path::new("timeout"), &arguments)
}

fn parse(output: &str) -> Result<Value> {
    serde_json::from_str(output).during(format_args!("vsgen's output {output:?}"))
}

fn streams(value: &Value) -> Result<Vec<Stream>> {
    let all =
        value["streams"].as_array().ok_or_else(|| Failure::new(format!("vsgen: no streams in {value}")))?;
    all.iter().map(stream).collect()
}

fn stream(value: &Value) -> Result<Stream> {
    Ok(Stream {
        sent: number(value, "sent")?,
        // Only a paced stream has it.
        offered: value["offered"].as_f64().unwrap_or(0.0),
        received: number(value, "received")?,
        lost: number(value, "lost")?,
        refused: number(value, "refused")?,
        foreign: number(value, "foreign")?,
        mpps: number(value, "mpps")?,
        gbps: number(value, "gbps")?,
        latency: latency(&value["latency_ns"])?,
    })
}

fn latency(value: &Value) -> Result<Option<Latency>> {
    if value.is_null() {
        return Ok(None);
    }
    let microseconds = |name| number(value, name).map(|ns| ns / 1000.0);
    Ok(Some(Latency { p50: microseconds("p50")?, p99: microseconds("p99")?, p999: microseconds("p999")? }))
}

fn number(value: &Value, name: &str) -> Result<f64> {
    value[name].as_f64().ok_or_else(|| Failure::new(format!("vsgen: no number {name:?} in {value}")))
}

#[cfg(test)]
mod tests {
    use super::{Latency, parse, streams};

    const OUTPUT: &str = r#"{"streams":[{"name":"ab","size":64,"flows":1,"seconds":3.0,"offered":3000,"sent":2999,"refused":1,
        "received":2990,"lost":9,"foreign":1,"mpps":0.000997,"sent_mpps":0.001,"gbps":0.0005,
        "latency_ns":{"samples":2990,"min":900,"p50":2000,"p90":3000,"p99":4500,"p999":9000,"max":12000}},
        {"name":"ba","size":64,"flows":1,"seconds":3.0,"offered":0,"sent":5,"refused":0,"received":5,"lost":0,"foreign":0,
        "mpps":1.5,"sent_mpps":1.5,"gbps":0.7,"latency_ns":null}],
        "ring":"split","ring_size":1024,"features":"0x0","generator_busy":0.5,"behind":0}"#;

    #[test]
    fn the_contract_is_understood() {
        let both = streams(&parse(OUTPUT).unwrap()).unwrap();
        let [ab, ba] = both.as_slice() else { panic!("{both:?}") };
        assert_eq!(
            (ab.sent, ab.offered, ab.refused, ab.received, ab.lost, ab.foreign),
            (2999.0, 3000.0, 1.0, 2990.0, 9.0, 1.0)
        );
        assert_eq!(ab.latency, Some(Latency { p50: 2.0, p99: 4.5, p999: 9.0 }));
        assert_eq!((ba.mpps, ba.gbps, ba.latency), (1.5, 0.7, None));
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(parse("no json").is_err());
        let error = streams(&parse(r#"{"streams":[{"sent":1,"received":1}]}"#).unwrap()).unwrap_err();
        assert!(error.to_string().contains("lost"), "{error}");
        assert!(streams(&parse("{}").unwrap()).is_err());
    }
}

//! Results as JSON: the keys are a contract with whoever reads them (docs/vsgen.md).

use pmd::sys::clock::cycles_per_second;
use serde_json::{Value, json};

use crate::histogram::Histogram;

/// What became of one stream.
#[derive(Debug)]
pub(crate) struct StreamResult<'a> {
    pub(crate) name: &'static str,
    pub(crate) size: u32,
    pub(crate) flows: u32,
    pub(crate) seconds: f64,
    pub(crate) offered: u64,
    pub(crate) sent: u64,
    pub(crate) refused: u64,
    pub(crate) received: u64,
    pub(crate) bytes: u64,
    pub(crate) foreign: u64,
    pub(crate) latency: Option<&'a Histogram>,
}

impl StreamResult<'_> {
    /// The object of this stream.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "size": self.size,
            "flows": self.flows,
            "seconds": rounded(self.seconds, 6),
            "offered": self.offered,
            "sent": self.sent,
            "refused": self.refused,
            "received": self.received,
            "lost": self.sent.saturating_sub(self.received),
            "foreign": self.foreign,
            "mpps": rounded(self.received as f64 / self.seconds / 1e6, 6),
            "sent_mpps": rounded(self.sent as f64 / self.seconds / 1e6, 6),
            "gbps": rounded(self.bytes as f64 * 8.0 / self.seconds / 1e9, 6),
            "latency_ns": self.latency.map(latency),
        })
    }
}

/// A histogram of ticks, in nanoseconds; all zero without samples.
pub(crate) fn latency(histogram: &Histogram) -> Value {
    json!({
        "samples": histogram.samples(),
        "min": nanoseconds(histogram.min()),
        "p50": nanoseconds(histogram.quantile(500)),
        "p90": nanoseconds(histogram.quantile(900)),
        "p99": nanoseconds(histogram.quantile(990)),
        "p999": nanoseconds(histogram.quantile(999)),
        "max": nanoseconds(histogram.max()),
    })
}

/// Nanoseconds of so many ticks.
pub(crate) fn nanoseconds(ticks: u64) -> u64 {
    let ns = u128::from(ticks) * 1_000_000_000 / u128::from(cycles_per_second());
    u64::try_from(ns).unwrap_or(u64::MAX)
}

/// Rounded to so many decimal places.
pub(crate) fn rounded(value: f64, places: i32) -> f64 {
    let scale = 10f64.powi(places);
    (value * scale).round() / scale
}

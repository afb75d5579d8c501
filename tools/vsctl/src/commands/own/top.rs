//! `top`: ports and rates, live.
//!
//! Two samples of the counters a while apart give rates. On a terminal each block replaces the last one; into a
//! file or pipe blocks follow each other, so the same command serves a demo and a log.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::answer::{count, list, real, text, text_or_empty};
use super::stats::dropped;
use crate::connection::Database;
use crate::error::{Error, usage};
use crate::output::{Cell, Style, Table};

/// `top`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Stop after this many blocks; without it, run until interrupted
    #[arg(short = 'n', long)]
    iterations: Option<u64>,
    /// Seconds between samples
    #[arg(short, long, default_value_t = 1.0)]
    interval: f64,
}

/// Moves the cursor home and clears the screen.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Shortest interval: below it the question costs more than the answer is worth.
const MIN_INTERVAL: f64 = 0.05;

/// Longest interval, one day.
const MAX_INTERVAL: f64 = 86_400.0;

/// Counters of one port.
#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    rx_packets: u64,
    rx_bytes: u64,
    tx_packets: u64,
    tx_bytes: u64,
    drops: u64,
}

/// All counters at one moment.
#[derive(Debug)]
struct Sample {
    at: Instant,
    ports: Vec<Value>,
    workers: Vec<Value>,
}

impl Sample {
    fn take(db: &mut dyn Database) -> Result<Self, Error> {
        let stats = db.call("vs.stats", json!([null]))?;
        let at = Instant::now();
        let pmd = db.call("vs.pmd", json!([]))?;
        Ok(Self { at, ports: list(&stats, "ports").to_vec(), workers: list(&pmd, "workers").to_vec() })
    }

    fn counters(&self) -> BTreeMap<&str, Counters> {
        let counters = |port| Counters {
            rx_packets: count(port, "rx_packets"),
            rx_bytes: count(port, "rx_bytes"),
            tx_packets: count(port, "tx_packets"),
            tx_bytes: count(port, "tx_bytes"),
            drops: dropped(port),
        };
        self.ports.iter().map(|port| (text(port, "name"), counters(port))).collect()
    }

    /// Packets found in a cache, and packets looked up.
    fn lookups(&self) -> (u64, u64) {
        let sum = |field| self.workers.iter().map(|worker| count(worker, field)).fold(0, u64::saturating_add);
        let hits = sum("emc_hits").saturating_add(sum("megaflow_hits"));
        (hits, hits.saturating_add(sum("misses")))
    }
}

/// Runs the command until its iterations are over, the output is closed or the user interrupts it.
pub(super) fn run(
    args: &Args,
    db: &mut dyn Database,
    style: Style,
    out: &mut dyn Write,
) -> Result<(), Error> {
    if !(MIN_INTERVAL..=MAX_INTERVAL).contains(&args.interval) {
        return Err(usage!(
            "--interval {}: choose between {MIN_INTERVAL} and {MAX_INTERVAL} seconds",
            args.interval
        ));
    }
    let redraw = std::io::stdout().is_terminal();
    let mut last = Sample::take(db)?;
    let mut block = 0;
    while args.iterations.is_none_or(|iterations| block < iterations) {
        std::thread::sleep(Duration::from_secs_f64(args.interval));
        let now = Sample::take(db)?;
        let text = render(&last, &now, style);
        super::write(out, &if redraw { format!("{CLEAR}{text}") } else { format!("{text}\n") })?;
        last = now;
        block += 1;
    }
    Ok(())
}

fn render(last: &Sample, now: &Sample, style: Style) -> String {
    let seconds = now.at.saturating_duration_since(last.at).as_secs_f64().max(1e-6);
    let mut table =
        Table::new(["port", "bridge", "link", "rx_pps", "rx_bps", "tx_pps", "tx_bps", "drops_ps", "drops"]);
    let (before, after) = (last.counters(), now.counters());
    for port in &now.ports {
        let name = text(port, "name");
        let new = after.get(name).copied().unwrap_or_default();
        // A port that was not there a moment ago has no rate yet.
        let old = before.get(name).copied().unwrap_or(new);
        table.rows.push(vec![
            Cell::text(name),
            Cell::text(text_or_empty(port, "bridge")),
            Cell::text(text_or_empty(port, "link")),
            rate(old.rx_packets, new.rx_packets, seconds, 1.0),
            rate(old.rx_bytes, new.rx_bytes, seconds, 8.0),
            rate(old.tx_packets, new.tx_packets, seconds, 1.0),
            rate(old.tx_bytes, new.tx_bytes, seconds, 8.0),
            rate(old.drops, new.drops, seconds, 1.0),
            Cell::count(new.drops),
        ]);
    }
    if style.format.is_some() {
        return table.render(style);
    }
    format!("{}\n\n{}", summary(last, now), table.render(style))
}

/// The line above the table: workers with their load, flows, hit rate.
fn summary(last: &Sample, now: &Sample) -> String {
    let ((hits_before, all_before), (hits, all)) = (last.lookups(), now.lookups());
    let (hits, all) = (hits.saturating_sub(hits_before), all.saturating_sub(all_before));
    let hit_rate =
        if all == 0 { "-".to_owned() } else { format!("{:.2}%", 100.0 * hits as f64 / all as f64) };
    let flows = now.workers.iter().map(|worker| count(worker, "flows")).fold(0, u64::saturating_add);
    let mut line = format!("{} ports, {flows} flows, hit rate {hit_rate}", now.ports.len());
    for worker in &now.workers {
        let core = count(worker, "core");
        let before = last.workers.iter().find(|other| count(other, "core") == core);
        let _ = write!(line, ", core {core} {} {:.0}% busy", text(worker, "state"), busy(before, worker));
    }
    line
}

/// The load of a worker since the last sample, or since it started if the switch does not count cycles for us.
fn busy(before: Option<&Value>, now: &Value) -> f64 {
    let since = |field| count(now, field).saturating_sub(before.map_or(0, |before| count(before, field)));
    match since("total_cycles") {
        0 => real(now, "busy_pct"),
        total => 100.0 * since("busy_cycles") as f64 / total as f64,
    }
}

fn rate(old: u64, new: u64, seconds: f64, factor: f64) -> Cell {
    // A counter that went back belongs to a port that was made anew.
    let per_second = new.saturating_sub(old) as f64 * factor / seconds;
    let text = scaled(per_second);
    Cell { bare: text.clone(), text, json: json!(per_second) }
}

/// A number with three or four digits and a unit prefix.
fn scaled(x: f64) -> String {
    for (limit, divisor, prefix) in [(1e3, 1.0, ""), (1e6, 1e3, "k"), (1e9, 1e6, "M")] {
        if x < limit {
            return if prefix.is_empty() { format!("{x:.0}") } else { format!("{:.2}{prefix}", x / divisor) };
        }
    }
    format!("{:.2}G", x / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Data;
    use crate::script::{Script, own};

    fn sample(at: Instant, rx_packets: u64, hits: u64) -> Sample {
        Sample {
            at,
            ports: vec![
                json!({"name": "p0", "bridge": "br0", "link": "up", "rx_packets": rx_packets, "rx_bytes": rx_packets * 100,
                "drops": {"ring_full": rx_packets / 10}}),
            ],
            workers: vec![
                json!({"core": 1, "state": "polling", "busy_pct": 40.0, "emc_hits": hits, "misses": 10, "flows": 2}),
            ],
        }
    }

    #[test]
    fn rates_are_differences_over_time() {
        let start = Instant::now();
        let style = Style { format: None, data: Data::String, headings: true };
        let text = render(&sample(start, 1000, 0), &sample(start + Duration::from_secs(2), 5000, 90), style);
        let last: Vec<_> = text.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(last, ["p0", "br0", "up", "2.00k", "1.60M", "0", "0", "200", "500"]);
        assert!(text.starts_with("1 ports, 2 flows, hit rate 100.00%, core 1 polling 40% busy\n"), "{text}");
        let reset = render(&sample(start, 1000, 0), &sample(start + Duration::from_secs(1), 10, 0), style);
        assert!(reset.contains("hit rate -") && reset.lines().last().unwrap().contains(" 0 "), "{reset}");
    }

    #[test]
    fn units() {
        assert_eq!([0.4, 999.0, 1500.0, 2.5e6, 1e10].map(scaled), ["0", "999", "1.50k", "2.50M", "10.00G"]);
    }

    #[test]
    fn blocks_are_counted() {
        let two = || [("vs.stats", json!([null]), json!({})), ("vs.pmd", json!([]), json!({}))];
        let mut script = Script::new(two().into_iter().chain(two()).chain(two()));
        let text = own(&mut script, "top --iterations 2 --interval 0.05").unwrap();
        script.finished();
        assert_eq!(text.matches("hit rate").count(), 2);
        assert!(own(&mut script, "top --interval 0").unwrap_err().to_string().contains("--interval"));
    }
}

//! `vs.stats` and `vs.pmd`.

use serde_json::{Map, Value, json};

use super::params::optional;
use crate::switch::{PortReport, Switch, WorkerReport};
use pmd::port::LinkState;

pub(super) fn ports(switch: &Switch, params: &Value) -> Result<Value, String> {
    let name = optional(params, 0, "port")?;
    let reports = switch.port_reports(name);
    match name {
        Some(name) if reports.is_empty() => Err(format!("there is no port named {name}")),
        _ => Ok(json!({ "ports": reports.iter().map(port).collect::<Vec<_>>() })),
    }
}

fn port(report: &PortReport) -> Value {
    let mut drops = Map::new();
    for (&reason, &n) in report.rx_drops.iter().chain(&report.tx_drops) {
        drops.insert(reason.to_owned(), n.into());
    }
    let queue = |q: &crate::switch::QueueReport| {
        json!({
            "dir": if q.is_rx { "rx" } else { "tx" },
            "index": q.index,
            "worker": q.core,
            "packets": q.counters.packets,
            "bytes": q.counters.bytes,
            "notified": q.counters.notified,
            "suppressed": q.counters.suppressed,
        })
    };
    json!({
        "offloads": offloads(report),
        "software": report.software().iter().map(|&(name, n)| (name.to_owned(), n.into())).collect::<Map<_, _>>(),
        "name": report.name,
        "bridge": report.bridge,
        "ofport": report.ofport,
        "type": report.driver,
        "admin": if report.admin_up { "up" } else { "down" },
        "link": if report.info.link == LinkState::Up { "up" } else { "down" },
        "rx_packets": report.rx.packets,
        "rx_bytes": report.rx.bytes,
        "tx_packets": report.tx.packets,
        "tx_bytes": report.tx.bytes,
        "drops": drops,
        "queues": report.queues.iter().map(queue).collect::<Vec<_>>(),
    })
}

/// How offloads are set, and whether frames are handed to the far side so now; absent where the driver does not say.
fn offloads(report: &PortReport) -> Value {
    let tx = report.offloads.tx;
    let rows = [
        ("csum", tx.csum, "tx_tcp_csum_offload"),
        ("tso", tx.tso, "tx_tcp_seg_offload"),
        ("uso", tx.uso, "tx_udp_seg_offload"),
        ("ufo", tx.ufo, "tx_udp_frag_offload"),
        ("gro", report.offloads.gro, "rx_gro"),
    ];
    let now = |key: &str| report.info.status.iter().find(|(k, _)| k == key).map(|(_, value)| value == "true");
    rows.iter().map(|&(name, set, key)| json!({ "name": name, "set": set, "now": now(key) })).collect()
}

pub(super) fn workers(switch: &Switch) -> Result<Value, String> {
    Ok(json!({ "workers": switch.worker_reports().iter().map(worker).collect::<Vec<_>>() }))
}

fn worker(report: &WorkerReport) -> Value {
    let counters = &report.counters;
    let rxq = |q: &crate::switch::RxqReport| {
        json!({
            "port": q.port,
            "queue": q.queue,
            "packets": q.packets,
            "cycles_per_packet": ratio(q.cycles, q.packets),
            "usage_pct": (q.usage_pct * 10.0).round() / 10.0,
            "pinned": q.pinned,
        })
    };
    json!({
        "core": report.core,
        "numa": report.numa,
        "isolated": report.isolated,
        "state": if counters.sleeping { "sleeping" } else { "polling" },
        "busy_pct": 100.0 * ratio(counters.busy_cycles, counters.total_cycles),
        "busy_cycles": counters.busy_cycles,
        "total_cycles": counters.total_cycles,
        "cycles_per_packet": ratio(counters.busy_cycles, counters.packets),
        "packets": counters.packets,
        "packets_per_burst": ratio(counters.packets, counters.bursts),
        "emc_hits": counters.emc_hits,
        "megaflow_hits": counters.megaflow_hits,
        "misses": counters.misses,
        "executed": counters.executed,
        "flows": counters.flows,
        "sleeps": counters.sleeps,
        "rxqs": report.rxqs.iter().map(rxq).collect::<Vec<_>>(),
    })
}

/// A quotient with one decimal for display; zero when there is nothing to divide by.
fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { (a as f64 / b as f64 * 1000.0).round() / 1000.0 }
}

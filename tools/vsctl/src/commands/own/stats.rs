//! `stats`: counters of ports; of one port with its queues, offloads and drop reasons.

use serde_json::{Value, json};

use super::answer::{count, counts, list, text, text_or_empty};
use crate::connection::Database;
use crate::error::Error;
use crate::output::{Cell, Style, Table};

/// `stats`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this port, with its queues, its offloads and the reasons of its drops
    port: Option<String>,
}

/// Runs the command.
pub(super) fn run(args: &Args, db: &mut dyn Database, style: Style) -> Result<String, Error> {
    let answer = db.call("vs.stats", json!([args.port]))?;
    let ports = list(&answer, "ports");
    let mut out = port_table(ports).render(style);
    // The other tables would spoil a machine-readable one; --format json of all ports has every number.
    if args.port.is_some() && style.format.is_none() {
        for port in ports {
            out.push('\n');
            out.push_str(&queue_table(port).render(style));
            for table in
                [offload_table(port), software_table(port)].into_iter().filter(|t| !t.rows.is_empty())
            {
                out.push('\n');
                out.push_str(&table.render(style));
            }
            let drops = drop_table(port);
            if !drops.rows.is_empty() {
                out.push('\n');
                out.push_str(&drops.render(style));
            }
        }
    }
    Ok(out)
}

/// Drops of all reasons.
pub(super) fn dropped(port: &Value) -> u64 {
    counts(port, "drops").iter().map(|(_, n)| n).fold(0, |sum, n| sum.saturating_add(*n))
}

fn port_table(ports: &[Value]) -> Table {
    let mut table = Table::new([
        "port",
        "bridge",
        "ofport",
        "type",
        "link",
        "rx_packets",
        "rx_bytes",
        "tx_packets",
        "tx_bytes",
        "drops",
    ]);
    for port in ports {
        let mut row = vec![Cell::text(text(port, "name")), Cell::text(text_or_empty(port, "bridge"))];
        row.push(Cell::count(count(port, "ofport")));
        row.extend(["type", "link"].map(|field| Cell::text(text_or_empty(port, field))));
        row.extend(
            ["rx_packets", "rx_bytes", "tx_packets", "tx_bytes"].map(|field| Cell::count(count(port, field))),
        );
        let mut drops = Cell::count(dropped(port));
        drops.json = port.get("drops").cloned().unwrap_or_else(|| json!({}));
        row.push(drops);
        table.rows.push(row);
    }
    table
}

fn queue_table(port: &Value) -> Table {
    let mut table = Table::new(["queue", "worker", "packets", "bytes", "notified", "suppressed"]);
    for queue in list(port, "queues") {
        let mut row = vec![Cell::text(format!("{}{}", text(queue, "dir"), count(queue, "index")))];
        row.push(match queue.get("worker").and_then(Value::as_u64) {
            Some(worker) => Cell::count(worker),
            None => Cell::text("-"),
        });
        row.extend(
            ["packets", "bytes", "notified", "suppressed"].map(|field| Cell::count(count(queue, field))),
        );
        table.rows.push(row);
    }
    table
}

/// What is left to the far side: as it is set, and as it is now, which also depends on what the far side takes.
fn offload_table(port: &Value) -> Table {
    let mut table = Table::new(["offload", "set", "now"]);
    for offload in list(port, "offloads") {
        let word = |field: &str| match offload.get(field).and_then(Value::as_bool) {
            Some(true) => "on",
            Some(false) => "off",
            None => "-",
        };
        table.rows.push(vec![
            Cell::text(text(offload, "name")),
            Cell::text(word("set")),
            Cell::text(word("now")),
        ]);
    }
    table
}

fn software_table(port: &Value) -> Table {
    let mut table = Table::new(["done in software", "count"]);
    for (what, n) in counts(port, "software").into_iter().filter(|(_, n)| *n > 0) {
        table.rows.push(vec![Cell::text(what), Cell::count(n)]);
    }
    table
}

fn drop_table(port: &Value) -> Table {
    let mut table = Table::new(["drop reason", "packets"]);
    for (reason, n) in counts(port, "drops").into_iter().filter(|(_, n)| *n > 0) {
        table.rows.push(vec![Cell::text(reason), Cell::count(n)]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;
    use crate::script::{Script, own, own_format};

    fn answer() -> Value {
        json!({"ports": [{"name": "p0", "bridge": "br0", "ofport": 1, "type": "tap", "link": "up", "rx_packets": 10,
            "rx_bytes": 600, "tx_packets": 2, "tx_bytes": 120, "drops": {"ring_full": 3, "no_buffer": 0, "vlan": 1},
            "offloads": [{"name": "csum", "set": true, "now": true}, {"name": "tso", "set": false, "now": false}, {"name": "ufo", "set": true, "now": null}],
            "software": {"tx_sw_gso_packets": 7, "tx_sw_csum_packets": 0},
            "queues": [{"dir": "rx", "index": 0, "worker": 1, "packets": 10, "bytes": 600, "notified": 4, "suppressed": 6}]}]})
    }

    #[test]
    fn one_line_per_port() {
        let mut script = Script::new([("vs.stats", json!([null]), answer())]);
        let text = own(&mut script, "stats").unwrap();
        let last: Vec<_> = text.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(last, ["p0", "br0", "1", "tap", "up", "10", "600", "2", "120", "4"]);
    }

    #[test]
    fn one_port_in_detail() {
        let mut script = Script::new([("vs.stats", json!(["p0"]), answer())]);
        let text = own(&mut script, "stats p0").unwrap();
        let rows: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(rows.contains(&vec!["rx0", "1", "10", "600", "4", "6"]), "{text}");
        assert!(
            rows.contains(&vec!["tso", "off", "off"]) && rows.contains(&vec!["ufo", "on", "-"]),
            "{text}"
        );
        assert!(rows.contains(&vec!["tx_sw_gso_packets", "7"]) && !text.contains("tx_sw_csum"), "{text}");
        assert!(rows.contains(&vec!["ring_full", "3"]) && !text.contains("no_buffer"), "{text}");
    }

    #[test]
    fn json_has_the_reasons() {
        let mut script = Script::new([("vs.stats", json!([null]), answer())]);
        let json: Value =
            serde_json::from_str(&own_format(&mut script, "stats", Format::Json).unwrap()).unwrap();
        assert_eq!(json["data"][0][9]["ring_full"], 3);
    }
}

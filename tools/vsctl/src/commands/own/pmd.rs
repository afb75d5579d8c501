//! `pmd`: the load of workers and of the rx queues they poll.

use serde_json::{Value, json};

use super::answer::{count, list, real, text};
use crate::connection::Database;
use crate::error::Error;
use crate::output::{Cell, Style, Table};

/// `pmd`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Runs the command.
pub(super) fn run(db: &mut dyn Database, style: Style) -> Result<String, Error> {
    let answer = db.call("vs.pmd", json!([]))?;
    let workers = list(&answer, "workers");
    let mut table = Table::new([
        "core",
        "numa",
        "state",
        "busy_pct",
        "cycles_per_packet",
        "packets",
        "emc_hits",
        "megaflow_hits",
        "misses",
        "sleeps",
        "rxqs",
    ]);
    for worker in workers {
        let mut row = vec![Cell::count(count(worker, "core")), Cell::count(count(worker, "numa"))];
        row.push(Cell::text(text(worker, "state")));
        row.extend(["busy_pct", "cycles_per_packet"].map(|field| Cell::real(real(worker, field), 1)));
        row.extend(
            ["packets", "emc_hits", "megaflow_hits", "misses", "sleeps"]
                .map(|field| Cell::count(count(worker, field))),
        );
        row.push(queues(worker));
        table.rows.push(row);
    }
    Ok(table.render(style))
}

/// The rx queues of a worker: `p0:0=12.5% p1:0=3.0%`, or the list as it came for JSON.
fn queues(worker: &Value) -> Cell {
    let queue = |queue: &Value| {
        format!("{}:{}={:.1}%", text(queue, "port"), count(queue, "queue"), real(queue, "usage_pct"))
    };
    let queues = list(worker, "rxqs");
    let mut cell = Cell::text(queues.iter().map(queue).collect::<Vec<_>>().join(" "));
    cell.json = json!(queues);
    cell
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{Script, own};

    #[test]
    fn workers_and_their_queues() {
        let answer = json!({"workers": [{"core": 1, "numa": 0, "state": "polling", "busy_pct": 12.5, "cycles_per_packet": 310.2,
            "packets": 100, "emc_hits": 90, "megaflow_hits": 8, "misses": 2, "sleeps": 7,
            "rxqs": [{"port": "p0", "queue": 0, "packets": 60, "usage_pct": 7.5}, {"port": "p1", "queue": 1, "usage_pct": 5}]}]});
        let mut script = Script::new([("vs.pmd", json!([]), answer)]);
        let text = own(&mut script, "pmd").unwrap();
        let last: Vec<_> = text.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(
            last,
            ["1", "0", "polling", "12.5", "310.2", "100", "90", "8", "2", "7", "p0:0=7.5%", "p1:1=5.0%"]
        );
    }
}

//! `dp flows`: what each worker has cached, with hits.

use clap::Subcommand;
use serde_json::{Value, json};

use super::answer::{count, list, text, text_or_empty};
use crate::connection::Database;
use crate::error::Error;
use crate::output::{Cell, Style, Table};

/// `dp …`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print the megaflows of each worker with packets, bytes and seconds since the last hit
    Flows,
}

/// Runs the command.
pub(super) fn run(args: &Args, db: &mut dyn Database, style: Style) -> Result<String, Error> {
    let Action::Flows = args.action;
    let answer = db.call("vs.dp.flows", json!([]))?;
    let workers = list(&answer, "workers");
    if style.format.is_some() {
        let mut table = Table::new(["core", "bridge", "match", "packets", "bytes", "used_s", "actions"]);
        for worker in workers {
            for flow in list(worker, "flows") {
                table.rows.push(vec![
                    Cell::count(count(worker, "core")),
                    Cell::text(text_or_empty(flow, "bridge")),
                    Cell::text(text(flow, "match")),
                    Cell::count(count(flow, "packets")),
                    Cell::count(count(flow, "bytes")),
                    used(flow).map_or_else(Cell::none, |seconds| Cell::real(seconds, 3)),
                    Cell::text(text(flow, "actions")),
                ]);
            }
        }
        return Ok(table.render(style));
    }
    let mut lines = String::new();
    for worker in workers {
        lines.push_str(&format!("flow-dump from pmd on cpu core: {}\n", count(worker, "core")));
        for flow in list(worker, "flows") {
            let used = used(flow).map_or_else(|| "never".to_owned(), |seconds| format!("{seconds:.3}s"));
            lines.push_str(&format!(
                "{}, packets:{}, bytes:{}, used:{used}, actions:{}\n",
                text(flow, "match"),
                count(flow, "packets"),
                count(flow, "bytes"),
                text(flow, "actions")
            ));
        }
    }
    Ok(lines)
}

/// Seconds since the last hit; a flow that was never hit has none.
fn used(flow: &Value) -> Option<f64> {
    flow.get("used_s").and_then(Value::as_f64).filter(|_| count(flow, "packets") > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{Script, own};

    #[test]
    fn lines_are_those_of_dpctl() {
        let answer = json!({"workers": [{"core": 1, "flows": [
            {"match": "recirc_id(0),in_port(2)", "packets": 5, "bytes": 300, "used_s": 0.5, "actions": "3", "bridge": "br0"},
            {"match": "recirc_id(0),in_port(3)", "packets": 0, "bytes": 0, "used_s": null, "actions": "drop"}]}]});
        let mut script = Script::new([("vs.dp.flows", json!([]), answer)]);
        assert_eq!(
            own(&mut script, "dp flows").unwrap(),
            "flow-dump from pmd on cpu core: 1\nrecirc_id(0),in_port(2), packets:5, bytes:300, used:0.500s, actions:3\n\
             recirc_id(0),in_port(3), packets:0, bytes:0, used:never, actions:drop\n"
        );
    }
}

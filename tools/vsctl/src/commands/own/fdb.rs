//! `fdb show` and `fdb flush`: learned MAC addresses.

use clap::Subcommand;
use serde_json::json;

use super::answer::{count, list, text};
use crate::connection::Database;
use crate::error::Error;
use crate::output::{Cell, Style, Table};

/// `fdb …`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print learned addresses: port, VLAN, MAC and seconds since they were last seen
    Show {
        /// Only this bridge
        bridge: Option<String>,
    },
    /// Forget learned addresses
    Flush {
        /// Only this bridge
        bridge: Option<String>,
    },
}

/// Runs the command.
pub(super) fn run(args: &Args, db: &mut dyn Database, style: Style) -> Result<String, Error> {
    match &args.action {
        Action::Flush { bridge } => db.call("vs.fdb.flush", json!([bridge])).map(|_| String::new()),
        Action::Show { bridge } => {
            let answer = db.call("vs.fdb.show", json!([bridge]))?;
            let entries = list(&answer, "entries");
            let with_bridge = entries.iter().any(|entry| entry.get("bridge").is_some());
            let bridge = ["bridge"].into_iter().filter(|_| with_bridge);
            let mut table = Table::new(bridge.chain(["port", "ofport", "vlan", "mac", "age_s"]));
            for entry in entries {
                let mut row: Vec<_> =
                    with_bridge.then(|| Cell::text(text(entry, "bridge"))).into_iter().collect();
                row.extend([
                    Cell::text(text(entry, "port")),
                    Cell::count(count(entry, "ofport")),
                    Cell::count(count(entry, "vlan")),
                    Cell::text(text(entry, "mac")),
                    Cell::count(count(entry, "age_s")),
                ]);
                table.rows.push(row);
            }
            Ok(table.render(style))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{Script, own};

    #[test]
    fn show_and_flush() {
        let answer = json!({"entries": [{"port": "p0", "ofport": 1, "vlan": 0, "mac": "52:54:00:00:00:01", "age_s": 3}]});
        let mut script = Script::new([
            ("vs.fdb.show", json!(["br0"]), answer),
            ("vs.fdb.flush", json!([null]), json!({})),
        ]);
        let text = own(&mut script, "fdb show br0").unwrap();
        assert_eq!(
            text,
            "port ofport vlan mac               age_s\n---- ------ ---- ----------------- -----\np0   1      0    52:54:00:00:00:01 3\n"
        );
        assert_eq!(own(&mut script, "fdb flush").unwrap(), "");
        script.finished();
    }
}

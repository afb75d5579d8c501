//! `nic list`, `nic show`, `nic bind`, `nic unbind`: network devices of the machine, and who drives them.

use clap::Subcommand;
use serde_json::{Value, json};

use super::answer::{list, text_or_empty};
use crate::connection::Database;
use crate::error::Error;
use crate::output::{Cell, Style, Table};

/// `nic …`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the machine's PCI network devices and who drives each
    List,
    /// Print all that is known of one, and what its PCIe link can carry
    Show {
        /// PCI address, as 0000:05:00.0
        address: String,
    },
    /// Take a device from the kernel, for a port of type=pmd
    Bind {
        /// PCI address, as 0000:05:00.0
        address: String,
        /// Even if the default route of this host goes over it
        #[arg(long)]
        force: bool,
    },
    /// Give a device back to the kernel
    Unbind {
        /// PCI address, as 0000:05:00.0
        address: String,
    },
}

/// Runs the command.
pub(super) fn run(args: &Args, db: &mut dyn Database, style: Style) -> Result<String, Error> {
    match &args.action {
        Action::List => {
            let answer = db.call("vs.nic.list", json!([]))?;
            let mut table =
                Table::new(["address", "id", "driver", "pmd", "netdev", "group", "numa", "link", "in_use"]);
            table.rows = list(&answer, "nics").iter().map(row).collect();
            Ok(table.render(style))
        }
        Action::Show { address } => {
            let answer = db.call("vs.nic.show", json!([address]))?;
            let mut table = Table::new(["what", "is"]);
            let facts = answer.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
            table.rows = facts.map(|(name, value)| vec![Cell::text(name), fact(value)]).collect();
            Ok(table.render(style))
        }
        Action::Bind { address, force } => {
            db.call("vs.nic.bind", json!([address, force])).map(|_| String::new())
        }
        Action::Unbind { address } => db.call("vs.nic.unbind", json!([address])).map(|_| String::new()),
    }
}

fn row(nic: &Value) -> Vec<Cell> {
    let field = |name: &str| nic.get(name).map_or_else(|| Cell::text("-"), fact);
    let words = |name: &str| Cell::text(text_or_empty(nic, name));
    vec![
        words("address"),
        words("id"),
        field("driver"),
        field("pmd"),
        field("netdevs"),
        field("group"),
        field("numa"),
        field("link"),
        field("in_use"),
    ]
}

/// A fact of any type; one that is unknown is a dash.
fn fact(value: &Value) -> Cell {
    let mut cell = Cell::text(match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        Value::Number(number) if number.is_f64() => format!("{:.2}", number.as_f64().unwrap_or_default()),
        other => other.to_string(),
    });
    cell.json = value.clone();
    cell
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{Script, own};

    fn nic() -> Value {
        json!({"address": "0000:05:00.0", "id": "8086:10c9", "driver": "igb", "pmd": null, "netdevs": ["eth0"], "group": 7, "numa": null,
            "in_use": false, "link": "2.5 GT/s x4", "link_gbps": 7.6, "mpps_64": 5.6547})
    }

    #[test]
    fn devices_and_who_drives_them() {
        let mut script = Script::new([
            ("vs.nic.list", json!([]), json!({"nics": [nic()]})),
            ("vs.nic.show", json!(["0000:05:00.0"]), nic()),
        ]);
        let text = own(&mut script, "nic list").unwrap();
        let last = text.lines().last().unwrap();
        assert_eq!(
            last.split_whitespace().collect::<Vec<_>>().join(" "),
            "0000:05:00.0 8086:10c9 igb - eth0 7 - 2.5 GT/s x4 no"
        );
        let text = own(&mut script, "nic show 0000:05:00.0").unwrap();
        assert!(text.contains("mpps_64   5.65"), "{text}");
        assert!(!text.contains("numa"), "{text}");
        script.finished();
    }

    #[test]
    fn bound_and_given_back() {
        let mut script = Script::new([
            ("vs.nic.bind", json!(["05:00.0", false]), json!({})),
            ("vs.nic.bind", json!(["05:00.0", true]), json!({})),
            ("vs.nic.unbind", json!(["05:00.0"]), json!({})),
        ]);
        for line in ["nic bind 05:00.0", "nic bind 05:00.0 --force", "nic unbind 05:00.0"] {
            assert_eq!(own(&mut script, line).unwrap(), "");
        }
        script.finished();
    }
}

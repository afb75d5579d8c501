//! `nic list`, `nic show`, `nic bind`, `nic unbind`, `nic vfs`, `nic set-vf`: network devices of the machine, who drives them, and their
//! virtual functions.

use clap::Subcommand;
use serde_json::{Value, json};

use super::answer::list;
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
    /// List the virtual functions of a card, or have so many of them
    Vfs {
        /// PCI address of the physical function, which a driver of the kernel must have
        address: String,
        /// How many there shall be; 0 removes them
        count: Option<u32>,
        /// Let the kernel's drivers have the new ones
        #[arg(long, requires = "count")]
        kernel: bool,
    },
    /// Set what the physical function's driver decides for a virtual function
    SetVf {
        /// PCI address of the virtual function
        address: String,
        /// mac=ADDRESS, vlan=0 to 4094, priority=0 to 7, trust=on|off, spoofchk=on|off, link=auto|up|down
        #[arg(required = true, value_name = "NAME=VALUE", value_parser = setting)]
        settings: Vec<(String, String)>,
    },
}

/// One setting. Which there are is for the switch to say.
fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a setting is NAME=VALUE, as vlan=100")?;
    Ok((name.to_owned(), value.to_owned()))
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
        Action::Vfs { address, count, kernel } => {
            let answer = match count {
                None => db.call("vs.nic.vfs", json!([address]))?,
                Some(count) => db.call("vs.nic.make_vfs", json!([address, count, kernel]))?,
            };
            let names = &VF_COLUMNS[..if count.is_none() { VF_COLUMNS.len() } else { VF_WHEN_MADE }];
            let mut table = Table::new(names.iter().copied());
            table.rows = list(&answer, "vfs").iter().map(|vf| facts(vf, names)).collect();
            Ok(table.render(style))
        }
        Action::SetVf { address, settings } => {
            let settings: serde_json::Map<String, Value> =
                settings.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
            db.call("vs.nic.set_vf", json!([address, settings])).map(|_| String::new())
        }
    }
}

/// Of a virtual function; the first are known when it has just been made.
const VF_COLUMNS: [&str; 13] = [
    "number",
    "address",
    "driver",
    "netdevs",
    "group",
    "in_use",
    "mac",
    "vlan",
    "trust",
    "spoofchk",
    "link",
    "rx_packets",
    "tx_packets",
];
const VF_WHEN_MADE: usize = 6;

fn facts(of: &Value, names: &[&str]) -> Vec<Cell> {
    names.iter().map(|name| of.get(*name).map_or_else(|| Cell::text("-"), fact)).collect()
}

fn row(nic: &Value) -> Vec<Cell> {
    facts(nic, &["address", "id", "driver", "pmd", "netdevs", "group", "numa", "link", "in_use"])
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
    fn virtual_functions_are_made_set_and_listed() {
        let made = json!({"number": 0, "address": "0000:05:10.0", "driver": null, "netdevs": [], "group": 20, "in_use": false});
        let mut known = made.clone();
        known["mac"] = json!("52:54:00:00:00:01");
        known["trust"] = json!(true);
        known["vlan"] = json!(100);
        let mut script = Script::new([
            ("vs.nic.make_vfs", json!(["05:00.0", 1, false]), json!({"vfs": [made]})),
            ("vs.nic.make_vfs", json!(["05:00.0", 0, true]), json!({"vfs": []})),
            ("vs.nic.set_vf", json!(["05:10.0", {"mac": "52:54:00:00:00:01", "vlan": "100"}]), json!({})),
            ("vs.nic.vfs", json!(["05:00.0"]), json!({"vfs": [known]})),
        ]);
        let last = |text: String| {
            text.lines().last().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(last(own(&mut script, "nic vfs 05:00.0 1").unwrap()), "0 0000:05:10.0 - - 20 no");
        own(&mut script, "nic vfs 05:00.0 0 --kernel").unwrap();
        assert_eq!(own(&mut script, "nic set-vf 05:10.0 mac=52:54:00:00:00:01 vlan=100").unwrap(), "");
        let text = own(&mut script, "nic vfs 05:00.0").unwrap();
        assert_eq!(last(text), "0 0000:05:10.0 - - 20 no 52:54:00:00:00:01 100 yes - - - -");
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

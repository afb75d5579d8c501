//! `add-flow`, `add-flows`, `del-flows`, `dump-flows`: the rules of a bridge, in `ovs-ofctl`'s syntax.
//!
//! The text of a rule goes to the switch as it is: there is one parser of matches and actions, and it is the
//! one that installs them.

use std::fmt::Write as _;
use std::io::Read;

use serde_json::{Value, json};

use super::answer::{count, list, real, text, text_or_empty};
use crate::connection::Database;
use crate::error::{Error, failed};
use crate::output::{Cell, Style, Table};

/// `add-flow`
#[derive(Debug, clap::Args)]
pub(crate) struct Add {
    /// The bridge
    bridge: String,
    /// The rule, like `priority=100,ip,nw_dst=10.0.0.1,actions=output:2`
    flow: String,
}

/// `add-flows`
#[derive(Debug, clap::Args)]
pub(crate) struct AddFile {
    /// The bridge
    bridge: String,
    /// A file with one rule per line, or `-` for standard input; `#` starts a comment
    file: String,
}

/// `del-flows`
#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// Match exactly the rule with this match and priority, not all that are more specific
    #[arg(long)]
    strict: bool,
    /// The bridge
    bridge: String,
    /// The match, like `in_port=1,ip`; without it, all rules
    #[arg(default_value = "")]
    flow: String,
}

/// `dump-flows`
#[derive(Debug, clap::Args)]
pub(crate) struct Dump {
    /// The bridge
    bridge: String,
    /// Only rules that match at least this, like `table=0,ip`
    #[arg(default_value = "")]
    flow: String,
}

/// The priority of a rule that does not state one.
const DEFAULT_PRIORITY: u64 = 32768;

/// Runs `add-flow`.
pub(super) fn add(args: &Add, db: &mut dyn Database) -> Result<String, Error> {
    db.call("vs.flow.add", json!([args.bridge, [args.flow]])).map(|_| String::new())
}

/// Runs `add-flows`.
pub(super) fn add_file(args: &AddFile, db: &mut dyn Database) -> Result<String, Error> {
    let mut content = String::new();
    let read = match args.file.as_str() {
        "-" => std::io::stdin().read_to_string(&mut content).map(|_| ()),
        path => std::fs::read_to_string(path).map(|text| content = text),
    };
    read.map_err(|why| failed!("cannot read rules from {}: {why}", args.file))?;
    let rules = rules(&content);
    let parts = parts(&rules);
    // A message is all or none by itself. Of several, the last could fail when the first is in, so all are checked first.
    if parts.len() > 1 {
        for part in &parts {
            db.call("vs.flow.check", json!([args.bridge, part]))?;
        }
    }
    let mut added = 0;
    for part in &parts {
        db.call("vs.flow.add", json!([args.bridge, part])).map_err(|why| match added {
            0 => why,
            _ => failed!("{why}; {added} of {} rules were added before", rules.len()),
        })?;
        added += part.len();
    }
    Ok(String::new())
}

/// Most rules in one message, and most bytes of them. The switch takes messages of 16 MiB and a million values.
const PART_RULES: usize = 50_000;
const PART_BYTES: usize = 7 << 20;

/// Rules as they go into messages: at least one part, so that a bridge that is not there is noticed.
fn parts<'a>(rules: &'a [&'a str]) -> Vec<&'a [&'a str]> {
    let mut parts = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, rule) in rules.iter().enumerate() {
        if at != start && (at - start == PART_RULES || bytes + rule.len() > PART_BYTES) {
            parts.push(&rules[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += rule.len();
    }
    parts.push(&rules[start..]);
    parts
}

/// The rules of a file: lines without comments and blank lines.
fn rules(content: &str) -> Vec<&str> {
    let lines = content.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).collect()
}

/// Runs `del-flows`.
pub(super) fn delete(args: &Delete, db: &mut dyn Database) -> Result<String, Error> {
    db.call("vs.flow.del", json!([args.bridge, args.flow, args.strict])).map(|_| String::new())
}

/// Runs `dump-flows`.
pub(super) fn dump(args: &Dump, db: &mut dyn Database, style: Style) -> Result<String, Error> {
    let answer = db.call("vs.flow.dump", json!([args.bridge, args.flow]))?;
    let flows = list(&answer, "flows");
    if style.format.is_none() {
        return Ok(flows.iter().map(flow_line).collect());
    }
    let mut table = Table::new(COLUMNS.iter().copied());
    for flow in flows {
        let cell = |column: &&str| match flow.get(*column) {
            Some(Value::String(value)) => Cell::text(value),
            Some(Value::Number(n)) if n.is_f64() => Cell::real(n.as_f64().unwrap_or(0.0), 3),
            Some(value) => Cell::count(value.as_u64().unwrap_or(0)),
            None => Cell::text(""),
        };
        table.rows.push(COLUMNS.iter().map(cell).collect());
    }
    Ok(table.render(style))
}

/// Columns in the tabular formats, named as in the answer.
const COLUMNS: &[&str] = &[
    "table",
    "priority",
    "match",
    "actions",
    "n_packets",
    "n_bytes",
    "duration_s",
    "idle_age_s",
    "idle_timeout",
    "hard_timeout",
    "cookie",
];

/// One rule as `ovs-ofctl dump-flows` prints it.
fn flow_line(flow: &Value) -> String {
    let mut line = format!(
        " cookie={}, duration={}s, table={}, n_packets={}, n_bytes={}, ",
        text(flow, "cookie"),
        real(flow, "duration_s"),
        count(flow, "table"),
        count(flow, "n_packets"),
        count(flow, "n_bytes")
    );
    for timeout in ["idle_timeout", "hard_timeout"] {
        let seconds = count(flow, timeout);
        if seconds != 0 {
            let _ = write!(line, "{timeout}={seconds}, ");
        }
    }
    let _ = write!(line, "idle_age={}, ", real(flow, "idle_age_s"));
    let priority = count(flow, "priority");
    let matched = text_or_empty(flow, "match");
    let stated = (priority != DEFAULT_PRIORITY).then(|| format!("priority={priority}"));
    let matched = (!matched.is_empty()).then(|| matched.to_owned());
    let head = stated.into_iter().chain(matched).collect::<Vec<_>>().join(",");
    let blank = if head.is_empty() { "" } else { " " };
    let _ = writeln!(line, "{head}{blank}actions={}", text(flow, "actions"));
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{Script, own};

    #[test]
    fn rules_of_a_file() {
        assert_eq!(
            rules("# all\n\nip,actions=drop # no ip\n  arp,actions=normal\n"),
            ["ip,actions=drop", "arp,actions=normal"]
        );
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rules");
        std::fs::write(&path, "ip,actions=drop\narp,actions=normal\n").unwrap();
        let mut script = Script::new([(
            "vs.flow.add",
            json!(["br0", ["ip,actions=drop", "arp,actions=normal"]]),
            json!({}),
        )]);
        own(&mut script, &format!("add-flows br0 {}", path.display())).unwrap();
        script.finished();
        assert!(
            own(&mut script, "add-flows br0 /nonexistent/rules")
                .unwrap_err()
                .to_string()
                .contains("/nonexistent/rules")
        );
    }

    #[test]
    fn a_large_file_is_checked_whole_and_then_sent_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rules");
        let lines: Vec<String> = (0..=PART_RULES).map(|n| format!("reg0={n},actions=drop")).collect();
        std::fs::write(&path, lines.join("\n")).unwrap();
        let (first, second) = (json!(["br0", lines[..PART_RULES]]), json!(["br0", lines[PART_RULES..]]));
        let mut script = Script::new([
            ("vs.flow.check", first.clone(), json!({})),
            ("vs.flow.check", second.clone(), json!({})),
            ("vs.flow.add", first, json!({})),
            ("vs.flow.add", second, json!({})),
        ]);
        own(&mut script, &format!("add-flows br0 {}", path.display())).unwrap();
        script.finished();
    }

    #[test]
    fn parts_keep_order_and_bounds() {
        assert_eq!(parts(&[]), [&[] as &[&str]]);
        let long = "x".repeat(PART_BYTES / 2);
        let all = [long.as_str(), &long, "short", &long, "end"];
        let cut = parts(&all);
        assert_eq!(cut.iter().map(|part| part.len()).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(cut.concat(), all);
        let longer = "x".repeat(PART_BYTES + 1);
        assert_eq!(parts(&[longer.as_str(), "short"]).len(), 2);
    }

    #[test]
    fn adding_and_deleting() {
        let mut script = Script::new([
            ("vs.flow.add", json!(["br0", ["in_port=1,actions=2"]]), json!({})),
            ("vs.flow.del", json!(["br0", "in_port=1", true]), json!({"deleted": 1})),
            ("vs.flow.del", json!(["br0", "", false]), json!({"deleted": 3})),
        ]);
        own(&mut script, "add-flow br0 in_port=1,actions=2").unwrap();
        own(&mut script, "del-flows --strict br0 in_port=1").unwrap();
        own(&mut script, "del-flows br0").unwrap();
        script.finished();
    }

    #[test]
    fn lines_are_those_of_ovs_ofctl() {
        let rule = json!({"table": 0, "cookie": "0x0", "duration_s": 1.2, "n_packets": 0, "n_bytes": 0, "idle_age_s": 1,
            "priority": 100, "idle_timeout": 0, "hard_timeout": 0, "match": "ip,nw_dst=10.0.0.1", "actions": "output:2"});
        assert_eq!(
            flow_line(&rule),
            " cookie=0x0, duration=1.2s, table=0, n_packets=0, n_bytes=0, idle_age=1, priority=100,ip,nw_dst=10.0.0.1 actions=output:2\n"
        );
        let rule =
            json!({"cookie": "0x1", "priority": 32768, "idle_timeout": 5, "match": "", "actions": "NORMAL"});
        assert_eq!(
            flow_line(&rule),
            " cookie=0x1, duration=0s, table=0, n_packets=0, n_bytes=0, idle_timeout=5, idle_age=0, actions=NORMAL\n"
        );
    }

    #[test]
    fn formats() {
        let answer = json!({"flows": [{"table": 0, "priority": 1, "match": "ip", "actions": "drop"}]});
        let mut script = Script::new([
            ("vs.flow.dump", json!(["br0", "ip"]), answer.clone()),
            ("vs.flow.dump", json!(["br0", ""]), answer),
        ]);
        assert!(own(&mut script, "dump-flows br0 ip").unwrap().contains("priority=1,ip actions=drop\n"));
        let csv =
            crate::script::own_format(&mut script, "dump-flows br0", crate::output::Format::Csv).unwrap();
        assert!(csv.starts_with("table,priority,match,actions,") && csv.contains("\n0,1,ip,drop,"), "{csv}");
    }
}

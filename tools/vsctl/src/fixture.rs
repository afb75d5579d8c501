//! A small database for tests: two bridges with one port each, as a switch would report them.

use serde_json::{Value, json};

use crate::error::Error;
use crate::grammar::Call;
use crate::output::{Data, Output, Style};
use crate::plan::Plan;
use crate::schema::Schema;
use crate::value::datum_to_json;

/// The part of the Open_vSwitch schema the tests touch.
pub(crate) fn schema_json() -> Value {
    let optional = |kind: Value| json!({"type": {"key": kind, "min": 0, "max": 1}});
    let set = |kind: Value| json!({"type": {"key": kind, "min": 0, "max": "unlimited"}});
    let refs = |table: &str| json!({"type": {"key": {"type": "uuid", "refTable": table}, "min": 0, "max": "unlimited"}});
    let map = json!({"type": {"key": "string", "value": "string", "min": 0, "max": "unlimited"}});
    let name = json!({"type": "string", "mutable": false});
    let vlan = json!({"type": "integer", "minInteger": 0, "maxInteger": 4095});
    let one_of = |choices: &[&str]| json!({"type": "string", "enum": ["set", choices]});
    json!({"name": "Open_vSwitch", "version": "8.3.0", "tables": {
        "Open_vSwitch": {"isRoot": true, "maxRows": 1, "columns": {
            "bridges": refs("Bridge"), "next_cfg": {"type": "integer"}, "cur_cfg": {"type": "integer"},
            "ovs_version": optional(json!("string")), "external_ids": map}},
        "Bridge": {"columns": {
            "name": name, "ports": refs("Port"), "mirrors": refs("Mirror"), "external_ids": map, "other_config": map,
            "fail_mode": optional(one_of(&["standalone", "secure"])), "datapath_type": {"type": "string"}}},
        "Port": {"columns": {
            "name": name, "tag": optional(vlan.clone()), "trunks": set(vlan), "external_ids": map,
            "vlan_mode": optional(one_of(&["trunk", "access", "native-tagged", "native-untagged"])),
            "interfaces": {"type": {"key": {"type": "uuid", "refTable": "Interface"}, "min": 1, "max": "unlimited"}}}},
        "Interface": {"columns": {
            "name": name, "type": {"type": "string"}, "options": map, "error": optional(json!("string")),
            "ofport": optional(json!("integer"))}},
        "Mirror": {"columns": {"name": {"type": "string"},
            "select_dst_port": {"type": {"key": {"type": "uuid", "refTable": "Port", "refType": "weak"}, "min": 0, "max": "unlimited"}}}}
    }})
}

/// The schema of [`schema_json`].
pub(crate) fn schema() -> Schema {
    Schema::from_json(&schema_json()).unwrap()
}

fn uuid(n: u8) -> Value {
    json!(["uuid", format!("00000000-0000-0000-0000-0000000000{n:02x}")])
}

/// The rows of a table, as a `select` returns them.
pub(crate) fn rows(table: &str) -> Vec<Value> {
    let refs = |ids: &[u8]| json!(["set", ids.iter().map(|n| uuid(*n)).collect::<Vec<_>>()]);
    match table {
        "Open_vSwitch" => vec![
            json!({"_uuid": uuid(1), "bridges": refs(&[2, 3]), "next_cfg": 7, "cur_cfg": 7, "ovs_version": "3.1.0"}),
        ],
        "Bridge" => vec![
            json!({"_uuid": uuid(2), "name": "br0", "ports": refs(&[4, 5])}),
            json!({"_uuid": uuid(3), "name": "br1", "ports": refs(&[6, 7])}),
        ],
        "Port" => vec![
            json!({"_uuid": uuid(4), "name": "br0", "interfaces": uuid(8)}),
            json!({"_uuid": uuid(5), "name": "p0", "interfaces": uuid(9)}),
            json!({"_uuid": uuid(6), "name": "br1", "interfaces": uuid(10)}),
            json!({"_uuid": uuid(7), "name": "p1", "interfaces": uuid(11)}),
        ],
        "Interface" => vec![
            json!({"_uuid": uuid(8), "name": "br0", "type": "internal"}),
            json!({"_uuid": uuid(9), "name": "p0", "type": "vhost-user"}),
            json!({"_uuid": uuid(10), "name": "br1", "type": "internal"}),
            json!({"_uuid": uuid(11), "name": "p1", "type": "tap", "error": "no permission"}),
        ],
        _ => Vec::new(),
    }
}

const TABLES: [&str; 5] = ["Open_vSwitch", "Bridge", "Port", "Interface", "Mirror"];

/// A plan over the fixture with all tables fetched.
pub(crate) fn plan(schema: &Schema) -> Plan<'_> {
    let mut plan = Plan::new(schema);
    for table in TABLES {
        plan.load(table, &whole(schema, table)).unwrap();
    }
    plan
}

/// The rows of a table with every column it has, those that [`rows`] leaves out at their defaults.
fn whole(schema: &Schema, table: &str) -> Vec<Value> {
    let mut rows = rows(table);
    let columns = &schema.table(table).unwrap().columns;
    for row in rows.iter_mut().filter_map(Value::as_object_mut) {
        for (name, column) in columns {
            let default = datum_to_json(&column.kind.default_datum(), &|_| Value::Null);
            row.entry(name.clone()).or_insert(default);
        }
    }
    rows
}

/// A plan over a database that was never used.
pub(crate) fn empty(schema: &Schema) -> Plan<'_> {
    let mut plan = Plan::new(schema);
    for table in TABLES {
        plan.load(table, &[]).unwrap();
    }
    plan
}

/// Runs one command, its words separated by blanks.
pub(crate) fn run(plan: &mut Plan<'_>, line: &str) -> Result<Output, Error> {
    let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
    let call = Call::parse(&words)?;
    (call.verb.tables)(&call, plan.schema())?;
    (call.verb.run)(&call, plan)
}

/// What one command prints.
pub(crate) fn print(plan: &mut Plan<'_>, line: &str) -> String {
    let output = run(plan, line).unwrap();
    output.render(Style { format: None, data: Data::String, headings: true }, &|_| None)
}

/// The operations of the plan as `OP TABLE`.
pub(crate) fn operations(plan: &Plan<'_>) -> Vec<String> {
    let name = |op: &Value| format!("{} {}", op["op"].as_str().unwrap(), op["table"].as_str().unwrap_or("-"));
    plan.operations(true).unwrap().operations.iter().map(name).collect()
}

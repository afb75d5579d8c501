//! Boundary: the database file. A crash may cut or damage it at any byte; somebody may put another file in its place.
//!
//! Property: opening survives every file and fails only for one that is not ours, and
//! - what is read is the beginning of the file up to the damage;
//! - a file that was opened once opens again without a warning and with the same rows (what was lost is lost once);
//! - transactions that were written before the damage are there.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::{Value, json};
use vswitch_ovsdb::journal::{DamageKind, OpenError, encode, replay};
use vswitch_ovsdb::{DatabaseSchema, Db};

use super::input::Input;

const ROOT: &str = "11111111-2222-4333-8444-555555555555";
const BRIDGE: &str = "21111111-2222-4333-8444-555555555555";
const PORT: &str = "31111111-2222-4333-8444-555555555555";
const INTERFACE: &str = "41111111-2222-4333-8444-555555555555";

/// Runs one input. The first byte says how the rest becomes a file: as it is; as damage to a good file; or as a record with a
/// right checksum behind good ones.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.u8() % 3 {
        0 => {
            check(input.rest(), false);
        }
        1 => {
            let mut file = good_file().clone();
            let cut = usize::from(input.u16());
            if cut != 0 {
                file.truncate(file.len().saturating_sub(cut));
            }
            let mut first_change = file.len();
            for _ in 0..usize::from(input.u8() % 4) {
                // Counted from the end: the schema record is long, what matters is behind it.
                let at = file.len().saturating_sub(usize::from(input.u16()));
                let change = input.u8();
                if let Some(byte) = file.get_mut(at).filter(|_| change != 0) {
                    *byte ^= change;
                    first_change = first_change.min(at);
                }
            }
            file.extend(input.rest());
            check(&file, first_change >= first_two());
        }
        _ => {
            let mut file = good_file().clone();
            for line in input.rest().split(|&byte| byte == 0) {
                if let Ok(record) = serde_json::from_slice::<Value>(line) {
                    file.extend(encode(&record));
                }
            }
            check(&file, false);
        }
    }
}

/// Raw files, damage of each kind, and transaction records that are odd.
pub fn seeds() -> Vec<Vec<u8>> {
    let records = [
        json!({"Bridge": {BRIDGE: null}, "_date": 5, "_comment": "c"}),
        json!({"_is_diff": true, "Open_vSwitch": {ROOT: {"external_ids": ["map", [["a", "c"], ["k", "v"]]], "next_cfg": 9}}}),
        json!({"Port": {PORT: {"tag": 9, "trunks": ["set", [1, 1, 5000]], "interfaces": ["set", []]}}}),
        json!({"Nothing": {ROOT: {}}, "Bridge": {"x": {}, BRIDGE: {"nothing": 1, "ports": ["uuid", ROOT]}}}),
    ];
    let lines: Vec<String> = records.iter().map(Value::to_string).collect();
    let small =
        [encode(&json!({"name": "Open_vSwitch", "version": "1.0.0", "tables": {}})), encode(&records[0])];
    let mut out = vec![
        vec![0],
        [&[0][..], &small.concat()].concat(),
        [&[0][..], b"OVSDB CLUSTER 12 x\n"].concat(),
        [&[0][..], &encode(&json!({"name": "other", "tables": {}}))].concat(),
        vec![1, 7, 0, 0],
        vec![1, 0, 0, 1, 100, 0, 0x20],
        [&[1, 0, 0, 0][..], &[0; 90]].concat(),
        [&[2][..], lines.join("\0").as_bytes()].concat(),
    ];
    out.extend(lines.iter().map(|line| [&[2][..], line.as_bytes()].concat()));
    out
}

/// A schema with a column of each kind; the switch's own is so long that reading it would be most of the work.
fn schema() -> &'static DatabaseSchema {
    static SCHEMA: OnceLock<DatabaseSchema> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let refer = |table: &str, kind: &str| json!({"type": "uuid", "refTable": table, "refType": kind});
        let set = |key: Value| json!({"type": {"key": key, "min": 0, "max": "unlimited"}});
        let map = json!({"type": {"key": "string", "value": "string", "min": 0, "max": "unlimited"}});
        let tag = json!({"type": "integer", "minInteger": 0, "maxInteger": 4095});
        let kinds = json!({"type": "string", "enum": ["set", ["", "internal", "vhost-user"]]});
        let json = json!({"name": "Open_vSwitch", "version": "1.0.0", "tables": {
            "Open_vSwitch": {"isRoot": true, "maxRows": 1, "columns": {
                "bridges": set(refer("Bridge", "strong")),
                "next_cfg": {"type": "integer"},
                "external_ids": map}},
            "Bridge": {"indexes": [["name"]], "columns": {
                "name": {"type": "string", "mutable": false},
                "ports": set(refer("Port", "strong")),
                "mirrored": set(refer("Port", "weak")),
                "flood_vlans": {"type": {"key": tag, "min": 0, "max": 8}}}},
            "Port": {"columns": {
                "name": {"type": "string"},
                "interfaces": {"type": {"key": refer("Interface", "strong"), "min": 1, "max": "unlimited"}},
                "tag": {"type": {"key": tag, "min": 0, "max": 1}},
                "trunks": set(tag),
                "rate": {"type": "real"}}},
            "Interface": {"columns": {
                "name": {"type": "string"},
                "type": {"type": {"key": kinds}},
                "options": map,
                "up": {"type": {"key": "boolean", "min": 0, "max": 1}, "ephemeral": true}}}
        }});
        DatabaseSchema::from_json(&json).expect("the schema is one")
    })
}

/// A journal of three records, the same in every run: schema, a bridge with its port, a small change.
fn good_file() -> &'static Vec<u8> {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(|| good_records().iter().flat_map(encode).collect())
}

fn good_records() -> [Value; 3] {
    let bridge = json!({
        "Open_vSwitch": {ROOT: {"bridges": ["uuid", BRIDGE], "next_cfg": 1}},
        "Bridge": {BRIDGE: {"name": "br0", "ports": ["uuid", PORT]}},
        "Port": {PORT: {"name": "p1", "interfaces": ["uuid", INTERFACE], "tag": 5}},
        "Interface": {INTERFACE: {"name": "p1", "type": "vhost-user", "options": ["map", [["path", "/p"]]]}},
    });
    let change = json!({"Open_vSwitch": {ROOT: {"next_cfg": 2, "external_ids": ["map", [["a", "b"]]]}}});
    [schema().to_json(), bridge, change]
}

/// Bytes of the schema and the bridge.
fn first_two() -> usize {
    good_records()[..2].iter().map(|record| encode(record).len()).sum()
}

/// Opens the file twice. `has_bridge`: its first two records are those of the good file.
fn check(file: &[u8], has_bridge: bool) {
    let found = replay(file);
    assert!(found.good <= file.len());
    assert_eq!(found.damage.is_none(), found.good == file.len());
    let again: Vec<Value> = replay(&file[..found.good]).records;
    assert_eq!(again, found.records, "the good part reads differently by itself");
    let written: Vec<u8> = found.records.iter().flat_map(encode).collect();
    assert_eq!(replay(&written).records, found.records, "what was read, written again, reads differently");
    let cut = replay(&written[..file.len() % (written.len() + 1)]).damage;
    assert!(cut.is_none_or(|damage| damage.kind == DamageKind::TornTail), "a cut is more than a torn tail");

    let folder = tempfile::tempdir().expect("a scratch folder can be made");
    let path = folder.path().join("conf.db");
    fs::write(&path, file).expect("a scratch file can be written");
    let first = match open(&path) {
        Some((rows, _)) => rows,
        None => {
            assert!(!has_bridge, "a good beginning was refused");
            assert_eq!(fs::read(&path).unwrap(), file, "a file that was refused was changed");
            return;
        }
    };
    if has_bridge && found.records.len() >= 2 {
        assert!(first.iter().any(|row| row.starts_with("Bridge") && row.contains("br0")), "{first:?}");
    }
    let (second, warnings) = open(&path).expect("a file that was opened opens again");
    assert_eq!(warnings, Vec::<String>::new(), "warned of twice");
    assert_eq!(second, first, "rows changed by opening the file again");
}

/// Rows as text, and warnings. `None` when the file is not ours.
fn open(path: &Path) -> Option<(Vec<String>, Vec<String>)> {
    let (db, warnings) = match Db::open(path, schema().clone()) {
        Ok(opened) => opened,
        Err(OpenError::NotOurs { .. }) => return None,
        Err(other) => panic!("{other}"),
    };
    let snapshot = db.snapshot();
    let mut rows = Vec::new();
    for table in &schema().tables {
        for row in snapshot.table(&table.name).rows() {
            let columns = table.columns.iter().filter(|column| !column.ephemeral);
            let values: Vec<String> =
                columns.map(|column| format!("{}={:?}", column.name, row.datum(&column.name))).collect();
            rows.push(format!("{} {} {}", table.name, row.uuid(), values.join(" ")));
        }
    }
    Some((rows, warnings.iter().map(ToString::to_string).collect()))
}

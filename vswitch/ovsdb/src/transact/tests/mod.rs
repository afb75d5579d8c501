//! Transactions as a client sends them.

#![expect(clippy::needless_pass_by_value, reason = "json! literals read better without a & at each call")]

mod invariants;
mod model;
mod references;

use serde_json::{Value, json};

use crate::{DatabaseSchema, Db};

/// A database with a bit of everything.
pub(super) fn database() -> Db {
    let schema = json!({"name": "test", "version": "1.0.0", "tables": {
        "Root": {"isRoot": true, "indexes": [["name"]], "columns": {
            "name": {"type": "string", "mutable": false},
            "number": {"type": {"key": {"type": "integer", "minInteger": -1000, "maxInteger": 1000}}},
            "real": {"type": "real"},
            "maybe": {"type": {"key": "integer", "min": 0, "max": 1}},
            "ints": {"type": {"key": "integer", "min": 0, "max": "unlimited"}},
            "map": {"type": {"key": "string", "value": "integer", "min": 0, "max": "unlimited"}},
            "color": {"type": {"key": {"type": "string", "enum": ["set", ["red", "green"]]}, "min": 0, "max": 1}},
            "children": {"type": {"key": {"type": "uuid", "refTable": "Child"}, "min": 0, "max": "unlimited"}},
            "friend": {"type": {"key": {"type": "uuid", "refTable": "Child", "refType": "weak"}, "min": 0, "max": 1}}}},
        "Child": {"columns": {
            "name": {"type": "string"},
            "needed": {"type": {"key": {"type": "uuid", "refTable": "Child", "refType": "weak"}, "min": 0, "max": 1}},
            "next": {"type": {"key": {"type": "uuid", "refTable": "Child"}, "min": 0, "max": 1}}}},
        "Single": {"isRoot": true, "maxRows": 1, "columns": {"x": {"type": "integer", "ephemeral": true}}}}});
    Db::in_memory(DatabaseSchema::from_json(&schema).unwrap())
}

/// Runs operations that shall all succeed.
pub(super) fn ok(db: &Db, operations: Value) -> Vec<Value> {
    let results = db.transact_json(operations.as_array().unwrap());
    assert!(results.iter().all(|result| result.get("error").is_none()), "{results:?}");
    results
}

/// Runs operations that shall fail at `index`; gives tag and details, and checks that nothing changed.
pub(super) fn fails(db: &Db, operations: Value, index: usize) -> (String, String) {
    let before = db.snapshot().sequence();
    let operations = operations.as_array().unwrap();
    let results = db.transact_json(operations);
    assert_eq!(db.snapshot().sequence(), before, "a failed transaction changed something");
    assert_eq!(results.len(), operations.len().max(index + 1));
    assert!(results[..index].iter().all(|r| r.is_object() && r.get("error").is_none()), "{results:?}");
    assert!(results[index + 1..].iter().all(Value::is_null), "{results:?}");
    let text = |name: &str| results[index].get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    (text("error"), text("details"))
}

pub(super) fn insert(row: Value) -> Value {
    json!({"op": "insert", "table": "Root", "row": row})
}

fn names(results: &Value) -> Vec<&str> {
    let mut names: Vec<&str> =
        results["rows"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    names
}

#[test]
fn insert_select_update_delete() {
    let db = database();
    ok(&db, json!([insert(json!({"name": "a", "number": 1})), insert(json!({"name": "b", "number": 2}))]));
    let select =
        |clauses: Value| json!({"op": "select", "table": "Root", "where": clauses, "columns": ["name"]});
    let results = ok(
        &db,
        json!([select(json!([])), select(json!([["number", ">", 1]])),
        {"op": "update", "table": "Root", "where": [["name", "==", "a"]], "row": {"number": 9}},
        select(json!([["number", ">=", 9]])),
        {"op": "delete", "table": "Root", "where": [["name", "==", "b"]]},
        select(json!([]))]),
    );
    assert_eq!(names(&results[0]), ["a", "b"]);
    assert_eq!(names(&results[1]), ["b"]);
    assert_eq!(results[2], json!({"count": 1}));
    assert_eq!(names(&results[3]), ["a"]);
    assert_eq!(results[4], json!({"count": 1}));
    assert_eq!(names(&results[5]), ["a"]);
    let all = ok(&db, json!([{"op": "select", "table": "Root", "where": []}]));
    let row = all[0]["rows"][0].as_object().unwrap();
    assert!(row.contains_key("_uuid") && row.contains_key("_version"));
    assert_eq!(row["map"], json!(["map", []]));
}

#[test]
fn versions_change_with_rows_and_only_with_them() {
    let db = database();
    ok(&db, json!([insert(json!({"name": "a"})), insert(json!({"name": "b"}))]));
    let version = |name: &str| db.snapshot().table("Root").find("name", name).unwrap().version();
    let (a, b, sequence) = (version("a"), version("b"), db.snapshot().sequence());
    ok(&db, json!([{"op": "update", "table": "Root", "where": [["name", "==", "a"]], "row": {"number": 3}}]));
    assert!(version("a") != a && version("b") == b);
    assert_eq!(db.snapshot().sequence(), sequence + 1);
    // There and back again within one transaction is no change.
    ok(
        &db,
        json!([{"op": "mutate", "table": "Root", "where": [], "mutations": [["number", "+=", 1]]},
        {"op": "mutate", "table": "Root", "where": [], "mutations": [["number", "-=", 1]]}]),
    );
    assert_eq!(db.snapshot().sequence(), sequence + 1);
}

#[test]
fn errors_name_the_place_and_undo_everything() {
    let db = database();
    ok(&db, json!([insert(json!({"name": "a"}))]));
    let change = |row: Value| json!({"op": "update", "table": "Root", "where": [], "row": row});
    let mutate =
        |mutation: Value| json!({"op": "mutate", "table": "Root", "where": [], "mutations": [mutation]});
    let select = |clause: Value| json!({"op": "select", "table": "Root", "where": [clause]});
    let cases = [
        (json!({"op": "insert", "table": "Nope", "row": {}}), "unknown table", "Nope"),
        (insert(json!({"nope": 1})), "unknown column", "nope"),
        (
            insert(json!({"_uuid": ["uuid", "36bef046-7da7-43a5-905a-c17899216fcb"]})),
            "unknown column",
            "_uuid",
        ),
        (change(json!({"number": 1001})), "constraint violation", "Root.number"),
        (change(json!({"number": "x"})), "syntax error", "Root.number"),
        (change(json!({"color": "blue"})), "constraint violation", "\"green\", \"red\""),
        (change(json!({"name": "b"})), "constraint violation", "Root.name"),
        (change(json!({"maybe": ["set", [1, 2]]})), "constraint violation", "at most 1"),
        (mutate(json!(["number", "/=", 0])), "domain error", "zero"),
        (mutate(json!(["number", "%=", 0])), "domain error", "zero"),
        (mutate(json!(["number", "+=", i64::MAX])), "constraint violation", "number"),
        (mutate(json!(["real", "%=", 1])), "syntax error", "real"),
        (mutate(json!(["name", "insert", "x"])), "constraint violation", "Root.name"),
        (mutate(json!(["map", "+=", 1])), "syntax error", "Root.map"),
        (mutate(json!(["number", "^=", 1])), "syntax error", "^="),
        (select(json!(["name", "<", "x"])), "syntax error", "order"),
        (select(json!(["name", "~", "x"])), "syntax error", "~"),
        (select(json!(["nope", "==", "x"])), "unknown column", "nope"),
        (json!({"op": "select", "table": "Root"}), "syntax error", "where"),
        (json!({"op": "select", "table": "Root", "where": [], "what": 1}), "syntax error", "what"),
        (json!({"op": "frobnicate"}), "not supported", "frobnicate"),
        (json!({"op": "abort"}), "aborted", ""),
        (json!({"op": "assert", "lock": "l"}), "not owner", "l"),
        (json!("insert"), "syntax error", "object"),
        (
            insert(json!({"name": "x", "children": ["named-uuid", "nobody"]})),
            "referential integrity violation",
            "nobody",
        ),
    ];
    for (op, tag, hint) in cases {
        let (error, details) =
            fails(&db, json!([insert(json!({"name": "new"})), op, {"op": "comment", "comment": "c"}]), 1);
        assert_eq!(error, tag, "{op}: {details}");
        assert!(details.contains(hint), "{op}: {details}");
    }
}

#[test]
fn arithmetic_stays_in_range() {
    let db = database();
    let max = i64::MAX;
    ok(&db, json!([insert(json!({"name": "a", "ints": ["set", [max, 1]], "real": 1e308}))]));
    let mutate =
        |mutation: Value| json!([{"op": "mutate", "table": "Root", "where": [], "mutations": [mutation]}]);
    assert_eq!(fails(&db, mutate(json!(["ints", "+=", 1])), 0).0, "range error");
    assert_eq!(fails(&db, mutate(json!(["real", "*=", 100])), 0).0, "range error");
    assert_eq!(fails(&db, mutate(json!(["ints", "*=", 0])), 0).0, "constraint violation");
    ok(&db, mutate(json!(["ints", "-=", 1])));
    let snapshot = db.snapshot();
    assert_eq!(snapshot.table("Root").first().unwrap().ints("ints"), [0, max - 1]);
}

#[test]
fn names_and_uuids_of_inserts() {
    let db = database();
    let fixed = "36bef046-7da7-43a5-905a-c17899216fcb";
    let named = |name: &str, uuid_name: &str| json!({"op": "insert", "table": "Root", "uuid-name": uuid_name, "row": {"name": name}});
    let results =
        ok(&db, json!([{"op": "insert", "table": "Root", "uuid": fixed, "row": {"name": "fixed"}}]));
    assert_eq!(results[0], json!({"uuid": ["uuid", fixed]}));
    let again = json!([{"op": "insert", "table": "Root", "uuid": fixed, "row": {"name": "again"}}]);
    assert_eq!(fails(&db, again, 0).0, "duplicate uuid");
    assert_eq!(fails(&db, json!([named("x", "n"), named("y", "n")]), 1).0, "duplicate uuid-name");
    assert_eq!(fails(&db, json!([named("x", "not an id")]), 0).0, "syntax error");
}

#[test]
fn wait_compares_sets_of_rows() {
    let db = database();
    ok(&db, json!([insert(json!({"name": "a", "number": 1})), insert(json!({"name": "b", "number": 1}))]));
    let wait = |until: &str, columns: Value, rows: Value| json!([{"op": "wait", "timeout": 0, "table": "Root", "where": [], "until": until, "columns": columns, "rows": rows}]);
    ok(&db, wait("==", json!(["name"]), json!([{"name": "b"}, {"name": "a"}])));
    ok(&db, wait("==", json!(["number"]), json!([{"number": 1}])));
    ok(&db, wait("!=", json!(["name"]), json!([{"name": "a"}])));
    assert_eq!(fails(&db, wait("==", json!(["name"]), json!([{"name": "a"}])), 0).0, "timed out");
    assert_eq!(fails(&db, wait("!=", json!(["number"]), json!([{"number": 1}])), 0).0, "timed out");
    assert_eq!(fails(&db, wait("==", json!(["name"]), json!([{"number": 1}])), 0).0, "syntax error");
}

#[test]
fn local_transactions_obey_the_same_rules() {
    let db = database();
    let root = db.transact_local(|txn| {
        let child = txn.insert("Child", [("name", "c".into())])?;
        txn.insert("Root", [("name", "r".into()), ("children", child.into())])
    });
    let root = root.unwrap();
    let wrong_type = db.transact_local(|txn| txn.update("Root", root, [("number", "five".into())]));
    assert!(wrong_type.unwrap_err().details.contains("Root.number"));
    let out_of_range = db.transact_local(|txn| txn.update("Root", root, [("number", 5000.into())]));
    assert_eq!(out_of_range.unwrap_err().kind, crate::ErrorKind::ConstraintViolation);
    let sequence = db.snapshot().sequence();
    assert_eq!(db.transact_local(|txn| txn.update("Root", root, [("number", 0.into())])), Ok(true));
    assert_eq!(db.snapshot().sequence(), sequence, "an equal value is no change");
    assert_eq!(
        db.transact_local(|txn| txn.update("Root", crate::Uuid::ZERO, [("number", 1.into())])),
        Ok(false)
    );
    assert_eq!(
        db.transact_local(|txn| txn.add("Root", root, "ints", crate::Datum::set([1i64, 2]))),
        Ok(true)
    );
    assert_eq!(db.transact_local(|txn| txn.remove("Root", root, "ints", 1.into())), Ok(true));
    assert_eq!(db.snapshot().table("Root").row(root).unwrap().ints("ints"), [2]);
    assert_eq!(db.transact_local(|txn| txn.delete("Root", root)), Ok(true));
    assert!(db.snapshot().table("Child").is_empty(), "its child went with it");
}

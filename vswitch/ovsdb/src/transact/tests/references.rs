//! References, garbage, row limits and indexes.

use serde_json::{Value, json};

use super::{database, fails, insert, ok};
use crate::Db;

fn child(name: &str) -> Value {
    json!({"op": "insert", "table": "Child", "uuid-name": name, "row": {"name": name}})
}

fn children(db: &Db) -> Vec<String> {
    let snapshot = db.snapshot();
    let mut names: Vec<String> =
        snapshot.table("Child").rows().map(|row| row.str("name").to_owned()).collect();
    names.sort();
    names
}

#[test]
fn rows_live_while_strongly_referenced() {
    let db = database();
    // A name may be used before the insert that defines it.
    ok(
        &db,
        json!([
            insert(json!({"name": "r", "children": ["set", [["named-uuid", "a"], ["named-uuid", "b"]]],
            "friend": ["named-uuid", "c"]})),
            child("a"),
            child("b"),
            child("c"),
            child("d")
        ]),
    );
    assert_eq!(children(&db), ["a", "b"], "a weak reference keeps nothing alive");
    assert!(
        db.snapshot().table("Root").first().unwrap().refs("friend").is_empty(),
        "and vanishes with its target"
    );
    ok(&db, json!([{"op": "update", "table": "Root", "where": [], "row": {"children": ["set", []]}}]));
    assert_eq!(children(&db), Vec::<String>::new());
}

#[test]
fn strong_references_forbid_deletion() {
    let db = database();
    ok(&db, json!([insert(json!({"name": "r", "children": ["named-uuid", "a"]})), child("a")]));
    let delete = json!({"op": "delete", "table": "Child", "where": []});
    let (error, details) = fails(&db, json!([delete]), 1);
    assert_eq!(error, "referential integrity violation");
    assert!(details.contains("Root.children") && details.contains("Child"), "{details}");
    ok(
        &db,
        json!([delete, {"op": "update", "table": "Root", "where": [], "row": {"children": ["set", []]}}]),
    );
    let gone = json!(["uuid", "36bef046-7da7-43a5-905a-c17899216fcb"]);
    assert_eq!(
        fails(&db, json!([insert(json!({"name": "x", "children": gone}))]), 1).0,
        "referential integrity violation"
    );
}

#[test]
fn unreachable_cycles_are_garbage() {
    let db = database();
    let link = |name: &str, next: &str| json!({"op": "insert", "table": "Child", "uuid-name": name, "row": {"name": name, "next": ["named-uuid", next]}});
    ok(
        &db,
        json!([
            insert(json!({"name": "r", "children": ["named-uuid", "a"]})),
            link("a", "b"),
            link("b", "a")
        ]),
    );
    assert_eq!(children(&db), ["a", "b"]);
    ok(&db, json!([{"op": "update", "table": "Root", "where": [], "row": {"children": ["set", []]}}]));
    assert_eq!(children(&db), Vec::<String>::new());
}

#[test]
fn indexes_and_row_limits_hold_at_commit() {
    let db = database();
    ok(&db, json!([insert(json!({"name": "a"}))]));
    let (error, details) = fails(&db, json!([insert(json!({"name": "a"}))]), 1);
    assert_eq!(error, "constraint violation");
    assert!(details.contains("Root") && details.contains("name = \"a\""), "{details}");
    // Only the outcome counts: the old row may go in the same transaction, after the new one came.
    ok(
        &db,
        json!([insert(json!({"name": "a", "number": 1})),
        {"op": "delete", "table": "Root", "where": [["number", "==", 0]]}]),
    );
    let single = json!({"op": "insert", "table": "Single", "row": {}});
    ok(&db, json!([single]));
    let (error, details) = fails(&db, json!([single]), 1);
    assert_eq!(error, "constraint violation");
    assert!(details.contains("Single") && details.contains("at most 1"), "{details}");
}

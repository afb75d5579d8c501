//! Whatever clients do, what is committed obeys the rules.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::database;
use crate::{Snapshot, Uuid};

/// Row names are few, so that operations meet the same rows.
fn row_uuid(n: u8) -> Value {
    json!(["uuid", format!("00000000-0000-4000-8000-0000000000{n:02x}")])
}

fn any_operation() -> impl Strategy<Value = Value> {
    let child = 0u8..5;
    let children = || proptest::collection::btree_set(0u8..5, 0..3);
    let refs =
        |children: BTreeSet<u8>| json!(["set", children.into_iter().map(row_uuid).collect::<Vec<_>>()]);
    let optional = |child: Option<u8>| child.map_or(json!(["set", []]), row_uuid);
    prop_oneof![
        (child.clone(), proptest::option::of(0u8..5), proptest::option::of(0u8..5)).prop_map(move |(n, next, weak)| {
            json!({"op": "insert", "table": "Child", "uuid": row_uuid(n)[1], "row": {"next": optional(next), "needed": optional(weak)}})
        }),
        (10u8..13, children(), proptest::option::of(0u8..5)).prop_map(move |(n, children, friend)| {
            json!({"op": "insert", "table": "Root", "uuid": row_uuid(n)[1],
                "row": {"name": format!("{}", n % 2), "children": refs(children), "friend": optional(friend)}})
        }),
        (10u8..13, children()).prop_map(move |(n, children)| {
            json!({"op": "update", "table": "Root", "where": [["_uuid", "==", row_uuid(n)]], "row": {"children": refs(children)}})
        }),
        (10u8..13).prop_map(|n| json!({"op": "delete", "table": "Root", "where": [["_uuid", "==", row_uuid(n)]]})),
        child.prop_map(|n| json!({"op": "delete", "table": "Child", "where": [["_uuid", "==", row_uuid(n)]]})),
        Just(json!({"op": "insert", "table": "Single", "row": {}})),
    ]
}

fn check(snapshot: &Snapshot) {
    let roots: Vec<_> = snapshot.table("Root").rows().collect();
    let children = snapshot.table("Child");
    let names: BTreeSet<&str> = roots.iter().map(|row| row.str("name")).collect();
    assert_eq!(names.len(), roots.len(), "the index holds");
    assert!(snapshot.table("Single").len() <= 1);
    let mut reached: BTreeSet<Uuid> = BTreeSet::new();
    let mut todo: Vec<Uuid> = roots.iter().flat_map(|row| row.refs("children")).collect();
    while let Some(uuid) = todo.pop() {
        let row = children.row(uuid).expect("strong references hold");
        if reached.insert(uuid) {
            todo.extend(row.refs("next"));
        }
    }
    assert_eq!(reached, children.rows().map(|row| row.uuid()).collect(), "exactly what is reached lives");
    let weak = roots.iter().flat_map(|row| row.refs("friend"));
    let weak = weak.chain(children.rows().flat_map(|row| row.refs("needed")));
    for uuid in weak {
        assert!(children.row(uuid).is_some(), "weak references go with their target");
    }
}

/// JSON that is nearly an operation.
fn any_json() -> impl Strategy<Value = Value> {
    let word = proptest::sample::select(
        &[
            "op",
            "insert",
            "select",
            "update",
            "mutate",
            "delete",
            "wait",
            "commit",
            "comment",
            "assert",
            "table",
            "Root",
            "Child",
            "where",
            "row",
            "rows",
            "columns",
            "until",
            "==",
            "!=",
            "<",
            "includes",
            "name",
            "number",
            "ints",
            "map",
            "set",
            "uuid",
            "named-uuid",
            "uuid-name",
            "_uuid",
            "mutations",
            "+=",
            "/=",
            "timeout",
            "x",
            "children",
            "lock",
        ][..],
    );
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            proptest::collection::btree_map(word.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn every_committed_state_obeys_the_rules(
        transactions in proptest::collection::vec(proptest::collection::vec(any_operation(), 1..6), 1..8)
    ) {
        let db = database();
        for operations in transactions {
            let before = db.snapshot();
            let failed = db.transact_json(&operations).iter().any(|result| result.get("error").is_some());
            let after = db.snapshot();
            check(&after);
            if failed {
                prop_assert_eq!(before.sequence(), after.sequence());
            }
        }
    }

    #[test]
    fn nearly_operations_fail_without_harm(
        op in proptest::sample::select(&["insert", "select", "update", "mutate", "delete", "wait"][..]),
        members in proptest::collection::btree_map(proptest::sample::select(
            &["row", "where", "mutations", "columns", "rows", "until", "timeout", "uuid", "uuid-name"][..]), any_json(), 0..5),
        stray in any_json(),
    ) {
        let db = database();
        let mut operation = json!({"op": op, "table": "Root"});
        for (name, value) in members {
            operation[name] = value;
        }
        let results = db.transact_json(&[json!({"op": "insert", "table": "Root", "row": {"name": "a"}}), operation, stray]);
        prop_assert!(results.len() >= 2);
        check(&db.snapshot());
    }
}

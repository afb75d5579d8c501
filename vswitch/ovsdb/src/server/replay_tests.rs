//! A client that applies every update it is sent ends with what the database holds: for both dialects, with
//! and without conditions, however many commits fall together into one update.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::monitor::{Dialect, Monitor};
use crate::schema::vswitch_schema;
use crate::value::{Names, Strictness, apply_difference};
use crate::{Datum, Db};

const COLUMNS: [&str; 2] = ["dscp", "external_ids"];

/// What the client believes: row to values of [`COLUMNS`].
type Belief = BTreeMap<String, [Datum; 2]>;

fn any_operation() -> impl Strategy<Value = Value> {
    let ids = proptest::collection::btree_map("[ab]", "[xy]", 0..3)
        .prop_map(|map| json!(["map", map.into_iter().map(|(k, v)| json!([k, v])).collect::<Vec<_>>()]));
    let dscp = proptest::option::of(0i64..4).prop_map(|n| n.map_or(json!(["set", []]), Value::from));
    let which = || (0i64..4).prop_map(|n| json!([["dscp", "==", n]]));
    prop_oneof![
        (dscp.clone(), ids.clone()).prop_map(
            |(n, ids)| json!({"op": "insert", "table": "Queue", "row": {"dscp": n, "external_ids": ids}})
        ),
        (which(), dscp, ids).prop_map(|(which, n, ids)| {
            json!({"op": "update", "table": "Queue", "where": which, "row": {"dscp": n, "external_ids": ids}})
        }),
        which().prop_map(|which| json!({"op": "delete", "table": "Queue", "where": which})),
    ]
}

fn datum(db: &Db, column: &str, json: &Value) -> Datum {
    let schema = db.schema();
    let table = schema.table("Queue").unwrap();
    let kind = table.kind(table.column(column).unwrap());
    Datum::from_json(json, kind, &Names::default(), Strictness::Argument).unwrap()
}

fn apply(db: &Db, belief: &mut Belief, tables: &Value) {
    let Some(rows) = tables.get("Queue").and_then(Value::as_object) else { return };
    for (uuid, update) in rows {
        let whole = update.get("initial").or_else(|| update.get("insert")).or_else(|| update.get("new"));
        if let Some(row) = whole {
            // Left-out columns have their default, which is empty for both.
            let values = COLUMNS.map(|c| row.get(c).map_or_else(Datum::empty, |json| datum(db, c, json)));
            assert_eq!(
                belief.insert(uuid.clone(), values).is_some(),
                update.get("old").is_some(),
                "{update}"
            );
        } else if let Some(row) = update.get("modify") {
            let values = belief.get_mut(uuid).expect("only known rows are modified");
            let schema = db.schema();
            for (column, value) in COLUMNS.iter().zip(values) {
                let table = schema.table("Queue").unwrap();
                if let Some(json) = row.get(*column) {
                    *value = apply_difference(
                        value,
                        &datum(db, column, json),
                        table.kind(table.column(column).unwrap()),
                    );
                }
            }
        } else {
            belief.remove(uuid).expect("only known rows are deleted");
        }
    }
}

fn truth(db: &Db, at_least: Option<i64>) -> Belief {
    let snapshot = db.snapshot();
    let rows = snapshot.table("Queue").rows();
    let rows = rows.filter(|row| at_least.is_none_or(|min| row.opt_int("dscp").is_some_and(|n| n >= min)));
    rows.map(|row| (row.uuid().to_string(), COLUMNS.map(|column| row.datum(column).clone()))).collect()
}

proptest! {
    #[test]
    fn replaying_updates_gives_the_database(
        dialect in proptest::sample::select(&[Dialect::Plain, Dialect::Conditional, Dialect::Since][..]),
        at_least in proptest::option::of(0i64..4),
        start in proptest::collection::vec(any_operation(), 0..4),
        commits in proptest::collection::vec((proptest::collection::vec(any_operation(), 1..4), any::<bool>()), 0..8),
        changed in proptest::option::of(0i64..4),
    ) {
        let mut at_least = at_least.filter(|_| dialect != Dialect::Plain);
        let db = Db::in_memory(vswitch_schema());
        db.transact_json(&start);
        let mut request = json!({"columns": COLUMNS});
        if let Some(min) = at_least {
            request["where"] = json!([["dscp", ">=", min]]);
        }
        let mut monitor = Monitor::new(json!("m"), dialect, &json!({"Queue": request}), db.snapshot()).unwrap();
        let since = dialect == Dialect::Since;
        let mut belief = Belief::new();
        let initial = monitor.initial(None);
        apply(&db, &mut belief, if since { &initial[2] } else { &initial });
        prop_assert_eq!(&belief, &truth(&db, at_least));
        for (operations, told) in commits {
            db.transact_json(&operations);
            if told {
                if let Some(update) = monitor.update(&db.snapshot()) {
                    apply(&db, &mut belief, &update["params"][if since { 2 } else { 1 }]);
                }
                prop_assert_eq!(&belief, &truth(&db, at_least));
            }
        }
        if let Some(update) = monitor.update(&db.snapshot()) {
            apply(&db, &mut belief, &update["params"][if since { 2 } else { 1 }]);
        }
        if let Some(min) = changed.filter(|_| dialect != Dialect::Plain) {
            at_least = Some(min);
            let clauses = json!({"Queue": [{"where": [["dscp", ">=", min]]}]});
            if let Some(update) = monitor.change(json!("n"), &clauses).unwrap() {
                apply(&db, &mut belief, &update["params"][if since { 2 } else { 1 }]);
            }
        }
        prop_assert_eq!(&belief, &truth(&db, at_least));
    }
}

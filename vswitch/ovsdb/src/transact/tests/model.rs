//! Conditions and mutations against a model made of standard collections.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{database, ok};

#[derive(Clone, Debug, PartialEq)]
struct Row {
    number: i64,
    maybe: Option<i64>,
    ints: BTreeSet<i64>,
    map: BTreeMap<String, i64>,
}

fn any_row() -> impl Strategy<Value = Row> {
    (
        -5i64..5,
        proptest::option::of(-2i64..2),
        proptest::collection::btree_set(-3i64..4, 0..4),
        proptest::collection::btree_map("[ab]{1}", 0i64..3, 0..3),
    )
        .prop_map(|(number, maybe, ints, map)| Row { number, maybe, ints, map })
}

fn set_json(ints: &BTreeSet<i64>) -> Value {
    json!(["set", ints])
}

fn map_json(map: &BTreeMap<String, i64>) -> Value {
    json!(["map", map.iter().map(|(k, v)| json!([k, v])).collect::<Vec<_>>()])
}

fn row_json(name: usize, row: &Row) -> Value {
    json!({"name": name.to_string(), "number": row.number, "ints": set_json(&row.ints), "map": map_json(&row.map),
        "maybe": row.maybe.map_or(json!(["set", []]), |n| json!(n))})
}

const ORDER: [&str; 6] = ["<", "<=", "==", "!=", ">=", ">"];
const SETS: [&str; 4] = ["==", "!=", "includes", "excludes"];

#[derive(Clone, Debug)]
enum Clause {
    Number(&'static str, i64),
    Maybe(&'static str, i64),
    Ints(&'static str, BTreeSet<i64>),
    Map(&'static str, BTreeMap<String, i64>),
    Truth(bool),
}

fn any_clause() -> impl Strategy<Value = Clause> {
    let order = proptest::sample::select(&ORDER[..]);
    let sets = proptest::sample::select(&SETS[..]);
    prop_oneof![
        (order.clone(), -5i64..5).prop_map(|(f, n)| Clause::Number(f, n)),
        (order, -2i64..2).prop_map(|(f, n)| Clause::Maybe(f, n)),
        (sets.clone(), proptest::collection::btree_set(-3i64..4, 0..3)).prop_map(|(f, s)| Clause::Ints(f, s)),
        (sets, proptest::collection::btree_map("[ab]{1}", 0i64..3, 0..2))
            .prop_map(|(f, m)| Clause::Map(f, m)),
        any::<bool>().prop_map(Clause::Truth),
    ]
}

fn compare(function: &str, a: i64, b: i64) -> bool {
    match function {
        "<" => a < b,
        "<=" => a <= b,
        "==" => a == b,
        "!=" => a != b,
        ">=" => a >= b,
        _ => a > b,
    }
}

impl Clause {
    fn json(&self) -> Value {
        match self {
            Clause::Number(f, n) => json!(["number", f, n]),
            Clause::Maybe(f, n) => json!(["maybe", f, n]),
            Clause::Ints(f, s) => json!(["ints", f, set_json(s)]),
            Clause::Map(f, m) => json!(["map", f, map_json(m)]),
            Clause::Truth(truth) => json!(truth),
        }
    }

    fn holds(&self, row: &Row) -> bool {
        match self {
            Clause::Number(f, n) => compare(f, row.number, *n),
            Clause::Maybe(f, n) => row.maybe.map_or(*f == "!=", |m| compare(f, m, *n)),
            Clause::Ints(f, s) => match *f {
                "==" => row.ints == *s,
                "!=" => row.ints != *s,
                "includes" => row.ints.is_superset(s),
                _ => row.ints.is_disjoint(s),
            },
            Clause::Map(f, m) => {
                let has = |(k, v): (&String, &i64)| row.map.get(k) == Some(v);
                match *f {
                    "==" => row.map == *m,
                    "!=" => row.map != *m,
                    "includes" => m.iter().all(has),
                    _ => !m.iter().any(has),
                }
            }
            Clause::Truth(truth) => *truth,
        }
    }
}

#[derive(Clone, Debug)]
enum Mutation {
    Number(&'static str, i64),
    Ints(&'static str, i64),
    InsertInts(BTreeSet<i64>),
    DeleteInts(BTreeSet<i64>),
    InsertMap(BTreeMap<String, i64>),
    DeletePairs(BTreeMap<String, i64>),
    DeleteKeys(BTreeSet<String>),
}

fn any_mutation() -> impl Strategy<Value = Mutation> {
    let arithmetic = proptest::sample::select(&["+=", "-=", "*=", "/=", "%="][..]);
    let ints = || proptest::collection::btree_set(-3i64..4, 0..3);
    let map = || proptest::collection::btree_map("[ab]{1}", 0i64..3, 1..3);
    prop_oneof![
        (arithmetic.clone(), -3i64..4).prop_map(|(m, n)| Mutation::Number(m, n)),
        (arithmetic, -3i64..4).prop_map(|(m, n)| Mutation::Ints(m, n)),
        ints().prop_map(Mutation::InsertInts),
        ints().prop_map(Mutation::DeleteInts),
        map().prop_map(Mutation::InsertMap),
        map().prop_map(Mutation::DeletePairs),
        proptest::collection::btree_set("[ab]{1}", 0..2).prop_map(Mutation::DeleteKeys),
    ]
}

fn compute(mutator: &str, a: i64, b: i64) -> Option<i64> {
    Some(match mutator {
        "+=" => a + b,
        "-=" => a - b,
        "*=" => a * b,
        _ if b == 0 => return None,
        "/=" => a / b,
        _ => a % b,
    })
}

impl Mutation {
    fn json(&self) -> Value {
        match self {
            Mutation::Number(m, n) => json!(["number", m, n]),
            Mutation::Ints(m, n) => json!(["ints", m, n]),
            Mutation::InsertInts(s) => json!(["ints", "insert", set_json(s)]),
            Mutation::DeleteInts(s) => json!(["ints", "delete", set_json(s)]),
            Mutation::InsertMap(m) => json!(["map", "insert", map_json(m)]),
            Mutation::DeletePairs(m) => json!(["map", "delete", map_json(m)]),
            Mutation::DeleteKeys(s) => json!(["map", "delete", ["set", s]]),
        }
    }

    /// `None`: refused.
    fn apply(&self, row: &Row) -> Option<Row> {
        let mut row = row.clone();
        match self {
            Mutation::Number(m, n) => row.number = compute(m, row.number, *n)?,
            Mutation::Ints(m, n) => {
                let changed =
                    row.ints.iter().map(|i| compute(m, *i, *n)).collect::<Option<BTreeSet<i64>>>()?;
                if changed.len() != row.ints.len() {
                    return None;
                }
                row.ints = changed;
            }
            Mutation::InsertInts(s) => row.ints.extend(s),
            Mutation::DeleteInts(s) => row.ints.retain(|i| !s.contains(i)),
            Mutation::InsertMap(m) => {
                for (k, v) in m {
                    row.map.entry(k.clone()).or_insert(*v);
                }
            }
            Mutation::DeletePairs(m) => row.map.retain(|k, v| m.get(k) != Some(v)),
            Mutation::DeleteKeys(s) => row.map.retain(|k, _| !s.contains(k)),
        }
        Some(row)
    }
}

proptest! {
    #[test]
    fn conditions_select_what_the_model_selects(
        rows in proptest::collection::vec(any_row(), 0..6),
        clauses in proptest::collection::vec(any_clause(), 0..3),
    ) {
        let db = database();
        let inserts: Vec<Value> = rows.iter().enumerate()
            .map(|(name, row)| json!({"op": "insert", "table": "Root", "row": row_json(name, row)})).collect();
        ok(&db, json!(inserts));
        let clauses_json: Vec<Value> = clauses.iter().map(Clause::json).collect();
        let results = ok(&db, json!([{"op": "select", "table": "Root", "where": clauses_json, "columns": ["name"]}]));
        let found: BTreeSet<String> = results[0]["rows"].as_array().unwrap().iter()
            .map(|row| row["name"].as_str().unwrap().to_owned()).collect();
        let expected: BTreeSet<String> = rows.iter().enumerate()
            .filter(|(_, row)| clauses.iter().all(|clause| clause.holds(row)))
            .map(|(name, _)| name.to_string()).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn mutations_do_what_the_model_does(
        row in any_row(),
        mutations in proptest::collection::vec(any_mutation(), 1..5),
    ) {
        let db = database();
        ok(&db, json!([{"op": "insert", "table": "Root", "row": row_json(0, &row)}]));
        let expected = mutations.iter().try_fold(row.clone(), |row, mutation| mutation.apply(&row));
        let json: Vec<Value> = mutations.iter().map(Mutation::json).collect();
        let results = db.transact_json(&[json!({"op": "mutate", "table": "Root", "where": [], "mutations": json})]);
        let failed = results.iter().any(|result| result.get("error").is_some());
        prop_assert_eq!(failed, expected.is_none(), "{:?}", results);
        let snapshot = db.snapshot();
        let now = snapshot.table("Root").first().unwrap();
        let got = Row {
            number: now.int("number"),
            maybe: now.opt_int("maybe"),
            ints: now.ints("ints").into_iter().collect(),
            map: now.datum("map").pairs()
                .map(|(k, v)| (k.as_str().unwrap().to_owned(), v.as_int().unwrap())).collect(),
        };
        prop_assert_eq!(got, expected.unwrap_or(row));
    }
}

//! What the operations of a plan say, and what their results mean.

use serde_json::json;

use super::*;
use crate::fixture::{self, operations, run};

#[test]
fn a_chain_is_one_transaction() {
    let schema = fixture::schema();
    let mut plan = fixture::plan(&schema);
    for line in ["add-br br2", "add-port br2 p2 tag=9", "set interface p2 type=tap", "del-port p0"] {
        run(&mut plan, line).unwrap();
    }
    let names = operations(&plan);
    let count = |name: &str| names.iter().filter(|other| *other == name).count();
    assert_eq!((count("insert Interface"), count("insert Port"), count("insert Bridge")), (2, 2, 1));
    assert_eq!((count("delete Port"), count("delete Interface"), count("update Bridge")), (1, 1, 1));
    assert_eq!(count("mutate Open_vSwitch"), 1);
    let first_change = names.iter().position(|name| !name.starts_with("wait")).unwrap();
    assert!(
        names[first_change..].iter().all(|name| !name.starts_with("wait")),
        "guards come first: {names:?}"
    );
}

#[test]
fn reading_is_no_change_and_signs_nothing() {
    let schema = fixture::schema();
    let mut plan = fixture::plan(&schema);
    plan.sign("vsctl show");
    run(&mut plan, "show").unwrap();
    assert!(operations(&plan).is_empty());
    run(&mut plan, "set port p0 tag=1").unwrap();
    assert!(operations(&plan).contains(&"comment -".to_owned()));
}

#[test]
fn a_column_that_was_not_fetched_is_not_taken_for_empty() {
    let schema = fixture::schema();
    let mut plan = Plan::new(&schema);
    plan.load("Interface", &fixture::rows("Interface")).unwrap();
    let interface = plan.rows("Interface").unwrap()[0];
    assert_eq!(plan.text(interface, "name").unwrap(), "br0");
    let message = plan.get(interface, "options").unwrap_err().to_string();
    assert!(message.contains("options") && message.contains("not fetched"), "{message}");
}

#[test]
fn a_new_database_gets_root_and_change_at_once() {
    let schema = fixture::schema();
    let mut plan = fixture::empty(&schema);
    run(&mut plan, "add-br br0").unwrap();
    let batch = plan.operations(true).unwrap();
    let mutate = batch.operations.iter().find(|op| op["op"] == "mutate").unwrap();
    assert_eq!(mutate["where"][0][2][0], "named-uuid");
    assert!(batch.warnings.is_empty());
}

#[test]
fn outcomes() {
    let schema = fixture::schema();
    let mut plan = fixture::plan(&schema);
    run(&mut plan, "add-port br0 p9").unwrap();
    let batch = plan.operations(true).unwrap();
    let kinds: Vec<_> = batch.operations.iter().map(|op| op["op"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["wait", "insert", "insert", "update", "mutate", "select"]);
    let good = [
        json!({}),
        json!({"uuid": ["uuid", "aa"]}),
        json!({"uuid": ["uuid", "bb"]}),
        json!({"count": 1}),
        json!({"count": 1}),
        json!({"rows": [{"next_cfg": 8}]}),
    ];
    let Outcome::Committed { uuids, next_cfg } = batch.outcome(&good, false).unwrap() else {
        panic!("not committed")
    };
    assert_eq!((uuids.len(), next_cfg), (2, Some(8)));

    let overtaken = [json!({"error": "timed out"}), json!(null)];
    assert!(matches!(batch.outcome(&overtaken, false).unwrap(), Outcome::Overtaken));

    let mut refused = good.to_vec();
    refused.push(json!({"error": "constraint violation", "details": "name p9 is taken"}));
    let error = batch.outcome(&refused, false).unwrap_err().to_string();
    assert!(error.contains("constraint violation") && error.contains("p9 is taken"), "{error}");

    let mut aborted = good.to_vec();
    aborted.push(json!({"error": "aborted"}));
    assert!(batch.outcome(&aborted, true).is_ok());
    assert!(batch.outcome(&aborted, false).is_err());
}

#[test]
fn a_table_that_was_not_fetched_is_not_empty() {
    let schema = fixture::schema();
    let plan = Plan::new(&schema);
    assert!(plan.rows("Bridge").is_err());
}

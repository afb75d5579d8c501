//! Databases on disk: what survives what.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{OpenError, encode};
use crate::{DatabaseSchema, Datum, Db};

fn schema_json() -> Value {
    json!({"name": "d", "version": "1.0.0", "tables": {"T": {"isRoot": true, "columns": {
        "n": {"type": "integer"},
        "ints": {"type": {"key": "integer", "min": 0, "max": "unlimited"}},
        "map": {"type": {"key": "string", "value": "string", "min": 0, "max": "unlimited"}},
        "gone": {"type": "integer", "ephemeral": true}}}}})
}

fn schema() -> DatabaseSchema {
    DatabaseSchema::from_json(&schema_json()).unwrap()
}

fn open(path: &Path) -> (Db, Vec<String>) {
    let (db, warnings) = Db::open(path, schema()).unwrap();
    (db, warnings.iter().map(ToString::to_string).collect())
}

/// The values of `n` over all rows.
fn numbers(db: &Db) -> Vec<i64> {
    let mut all: Vec<i64> = db.snapshot().table("T").rows().map(|row| row.int("n")).collect();
    all.sort_unstable();
    all
}

fn insert(db: &Db, n: i64) {
    db.transact_local(|txn| txn.insert("T", [("n", n.into()), ("gone", 7.into())])).unwrap();
}

#[test]
fn commits_survive_and_ephemeral_columns_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("conf.db");
    let (db, warnings) = open(&path);
    assert_eq!(warnings, Vec::<String>::new());
    insert(&db, 1);
    insert(&db, 2);
    let size = fs::metadata(&path).unwrap().len();
    let row = db.snapshot().table("T").first().unwrap().uuid();
    db.transact_local(|txn| txn.update("T", row, [("gone", 8.into())])).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), size, "an ephemeral change writes nothing");
    drop(db);
    let (db, warnings) = open(&path);
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(numbers(&db), [1, 2]);
    assert!(db.snapshot().table("T").rows().all(|row| row.int("gone") == 0));
}

#[test]
fn a_journal_cut_at_any_byte_opens_with_a_prefix_of_history() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("conf.db");
    let (db, _) = open(&path);
    let mut ends = vec![(fs::metadata(&path).unwrap().len(), numbers(&db))];
    for n in 1..4 {
        insert(&db, n);
        ends.push((fs::metadata(&path).unwrap().len(), numbers(&db)));
    }
    drop(db);
    let whole = fs::read(&path).unwrap();
    for cut in 0..=whole.len() {
        let case = tempfile::tempdir().unwrap();
        let path = case.path().join("conf.db");
        fs::write(&path, &whole[..cut]).unwrap();
        let (db, warnings) = open(&path);
        let prefix = ends.iter().rev().find(|(end, _)| *end <= cut as u64);
        let expected = prefix.map_or_else(Vec::new, |(_, numbers)| numbers.clone());
        assert_eq!(numbers(&db), expected, "cut at {cut}");
        let clean = cut == 0 || ends.iter().any(|(end, _)| *end == cut as u64);
        assert_eq!(warnings.is_empty(), clean, "cut at {cut}: {warnings:?}");
        // It goes on from there, and the next opening has nothing to complain about.
        insert(&db, 100);
        drop(db);
        let (db, warnings) = open(&path);
        assert_eq!(warnings, Vec::<String>::new(), "cut at {cut}");
        assert_eq!(numbers(&db).last(), Some(&100));
        assert_eq!(numbers(&db).len(), expected.len() + 1);
    }
}

#[test]
fn damage_in_the_middle_keeps_the_good_part_and_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("conf.db");
    let (db, _) = open(&path);
    insert(&db, 1);
    let middle = usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
    insert(&db, 2);
    insert(&db, 3);
    drop(db);
    let mut bytes = fs::read(&path).unwrap();
    bytes[middle + 70] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let (db, warnings) = open(&path);
    assert_eq!(numbers(&db), [1]);
    let kept = dir.path().join("conf.db.damaged-0");
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains(&kept.display().to_string()), "{warnings:?}");
    assert_eq!(fs::read(&kept).unwrap(), bytes);
}

#[test]
fn a_file_that_is_no_database_is_kept_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("conf.db");
    fs::write(&path, "hello\n").unwrap();
    let (db, warnings) = open(&path);
    assert_eq!(numbers(&db), Vec::<i64>::new());
    assert!(warnings[0].contains("damaged-0"), "{warnings:?}");
    assert_eq!(fs::read(dir.path().join("conf.db.damaged-0")).unwrap(), b"hello\n");
}

#[test]
fn another_database_or_a_cluster_is_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("conf.db");
    let other = encode(&json!({"name": "Other", "version": "1.0.0", "tables": {}}));
    for content in [other.as_slice(), b"OVSDB CLUSTER 5 abc\n"] {
        fs::write(&path, content).unwrap();
        let error = Db::open(&path, schema()).unwrap_err();
        assert!(matches!(error, OpenError::NotOurs { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), content);
    }
}

#[test]
fn a_database_opens_once_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("conf.db");
    let (db, _) = open(&path);
    let error = Db::open(&path, schema()).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("conf.db"));
    drop(db);
    open(&path);
}

#[test]
fn a_directory_that_is_not_there_is_named() {
    let error = Db::open(Path::new("/nonexistent/conf.db"), schema()).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/"), "{error}");
}

#[test]
fn growth_is_compacted_without_loss() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("conf.db");
    let (db, _) = open(&path);
    let row = db.transact_local(|txn| txn.insert("T", [("n", 0.into())])).unwrap();
    let filler = "x".repeat(10_000);
    for n in 0..100i64 {
        let value = Datum::map([("k", format!("{n}{filler}"))]);
        db.transact_local(|txn| txn.update("T", row, [("n", n.into()), ("map", value)])).unwrap();
    }
    assert!(fs::metadata(&path).unwrap().len() < 400_000);
    drop(db);
    let (db, warnings) = open(&path);
    assert_eq!((numbers(&db), warnings), (vec![99], vec![]));
}

#[test]
fn records_of_ovsdb_server_and_of_other_schemas_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("conf.db");
    let mut stored = schema_json();
    stored["version"] = json!("0.9.0");
    stored["tables"]["Old"] = json!({"columns": {"x": {"type": "integer"}}});
    let id = "36bef046-7da7-43a5-905a-c17899216fcb";
    let records = [
        stored,
        json!({"T": {id: {"n": 1, "ints": ["set", [1, 2]], "map": ["map", [["a", "1"], ["b", "2"]]]}},
            "Old": {id: {"x": 1}}, "_date": 1, "_comment": "by another program"}),
        // Differences: set elements toggle, map pairs toggle or change, scalars are replaced.
        json!({"_is_diff": true, "_date": 2, "T": {id: {"n": 5, "ints": ["set", [2, 3]],
            "map": ["map", [["a", "1"], ["b", "3"], ["c", "4"]]], "unheard": 1}}}),
    ];
    fs::write(&path, records.iter().flat_map(encode).collect::<Vec<u8>>()).unwrap();
    let (db, warnings) = open(&path);
    let snapshot = db.snapshot();
    let row = snapshot.table("T").first().unwrap();
    assert_eq!(row.uuid().to_string(), id);
    assert_eq!((row.int("n"), row.ints("ints")), (5, vec![1, 3]));
    assert_eq!(row.map("map").into_iter().collect::<Vec<_>>(), [("b", "3"), ("c", "4")]);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    drop(db);
    assert_eq!(open(&path).1, Vec::<String>::new(), "the file has our schema now");
}

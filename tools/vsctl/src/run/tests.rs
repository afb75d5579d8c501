//! The transaction loop against scripted answers: what is sent, in which order, and what comes of it.

use std::collections::VecDeque;

use super::*;
use crate::fixture;
use crate::output::Data;

/// A switch that serves the fixture's rows and answers each transaction with changes from a list.
#[derive(Default)]
struct Fake {
    answers: VecDeque<Vec<Value>>,
    /// Values of `cur_cfg` that successive looks see.
    cur_cfg: VecDeque<i64>,
    interface: Value,
    commits: Vec<Vec<Value>>,
    log: Vec<&'static str>,
}

impl Database for Fake {
    fn schema(&mut self) -> Result<Value, Error> {
        Ok(fixture::schema_json())
    }

    fn transact(&mut self, operations: &[Value]) -> Result<Vec<Value>, Error> {
        if operations.iter().all(|op| op["op"] == "select") {
            let rows = |op: &Value| match (
                op["table"].as_str().unwrap(),
                op["columns"].as_array().unwrap().as_slice(),
            ) {
                (ROOT, [column]) if column == "cur_cfg" => {
                    vec![json!({"cur_cfg": self.cur_cfg.pop_front().unwrap()})]
                }
                ("Interface", [name, ..]) if name == "name" => vec![self.interface.clone()],
                (table, _) => fixture::rows(table),
            };
            return Ok(operations.iter().map(rows).map(|rows| json!({"rows": rows})).collect());
        }
        self.log.push("commit");
        self.commits.push(operations.to_vec());
        Ok(self.answers.pop_front().unwrap_or_else(|| operations.iter().map(answer).collect()))
    }

    fn watch(&mut self, _: &[String], column: Option<&str>) -> Result<(), Error> {
        self.log.push(if column.is_some() { "watch cur_cfg" } else { "watch tables" });
        Ok(())
    }

    fn changed(&mut self) -> Result<(), Error> {
        self.log.push("changed");
        if self.log.len() > 20 { Err(failed!("waits for ever")) } else { Ok(()) }
    }

    fn call(&mut self, method: &str, _: Value) -> Result<Value, Error> {
        Err(failed!("{method} is not expected here"))
    }
}

/// The answer of a server that agrees.
fn answer(operation: &Value) -> Value {
    match operation["op"].as_str().unwrap() {
        "insert" => {
            json!({"uuid": ["uuid", format!("uuid-of-{}", operation["uuid-name"].as_str().unwrap())]})
        }
        "select" => json!({"rows": [{"next_cfg": 8}]}),
        "abort" => json!({"error": "aborted"}),
        "update" | "mutate" | "delete" => json!({"count": 1}),
        _ => json!({}),
    }
}

fn settings() -> Settings {
    let style = Style { format: None, data: Data::String, headings: true };
    Settings { no_wait: false, dry_run: false, oneline: false, style, origin: "test".to_owned() }
}

fn run_with(fake: &mut Fake, settings: &Settings, chain: &[&str]) -> Result<String, Error> {
    let words = |line: &&str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let calls: Vec<_> = chain.iter().map(|line| Call::parse(&words(line)).unwrap()).collect();
    let mut out = Vec::new();
    run_chain(fake, &calls, settings, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

fn up() -> Value {
    json!({"name": "p9", "ofport": 3, "error": ["set", []]})
}

#[test]
fn reading_commits_nothing() {
    let mut fake = Fake::default();
    assert_eq!(run_with(&mut fake, &settings(), &["list-br", "list-ports br0"]).unwrap(), "br0\nbr1\np0\n");
    assert!(fake.commits.is_empty() && fake.log.is_empty());
}

#[test]
fn columns_of_interfaces_are_fetched_for_those_who_look() {
    let looks = |line: &str, column: &str| {
        let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
        looks_at(&[Call::parse(&words).unwrap()], column)
    };
    for line in [
        "list Interface",
        "get Interface p0 ofport",
        "show",
        "clear Interface p0 stati",
        "set Interface p0 Stat:a=b",
    ] {
        assert!(looks(line, "statistics"), "{line}");
    }
    assert!(looks("set Interface p0 type=tap external-ids:a=b", "external_ids"));
    for line in ["get-admin-state p0", "set-admin-state p0 down"] {
        assert!(looks(line, "options") && !looks(line, "statistics"), "{line}");
    }
    for line in ["add-port br0 p9", "set Interface p0 type=tap", "list-ports br0"] {
        assert!(!looks(line, "statistics") && looks(line, "name") && looks(line, UUID), "{line}");
    }
}

#[test]
fn a_change_is_over_when_it_is_live() {
    let mut fake = Fake { cur_cfg: [7, 7, 8].into(), interface: up(), ..Fake::default() };
    run_with(&mut fake, &settings(), &["add-port br0 p9"]).unwrap();
    assert_eq!(fake.log, ["commit", "watch cur_cfg", "changed", "changed"]);
    assert!(fake.commits[0].iter().any(|op| op["comment"] == "vsctl: test"));
}

#[test]
fn no_wait_neither_counts_nor_waits() {
    let mut fake = Fake::default();
    run_with(&mut fake, &Settings { no_wait: true, ..settings() }, &["add-port br0 p9"]).unwrap();
    assert_eq!(fake.log, ["commit"]);
    assert!(fake.commits[0].iter().all(|op| op["op"] != "mutate"));
}

#[test]
fn an_interface_that_does_not_come_up_is_exit_code_65() {
    for (interface, hint) in [
        (json!({"name": "p9", "ofport": -1, "error": "no permission for /dev/net/tun"}), "no permission"),
        (json!({"name": "p9", "ofport": ["set", []], "error": ["set", []]}), "log of vswitchd"),
    ] {
        let mut fake = Fake { cur_cfg: [8].into(), interface, ..Fake::default() };
        let error = run_with(&mut fake, &settings(), &["add-port br0 p9"]).unwrap_err();
        assert_eq!(error.exit_code(), 65);
        assert!(error.to_string().contains("'p9'") && error.to_string().contains(hint), "{error}");
    }
}

#[test]
fn overtaken_means_once_more_from_the_start() {
    let overtaken = vec![json!({"error": "timed out"}), Value::Null];
    let mut fake =
        Fake { cur_cfg: [8].into(), interface: up(), answers: [overtaken].into(), ..Fake::default() };
    run_with(&mut fake, &settings(), &["add-port br0 p9"]).unwrap();
    assert_eq!(fake.commits.len(), 2);
    assert_eq!(fake.commits[0], fake.commits[1]);
}

#[test]
fn for_ever_overtaken_is_an_error() {
    let answers = (0..MAX_OVERTAKEN).map(|_| vec![json!({"error": "timed out"})]).collect();
    let mut fake = Fake { answers, ..Fake::default() };
    assert!(
        run_with(&mut fake, &settings(), &["add-port br0 p9"])
            .unwrap_err()
            .to_string()
            .contains("times in a row")
    );
}

#[test]
fn created_rows_print_their_uuid_after_the_commit() {
    let mut fake = Fake { cur_cfg: [8].into(), ..Fake::default() };
    let chain = ["--id=@m create mirror name=m", "set bridge br0 mirrors=@m", "list-br"];
    let text = run_with(&mut fake, &Settings { oneline: true, ..settings() }, &chain).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("uuid-of-row"), "{text}");
    assert_eq!(lines[1..], ["", "br0\\nbr1"]);
}

#[test]
fn a_dry_run_is_checked_and_aborted() {
    let mut fake = Fake::default();
    run_with(&mut fake, &Settings { dry_run: true, ..settings() }, &["add-port br0 p9"]).unwrap();
    assert_eq!(fake.commits[0].last().unwrap()["op"], "abort");
    assert_eq!(fake.log, ["commit"]);
}

#[test]
fn waiting_watches_before_it_looks_again() {
    let mut fake = Fake::default();
    let error = run_with(&mut fake, &settings(), &["wait-until bridge nobody"]).unwrap_err();
    assert!(error.to_string().contains("for ever"));
    assert_eq!(fake.log[..2], ["watch tables", "changed"]);
    assert!(fake.commits.is_empty());
}

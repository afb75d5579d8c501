//! The server over real sockets, with our client and with raw bytes.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Limits, Methods, NoMethods, Server, ServerError, ServerHandle};
use crate::client::{Client, ClientError};
use crate::jsonrpc::FrameLimits;
use crate::schema::vswitch_schema;
use crate::{Datum, Db};

const DB: &str = "Open_vSwitch";
/// Long enough for a loaded machine; nothing waits it out when all is well.
const PATIENCE: Duration = Duration::from_secs(30);

struct Bench {
    db: Db,
    server: ServerHandle,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(Limits::default(), Arc::new(NoMethods))
    }

    fn with(limits: Limits, methods: Arc<dyn Methods>) -> Bench {
        let db = Db::in_memory(vswitch_schema());
        db.transact_local(|txn| txn.insert(DB, [])).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db.sock");
        let server = Server::start_with(&db, &path, methods, limits).unwrap();
        Bench { db, server, path, _dir: dir }
    }

    fn client(&self) -> Client {
        let mut client = Client::connect(&format!("unix:{}", self.path.display())).unwrap();
        client.set_timeout(PATIENCE);
        client
    }
}

fn queue(dscp: i64) -> Value {
    json!({"op": "insert", "table": "Queue", "row": {"dscp": dscp}})
}

fn refused(result: Result<Value, ClientError>) -> (String, String) {
    match result {
        Err(ClientError::Refused { error, details }) => (error, details),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_plain_methods() {
    let bench = Bench::new();
    let mut client = bench.client();
    assert_eq!(client.call("list_dbs", &json!([])).unwrap(), json!([DB, "_Server"]));
    assert_eq!(client.call("get_schema", &json!([DB])).unwrap(), vswitch_schema().to_json());
    assert_eq!(client.call("echo", &json!(["a", 1])).unwrap(), json!(["a", 1]));
    assert!(client.call("get_server_id", &json!([])).unwrap().is_string());
    assert_eq!(refused(client.call("get_schema", &json!(["x"]))).0, "unknown database");
    let (error, details) = refused(client.call("frobnicate", &json!([])));
    assert_eq!(error, "unknown method");
    assert!(details.contains("frobnicate"));
    let about =
        client.transact("_Server", vec![json!({"op": "select", "table": "Database", "where": []})]).unwrap();
    let names: BTreeSet<&str> =
        about[0]["rows"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, BTreeSet::from([DB, "_Server"]));
    let write = client.transact("_Server", vec![json!({"op": "delete", "table": "Database", "where": []})]);
    assert!(matches!(write, Err(ClientError::Transaction { error, .. }) if error == "not allowed"));
}

#[test]
fn extra_methods_are_asked_last() {
    struct Extra;
    impl Methods for Extra {
        fn call(&self, method: &str, params: &Value) -> Option<Result<Value, String>> {
            match method {
                "vs.ok" => Some(Ok(params.clone())),
                "vs.fail" => Some(Err("no bridge br9".into())),
                _ => None,
            }
        }
    }
    let bench = Bench::with(Limits::default(), Arc::new(Extra));
    let mut client = bench.client();
    assert_eq!(client.call("vs.ok", &json!([1])).unwrap(), json!([1]));
    assert_eq!(refused(client.call("vs.fail", &json!([]))), ("failed".into(), "no bridge br9".into()));
    assert_eq!(refused(client.call("vs.other", &json!([]))).0, "unknown method");
}

#[test]
fn many_clients_at_once_lose_no_transaction() {
    let bench = Bench::new();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = bench.client();
                for _ in 0..25 {
                    let bump = json!({"op": "mutate", "table": DB, "where": [], "mutations": [["next_cfg", "+=", 1]]});
                    client.transact(DB, vec![bump]).unwrap();
                }
            });
        }
    });
    assert_eq!(bench.db.snapshot().table(DB).first().unwrap().int("next_cfg"), 200);
}

#[test]
fn a_monitor_hears_of_changes_before_the_reply() {
    let bench = Bench::new();
    let (mut client, mut other) = (bench.client(), bench.client());
    other.transact(DB, vec![queue(1)]).unwrap();
    let requests = json!({"Queue": {"columns": ["dscp"]}});
    let initial = client.monitor(DB, "m", &requests).unwrap();
    let rows = initial["Queue"].as_object().unwrap();
    assert_eq!(rows.values().next().unwrap(), &json!({"new": {"dscp": 1}}));

    // Its own change: by the time the reply is here, the update is too.
    client.transact(DB, vec![queue(2)]).unwrap();
    let update = client.next_update(Duration::from_millis(1)).unwrap().expect("update came before the reply");
    assert_eq!((update.method.as_str(), &update.params[0]), ("update", &json!("m")));
    assert_eq!(
        update.params[1]["Queue"].as_object().unwrap().values().next().unwrap(),
        &json!({"new": {"dscp": 2}})
    );

    // Someone else's.
    let change = json!({"op": "update", "table": "Queue", "where": [["dscp", "==", 2]], "row": {"dscp": 3}});
    other.transact(DB, vec![change]).unwrap();
    let update = client.next_update(PATIENCE).unwrap().unwrap();
    let row = update.params[1]["Queue"].as_object().unwrap().values().next().unwrap().clone();
    assert_eq!(row, json!({"old": {"dscp": 2}, "new": {"dscp": 3}}));

    // Columns that are not watched stay silent, so the deletion comes next.
    let silent = json!({"op": "update", "table": "Queue", "where": [], "row": {"external_ids": ["map", [["a", "b"]]]}});
    other.transact(DB, vec![silent]).unwrap();
    other
        .transact(DB, vec![json!({"op": "delete", "table": "Queue", "where": [["dscp", "==", 1]]})])
        .unwrap();
    let update = client.next_update(PATIENCE).unwrap().unwrap();
    let row = update.params[1]["Queue"].as_object().unwrap().values().next().unwrap().clone();
    assert_eq!(row, json!({"old": {"dscp": 1}}));

    assert_eq!(refused(client.call("monitor", &json!([DB, "m", requests]))).0, "duplicate monitor ID");
    client.call("monitor_cancel", &json!(["m"])).unwrap();
    assert_eq!(refused(client.call("monitor_cancel", &json!(["m"]))).0, "unknown monitor");
    other.transact(DB, vec![queue(4)]).unwrap();
    client.call("echo", &json!([])).unwrap();
    assert_eq!(client.next_update(Duration::from_millis(1)).unwrap(), None);
}

#[test]
fn select_says_which_changes_are_told() {
    let bench = Bench::new();
    let mut client = bench.client();
    client.transact(DB, vec![queue(1)]).unwrap();
    let only = json!({"initial": false, "insert": false, "delete": true, "modify": false});
    let initial = client.monitor(DB, "m", &json!({"Queue": {"columns": ["dscp"], "select": only}})).unwrap();
    assert_eq!(initial, json!({}));
    client.transact(DB, vec![queue(2)]).unwrap();
    client
        .transact(DB, vec![json!({"op": "delete", "table": "Queue", "where": [["dscp", "==", 1]]})])
        .unwrap();
    let update = client.next_update(PATIENCE).unwrap().unwrap();
    let row = update.params[1]["Queue"].as_object().unwrap().values().next().unwrap().clone();
    assert_eq!(row, json!({"old": {"dscp": 1}}));
}

#[test]
fn conditional_monitors_see_rows_come_and_go() {
    let bench = Bench::new();
    let mut client = bench.client();
    client.transact(DB, vec![queue(1), queue(5)]).unwrap();
    let requests = json!({"Queue": [{"columns": ["dscp", "external_ids"], "where": [["dscp", ">", 3]]}]});
    let reply = client.call("monitor_cond_since", &json!([DB, "m", requests, "0"])).unwrap();
    assert_eq!(reply[0], json!(false));
    let rows: Vec<Value> = reply[2]["Queue"].as_object().unwrap().values().cloned().collect();
    assert_eq!(rows, [json!({"initial": {"dscp": 5}})], "default columns are left out");
    let change = |from: i64, row: Value| json!({"op": "update", "table": "Queue", "where": [["dscp", "==", from]], "row": row});
    let step = |client: &mut Client, op: Value| {
        client.transact(DB, vec![op]).unwrap();
        let update = client.next_update(PATIENCE).unwrap().unwrap();
        assert_eq!(update.method, "update3");
        let rows: Vec<Value> = update.params[2]["Queue"].as_object().unwrap().values().cloned().collect();
        rows
    };
    assert_eq!(step(&mut client, change(1, json!({"dscp": 9}))), [json!({"insert": {"dscp": 9}})]);
    let ids = json!({"external_ids": ["map", [["a", "1"]]]});
    assert_eq!(
        step(&mut client, change(9, ids)),
        [json!({"modify": {"external_ids": ["map", [["a", "1"]]]}})]
    );
    assert_eq!(step(&mut client, change(9, json!({"dscp": 2}))), [json!({"delete": null})]);
    // A wider condition brings the row back without any change of data; the update precedes the reply.
    client
        .call("monitor_cond_change", &json!(["m", "m2", {"Queue": [{"where": [["dscp", ">", 1]]}]}]))
        .unwrap();
    let update = client.next_update(PATIENCE).unwrap().unwrap();
    assert_eq!(update.params[0], json!("m2"));
    let rows: Vec<Value> = update.params[2]["Queue"].as_object().unwrap().values().cloned().collect();
    assert_eq!(rows, [json!({"insert": {"dscp": 2, "external_ids": ["map", [["a", "1"]]]}})]);
    // A client that comes back with the state it has is told nothing it knows.
    let again = client.call("monitor_cond_since", &json!([DB, "n", requests, update.params[1]])).unwrap();
    assert_eq!((&again[0], &again[2]), (&json!(true), &json!({})));
}

fn wait_for_cfg(timeout: Option<u64>) -> Value {
    let mut wait = json!({"op": "wait", "table": DB, "where": [], "columns": ["cur_cfg"], "until": "==", "rows": [{"cur_cfg": 7}]});
    if let Some(timeout) = timeout {
        wait["timeout"] = json!(timeout);
    }
    wait
}

#[test]
fn a_wait_ends_when_another_client_makes_it_true() {
    let bench = Bench::new();
    let mut client = bench.client();
    let id = client.send("transact", &json!([DB, wait_for_cfg(None), queue(1)])).unwrap();
    // Other requests of the same client are served meanwhile.
    client.call("echo", &json!([])).unwrap();
    assert!(bench.db.snapshot().table("Queue").is_empty());
    let root = bench.db.snapshot().table(DB).first().unwrap().uuid();
    bench.db.transact_local(|txn| txn.update(DB, root, [("cur_cfg", Datum::from(7))])).unwrap();
    let results = client.receive(&id, "transact").unwrap();
    assert_eq!(results[0], json!({}));
    assert_eq!(bench.db.snapshot().table("Queue").len(), 1);
}

#[test]
fn a_wait_ends_by_timeout_or_cancellation() {
    let bench = Bench::new();
    let mut client = bench.client();
    let results = client.call("transact", &json!([DB, wait_for_cfg(Some(20)), queue(1)])).unwrap();
    assert_eq!(results[0]["error"], json!("timed out"));
    assert_eq!(results[1], Value::Null);
    let id = client.send("transact", &json!([DB, wait_for_cfg(None)])).unwrap();
    client.notify("cancel", &json!([id])).unwrap();
    let (error, _) = refused(client.receive(&id, "transact"));
    assert_eq!(error, "canceled");
}

#[test]
fn locks_pass_from_client_to_client() {
    let bench = Bench::new();
    let (mut a, mut b) = (bench.client(), bench.client());
    let assert_lock = || vec![json!({"op": "assert", "lock": "l"})];
    assert_eq!(a.call("lock", &json!(["l"])).unwrap(), json!({"locked": true}));
    assert_eq!(b.call("lock", &json!(["l"])).unwrap(), json!({"locked": false}));
    a.transact(DB, assert_lock()).unwrap();
    assert!(b.transact(DB, assert_lock()).is_err());
    assert_eq!(b.call("steal", &json!(["l"])).unwrap(), json!({"locked": true}));
    assert_eq!(a.next_update(PATIENCE).unwrap().unwrap().method, "stolen");
    assert!(a.transact(DB, assert_lock()).is_err());
    // A client that goes away lets go of its locks.
    drop(b);
    let notice = a.next_update(PATIENCE).unwrap().unwrap();
    assert_eq!((notice.method.as_str(), notice.params), ("locked", vec![json!("l")]));
    a.call("unlock", &json!(["l"])).unwrap();
    assert!(a.transact(DB, assert_lock()).is_err());
}

/// Sends bytes and reads until the server closes; true if it said something about it first.
fn closed_with_reason(bench: &Bench, bytes: &[u8]) -> bool {
    let mut stream = UnixStream::connect(&bench.path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).contains("syntax error")
}

#[test]
fn nonsense_closes_that_client_and_no_other() {
    let limits =
        Limits { message: FrameLimits { size: 10_000, depth: 10, values: 500 }, ..Limits::default() };
    let bench = Bench::with(limits, Arc::new(NoMethods));
    let mut witness = bench.client();
    for bytes in [
        b"hello".to_vec(),
        b"{nonsense}".to_vec(),
        b"{\"params\": []}".to_vec(),
        b"{\"method\": 3, \"params\": [], \"id\": 1}".to_vec(),
        b"{\"method\": \"echo\", \"params\": {}, \"id\": 1}".to_vec(),
        b"{\"a\":".repeat(11),
        format!("{{\"a\":[{}", "1,".repeat(501)).into_bytes(),
        format!("{{\"a\":\"{}", "x".repeat(10_001)).into_bytes(),
    ] {
        assert!(closed_with_reason(&bench, &bytes), "{}", String::from_utf8_lossy(&bytes));
        witness.call("echo", &json!([])).unwrap();
    }
}

#[test]
fn one_client_too_many_is_told_so() {
    let bench = Bench::with(Limits { clients: 2, ..Limits::default() }, Arc::new(NoMethods));
    let (mut a, mut b) = (bench.client(), bench.client());
    a.call("echo", &json!([])).unwrap();
    b.call("echo", &json!([])).unwrap();
    let mut third = bench.client();
    match third.receive(&json!(0), "echo") {
        Err(ClientError::Refused { error, details }) => {
            assert_eq!(error, "resources exhausted");
            assert!(details.contains('2'));
        }
        other => panic!("{other:?}"),
    }
    // A place that becomes free is given away.
    drop(a);
    let served = (0..1000).any(|_| {
        let mut client = bench.client();
        let served = client.call("echo", &json!([])).is_ok();
        std::thread::yield_now();
        served
    });
    assert!(served);
}

#[test]
fn a_client_that_does_not_read_is_bounded_and_catches_up() {
    let limits = Limits { unsent: 10_000, ..Limits::default() };
    let bench = Bench::with(limits, Arc::new(NoMethods));
    let mut lazy = bench.client();
    lazy.monitor(DB, "m", &json!({DB: {"columns": ["next_cfg", "external_ids"]}})).unwrap();
    let root = bench.db.snapshot().table(DB).first().unwrap().uuid();
    for n in 1..=500i64 {
        let filler = Datum::map([("k", format!("{n}{}", "x".repeat(5000)))]);
        bench
            .db
            .transact_local(|txn| txn.update(DB, root, [("next_cfg", n.into()), ("external_ids", filler)]))
            .unwrap();
    }
    let mut updates = 0;
    loop {
        let update = lazy.next_update(PATIENCE).unwrap().expect("the last state arrives");
        updates += 1;
        let row = update.params[1][DB].as_object().unwrap().values().next().unwrap().clone();
        if row["new"]["next_cfg"] == json!(500) {
            break;
        }
    }
    assert!(updates <= 500);
}

#[test]
fn limits_of_one_client() {
    let limits = Limits { monitors: 1, waiting: 1, locks: 1, ..Limits::default() };
    let bench = Bench::with(limits, Arc::new(NoMethods));
    let mut client = bench.client();
    client.monitor(DB, "a", &json!({})).unwrap();
    assert_eq!(refused(client.call("monitor", &json!([DB, "b", {}]))).0, "resources exhausted");
    client.call("lock", &json!(["a"])).unwrap();
    assert_eq!(refused(client.call("lock", &json!(["b"]))).0, "resources exhausted");
    client.send("transact", &json!([DB, wait_for_cfg(None)])).unwrap();
    assert_eq!(refused(client.call("transact", &json!([DB, wait_for_cfg(None)]))).0, "resources exhausted");
}

#[test]
fn sockets_in_use_are_refused_and_stale_ones_replaced() {
    let bench = Bench::new();
    let again = Server::start(&bench.db, &bench.path, Arc::new(NoMethods));
    assert!(matches!(again, Err(ServerError::InUse(_))));
    bench.client().call("echo", &json!([])).unwrap();
    let Bench { db, server, path, _dir } = bench;
    server.stop();
    assert!(!path.exists(), "a server removes its socket");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let server = Server::start(&db, &path, Arc::new(NoMethods)).unwrap();
    Client::connect(path.to_str().unwrap()).unwrap().call("echo", &json!([])).unwrap();
    drop(server);
    std::fs::write(&path, "a file").unwrap();
    let error = Server::start(&db, &path, Arc::new(NoMethods)).err().unwrap();
    assert!(matches!(error, ServerError::NotASocket(_)));
    let error = Server::start(&db, &path.join("x/db.sock"), Arc::new(NoMethods)).err().unwrap();
    assert!(error.to_string().contains("db.sock"), "{error}");
}

#[test]
fn stopping_ends_connected_clients() {
    let bench = Bench::new();
    let mut client = bench.client();
    client.call("echo", &json!([])).unwrap();
    bench.server.stop();
    assert!(matches!(client.next_update(PATIENCE), Err(ClientError::Io(_))));
}

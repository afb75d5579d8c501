//! Boundary: the management socket, whole: a server with its threads, sessions and monitors behind a real socket.
//!
//! Property: whatever a client sends, the server answers or hangs up, does not hang, and serves the next client.
//!
//! Unlike the other targets this one keeps its server between inputs, as starting one costs more than an input; what
//! it finds may need the inputs before it. Messages and transactions by themselves are the business of `jsonrpc`.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use vswitch_ovsdb::schema::vswitch_schema;
use vswitch_ovsdb::{Db, NoMethods, Server, ServerHandle};

/// Runs one input: what a client sends.
pub fn run(data: &[u8]) {
    let socket = server();
    exchange(socket, data);
    let answer = exchange(socket, br#"{"id":0,"method":"echo","params":["alive"]}"#);
    assert!(answer.contains("alive"), "the server does not serve the next client: {answer:?}");
}

/// Each method of RFC 7047, with a change for monitors to tell of.
pub fn seeds() -> Vec<Vec<u8>> {
    let requests = [
        json!({"id": 0, "method": "list_dbs", "params": []}),
        json!({"id": 1, "method": "get_schema", "params": ["Open_vSwitch"]}),
        json!({"id": 2, "method": "monitor", "params": ["Open_vSwitch", "m",
            {"Bridge": {"columns": ["name"], "select": {"initial": true}}, "Open_vSwitch": [{}]}]}),
        json!({"id": 3, "method": "monitor_cond", "params": ["Open_vSwitch", "c", {"Port": {"where": [["name", "==", "p"]]}}]}),
        json!({"id": 4, "method": "monitor_cond_since", "params":
            ["Open_vSwitch", "s", {"Interface": {}}, "00000000-0000-0000-0000-000000000000"]}),
        json!({"id": 5, "method": "transact", "params": ["Open_vSwitch",
            {"op": "insert", "table": "Open_vSwitch", "row": {"next_cfg": 1}},
            {"op": "delete", "table": "Open_vSwitch", "where": []}]}),
        json!({"id": 6, "method": "transact", "params": ["Open_vSwitch",
            {"op": "wait", "table": "Open_vSwitch", "where": [], "columns": ["next_cfg"], "until": "!=", "rows": []}]}),
        json!({"id": null, "method": "cancel", "params": [6]}),
        json!({"id": 7, "method": "monitor_cond_change", "params": ["c", "d", {"Port": {"where": [true]}}]}),
        json!({"id": 8, "method": "monitor_cancel", "params": ["m"]}),
        json!({"id": 9, "method": "lock", "params": ["l"]}),
        json!({"id": 10, "method": "steal", "params": ["l"]}),
        json!({"id": 11, "method": "unlock", "params": ["l"]}),
        json!({"id": 12, "method": "set_db_change_aware", "params": [true]}),
    ];
    let all: String = requests.iter().map(ToString::to_string).collect();
    let mut out: Vec<Vec<u8>> = requests.iter().map(|request| request.to_string().into_bytes()).collect();
    out.push(all.into_bytes());
    out
}

/// A server for the life of the process.
fn server() -> &'static Path {
    static SERVER: OnceLock<(PathBuf, ServerHandle, TempDir)> = OnceLock::new();
    let (path, ..) = SERVER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db.sock");
        let db = Db::in_memory(vswitch_schema());
        let handle = Server::start(&db, &path, Arc::new(NoMethods)).unwrap();
        (path, handle, folder)
    });
    path
}

/// Sends bytes, says that no more come, and reads what comes back until the server hangs up.
fn exchange(socket: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    // Far longer than any answer takes.
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // The server may hang up in the middle of nonsense.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == ErrorKind::WouldBlock => panic!("the server hangs"),
            // libFuzzer's timer.
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

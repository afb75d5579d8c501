//! The program `vsctl` against a real OVSDB server with a switch behind it that does what vswitchd does: give each
//! interface a port number or an error, then report the configuration as current.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use serde_json::{Value, json};
use tempfile::TempDir;
use vswitch_ovsdb::schema::vswitch_schema;
use vswitch_ovsdb::{Db, Methods, Server, ServerHandle};

/// Answers the methods beside RFC 7047's.
struct Extra;

impl Methods for Extra {
    fn call(&self, method: &str, params: &Value) -> Option<Result<Value, String>> {
        Some(match (method, params.get(0).and_then(Value::as_str)) {
            ("vs.flow.add", Some("br0")) => Ok(json!({})),
            ("vs.flow.add", _) => Err("no bridge of that name".to_owned()),
            ("vs.fdb.show", _) => Ok(json!({"entries": [
                {"port": "p0", "ofport": 1, "vlan": 0, "mac": "52:54:00:00:00:01", "age_s": 3}]})),
            _ => return None,
        })
    }
}

/// Does a switch's part: `ofport`, `error`, `cur_cfg`.
fn follow(db: &Db, stop: &AtomicBool) {
    let mut commits = db.subscribe();
    while !stop.load(Ordering::Acquire) {
        let read = db.transact_json(&[
            json!({"op": "select", "table": "Open_vSwitch", "where": [], "columns": ["next_cfg", "cur_cfg"]}),
            json!({"op": "select", "table": "Interface", "where": [["ofport", "==", ["set", []]]], "columns": ["_uuid", "name"]}),
        ]);
        let root = &read[0]["rows"][0];
        if root["next_cfg"] != root["cur_cfg"] {
            let mut operations = Vec::new();
            for row in read[1]["rows"].as_array().unwrap() {
                let bad = row["name"].as_str().unwrap().starts_with("bad");
                let report =
                    if bad { json!({"ofport": -1, "error": "no such device"}) } else { json!({"ofport": 1}) };
                operations.push(json!({"op": "update", "table": "Interface", "where": [["_uuid", "==", row["_uuid"]]], "row": report}));
            }
            operations.push(json!({"op": "update", "table": "Open_vSwitch", "where": [], "row": {"cur_cfg": root["next_cfg"]}}));
            db.transact_json(&operations);
        }
        commits.wait(None);
    }
}

struct Switch {
    dir: TempDir,
    db: Db,
    server: Option<ServerHandle>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Switch {
    /// A server; `acts` says whether a switch follows the configuration.
    fn start(acts: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::in_memory(vswitch_schema());
        let server = Server::start(&db, &dir.path().join("db.sock"), Arc::new(Extra)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = acts.then(|| {
            let (db, stop) = (db.clone(), Arc::clone(&stop));
            std::thread::spawn(move || follow(&db, &stop))
        });
        Self { dir, db, server: Some(server), stop, thread }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vsctl"));
        command.env("OVS_RUNDIR", self.dir.path()).arg("--timeout=60").args(line.split(' '));
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// Standard output of a line that has to succeed.
    fn ok(&self, line: &str) -> String {
        let output = self.run(line);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{line}: {errors}");
        assert_eq!(errors, "", "{line}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Exit code and standard error of a line that has to fail.
    fn fails(&self, line: &str) -> (i32, String) {
        let output = self.run(line);
        assert!(!output.status.success(), "{line}");
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        drop(self.server.take());
        if let Some(thread) = self.thread.take() {
            // It may be about to sleep just now: nudge until it is gone.
            while !thread.is_finished() {
                self.db.nudge();
                std::thread::yield_now();
            }
            thread.join().unwrap();
        }
    }
}

#[test]
fn bridges_and_ports_from_an_empty_database() {
    let switch = Switch::start(true);
    assert_eq!(
        switch.ok(
            "add-br br0 -- add-port br0 p0 tag=5 -- set interface p0 type=vhost-user options:path=/tmp/p0"
        ),
        ""
    );
    assert_eq!(switch.ok("list-br"), "br0\n");
    assert_eq!(switch.ok("list-ports br0"), "p0\n");
    assert_eq!(switch.ok("port-to-br p0 -- iface-to-br p0"), "br0\nbr0\n");
    assert_eq!(
        switch.ok("get port p0 tag -- get interface p0 type options ofport"),
        "5\nvhost-user\n{path=\"/tmp/p0\"}\n1\n"
    );
    assert_eq!(switch.ok("get Open_vSwitch . cur_cfg"), "1\n", "one chain is one change");
    let tree = switch.ok("show");
    for line in
        ["    Bridge br0", "        Port p0", "            tag: 5", "                type: vhost-user"]
    {
        assert!(tree.lines().any(|other| other == line), "{line} in\n{tree}");
    }
    switch.ok("del-port p0 -- del-br br0");
    assert_eq!(switch.ok("list-br"), "");
    assert_eq!(switch.ok("--columns=name list interface"), "", "nothing is left behind");
}

#[test]
fn admin_state_changes_no_other_option() {
    let switch = Switch::start(true);
    switch.ok("add-br br0");
    switch.ok("add-port br0 p0 -- set interface p0 options:path=/tmp/p0 options:csum=false");
    assert_eq!(switch.ok("get-admin-state p0"), "up\n");
    switch.ok("set-admin-state p0 down");
    assert_eq!(switch.ok("get-admin-state p0"), "down\n");
    assert_eq!(switch.ok("get interface p0 options:path options:csum"), "\"/tmp/p0\"\n\"false\"\n");
    switch.ok("set-admin-state p0 up");
    assert_eq!(switch.ok("get interface p0 options"), "{csum=\"false\", path=\"/tmp/p0\"}\n");
}

#[test]
fn a_chain_is_all_or_nothing() {
    let switch = Switch::start(true);
    let (code, text) = switch.fails("add-br br0 -- add-port br0 p0 -- add-port br0 p0");
    assert_eq!(code, 1);
    assert!(text.starts_with("vsctl: ") && text.contains("a port named p0 on bridge br0"), "{text}");
    assert_eq!(switch.ok("list-br"), "");
}

#[test]
fn may_exist_and_if_exists_change_nothing() {
    let switch = Switch::start(true);
    switch.ok("add-br br0 -- add-port br0 p0");
    switch.ok("--may-exist add-br br0 -- --may-exist add-port br0 p0 -- --if-exists del-port p9 -- --if-exists del-br br9");
    assert_eq!(switch.ok("get Open_vSwitch . next_cfg"), "1\n");
    assert_eq!(switch.fails("br-exists br9").0, 2);
    assert_eq!(switch.fails("del-br br9").0, 1);
}

#[test]
fn an_interface_that_fails_is_reported_with_65() {
    let switch = Switch::start(true);
    let (code, text) = switch.fails("add-br br0 -- add-port br0 bad0");
    assert_eq!(code, 65);
    assert!(text.contains("'bad0': no such device"), "{text}");
    assert_eq!(switch.ok("list-ports br0"), "bad0\n", "the configuration is kept, as with ovs-vsctl");
    assert!(switch.ok("show").contains("error: \"no such device\""));
}

#[test]
fn symbols_records_and_formats() {
    let switch = Switch::start(true);
    switch.ok("add-br br0 -- add-port br0 p0");
    let uuid = switch.ok("--id=@m create Mirror name=m0 select_all=true -- set bridge br0 mirrors=@m");
    assert_eq!(switch.ok("get mirror m0 _uuid"), uuid);
    assert_eq!(switch.ok(&format!("get mirror {} name", &uuid[..8])), "m0\n");
    let json: Value =
        serde_json::from_str(&switch.ok("--columns=name,tag find port name=p0 --format=json")).unwrap();
    assert_eq!(json, json!({"headings": ["name", "tag"], "data": [["p0", ["set", []]]]}));
    assert_eq!(switch.ok("-f csv --columns=name list bridge"), "name\nbr0\n");
    assert_eq!(switch.ok("--bare --columns=name find bridge"), "br0\n");
    switch.ok("add port p0 trunks 1 2 3 -- remove port p0 trunks 2 -- clear bridge br0 mirrors");
    assert_eq!(switch.ok("get port p0 trunks -- get bridge br0 mirrors"), "[1, 3]\n[]\n");
    assert_eq!(switch.ok("list mirror"), "", "nothing refers to the mirror any more");
    let (_, text) = switch.fails("set port p0 tag=4096");
    assert!(text.contains("tag=4096") && text.contains("0 to 4095"), "{text}");
    assert_eq!(switch.ok("--oneline list-br -- list-ports br0"), "br0\np0\n");
}

#[test]
fn a_row_that_is_used_cannot_be_destroyed() {
    let switch = Switch::start(true);
    switch.ok("add-br br0");
    let (code, text) = switch.fails("destroy bridge br0");
    assert_eq!(code, 1);
    assert!(text.contains("referential integrity"), "{text}");
}

#[test]
fn dry_run_checks_and_keeps_nothing() {
    let switch = Switch::start(true);
    switch.ok("--dry-run add-br br0");
    assert_eq!(switch.ok("list-br"), "");
}

#[test]
fn without_a_switch_only_no_wait_returns() {
    let switch = Switch::start(false);
    switch.ok("--no-wait add-br br0");
    let output = switch.command("add-br br1").arg("--timeout=1").output().unwrap();
    assert_eq!(output.status.code(), Some(142));
    assert_eq!(switch.ok("list-br"), "br0\nbr1\n", "the change is in the database, whoever acts on it");
}

#[test]
fn waiting_ends_with_the_change() {
    let switch = Switch::start(true);
    switch.ok("add-br br0");
    let waiting = switch
        .command("wait-until port p0 tag=5 -- get port p0 tag")
        .stdout(std::process::Stdio::piped())
        .spawn();
    switch.ok("add-port br0 p0");
    switch.ok("set port p0 tag=5");
    let output = waiting.unwrap().wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "5\n");
}

#[test]
fn racing_clients_lose_no_port() {
    let switch = Switch::start(true);
    switch.ok("add-br br0");
    let clients: Vec<_> =
        (0..8).map(|n| switch.command(&format!("add-port br0 p{n}")).spawn().unwrap()).collect();
    for mut client in clients {
        assert!(client.wait().unwrap().success());
    }
    assert_eq!(switch.ok("list-ports br0").lines().count(), 8);
}

#[test]
fn own_commands_use_the_same_socket() {
    let switch = Switch::start(false);
    assert!(switch.ok("fdb show").contains("52:54:00:00:00:01"));
    assert_eq!(switch.ok("add-flow br0 actions=drop"), "");
    let (code, text) = switch.fails("add-flow br9 actions=drop");
    assert_eq!((code, text.as_str()), (1, "vsctl: no bridge of that name\n"));
    let (_, text) = switch.fails("pmd");
    assert!(text.contains("vs.pmd") && text.contains("older than vsctl"), "{text}");
}

#[test]
fn nobody_there_says_what_to_start() {
    let nowhere = PathBuf::from("/nonexistent/vswitch");
    let output =
        Command::new(env!("CARGO_BIN_EXE_vsctl")).env("OVS_RUNDIR", &nowhere).arg("show").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("vswitchd --rundir /nonexistent/vswitch"), "{text}");
}

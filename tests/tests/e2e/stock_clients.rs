//! Open vSwitch's own `ovs-vsctl` and `ovsdb-client` (Debian packages) against the management socket.

use serde_json::Value;
use tests::process::Process;

use crate::stage::{PATIENCE, Stage};

#[test]
fn ovs_vsctl_manages_the_switch() {
    let stage = Stage::open();
    let db = format!("--db={}", stage.switch.remote());
    let ovs = |line: &str| {
        let mut arguments = vec![db.as_str(), "--timeout=20"];
        arguments.extend(line.split_whitespace());
        stage.lab.run("ovs-vsctl", &arguments)
    };

    // Without --no-wait it returns only when cur_cfg has caught up: the change is live.
    ovs("add-br br1").unwrap();
    ovs("add-port br1 vm1 tag=5 -- set Interface vm1 type=dpdkvhostuser external_ids:owner=me").unwrap();
    assert!(
        stage.switch.rundir().join("vm1").exists(),
        "the change is reported live before the port listens"
    );
    assert_eq!(ovs("list-br").unwrap(), "br0\nbr1\n");
    assert_eq!(ovs("list-ports br1").unwrap(), "vm1\n");
    assert_eq!(ovs("port-to-br vm1").unwrap(), "br1\n");
    assert_eq!(ovs("get Port vm1 tag").unwrap(), "5\n");
    assert!(ovs("get Interface vm1 ofport").unwrap().trim().parse::<u32>().is_ok_and(|n| n > 0));
    ovs("set Port vm1 tag=6 -- remove Interface vm1 external_ids owner").unwrap();
    assert_eq!(ovs("get Interface vm1 external_ids").unwrap(), "{}\n");
    assert!(ovs("list Interface vm1").unwrap().contains("dpdkvhostuser"));
    assert!(ovs("find Port tag=6").unwrap().contains("vm1"));
    assert!(ovs("show").unwrap().contains("Bridge br1"));
    ovs("--may-exist add-br br1").unwrap();
    ovs("--if-exists del-br nobody").unwrap();
    assert!(ovs("br-exists nobody").is_err());

    // An interface that cannot be made is there, with a reason.
    let refused = ovs("add-port br1 bad -- set Interface bad type=nonsense");
    assert!(!ovs("get Interface bad error").unwrap().contains("[]"), "{refused:?}");
    ovs("del-port bad").unwrap();

    // Both tools see the same switch.
    assert_eq!(stage.switch.vsctl("get Port vm1 tag").unwrap().trim(), "6");
    ovs("del-br br1").unwrap();
    assert_eq!(stage.switch.vsctl("list-br").unwrap().trim(), "br0");
    assert!(!stage.switch.rundir().join("vm1").exists());
}

#[test]
fn ovsdb_client_transacts_dumps_and_monitors() {
    let stage = Stage::open();
    let remote = stage.switch.remote();
    let client = |arguments: &[&str]| stage.lab.run("ovsdb-client", arguments);

    assert!(client(&["list-dbs", &remote]).unwrap().contains("Open_vSwitch"));
    let schema: Value =
        serde_json::from_str(&client(&["get-schema", &remote, "Open_vSwitch"]).unwrap()).unwrap();
    assert!(schema["tables"]["Interface"]["columns"]["ofport"].is_object());
    assert!(client(&["list-tables", &remote, "Open_vSwitch"]).unwrap().contains("Bridge"));
    assert!(client(&["dump", &remote, "Open_vSwitch", "Bridge"]).unwrap().contains("br0"));

    let arguments = ["monitor", &remote, "Open_vSwitch", "Bridge", "name,external_ids"].map(str::to_owned);
    let log = stage.lab.path("monitor.log");
    let mut monitor =
        Process::start("monitor", &stage.lab.program("ovsdb-client"), &arguments, &log, false).unwrap();
    monitor.until("initial contents", PATIENCE, |p| p.log().contains("br0").then_some(())).unwrap();

    let select = r#"["Open_vSwitch",{"op":"select","table":"Bridge","where":[["name","==","br0"]],"columns":["name"]}]"#;
    let answer: Value = serde_json::from_str(&client(&["transact", &remote, select]).unwrap()).unwrap();
    assert_eq!(answer[0]["rows"][0]["name"], "br0");

    let update = r#"["Open_vSwitch",
        {"op":"mutate","table":"Bridge","where":[["name","==","br0"]],
         "mutations":[["external_ids","insert",["map",[["seen-by","monitor"]]]]]},
        {"op":"comment","comment":"from the test"}]"#;
    let answer: Value = serde_json::from_str(&client(&["transact", &remote, update]).unwrap()).unwrap();
    assert_eq!(answer[0]["count"], 1);
    monitor.until("update", PATIENCE, |p| p.log().contains("seen-by").then_some(())).unwrap();

    // A failed operation undoes the ones before it.
    let abort = r#"["Open_vSwitch",
        {"op":"update","table":"Bridge","where":[],"row":{"external_ids":["map",[["half","done"]]]}},
        {"op":"abort"}]"#;
    let answer: Value = serde_json::from_str(&client(&["transact", &remote, abort]).unwrap()).unwrap();
    assert_eq!(answer[1]["error"], "aborted");
    assert!(!client(&["dump", &remote, "Open_vSwitch", "Bridge", "external_ids"]).unwrap().contains("half"));
}

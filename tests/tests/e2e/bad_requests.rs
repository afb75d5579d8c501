//! Requests that cannot be fulfilled: an error that names the thing and the remedy, and nothing else suffers.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};

use crate::stage::{PATIENCE, Stage};

#[test]
fn a_bad_request_fails_alone_and_says_why() {
    let stage = Stage::open();
    let switch = &stage.switch;

    // A port name that is taken, a bridge that is missing, a column that does not exist.
    switch.vsctl("add-port br0 vm1 -- set Interface vm1 type=dpdkvhostuser").unwrap();
    for (request, culprit) in [
        ("add-port br0 vm1", "vm1"),
        ("add-br br0", "br0"),
        ("add-port nowhere vm2", "nowhere"),
        ("set Interface vm1 colour=red", "colour"),
        ("set Interface vm1 mtu_request=large", "large"),
        ("frobnicate", "frobnicate"),
    ] {
        let arguments: Vec<&str> = request.split_whitespace().collect();
        let (success, output, error) = switch.try_vsctl(&arguments).unwrap();
        assert!(!success, "`{request}` succeeded: {output}");
        assert!(error.contains(culprit), "`{request}` fails without naming {culprit}: {error}");
    }

    // A socket path somebody else listens at, one that cannot be written, and an unknown type: reported on the
    // interface, while the request itself goes through.
    let taken = stage.lab.path("taken");
    let _listener = UnixListener::bind(&taken).unwrap();
    for (name, settings, culprit) in [
        ("p1", format!("type=dpdkvhostuser options:path={}", taken.display()), "taken"),
        ("p2", "type=dpdkvhostuser options:path=/nonexistent/folder/p2".to_owned(), "/nonexistent/folder"),
        ("p3", "type=nonsense".to_owned(), "nonsense"),
    ] {
        let request = format!("add-port br0 {name} -- set Interface {name} {settings}");
        // Whether vsctl reports it or not, the interface must.
        let _ = switch.try_vsctl(&request.split_whitespace().collect::<Vec<_>>()).unwrap();
        let error = switch
            .vsctl_until(&format!("get Interface {name} error"), PATIENCE, |t| t.trim() != "[]")
            .unwrap();
        assert!(error.contains(culprit), "{name}: the error does not name {culprit}: {error}");
        switch.vsctl(&format!("del-port {name}")).unwrap();
    }
    assert!(UnixStream::connect(&taken).is_ok(), "somebody else's socket was removed");

    // Garbage on the management socket ends that connection, at most.
    for garbage in ["", "}{", "[[[[", "{\"id\":0,\"method\":\"frobnicate\",\"params\":[]}", "\u{0}\u{1}"] {
        let mut connection = UnixStream::connect(switch.socket()).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        connection.write_all(garbage.as_bytes()).unwrap();
        connection.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        let _ = connection.read_to_string(&mut answer);
        if garbage.contains("frobnicate") {
            assert!(answer.contains("unknown method") || answer.contains("frobnicate"), "{answer:?}");
        }
    }
    assert_eq!(switch.vsctl("list-br").unwrap().trim(), "br0");
    assert_eq!(switch.vsctl("list-ports br0").unwrap().trim(), "vm1");
}

#[test]
fn a_torn_journal_costs_at_most_the_torn_record() {
    let mut stage = Stage::open();
    stage.switch.vsctl("add-br br1").unwrap();
    stage.switch.kill();
    let journal = stage.switch.rundir().join("conf.db");
    let mut bytes = fs::read(&journal).unwrap();
    // As if the machine had died in the middle of appending.
    bytes.extend_from_slice(b"OVSDB JSON 120 0123456789abcdef0123456789abcdef01234567\n{\"_date\":17");
    fs::write(&journal, bytes).unwrap();

    stage.switch.restart().unwrap();
    assert_eq!(stage.switch.vsctl("list-br").unwrap(), "br0\nbr1\n");
    stage.switch.vsctl("add-br br2").unwrap();
    stage.switch.restart().unwrap();
    assert_eq!(stage.switch.vsctl("list-br").unwrap(), "br0\nbr1\nbr2\n");
}

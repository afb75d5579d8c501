//! Ports come and go while two guests transfer data: the transfer must not notice.

use std::time::Duration;

use tests::guest::Socket;
use tests::netns::Netns;

use crate::stage::{PATIENCE, Stage};

#[test]
fn adding_and_removing_ports_disturbs_no_transfer() {
    let stage = Stage::open();
    let switch = &stage.switch;
    let cards = [
        (stage.vhost_port("vma", Socket::SwitchListens, 0xa), "10.1.0.1"),
        (stage.vhost_port("vmb", Socket::SwitchListens, 0xb), "10.1.0.2"),
    ];
    let [mut a, mut b] = stage.guests(cards);
    a.reaches("10.1.0.2", PATIENCE).unwrap();
    b.serve_iperf().unwrap();
    a.run("(iperf3 -c 10.1.0.2 -t 8 -i 0 -f m >/tmp/load 2>&1; echo $? >/tmp/status) >/dev/null 2>&1 &")
        .unwrap();

    let host = Netns::new(&stage.lab).unwrap();
    let tap = stage.lab.device("t");
    let mut rounds = 0;
    while a.run("cat /tmp/status 2>/dev/null; true").unwrap().is_empty() {
        switch.vsctl(&format!("add-port br0 {tap} -- set Interface {tap} type=tap")).unwrap();
        switch.vsctl("add-port br0 more -- set Interface more type=dpdkvhostuser").unwrap();
        // The new port works at once, in the middle of everything.
        host.adopt(&tap, "10.1.0.100/24").unwrap();
        host.reaches("10.1.0.2", 5).unwrap();
        switch.vsctl(&format!("del-port br0 {tap} -- del-port br0 more")).unwrap();
        assert!(!switch.rundir().join("more").exists(), "the socket of a removed port is still there");
        rounds += 1;
        assert!(rounds < 500, "the transfer does not end");
    }
    assert_eq!(a.run("cat /tmp/status").unwrap(), "0", "{}", a.run("cat /tmp/load").unwrap());
    println!("{rounds} rounds of adding and removing two ports during one transfer");
    assert!(rounds > 0);

    // Taking a guest's own port away cuts it off; giving it back reconnects QEMU, which was never told.
    switch.vsctl("del-port br0 vmb").unwrap();
    assert!(a.is_cut_off("10.1.0.2", 3).unwrap());
    stage.vhost_port("vmb", Socket::SwitchListens, 0xb);
    b.reaches("10.1.0.1", PATIENCE).unwrap();
    a.run_for("iperf3 -c 10.1.0.2 -t 1 -i 0", Duration::from_secs(30)).unwrap();
}

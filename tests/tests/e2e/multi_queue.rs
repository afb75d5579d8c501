//! A guest with two queue pairs: both carry traffic, and the guest may switch one off and on again while they do.

use std::time::Duration;

use tests::guest::{Nic, Socket};

use crate::stage::{PATIENCE, Stage};

#[test]
fn a_guest_uses_two_queue_pairs_and_changes_its_mind() {
    let stage = Stage::open();
    let two_queues = Nic { queues: 2, ..stage.vhost_port("vma", Socket::SwitchListens, 0xa) };
    let cards = [(two_queues, "10.1.0.1"), (stage.vhost_port("vmb", Socket::SwitchListens, 0xb), "10.1.0.2")];
    let [mut a, mut b] = stage.guests(cards);
    a.reaches("10.1.0.2", PATIENCE).unwrap();
    b.serve_iperf().unwrap();

    a.run("ethtool -L eth0 combined 2").unwrap();
    a.reaches("10.1.0.2", PATIENCE).unwrap();
    // Several flows from both processors; each processor transmits on its own queue.
    let mut receive_counts = [0; 2];
    for _ in 0..3 {
        for cpu in 0..2 {
            a.run_for(
                &format!("taskset {} iperf3 -c 10.1.0.2 -t 1 -P 4 -i 0", 1 << cpu),
                Duration::from_secs(40),
            )
            .unwrap();
        }
        receive_counts = [0, 1].map(|queue| interrupts(&mut a, &format!("input.{queue}")));
        if receive_counts.iter().all(|&count| count > 0) {
            break;
        }
    }
    assert!(
        receive_counts.iter().all(|&count| count > 0),
        "a queue of the guest received nothing: {receive_counts:?}"
    );
    for queue in 0..2 {
        assert!(
            interrupts(&mut a, &format!("output.{queue}")) < u64::MAX,
            "transmit queue {queue} has no interrupt"
        );
    }

    // One pair off while a transfer runs, then on again.
    a.run("(iperf3 -c 10.1.0.2 -t 6 -P 2 -i 0 >/tmp/load 2>&1; echo $? >/tmp/status) >/dev/null 2>&1 &")
        .unwrap();
    for pairs in [1, 2, 1, 2, 1] {
        a.run(&format!("sleep 0.5; ethtool -L eth0 combined {pairs}")).unwrap();
    }
    a.run_for("until [ -s /tmp/status ]; do sleep 0.2; done", Duration::from_secs(40)).unwrap();
    assert_eq!(a.run("cat /tmp/status").unwrap(), "0", "{}", a.run("cat /tmp/load").unwrap());
    assert_eq!(a.ping("10.1.0.2", 10).unwrap(), 10);
    assert!(stage.switch.vsctl("list-ports br0").unwrap().contains("vma"));
}

/// How often the guest's virtio interrupt whose name ends in `queue` has fired.
fn interrupts(guest: &mut tests::guest::Guest, queue: &str) -> u64 {
    let table = guest.run("cat /proc/interrupts").unwrap();
    let line = table
        .lines()
        .find(|l| l.trim_end().ends_with(queue))
        .unwrap_or_else(|| panic!("no {queue} in {table}"));
    line.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok()).sum()
}

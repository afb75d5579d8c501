//! What cannot be, for a port on a card: the interface says what is wrong and what to do, and the other ports go on. Part of the scenario that has
//! the cards booted already.

use tests::guest::HostGuest;

use crate::stage::PATIENCE;

/// Adds a port that cannot be, expects these words in its error, and removes it.
fn refused(host: &mut HostGuest, settings: &str, words: &[&str]) {
    let line = format!("add-port br0 bad -- set Interface bad type=pmd {settings}");
    // The error may come as the answer, too.
    host.try_vsctl(&line).unwrap();
    let good = |text: &str| words.iter().all(|word| text.contains(word));
    host.vsctl_until("get Interface bad error", PATIENCE, good).unwrap();
    host.vsctl("del-port br0 bad").unwrap();
}

/// Wrong addresses, more than the card can, and a card that is a port already. `free` is bound and no port, `used` is one.
pub(crate) fn settings_that_cannot_be(host: &mut HostGuest, free: usize, used: usize) {
    let (free, used) = (host.addresses[free].clone(), host.addresses[used].clone());
    refused(host, "options:pci=nonsense", &["nonsense", "0000:05:00.0"]);
    refused(host, "options:pci=0000:ff:1f.7", &["0000:ff:1f.7", "nic list"]);
    refused(host, &format!("options:pci={used}"), &[&used, "port"]);
    // A bridge of the machine, which no driver is for.
    refused(host, "options:pci=0000:00:00.0", &["0000:00:00.0"]);
    refused(host, &format!("options:pci={free} options:n_rxq=99"), &["n_rxq=99", "queues"]);
    refused(host, &format!("options:pci={free} options:n_rxq_desc=100"), &["n_rxq_desc=100", "power of two"]);
    refused(host, &format!("options:pci={free} mtu_request=20000"), &["20000", "68 to"]);
}

/// A second switch, which may lock hardly any memory, is given a card that the first does not use; it is told what to do.
pub(crate) fn too_little_memory_may_be_locked(host: &mut HostGuest, free: usize) {
    let free = host.addresses[free].clone();
    // The superuser may lock what it likes by a capability, which this one starts without.
    host.guest
        .run(
            "mkdir /run/small && cd /run/small && ulimit -l 1024 && \
             { /host/setpriv --bounding-set -ipc_lock --inh-caps -ipc_lock /host/vswitchd --rundir /run/small >log 2>&1 & echo $! >pid; } && \
             for i in $(seq 100); do [ -S db.sock ] && exit 0; sleep 0.1; done; cat log; exit 1",
        )
        .unwrap();
    let vsctl = "/host/vsctl --db unix:/run/small/db.sock -t 20";
    let add = format!("add-br br0 -- add-port br0 bad -- set Interface bad type=pmd options:pci={free}");
    let (_, said) =
        host.guest.try_run(&format!("{vsctl} {add}; {vsctl} get Interface bad error"), PATIENCE).unwrap();
    assert!(said.contains("RLIMIT_MEMLOCK is 1024 KiB") && said.contains("ulimit -l unlimited"), "{said}");
    host.guest.run("kill $(cat /run/small/pid)").unwrap();
}

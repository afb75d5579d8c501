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

/// A switch that may lock less memory than a ring needs. `free` is bound and no port.
pub(crate) fn too_little_memory_may_be_locked(host: &mut HostGuest, free: usize) {
    let address = host.addresses[free].clone();
    // Another user, because root may lock what it likes.
    host.guest
        .run(
            "mkdir -p /run/vs2 && chown 1000 /run/vs2 /dev/vfio/* && start-stop-daemon -S -b -c 1000:1000 -x /bin/sh -- -c \
             'ulimit -l 64; exec /host/vswitchd --rundir /run/vs2 >/tmp/vs2.log 2>&1' && \
             for i in $(seq 100); do [ -S /run/vs2/db.sock ] && exit 0; sleep 0.1; done; cat /tmp/vs2.log; exit 1",
        )
        .unwrap();
    let vsctl = |host: &mut HostGuest, line: &str| {
        host.guest
            .try_run(&format!("/host/vsctl --db unix:/run/vs2/db.sock -t 20 {line}"), PATIENCE)
            .unwrap()
            .1
    };
    vsctl(host, "add-br br0");
    let told = vsctl(host, &format!("add-port br0 up -- set Interface up type=pmd options:pci={address}"));
    let error = vsctl(host, "get Interface up error");
    assert!(error.contains("ulimit -l") || error.contains("LimitMEMLOCK"), "{told}\n{error}");
    host.guest.run("kill $(pidof vswitchd | tr ' ' '\\n' | while read p; do grep -q /run/vs2 /proc/$p/cmdline && echo $p; done)").unwrap();
}

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

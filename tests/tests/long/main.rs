//! Scenarios that take too long for every run of the tests: `make vdpa-migration`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

#[path = "../e2e/vdpa_site.rs"]
mod vdpa_site;

use tests::guest::NestedConfig;
use tests::lab::Lab;

use vdpa_site::{
    FUNCTION, PATIENCE, Site, begin_pings, lost_pings, more_answers, moved, site_state, until_engine,
};

/// A guest is migrated from one virtual function to another while it pings: here its own rings are on the function until pages are to be logged,
/// there a relay goes on where they stopped.
#[test]
fn a_guest_is_migrated_from_function_to_function() {
    let lab = Lab::open().unwrap();
    let mut site = Site::new(&lab, &[FUNCTION, FUNCTION], &[]);
    let [here, there] = [0, 1].map(|i| site.functions[i].clone());
    let mut guest = site.guest(&here, 1);
    let nic = site.port("vm1", &there, 1);
    let socket = "/tmp/migration";
    let config = NestedConfig { arrives_at: Some(socket.into()), ..NestedConfig::new(nic) };
    let mut arrived = site.host.nested(&config).unwrap();
    site.host.guest.run_for(&format!("until [ -S {socket} ]; do sleep 0.1; done"), PATIENCE).unwrap();
    begin_pings(&mut guest, &mut site.host);
    let before = moved(&mut site.host);
    let said = site.host.migrate_nested(0, socket, PATIENCE);
    let said = said.unwrap_or_else(|error| panic!("{error}\n{}", site_state(&mut site.host)));
    said.lines().filter(|line| line.contains("downtime=")).for_each(|line| println!("{line}"));
    until_engine(&mut site.host, "vm1", "shadow");
    more_answers(&mut arrived, &mut site.host);
    let lost = lost_pings(&mut arrived);
    let log = site.host.guest.run("grep -E 'vm[01]' /tmp/vswitchd.log").unwrap();
    println!("{log}");
    assert!(log.contains("the guest is being moved"), "it left the function before that");
    assert_eq!(moved(&mut site.host), before, "frames went by the switch");
    assert!(lost <= 20, "{lost} pings lost");
    drop(site.outside);
}

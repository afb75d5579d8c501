//! How long it takes to add a port where there are many: a host full of guests gets one more.
//!
//! Ports are vhost-user ports that listen, added by one run of the switch's own command-line tool each, which returns when
//! the switch has carried the change out; then the socket must accept a connection.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use tests::failure::{Failure, Result};
use tests::hugepages::Hugepages;
use tests::ovs::OpenVswitch;
use tests::switch::Vswitchd;

use crate::Bench;
use crate::idle::OVS_PAGES;
use crate::report::{Report, Table};

/// Ports that are there already.
const PRESENT: usize = 200;
/// Ports measured then.
const MORE: usize = 10;
/// A socket that is not there by then will not come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Names of the series.
const OURS: &str = "vswitchd";
const OVS: &str = "OVS-DPDK";

/// Measures the row.
pub(crate) fn ports(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut fill = Table::new(format!("adding {PRESENT} vhost-user ports, one command each"), "s");
    let mut more = Table::new(format!("adding one vhost-user port beside {PRESENT} and more"), "ms");
    let _ = std::fs::remove_dir_all(bench.lab.path("run"));
    let switch = Vswitchd::start(&bench.lab)?;
    switch.vsctl("add-br br0")?;
    measure(OURS, &mut fill, &mut more, |name| {
        switch.vsctl(&format!("add-port br0 {name} -- set Interface {name} type=vhost-user"))?;
        Ok(switch.rundir().join(name))
    })?;
    drop(switch);
    if bench.peers {
        let _pages = Hugepages::reserve(OVS_PAGES)?;
        let ovs = OpenVswitch::start(&bench.lab)?;
        measure(OVS, &mut fill, &mut more, |name| ovs.vhost_port(name))?;
        for table in [&mut fill, &mut more] {
            table.compare(OURS, OVS);
        }
    }
    for table in [&mut fill, &mut more] {
        table.remark("less is better; from the start of vsctl or ovs-vsctl until the port's socket accepts");
    }
    report.push(fill);
    report.push(more);
    Ok(())
}

/// Adds the ports, each by `add`, which gives the path of its socket.
fn measure(
    name: &str,
    fill: &mut Table,
    more: &mut Table,
    add: impl Fn(&str) -> Result<PathBuf>,
) -> Result<()> {
    let timed = |from: usize, to: usize| -> Result<f64> {
        let began = Instant::now();
        for number in from..to {
            accepts(&add(&format!("v{number}"))?)?;
        }
        Ok(began.elapsed().as_secs_f64())
    };
    fill.add(name, timed(0, PRESENT)?);
    for number in PRESENT..PRESENT + MORE {
        more.add(name, timed(number, number + 1)? * 1e3);
    }
    Ok(())
}

/// Waits until somebody listens at `path`.
fn accepts(path: &std::path::Path) -> Result<()> {
    let began = Instant::now();
    while UnixStream::connect(path).is_err() {
        if began.elapsed() > PATIENCE {
            return Err(Failure::new(format!("nobody listens on {}", path.display())));
        }
        thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

//! Frames round and round through two virtio-user ports: our virtio driver beside DPDK's, each as front-end of the same back-end.
//!
//! The generator is a testpmd with two `net_vhost` devices, which loops frames through whoever connects to them; the other processor runs the
//! switch with two `virtio-user` ports and a rule per direction, Open vSwitch with two DPDK ports of `net_virtio_user`, or a
//! testpmd that forwards between two. The loop is closed, as in [`crate::forwarding`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use tests::failure::Result;
use tests::hugepages::Hugepages;
use tests::lab::Lab;
use tests::ovs::OpenVswitch;
use tests::switch::Vswitchd;
use tests::testpmd::{Memory, Testpmd};

use crate::Bench;
use crate::forwarding::{PAGES, closed_loop};
use crate::machine;
use crate::report::{Report, Table};

/// Bursts of 32 frames each port of the generator starts with: half of a ring, so that none is dropped for want of room.
const BURSTS: u32 = 4;
/// Entries of a ring, ours as well as DPDK's.
const RING: u32 = 256;
/// How long a port may take to connect.
const CONNECT: Duration = Duration::from_secs(20);

/// Row of split and packed rings.
pub(crate) fn virtio_user(bench: &Bench, report: &mut Report) -> Result<()> {
    for packed in [false, true] {
        let rings = if packed { "packed" } else { "split" };
        let title =
            format!("testpmd net_vhost loop through two virtio-user ports, 64 B, {rings} ring, both ports");
        let mut table = Table::new(title, "Mpps");
        let _pages = Hugepages::reserve(PAGES)?;
        for round in 0..bench.rounds {
            table.begin_round(round);
            for who in [Who::Ours, Who::OpenVswitch, Who::Testpmd] {
                if who != Who::Ours && !bench.peers {
                    continue;
                }
                table.at_distance(machine::round_trip()?);
                match sample(bench, who, packed) {
                    Ok(rate) => {
                        println!("    {}: {rate:.2} Mpps", who.name());
                        table.add(who.name(), rate);
                    }
                    Err(error) => table.fail(format!("{}: {error}", who.name())),
                }
            }
        }
        if bench.peers {
            table.compare(Who::Ours.name(), Who::OpenVswitch.name());
            table.compare(Who::Ours.name(), Who::Testpmd.name());
        }
        report.push(table);
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Ours,
    OpenVswitch,
    Testpmd,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Who::Ours => "vswitchd, virtio-user",
            Who::OpenVswitch => "OVS-DPDK, net_virtio_user",
            Who::Testpmd => "testpmd io, net_virtio_user",
        }
    }
}

/// Mpps that came back, both ports together.
fn sample(bench: &Bench, who: Who, packed: bool) -> Result<f64> {
    let lab = &bench.lab;
    let sockets = ["u0", "u1"].map(|name| lab.path(name));
    for socket in &sockets {
        let _ = std::fs::remove_file(socket);
    }
    let devices = [0, 1].map(|i| format!("net_vhost{i},iface={},queues=1", sockets[i].display()));
    let application = ["--nb-cores=1", "--forward-mode=io"];
    let mut generator =
        Testpmd::start_with(lab, "generator", "0@0,1@0", Memory::Huge, &devices, &application)?;
    match who {
        Who::Ours => {
            let _switch = ours(lab, &sockets, packed)?;
            closed_loop(bench, &mut generator, BURSTS)
        }
        Who::OpenVswitch => {
            let ovs = OpenVswitch::start_tuned(lab, &[])?;
            for (i, port) in ["up0", "up1"].into_iter().enumerate() {
                let device = format!("options:dpdk-devargs={}", device(i, &sockets[i], packed));
                let set = ["add-port", "br0", port, "--", "set", "Interface", port, "type=dpdk", &device];
                ovs.vsctl(&set)?;
            }
            ovs.forward("up0", "up1")?;
            ovs.forward("up1", "up0")?;
            closed_loop(bench, &mut generator, BURSTS)
        }
        Who::Testpmd => {
            let devices = [0, 1].map(|i| device(i, &sockets[i], packed));
            let application = ["--nb-cores=1", "--auto-start", "--forward-mode=io"];
            let _io = Testpmd::start_with(lab, "io", "0@1,1@1", Memory::Huge, &devices, &application)?;
            closed_loop(bench, &mut generator, BURSTS)
        }
    }
}

fn device(number: usize, socket: &Path, packed: bool) -> String {
    let rings = if packed { ",packed_vq=1" } else { "" };
    format!("net_virtio_user{number},path={},queues=1,queue_size={RING}{rings}", socket.display())
}

fn ours(lab: &Lab, sockets: &[PathBuf; 2], packed: bool) -> Result<Vswitchd> {
    let _ = std::fs::remove_dir_all(lab.path("run"));
    let switch = Vswitchd::start(lab)?;
    switch.vsctl("set Open_vSwitch . other_config:pmd-cpu-mask=0x2")?;
    switch.vsctl("add-br br0")?;
    for (port, socket) in ["up0", "up1"].into_iter().zip(sockets) {
        let settings = format!("type=virtio-user options:packed={packed} options:path={}", socket.display());
        switch.vsctl(&format!("add-port br0 {port} -- set Interface {port} {settings}"))?;
    }
    for (from, to) in [("up0", "up1"), ("up1", "up0")] {
        switch.vsctl_with(&["add-flow", "br0", &format!("in_port={from},actions=output:{to}")])?;
    }
    for port in ["up0", "up1"] {
        switch
            .vsctl_until(&format!("get Interface {port} link_state"), CONNECT, |text| text.trim() == "up")?;
    }
    Ok(switch)
}

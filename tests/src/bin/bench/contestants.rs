//! Who takes part in the loop rows: each has two listening vhost-user ports and one thread on the switch's processor.

use std::path::PathBuf;

use tests::failure::Result;
use tests::lab::{Binaries, Lab};
use tests::ovs::OpenVswitch;
use tests::switch::Vswitchd;
use tests::testpmd::{Memory, Testpmd};

use crate::Bench;

/// How frames find their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// A rule per direction: in_port → output.
    Rule,
    /// An ordinary learning bridge.
    Learning,
    /// No tables at all: what testpmd's io mode does.
    Io,
}

/// A running contestant.
pub(crate) enum Contestant {
    /// This switch.
    Ours(Vswitchd),
    /// An earlier build of this switch.
    Baseline(Vswitchd),
    /// Open vSwitch with DPDK, and its sockets.
    OpenVswitch(OpenVswitch, [PathBuf; 2]),
    /// testpmd with `net_vhost` devices, and their sockets.
    Testpmd(Testpmd, [PathBuf; 2]),
}

/// What starts a contestant.
type Start = fn(&Bench) -> Result<Contestant>;

/// One of testpmd's two threads only waits for commands.
const TESTPMD_LCORES: &str = "0@1,1@1";

/// Everyone who takes part, in the order of the first round.
pub(crate) fn all(bench: &Bench) -> Vec<Start> {
    let mut all: Vec<Start> = vec![ours];
    if bench.baseline.is_some() {
        all.push(baseline);
    }
    if bench.peers {
        all.extend([open_vswitch as Start, testpmd]);
    }
    all
}

impl Contestant {
    /// Sockets of its two ports.
    pub(crate) fn ports(&self) -> [PathBuf; 2] {
        match self {
            Self::Ours(switch) | Self::Baseline(switch) => ["p0", "p1"].map(|p| switch.rundir().join(p)),
            Self::OpenVswitch(_, ports) | Self::Testpmd(_, ports) => ports.clone(),
        }
    }

    /// The process that forwards.
    pub(crate) fn pid(&mut self) -> Result<u32> {
        Ok(match self {
            Self::Ours(switch) | Self::Baseline(switch) => switch.process()?.pid(),
            Self::OpenVswitch(ovs, _) => ovs.pid(),
            Self::Testpmd(testpmd, _) => testpmd.process().pid(),
        })
    }

    /// What it can be measured doing, and what that is called in the table.
    pub(crate) fn ways(&self) -> &'static [(Way, &'static str)] {
        match self {
            Self::Ours(_) => &[(Way::Rule, OURS_RULE), (Way::Learning, OURS_LEARNING)],
            Self::Baseline(_) => &[(Way::Rule, BASELINE_RULE), (Way::Learning, BASELINE_LEARNING)],
            Self::OpenVswitch(..) => &[(Way::Rule, OVS_RULE), (Way::Learning, OVS_LEARNING)],
            Self::Testpmd(..) => &[(Way::Io, TESTPMD_IO)],
        }
    }

    /// Makes it forward that way.
    pub(crate) fn forward(&self, way: Way) -> Result<()> {
        match (self, way) {
            (_, Way::Io) => {}
            (Self::Ours(switch) | Self::Baseline(switch), Way::Rule) => {
                for (from, to) in [("p0", "p1"), ("p1", "p0")] {
                    let rule = format!("priority=100,in_port={from},actions=output:{to}");
                    switch.vsctl_with(&["add-flow", "br0", &rule])?;
                }
            }
            // The rule that stays is the one every bridge starts with: priority 0, NORMAL.
            (Self::Ours(switch) | Self::Baseline(switch), Way::Learning) => {
                for from in ["p0", "p1"] {
                    switch.vsctl_with(&["del-flows", "br0", &format!("in_port={from}")])?;
                }
            }
            (Self::OpenVswitch(ovs, _), Way::Rule) => {
                ovs.forward("p0", "p1")?;
                ovs.forward("p1", "p0")?;
            }
            (Self::OpenVswitch(ovs, _), Way::Learning) => ovs.learn()?,
            (Self::Testpmd(..), _) => {}
        }
        Ok(())
    }
}

/// Names of the series.
pub(crate) const OURS_RULE: &str = "vswitchd, in_port rule";
pub(crate) const OURS_LEARNING: &str = "vswitchd, learning bridge";
pub(crate) const BASELINE_RULE: &str = "earlier build, in_port rule";
pub(crate) const BASELINE_LEARNING: &str = "earlier build, learning bridge";
pub(crate) const OVS_RULE: &str = "OVS-DPDK, in_port rule";
pub(crate) const OVS_LEARNING: &str = "OVS-DPDK, learning bridge";
pub(crate) const TESTPMD_IO: &str = "testpmd vhost io, no tables";

fn ours(bench: &Bench) -> Result<Contestant> {
    Ok(Contestant::Ours(two_ports(&bench.lab, bench.lab.binaries())?))
}

fn baseline(bench: &Bench) -> Result<Contestant> {
    let binaries = bench.baseline.as_ref().unwrap_or_else(|| bench.lab.binaries());
    Ok(Contestant::Baseline(two_ports(&bench.lab, binaries)?))
}

fn two_ports(lab: &Lab, binaries: &Binaries) -> Result<Vswitchd> {
    // A run folder of an earlier round would bring its configuration back.
    let _ = std::fs::remove_dir_all(lab.path("run"));
    let switch = Vswitchd::start_build(lab, binaries, false)?;
    switch.vsctl("set Open_vSwitch . other_config:pmd-cpu-mask=0x2")?;
    switch.vsctl("add-br br0")?;
    for port in ["p0", "p1"] {
        switch.vsctl(&format!("add-port br0 {port} -- set Interface {port} type=vhost-user"))?;
    }
    Ok(switch)
}

fn open_vswitch(bench: &Bench) -> Result<Contestant> {
    let ovs = OpenVswitch::start(&bench.lab)?;
    let ports = [ovs.vhost_port("p0")?, ovs.vhost_port("p1")?];
    Ok(Contestant::OpenVswitch(ovs, ports))
}

fn testpmd(bench: &Bench) -> Result<Contestant> {
    let lab = &bench.lab;
    let ports = ["f0", "f1"].map(|p| lab.path(p));
    for port in &ports {
        let _ = std::fs::remove_file(port);
    }
    let devices: Vec<String> = (0..)
        .zip(&ports)
        .map(|(i, path)| format!("net_vhost{i},iface={},queues=1", path.display()))
        .collect();
    let application = ["--nb-cores=1", "--auto-start", "--forward-mode=io"];
    let testpmd =
        Testpmd::start_with(lab, "forwarder", TESTPMD_LCORES, Memory::Huge, &devices, &application)?;
    Ok(Contestant::Testpmd(testpmd, ports))
}

//! Who takes part: each has two listening vhost-user ports and one thread on the switch's processor.

use std::path::{Path, PathBuf};

use ::tests::failure::{During as _, Failure, Result};
use ::tests::lab::{Binaries, Lab};
use ::tests::ovs::OpenVswitch;
use ::tests::switch::Vswitchd;
use ::tests::testpmd::{Memory, Testpmd};

use serde_json::Value;

use crate::Bench;
use crate::rules;

/// How frames find their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// A rule per direction: in_port → output.
    Rule,
    /// An ordinary learning bridge that knows where each frame has to go.
    Learning,
    /// One that does not: frames go to addresses nobody has sent from, and therefore everywhere.
    Flooding,
    /// No tables at all: what testpmd's io mode does.
    Io,
}

/// What a row needs of everybody who takes part.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Setup {
    /// Frames larger than the MTU. Open vSwitch offers that only on ports where the generator listens.
    pub(crate) tso: bool,
    /// Room for two million megaflows that stay while nobody uses them.
    pub(crate) many_flows: bool,
}

/// Somebody who can be started.
#[derive(Clone, Copy)]
pub(crate) struct Entrant {
    /// What it is called where a failure is reported.
    pub(crate) name: &'static str,
    /// What starts it.
    pub(crate) start: fn(&Bench, &Setup) -> Result<Contestant>,
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

/// Names of the series.
pub(crate) const OURS: &str = "vswitchd";
pub(crate) const OURS_RULE: &str = "vswitchd, in_port rule";
pub(crate) const OURS_LEARNING: &str = "vswitchd, learning bridge";
pub(crate) const OURS_FLOODING: &str = "vswitchd, learning bridge, unknown destination";
pub(crate) const BASELINE: &str = "earlier build";
pub(crate) const BASELINE_RULE: &str = "earlier build, in_port rule";
pub(crate) const BASELINE_LEARNING: &str = "earlier build, learning bridge";
pub(crate) const BASELINE_FLOODING: &str = "earlier build, learning bridge, unknown destination";
pub(crate) const OVS: &str = "OVS-DPDK";
pub(crate) const OVS_RULE: &str = "OVS-DPDK, in_port rule";
pub(crate) const OVS_LEARNING: &str = "OVS-DPDK, learning bridge";
pub(crate) const OVS_FLOODING: &str = "OVS-DPDK, learning bridge, unknown destination";
pub(crate) const TESTPMD: &str = "testpmd vhost io";
pub(crate) const TESTPMD_IO: &str = "testpmd vhost io, no tables";

/// One of testpmd's two threads only waits for commands.
const TESTPMD_LCORES: &str = "0@1,1@1";
/// `vsctl add-flows` sends a file as one message, and a message is limited to 16 MiB.
const RULES_PER_MESSAGE: usize = 50_000;
/// Settings for [`Setup::many_flows`]; the names are Open vSwitch's and ours.
const MANY_FLOWS: [&str; 2] = ["other_config:flow-limit=2000000", "other_config:max-idle=600000"];

/// Everyone who takes part, in the order of the first round.
pub(crate) fn all(bench: &Bench) -> Vec<Entrant> {
    let mut all = switches(bench);
    if bench.peers {
        all.push(Entrant { name: TESTPMD, start: testpmd });
    }
    all
}

/// Those that have a flow table.
pub(crate) fn switches(bench: &Bench) -> Vec<Entrant> {
    let mut all = vec![Entrant { name: OURS, start: ours }];
    if bench.baseline.is_some() {
        all.push(Entrant { name: BASELINE, start: baseline });
    }
    if bench.peers {
        all.push(Entrant { name: OVS, start: open_vswitch });
    }
    all
}

impl Contestant {
    /// What it is called in tables.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ours(_) => OURS,
            Self::Baseline(_) => BASELINE,
            Self::OpenVswitch(..) => OVS,
            Self::Testpmd(..) => TESTPMD,
        }
    }

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
            Self::Ours(_) => {
                &[(Way::Rule, OURS_RULE), (Way::Learning, OURS_LEARNING), (Way::Flooding, OURS_FLOODING)]
            }
            Self::Baseline(_) => &[
                (Way::Rule, BASELINE_RULE),
                (Way::Learning, BASELINE_LEARNING),
                (Way::Flooding, BASELINE_FLOODING),
            ],
            Self::OpenVswitch(..) => {
                &[(Way::Rule, OVS_RULE), (Way::Learning, OVS_LEARNING), (Way::Flooding, OVS_FLOODING)]
            }
            Self::Testpmd(..) => &[(Way::Io, TESTPMD_IO)],
        }
    }

    /// Makes it forward that way.
    pub(crate) fn forward(&self, lab: &Lab, way: Way) -> Result<()> {
        match way {
            Way::Io => Ok(()),
            Way::Rule => self.rules(lab, &rules::cross_connect()),
            Way::Learning | Way::Flooding => self.rules(lab, "priority=0,actions=NORMAL\n"),
        }
    }

    /// Replaces all its rules by `text`, one a line, with the ports 1 and 2. testpmd has none.
    pub(crate) fn rules(&self, lab: &Lab, text: &str) -> Result<()> {
        let file = lab.path("rules.txt");
        let write = |text: &str| std::fs::write(&file, text).during(file.display());
        match self {
            Self::Ours(switch) | Self::Baseline(switch) => {
                switch.vsctl_with(&["del-flows", "br0"])?;
                let lines: Vec<&str> = text.lines().collect();
                for part in lines.chunks(RULES_PER_MESSAGE) {
                    write(&part.join("\n"))?;
                    switch.vsctl_with(&["add-flows", "br0", &file.display().to_string()])?;
                }
                Ok(())
            }
            Self::OpenVswitch(ovs, _) => {
                write(text)?;
                ovs.replace_flows(&file)
            }
            Self::Testpmd(..) => Ok(()),
        }
    }

    /// The megaflows it has installed, a line each, as it prints them.
    pub(crate) fn megaflows(&self) -> Result<Vec<String>> {
        let text = match self {
            Self::Ours(switch) | Self::Baseline(switch) => switch.vsctl("dp flows")?,
            Self::OpenVswitch(ovs, _) => ovs.appctl(&["dpctl/dump-flows"])?,
            Self::Testpmd(..) => String::new(),
        };
        Ok(text.lines().filter(|l| l.contains("actions:")).map(str::to_owned).collect())
    }

    /// How many megaflows it has installed.
    pub(crate) fn installed(&self) -> Result<u64> {
        match self {
            Self::OpenVswitch(ovs, _) => {
                let text = ovs.appctl(&["upcall/show"])?;
                let number = text.split("(current ").nth(1).and_then(|t| t.split(')').next()?.parse().ok());
                number.ok_or_else(|| Failure::new(format!("no flow count in upcall/show: {text}")))
            }
            _ => Ok(self.megaflows()?.len() as u64),
        }
    }

    /// How many packets have had to ask the slow path for a megaflow so far.
    pub(crate) fn misses(&self) -> Result<u64> {
        let (text, label) = match self {
            Self::Ours(switch) | Self::Baseline(switch) => (switch.vsctl("pmd --format json")?, "misses"),
            Self::OpenVswitch(ovs, _) => {
                (ovs.appctl(&["dpif-netdev/pmd-stats-show"])?, "miss with success upcall:")
            }
            Self::Testpmd(..) => return Ok(0),
        };
        let count = if label == "misses" { column(&text, label) } else { labelled(&text, label) };
        count.ok_or_else(|| Failure::new(format!("{}: no count of misses in {text}", self.name())))
    }

    /// Forgets all megaflows; rules stay.
    pub(crate) fn flush(&self) -> Result<()> {
        match self {
            Self::OpenVswitch(ovs, _) => ovs.appctl(&["revalidator/purge"]).map(drop),
            // Megaflows go with the ports they belong to.
            Self::Ours(switch) | Self::Baseline(switch) => {
                for port in ["p0", "p1"] {
                    switch.vsctl(&format!("del-port br0 {port}"))?;
                }
                add_ports(switch)
            }
            Self::Testpmd(..) => Ok(()),
        }
    }
}

/// Sum of a column of a table that `vsctl` printed as JSON.
fn column(text: &str, name: &str) -> Option<u64> {
    let table: Value = serde_json::from_str(text).ok()?;
    let at = table["headings"].as_array()?.iter().position(|h| h == name)?;
    table["data"].as_array()?.iter().map(|row| row[at].as_u64()).sum()
}

/// Sum of the numbers behind `label`, one a line.
fn labelled(text: &str, label: &str) -> Option<u64> {
    let numbers = text.lines().filter_map(|line| line.trim().strip_prefix(label));
    let mut found = numbers.map(|n| n.trim().parse::<u64>().ok()).peekable();
    found.peek()?;
    found.sum()
}

fn ours(bench: &Bench, setup: &Setup) -> Result<Contestant> {
    Ok(Contestant::Ours(two_ports(&bench.lab, bench.lab.binaries(), setup)?))
}

fn baseline(bench: &Bench, setup: &Setup) -> Result<Contestant> {
    let binaries = bench.baseline.as_ref().unwrap_or_else(|| bench.lab.binaries());
    Ok(Contestant::Baseline(two_ports(&bench.lab, binaries, setup)?))
}

fn two_ports(lab: &Lab, binaries: &Binaries, setup: &Setup) -> Result<Vswitchd> {
    // A run folder of an earlier round would bring its configuration back.
    let _ = std::fs::remove_dir_all(lab.path("run"));
    let switch = Vswitchd::start_build(lab, binaries, false)?;
    switch.vsctl("set Open_vSwitch . other_config:pmd-cpu-mask=0x2")?;
    if setup.many_flows {
        switch.vsctl(&format!("set Open_vSwitch . {}", MANY_FLOWS.join(" ")))?;
    }
    switch.vsctl("add-br br0")?;
    add_ports(&switch)?;
    Ok(switch)
}

fn add_ports(switch: &Vswitchd) -> Result<()> {
    for (number, port) in (1..).zip(["p0", "p1"]) {
        let settings = format!("type=vhost-user ofport_request={number}");
        switch.vsctl(&format!("add-port br0 {port} -- set Interface {port} {settings}"))?;
    }
    Ok(())
}

fn open_vswitch(bench: &Bench, setup: &Setup) -> Result<Contestant> {
    let mut settings = Vec::new();
    if setup.many_flows {
        settings.extend(MANY_FLOWS);
    }
    if setup.tso {
        settings.push("other_config:userspace-tso-enable=true");
    }
    let ovs = OpenVswitch::start_tuned(&bench.lab, &settings)?;
    let names = ["p0", "p1"];
    // The first ports of a bridge are numbered 1 and 2.
    let ports = if setup.tso {
        let ports = names.map(|p| bench.lab.path(&format!("listen-{p}")));
        for (name, port) in names.iter().zip(&ports) {
            ovs.vhost_client_port(name, port)?;
        }
        // So spelled, `vsgen` listens.
        ports.map(|p| PathBuf::from(format!("listen:{}", p.display())))
    } else {
        [ovs.vhost_port("p0")?, ovs.vhost_port("p1")?]
    };
    Ok(Contestant::OpenVswitch(ovs, ports))
}

fn testpmd(bench: &Bench, setup: &Setup) -> Result<Contestant> {
    let lab = &bench.lab;
    let ports = ["f0", "f1"].map(|p| lab.path(p));
    for port in &ports {
        let _ = std::fs::remove_file(port);
    }
    // With legacy flags a frame leaves with the offloads it came with; io mode sets none of its own.
    let more = if setup.tso { ",tso=1,legacy-ol-flags=1" } else { "" };
    let device = |(i, path): (usize, &PathBuf)| device(i, path, more);
    let devices: Vec<String> = ports.iter().enumerate().map(device).collect();
    let application = ["--nb-cores=1", "--auto-start", "--forward-mode=io"];
    let testpmd =
        Testpmd::start_with(lab, "forwarder", TESTPMD_LCORES, Memory::Huge, &devices, &application)?;
    Ok(Contestant::Testpmd(testpmd, ports))
}

fn device(number: usize, path: &Path, more: &str) -> String {
    format!("net_vhost{number},iface={},queues=1{more}", path.display())
}

#[cfg(test)]
mod tests {
    use super::{column, labelled};

    #[test]
    fn misses_are_found_in_what_both_switches_print() {
        let ours = r#"{"headings":["core","misses"],"data":[[1,5],[2,7]]}"#;
        assert_eq!(column(ours, "misses"), Some(12));
        assert_eq!(column(ours, "hits"), None);
        let theirs = "pmd thread numa_id 0 core_id 1:\n  miss with success upcall: 41\n  miss with failed upcall: 3\n\
                      main thread:\n  miss with success upcall: 1\n";
        assert_eq!(labelled(theirs, "miss with success upcall:"), Some(42));
        assert_eq!(labelled("", "miss"), None);
    }
}

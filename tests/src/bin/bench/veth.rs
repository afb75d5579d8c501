//! Frames round and round over veth pairs, whose ends the kernel keeps: AF_PACKET and AF_XDP ports beside those of Open vSwitch and testpmd.
//!
//! A testpmd loops frames through its two ends by `net_af_packet`; the loop is closed, as in [`crate::forwarding`]. The lab's DPDK comes without
//! `net_af_xdp`, and its Open vSwitch has not brought an `afxdp` port up: AF_XDP of ours is measured beside what they have.
//!
//! The generator has one processor, each contestant's forwarding thread the other. The ends speak no IPv6: a neighbour solicitation of theirs would go
//! round for ever, be answered at each pass by the host, and the answers with it, until they push the generator's frames out of full rings.

use tests::failure::Result;
use tests::lab::Lab;
use tests::ovs::OpenVswitch;
use tests::switch::Vswitchd;
use tests::testpmd::{Memory, Testpmd};

use crate::Bench;
use crate::forwarding::closed_loop;
use crate::machine::{self, SWITCH_CPU};
use crate::report::{Report, Table};

/// Driver of DPDK.
const DRIVER: &str = "net_af_packet";
/// Bursts of 32 frames each end starts with.
const BURSTS: u32 = 4;

/// How the kernel's devices are reached.
#[derive(Clone, Copy)]
struct Kind {
    /// Interface type of ours and of Open vSwitch.
    types: [&'static str; 2],
}

/// Row of AF_PACKET ports.
pub(crate) fn af_packet(bench: &Bench, report: &mut Report) -> Result<()> {
    row(bench, report, Kind { types: ["system", "system"] })
}

/// Row of AF_XDP ports.
pub(crate) fn af_xdp(bench: &Bench, report: &mut Report) -> Result<()> {
    row(bench, report, Kind { types: ["afxdp", "system"] })
}

fn row(bench: &Bench, report: &mut Report, kind: Kind) -> Result<()> {
    let [ours, theirs] = kind.types;
    let names =
        [format!("vswitchd, {ours}"), format!("OVS netdev, {theirs}"), format!("testpmd io, {DRIVER}")];
    let title = format!("testpmd loop over two veth pairs, {ours} ports, 64 B, both ports");
    let mut table = Table::new(title, "Mpps");
    for round in 0..bench.rounds {
        table.begin_round(round);
        for turn in 0..names.len() {
            let who = (turn + round) % names.len();
            let Some(name) = names.get(who) else { continue };
            if who != 0 && !bench.peers {
                continue;
            }
            table.at_distance(machine::round_trip()?);
            match sample(bench, kind, who) {
                Ok(rate) => {
                    println!("    {name}: {rate:.3} Mpps");
                    table.add(name, rate);
                }
                Err(error) => table.fail(format!("{name}: {error}")),
            }
        }
    }
    if bench.peers {
        table.compare(&names[0], &names[1]);
        table.compare(&names[0], &names[2]);
        table.remark("the generator drives the other ends by net_af_packet, and is part of the cost");
    }
    report.push(table);
    Ok(())
}

/// Two veth pairs: the ends to forward between, and those of the generator. Gone when dropped.
struct Pairs<'lab> {
    lab: &'lab Lab,
    near: [String; 2],
    far: [String; 2],
}

impl<'lab> Pairs<'lab> {
    fn new(lab: &'lab Lab) -> Result<Self> {
        let pairs = Self {
            lab,
            near: ["na", "nb"].map(|role| lab.device(role)),
            far: ["fa", "fb"].map(|role| lab.device(role)),
        };
        for (near, far) in pairs.near.iter().zip(&pairs.far) {
            lab.run("ip", &["link", "add", near, "type", "veth", "peer", "name", far])?;
            for device in [near, far] {
                let setting = format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6");
                // A kernel without IPv6 has no such setting.
                let _ = std::fs::write(setting, "1");
                lab.run("ip", &["link", "set", device, "up", "promisc", "on"])?;
            }
        }
        Ok(pairs)
    }
}

impl Drop for Pairs<'_> {
    fn drop(&mut self) {
        for near in &self.near {
            let _ = self.lab.run("ip", &["link", "del", near]);
        }
    }
}

fn devices(ends: &[String; 2]) -> [String; 2] {
    [0, 1].map(|i| format!("{DRIVER}{i},iface={}", ends[i]))
}

/// Mpps that came back, both ends together.
fn sample(bench: &Bench, kind: Kind, who: usize) -> Result<f64> {
    let lab = &bench.lab;
    let pairs = Pairs::new(lab)?;
    let [a, b] = &pairs.near;
    match who {
        0 => {
            let _ = std::fs::remove_dir_all(lab.path("run"));
            let switch = Vswitchd::start(lab)?;
            switch.vsctl("set Open_vSwitch . other_config:pmd-cpu-mask=0x2")?;
            switch.vsctl("add-br br0")?;
            for port in [a, b] {
                switch
                    .vsctl(&format!("add-port br0 {port} -- set Interface {port} type={}", kind.types[0]))?;
            }
            for (from, to) in [(a, b), (b, a)] {
                switch.vsctl_with(&["add-flow", "br0", &format!("in_port={from},actions=output:{to}")])?;
            }
            rate(bench, &pairs)
        }
        1 => {
            let ovs = OpenVswitch::start_without_dpdk(lab, false)?;
            // Its main thread serves kernel devices.
            machine::pin(ovs.pid(), SWITCH_CPU)?;
            for port in [a, b] {
                let kind = format!("type={}", kind.types[1]);
                ovs.vsctl(&["add-port", "br0", port, "--", "set", "Interface", port, &kind])?;
            }
            ovs.forward(a, b)?;
            ovs.forward(b, a)?;
            rate(bench, &pairs)
        }
        _ => {
            let arguments = ["--forward-mode=io", "--auto-start"];
            let devices = devices(&pairs.near);
            let _io = Testpmd::start_with(lab, "io", "0@1,1@1", Memory::Ordinary, &devices, &arguments)?;
            rate(bench, &pairs)
        }
    }
}

fn rate(bench: &Bench, pairs: &Pairs<'_>) -> Result<f64> {
    let devices = devices(&pairs.far);
    let mut generator = Testpmd::start_with(
        &bench.lab,
        "veth",
        "0@0,1@0",
        Memory::Ordinary,
        &devices,
        &["--forward-mode=io"],
    )?;
    closed_loop(bench, &mut generator, BURSTS)
}

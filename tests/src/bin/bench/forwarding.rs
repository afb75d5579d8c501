//! 64-byte frames round and round: DPDK's virtio-user as front-end of two vhost-user ports, one core for it, one for the
//! switch under test.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use tests::failure::Result;
use tests::hugepages::Hugepages;
use tests::lab::Lab;
use tests::ovs::OpenVswitch;
use tests::switch::Vswitchd;
use tests::testpmd::{Memory, Testpmd};

use crate::stats;

/// 2 MiB pages: Open vSwitch wants 512 MiB, each testpmd 256.
const PAGES: u64 = 512;
/// The core of the front-end and the one of the switch under test; one of testpmd's two threads only waits for commands.
const FRONT_END: &str = "0@0,1@0";
const SWITCH: &str = "0@0,1@1";
/// How long one sample counts packets, after a second to settle.
const SAMPLE: Duration = Duration::from_secs(4);
/// Bursts of 32 frames each port of the front-end starts with; less than a ring holds, so nothing is dropped for good.
const BURSTS: u32 = 4;

/// The two ports of whatever is under test, kept alive with it.
trait Contestant {
    fn ports(&self) -> [PathBuf; 2];
}

struct Ours(Vswitchd);
struct Theirs([PathBuf; 2], #[expect(dead_code, reason = "runs while it is held")] OpenVswitch);
struct Forwarder([PathBuf; 2], #[expect(dead_code, reason = "runs while it is held")] Testpmd);

impl Contestant for Ours {
    fn ports(&self) -> [PathBuf; 2] {
        ["p0", "p1"].map(|p| self.0.rundir().join(p))
    }
}

impl Contestant for Theirs {
    fn ports(&self) -> [PathBuf; 2] {
        self.0.clone()
    }
}

impl Contestant for Forwarder {
    fn ports(&self) -> [PathBuf; 2] {
        self.0.clone()
    }
}

type Start = fn(&Lab) -> Result<Box<dyn Contestant>>;

fn ours(lab: &Lab) -> Result<Box<dyn Contestant>> {
    // A run folder of an earlier round would bring its configuration back.
    let _ = std::fs::remove_dir_all(lab.path("run"));
    let switch = Vswitchd::start(lab)?;
    switch.vsctl("set Open_vSwitch . other_config:pmd-cpu-mask=0x2")?;
    switch.vsctl("add-br br0")?;
    for port in ["p0", "p1"] {
        switch.vsctl(&format!("add-port br0 {port} -- set Interface {port} type=vhost-user"))?;
    }
    for (from, to) in [("p0", "p1"), ("p1", "p0")] {
        switch.vsctl_with(&[
            "add-flow",
            "br0",
            &format!("priority=100,in_port={from},actions=output:{to}"),
        ])?;
    }
    Ok(Box::new(Ours(switch)))
}

fn open_vswitch(lab: &Lab) -> Result<Box<dyn Contestant>> {
    let ovs = OpenVswitch::start(lab)?;
    let ports = [ovs.vhost_port("p0")?, ovs.vhost_port("p1")?];
    ovs.forward("p0", "p1")?;
    ovs.forward("p1", "p0")?;
    Ok(Box::new(Theirs(ports, ovs)))
}

fn forwarder(lab: &Lab) -> Result<Box<dyn Contestant>> {
    let ports = ["f0", "f1"].map(|p| lab.path(p));
    for port in &ports {
        let _ = std::fs::remove_file(port);
    }
    let devices: Vec<String> = ports
        .iter()
        .enumerate()
        .map(|(i, p)| format!("net_vhost{i},iface={},queues=1", p.display()))
        .collect();
    let application = ["--nb-cores=1", "--auto-start", "--forward-mode=io"];
    let testpmd = Testpmd::start_with(lab, "forwarder", SWITCH, Memory::Huge, &devices, &application)?;
    Ok(Box::new(Forwarder(ports, testpmd)))
}

/// Measures and prints the row.
pub(crate) fn loop_64(lab: &Lab, rounds: usize) -> Result<()> {
    let contestants: [(&str, Start); 3] =
        [("vswitchd", ours), ("Open vSwitch (DPDK)", open_vswitch), ("testpmd vhost io", forwarder)];
    let _pages = Hugepages::reserve(PAGES)?;
    let mut samples = contestants.map(|(name, _)| (name, Vec::new()));
    for round in 1..=rounds {
        for ((name, start), (_, taken)) in contestants.iter().zip(&mut samples) {
            let contestant = start(lab)?;
            let rate = sample(lab, &contestant.ports())?;
            println!("  round {round} of {rounds}: {name} {rate:.2} Mpps");
            taken.push(rate);
        }
    }
    stats::compare("virtio-user loop over two vhost-user ports, 64 B, one worker", "Mpps", &samples);
    Ok(())
}

/// Millions of packets per second that come back to the front-end on both ports together.
fn sample(lab: &Lab, ports: &[PathBuf; 2]) -> Result<f64> {
    let devices: Vec<String> = ports
        .iter()
        .enumerate()
        .map(|(i, p)| {
            format!(
                "net_virtio_user{i},path={},mac=52:54:00:00:00:0{i},queues=1,queue_size=1024",
                p.display()
            )
        })
        .collect();
    let application = ["--nb-cores=1", "--forward-mode=io", "--txd=1024", "--rxd=1024"];
    let mut front_end =
        Testpmd::start_with(lab, "frontend", FRONT_END, Memory::Huge, &devices, &application)?;
    front_end.command(&format!("start tx_first {BURSTS}"))?;
    thread::sleep(Duration::from_secs(1));
    let (before, began) = (received(&mut front_end)?, Instant::now());
    thread::sleep(SAMPLE);
    let (after, took) = (received(&mut front_end)?, began.elapsed());
    #[expect(clippy::cast_precision_loss, reason = "counts of a few seconds are far below 2^52")]
    let packets = (after - before) as f64;
    Ok(packets / took.as_secs_f64() / 1e6)
}

fn received(front_end: &mut Testpmd) -> Result<u64> {
    Ok(front_end.counters(0)?.received + front_end.counters(1)?.received)
}

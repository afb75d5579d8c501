//! `kill -9 vswitchd` under front-ends that are no QEMU: DPDK's virtio-user, which listens and has the switch connect again, and our own
//! `vsgen`, which connects again itself and accounts for every buffer. Split and packed rings of each at once.

use std::time::{Duration, Instant};

use serde_json::Value;
use tests::guest::{Nic, Socket};
use tests::process::Process;
use tests::testpmd::Testpmd;

use crate::stage::{PATIENCE, Stage};

const KILLS: usize = 10;
const RINGS: [&str; 2] = ["split", "packed"];
/// What a port of testpmd has received when traffic surely runs.
const FLOWING: u64 = 1000;

/// Two ports that reach each other and nobody else.
fn pair(stage: &Stage, vlan: u8, socket: Socket) -> [Nic; 2] {
    ["a", "b"]
        .map(|end| stage.vhost_port_on("br0", &format!("p{vlan}{end}"), socket, vlan, &format!("tag={vlan}")))
}

/// `vsgen` on a pair of ports, with frames of all flows both ways, for as long as the switch is killed.
fn start_vsgen(stage: &Stage, rings: &str, [a, b]: &[Nic; 2]) -> Process {
    let line = format!(
        "run --a {} --b {} --ring {rings} --ring-size 256 --hugepages no --restarts {KILLS} --settle 0 --seconds 0.2 \
         --ab size=64,flows=100 --ba size=1518,flows=100",
        a.path.display(),
        b.path.display(),
    );
    let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let name = format!("vsgen-{rings}");
    let program = stage.lab.binaries().vsgen();
    Process::start(&name, &program, &arguments, &stage.lab.path(&format!("{name}.log")), false).unwrap()
}

/// Waits until `vsgen` has said something for the n-th time.
fn says(vsgen: &mut Process, what: &str, times: usize) {
    vsgen.until(what, PATIENCE, |vsgen| (vsgen.log().matches(what).count() >= times).then_some(())).unwrap();
}

/// Waits until every port of testpmd receives.
fn circulates(testpmd: &mut Testpmd, ports: u32) {
    for port in 0..ports {
        let before = testpmd.counters(port).unwrap().received;
        testpmd
            .until("frames", PATIENCE, |testpmd| {
                testpmd.counters(port).is_ok_and(|now| now.received > before + FLOWING)
            })
            .unwrap();
    }
}

/// What `vsgen` says in the end.
fn report(vsgen: &mut Process) -> Value {
    let deadline = Instant::now() + PATIENCE;
    while vsgen.ended().is_none() {
        assert!(Instant::now() < deadline, "it does not end: {}", vsgen.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    let text = vsgen.log();
    let report = text.lines().rfind(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{text}"));
    serde_json::from_str(report).unwrap()
}

#[test]
fn virtio_user_and_vsgen_live_on_when_the_switch_is_killed_under_load() {
    let mut stage = Stage::open();
    let ours = [pair(&stage, 1, Socket::SwitchListens), pair(&stage, 2, Socket::SwitchListens)];
    let dpdk = [pair(&stage, 3, Socket::QemuListens), pair(&stage, 4, Socket::QemuListens)];
    let devices: Vec<String> = dpdk
        .iter()
        .flatten()
        .enumerate()
        .map(|(index, nic)| {
            let (path, packed) = (nic.path.display(), index / 2);
            format!(
                "net_virtio_user{index},path={path},server=1,mac=52:54:00:00:00:0{index},packed_vq={packed}"
            )
        })
        .collect();
    // Makes frames and drops what it receives, so that none need survive.
    let mut testpmd =
        Testpmd::start(&stage.lab, "frontend", "0@0,1@1", &devices, &["--forward-mode=flowgen"]).unwrap();
    testpmd.command("start").unwrap();
    let mut generators: Vec<Process> =
        RINGS.iter().zip(&ours).map(|(rings, pair)| start_vsgen(&stage, rings, pair)).collect();
    generators.iter_mut().for_each(|vsgen| says(vsgen, "ready", 1));
    circulates(&mut testpmd, 4);

    for kill in 1..=KILLS {
        stage.switch.kill();
        stage.switch.restart().unwrap();
        generators.iter_mut().for_each(|vsgen| says(vsgen, "frames pass again", kill));
        circulates(&mut testpmd, 4);
    }

    for (vsgen, rings) in generators.iter_mut().zip(RINGS) {
        let report = report(vsgen);
        println!("{rings}: outages in ms: {}", report["outages_ms"]);
        assert_eq!(report["outages_ms"].as_array().unwrap().len(), KILLS);
        for stream in report["streams"].as_array().unwrap() {
            assert!(stream["sent"].as_u64().unwrap() > 0, "{report}");
            assert_eq!(stream["received"], stream["sent"], "{report}");
        }
    }
}

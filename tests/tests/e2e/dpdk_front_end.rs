//! DPDK's virtio-user as front-end, a driver nobody here wrote: frames go round through two ports.

use std::time::{Duration, Instant};

use tests::guest::Socket;
use tests::testpmd::Testpmd;

use crate::stage::Stage;

#[test]
fn virtio_user_frames_loop_through_two_ports() {
    let stage = Stage::open();
    let paths = ["vu0", "vu1"].map(|name| stage.vhost_port(name, Socket::SwitchListens, 0xa).path);
    for (from, to) in [("vu0", "vu1"), ("vu1", "vu0")] {
        stage
            .switch
            .vsctl_with(&["add-flow", "br0", &format!("in_port={from},actions=output:{to}")])
            .unwrap();
    }
    let devices: Vec<String> = paths
        .iter()
        .enumerate()
        .map(|(i, path)| {
            format!("net_virtio_user{i},path={},mac=52:54:00:00:00:0{i},queues=1", path.display())
        })
        .collect();
    let mut front_end =
        Testpmd::start(&stage.lab, "frontend", "0@0,1@0", &devices, &["--forward-mode=io"]).unwrap();

    front_end.command("start tx_first").unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    // Far more than the few dozen frames of the first burst: they do go round.
    while front_end.counters(0).unwrap().received < 50_000 || front_end.counters(1).unwrap().received < 50_000
    {
        assert!(Instant::now() < deadline, "frames do not circulate: {:?}", front_end.counters(0).unwrap());
        std::thread::sleep(Duration::from_millis(100));
    }
    front_end.command("stop").unwrap();

    // A front-end that goes and comes back finds the ports usable.
    drop(front_end);
    let mut front_end =
        Testpmd::start(&stage.lab, "frontend2", "0@0,1@0", &devices, &["--forward-mode=io"]).unwrap();
    front_end.command("start tx_first").unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while front_end.counters(1).unwrap().received < 1000 {
        assert!(Instant::now() < deadline, "no frames after the front-end's return");
        std::thread::sleep(Duration::from_millis(100));
    }
}

//! A running guest is moved from one QEMU to another, each on a switch of its own. The switches are joined by a bridge
//! of the kernel's, in a namespace, which has to learn where the guest has gone.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use tests::guest::{Guest, GuestConfig, Nic, Socket};
use tests::lab::Lab;
use tests::netns::Netns;
use tests::process::Process;
use tests::switch::Vswitchd;

use crate::stage::PATIENCE;

const GUEST: &str = "10.1.0.1";
const MAC: &str = "52:54:00:00:00:0a";
/// Bytes that show that traffic is under way.
const LOAD: u64 = 2 << 20;
/// Slow enough for several passes over memory that traffic writes meanwhile; and the traffic slow enough for the passes to become
/// shorter and shorter.
const BANDWIDTH: u64 = 64 << 20;
const DOWNTIME: u64 = 30;
/// Of what is sent unasked when the guest runs at its new home: memory takes some seconds to arrive.
const POSTCOPY_BANDWIDTH: u64 = 16 << 20;

/// A switch with a port for the guest and a TAP that is a port of the kernel's bridge.
struct Host {
    switch: Vswitchd,
    /// Its bridge. It has a TAP device in the machine's own namespace, so the two hosts' have different names.
    bridge: String,
    tap: String,
}

impl Host {
    fn new(lab: &Lab, role: &str, between: &Netns<'_>) -> Host {
        let switch = Vswitchd::start_beside(lab, role).unwrap();
        let (bridge, tap) = (format!("br-{role}"), lab.device(role));
        switch
            .vsctl(&format!(
                "add-br {bridge} -- add-port {bridge} vm -- set Interface vm type=dpdkvhostuser mac=\"{MAC}\" \
                 -- add-port {bridge} {tap} -- set Interface {tap} type=tap"
            ))
            .unwrap();
        lab.run("ip", &["link", "set", &tap, "netns", between.name()]).unwrap();
        between.ip(&["link", "set", &tap, "master", "kbr"]).unwrap();
        between.ip(&["link", "set", &tap, "up"]).unwrap();
        Host { switch, bridge, tap }
    }

    /// A card on this host's port.
    fn nic(&self, properties: &str) -> Nic {
        let nic = Nic::new(self.switch.rundir().join("vm"), Socket::SwitchListens, 0xa);
        Nic { properties: properties.to_owned(), ..nic }
    }

    /// Waits until the bridge of this host has learned the guest's address at `port`.
    fn learns(&self, port: &str) {
        let there = |fdb: &str| fdb.lines().any(|line| line.contains(MAC) && line.contains(port));
        self.switch.vsctl_until(&format!("fdb show {}", self.bridge), PATIENCE, there).unwrap();
    }

    fn dirty_log(&self) -> Option<String> {
        self.switch.vsctl("get Interface vm status:dirty_log").ok()
    }
}

/// Two hosts, the network between them, and a guest at home on the first. The second's QEMU waits.
struct Move<'lab> {
    between: Netns<'lab>,
    from: Host,
    to: Host,
    guest: Guest,
    waiting: Guest,
    socket: PathBuf,
}

impl<'lab> Move<'lab> {
    /// With further properties of the card, and arguments of the QEMU that waits.
    fn new(lab: &'lab Lab, properties: &str, waiting: &[&str]) -> Self {
        Self::of(lab, properties, waiting, |config| config)
    }

    /// The same of a machine that has more.
    fn of(
        lab: &'lab Lab,
        properties: &str,
        waiting: &[&str],
        more: impl Fn(GuestConfig) -> GuestConfig,
    ) -> Self {
        let between = Netns::new(lab).unwrap();
        between.ip(&["link", "add", "kbr", "type", "bridge", "forward_delay", "0"]).unwrap();
        between.ip(&["addr", "add", "10.1.0.100/24", "dev", "kbr"]).unwrap();
        between.ip(&["link", "set", "kbr", "up"]).unwrap();
        let (from, to) = (Host::new(lab, "ha", &between), Host::new(lab, "hb", &between));
        let socket = lab.path("move");
        let config = more(GuestConfig::new("guest", from.nic(properties)));
        let mut there = config.incoming("waiting", to.nic(&config.nics[0].properties), &socket);
        there.more.extend(waiting.iter().map(|&argument| argument.to_owned()));
        let mut guest = Guest::start(lab, &config).unwrap();
        let waiting = Guest::start(lab, &there).unwrap();
        guest.wait_ready().unwrap();
        guest.address("eth0", &format!("{GUEST}/24")).unwrap();
        between.reaches(GUEST, 20).unwrap();
        from.learns("vm");
        to.learns(&to.tap);
        guest.limit_migration(BANDWIDTH, DOWNTIME).unwrap();
        Move { between, from, to, guest, waiting, socket }
    }

    /// Traffic to the guest of a kind that iperf3 knows, in the background and without end.
    fn load(&mut self, lab: &Lab, kind: &[&str]) -> Process {
        self.guest.serve_iperf().unwrap();
        let arguments = [&["-c", GUEST, "-t", "600", "-i", "0"], kind].concat();
        let load = self.between.start("iperf3", &arguments, &lab.path("load.log")).unwrap();
        self.carries(&self.from);
        load
    }

    /// Waits until this host has been given [`LOAD`] more bytes for the guest.
    fn carries(&self, host: &Host) {
        let counter = format!("/sys/class/net/{}/statistics/tx_bytes", host.tap);
        let given =
            || self.between.run("busybox", &["cat", &counter]).unwrap().trim().parse::<u64>().unwrap();
        let (before, deadline) = (given(), Instant::now() + 3 * PATIENCE);
        while given() < before + LOAD {
            assert!(Instant::now() < deadline, "traffic to the guest does not go on");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The network has followed: the new home's switch, and the old one's by way of the bridge between.
    fn is_known_to_have_moved(&self) {
        self.to.learns("vm");
        self.from.learns(&self.from.tap);
    }
}

#[test]
fn pings_and_a_tcp_flow_go_on_while_the_guest_is_moved() {
    let lab = Lab::open().unwrap();
    let mut moved = Move::new(&lab, "", &[]);
    let log = lab.path("ping.log");
    let mut ping = moved.between.start("busybox", &["ping", "-i", "0.05", GUEST], &log).unwrap();
    let mut load = moved.load(&lab, &["-b", "50M"]);

    assert_eq!(moved.from.dirty_log(), None);
    moved.guest.start_migration(&moved.socket).unwrap();
    let logging = |text: &str| text.contains("on, ");
    moved.from.switch.vsctl_until("get Interface vm status:dirty_log", PATIENCE, logging).unwrap();
    let migrated = moved.guest.finish_migration().unwrap();
    println!("moved: {migrated:?}");
    // Three without traffic.
    assert!(migrated.passes >= 4, "under load memory is gone over again and again");

    moved.is_known_to_have_moved();
    // The same connection, at the new home.
    moved.carries(&moved.to);
    load.must_run().unwrap();
    ping.signal(Signal::INT);
    let text = ping
        .until("summary", PATIENCE, |ping| ping.log().contains("round-trip").then(|| ping.log()))
        .unwrap();
    let summary = text.lines().find(|line| line.contains("packets transmitted")).unwrap();
    println!("{summary}");
    let counts: Vec<u32> = summary.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(counts[0] - counts[1] <= 40, "lost too much for a move: {summary}");

    // It lives on where it is now, with all it had.
    assert_eq!(moved.waiting.run("uptime >/dev/null; pidof iperf3 >/dev/null && echo yes").unwrap(), "yes");
    moved.waiting.run("ping -c 3 10.1.0.100").unwrap();
    assert_eq!(moved.from.switch.vsctl("get Interface vm link_state").unwrap().trim(), "down");
}

/// Packed rings behind an IOMMU, so that the log is of other addresses than those in the rings, and the new home's switch has to ask for
/// translations again; and a guest that was not asked to announce itself: the front-end asks the switch.
#[test]
fn memory_arrives_as_it_was_left_and_the_switch_announces_the_guest() {
    let lab = Lab::open().unwrap();
    let mut moved =
        Move::of(&lab, "packed=on,guest_announce=off", &["-S"], |config| config.with_iommu("iommu.strict=1"));
    // What the guest's processor writes around a frame hides most of what a log could miss: this shows that nothing went wrong on
    // the way, and `vhost-port/tests/dirty_log.rs` that every written page is logged.
    let mut load = moved.load(&lab, &["-b", "4M"]);
    moved.guest.start_migration(&moved.socket).unwrap();
    let migrated = moved.guest.finish_migration().unwrap();
    println!("moved: {migrated:?}");
    load.must_run().unwrap();

    // It has ended here and not begun there: nobody writes to either memory.
    let pages = same_pages(&moved.guest.memory().unwrap(), &moved.waiting.memory().unwrap());
    println!("{pages} pages with contents, all the same");
    assert!(pages > 5000, "that is no running Linux");

    // The announcement is seen where the guest was before.
    load.kill();
    let rule = "priority=9,rarp,actions=normal";
    moved.from.switch.vsctl_with(&["add-flow", &moved.from.bridge, rule]).unwrap();
    moved.waiting.monitor("cont", &json!({})).unwrap();
    moved.is_known_to_have_moved();
    let counted = |flows: &str| flows.lines().any(|l| l.contains("rarp") && !l.contains("n_packets=0"));
    moved.from.switch.vsctl_until(&format!("dump-flows {}", moved.from.bridge), PATIENCE, counted).unwrap();
    moved.between.reaches(GUEST, 20).unwrap();
    moved.waiting.run("ping -c 10 -i 0.1 -s 1400 10.1.0.100").unwrap();
    let misses = moved.to.switch.vsctl("get Interface vm status:iotlb_misses").unwrap();
    println!("translations asked for at the new home: {}", misses.trim());
    assert_ne!(misses.trim().trim_matches('"'), "0");
}

/// The guest runs at its new home while most of its memory is at the old one, and traffic goes on meanwhile.
#[test]
fn guest_runs_before_its_memory_has_arrived() {
    let lab = Lab::open().unwrap();
    let mut moved = Move::new(&lab, "", &[]);
    moved.guest.run("dd if=/dev/urandom of=/tmp/random bs=1M count=16 2>/dev/null").unwrap();
    let sum = moved.guest.run("md5sum /tmp/random").unwrap();
    for guest in [&mut moved.guest, &mut moved.waiting] {
        guest.allow_postcopy(POSTCOPY_BANDWIDTH).unwrap();
    }
    let log = lab.path("ping.log");
    let mut ping = moved.between.start("busybox", &["ping", "-i", "0.05", GUEST], &log).unwrap();
    let mut load = moved.load(&lab, &["-b", "8M"]);
    moved.guest.start_migration(&moved.socket).unwrap();
    moved.guest.start_postcopy().unwrap();
    // Pages of rings, and of buffers.
    let fetched = |text: &str| text.split_whitespace().any(|word| word.parse::<u32>().is_ok_and(|n| n > 10));
    moved.to.switch.vsctl_until("get Interface vm status:postcopy", PATIENCE, fetched).unwrap();
    moved.is_known_to_have_moved();
    // The same connection, while memory arrives.
    moved.carries(&moved.to);
    let status = moved.to.switch.vsctl("get Interface vm status:postcopy");
    println!("memory arrives: {status:?}");
    assert!(status.is_ok(), "memory has arrived before traffic went on");
    let migrated = moved.guest.finish_migration().unwrap();
    println!("moved: {migrated:?}");
    let none = |status: &str| !status.contains("postcopy");
    moved.to.switch.vsctl_until("get Interface vm status", PATIENCE, none).unwrap();
    moved.carries(&moved.to);
    load.must_run().unwrap();
    ping.signal(Signal::INT);
    let text = ping
        .until("summary", PATIENCE, |ping| ping.log().contains("round-trip").then(|| ping.log()))
        .unwrap();
    println!("{}", text.lines().find(|line| line.contains("packets transmitted")).unwrap());
    println!("{}", moved.to.switch.vsctl("get Interface vm statistics").unwrap());
    assert_eq!(moved.waiting.run("md5sum /tmp/random").unwrap(), sum);
    moved.waiting.run("ping -c 3 10.1.0.100").unwrap();
    assert_eq!(moved.to.switch.vsctl("get Interface vm error").unwrap().trim(), "[]");
}

/// Compares two guests' memories page by page. How many pages are not empty.
fn same_pages(one: &File, other: &File) -> usize {
    const PAGE: usize = 4096;
    let len = one.metadata().unwrap().len();
    assert_eq!(len, other.metadata().unwrap().len());
    let (mut a, mut b) = (vec![0; 256 * PAGE], vec![0; 256 * PAGE]);
    let (mut full, mut different) = (0, Vec::new());
    for at in (0..len).step_by(a.len()) {
        one.read_exact_at(&mut a, at).unwrap();
        other.read_exact_at(&mut b, at).unwrap();
        for (i, (a, b)) in a.chunks(PAGE).zip(b.chunks(PAGE)).enumerate() {
            full += usize::from(a.iter().any(|&byte| byte != 0));
            if a != b {
                different.push(at / PAGE as u64 + i as u64);
            }
        }
    }
    assert!(different.is_empty(), "{} pages differ, among them {:x?}", different.len(), different.get(..8));
    full
}

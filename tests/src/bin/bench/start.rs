//! From `exec` to the first forwarded packet: a database with a bridge and two TAP ports lies ready, the devices exist.
//!
//! Open vSwitch is two programs, so its time begins with the start of its database server; the switch follows as soon as
//! that accepts connections. It runs without DPDK, which would cost it some seconds more.
//!
//! In a network namespace of its own, a datagram goes out by one device every millisecond, to a multicast group that a
//! socket listens for on the other. Link-local addresses of IPv6 belong to one device each, so the kernel takes no
//! shortcut between the two.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tests::failure::{During as _, Failure, Result};
use tests::lab::Lab;
use tests::ovs::OpenVswitch;
use tests::process::Process;
use tests::switch::Vswitchd;

use crate::Bench;
use crate::report::{Report, Table};

/// The TAP ports.
const DEVICES: [&str; 2] = ["t0", "t1"];
/// A link-local group of no other meaning, and a port.
const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x4242);
const PORT: u16 = 4242;
/// A start that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// Requests that are answered by our `db.sock`, and by the control socket of `ovs-vswitchd`.
const ECHO: &[u8] = br#"{"method":"echo","params":["x"],"id":1}"#;
const VERSION: &[u8] = br#"{"method":"version","params":[],"id":1}"#;

/// Names of the series.
const SERIES: [[&str; 2]; 2] = [
    ["vswitchd, exec to answer on db.sock", "vswitchd, exec to first packet TAP to TAP"],
    ["OVS, exec to answer on its control socket", "OVS, exec to first packet TAP to TAP"],
];

/// Measures the row.
pub(crate) fn start(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut table = Table::new("start with a bridge and two TAP ports in the database", "ms");
    // A namespace belongs to a thread; this one stays where it is.
    thread::scope(|scope| {
        let rows = scope.spawn(|| in_namespace(bench, &mut table));
        rows.join().map_err(|_| Failure::new("the measuring thread panicked"))?
    })?;
    if bench.peers {
        for (ours, theirs) in SERIES[0].iter().zip(SERIES[1]) {
            table.compare(ours, theirs);
        }
    }
    table.remark("less is better; OVS: database server and switch, one after the other, without DPDK");
    report.push(table);
    Ok(())
}

struct Times {
    answer: Duration,
    packet: Duration,
}

fn in_namespace(bench: &Bench, table: &mut Table) -> Result<()> {
    let lab = &bench.lab;
    pmd::sys::netns::enter_new().during("network namespace")?;
    make_devices(lab)?;
    let _ = fs::remove_dir_all(lab.path("run"));
    let mut switch = Vswitchd::start(lab)?;
    switch.vsctl("add-br br0")?;
    for device in DEVICES {
        switch.vsctl(&format!("add-port br0 {device} -- set Interface {device} type=tap"))?;
    }
    switch.stop();
    for _ in 0..bench.rounds {
        add(table, SERIES[0], &ours(lab, switch.rundir())?);
    }
    if bench.peers {
        // New ones: a device remembers the offloads its last user has set, and would leave checksums out.
        for device in DEVICES {
            lab.run("ip", &["link", "del", device])?;
        }
        make_devices(lab)?;
        let mut ovs = OpenVswitch::start_without_dpdk(lab, false)?;
        for device in DEVICES {
            ovs.vsctl(&["add-port", "br0", device, "--", "set", "Interface", device, "type=tap"])?;
        }
        for _ in 0..bench.rounds {
            let began = ovs.relaunch()?;
            let control = ovs.control();
            let times = times(began, &|| answers(&control, VERSION), &mut || ovs.must_run())?;
            add(table, SERIES[1], &times);
        }
    }
    Ok(())
}

fn make_devices(lab: &Lab) -> Result<()> {
    for (device, address) in DEVICES.iter().zip(["fe80::1/64", "fe80::2/64"]) {
        lab.run("ip", &["tuntap", "add", "dev", device, "mode", "tap", "vnet_hdr"])?;
        let mode = format!("/proc/sys/net/ipv6/conf/{device}/addr_gen_mode");
        fs::write(&mode, "1").during(&mode)?;
        lab.run("ip", &["link", "set", device, "up"])?;
        lab.run("ip", &["addr", "add", address, "dev", device, "nodad"])?;
    }
    Ok(())
}

fn add(table: &mut Table, series: [&str; 2], times: &Times) {
    for (name, time) in series.into_iter().zip([times.answer, times.packet]) {
        table.add(name, time.as_secs_f64() * 1e3);
    }
}

fn ours(lab: &Lab, rundir: &Path) -> Result<Times> {
    let socket = rundir.join("db.sock");
    let began = Instant::now();
    let arguments = ["--rundir".to_owned(), rundir.display().to_string()];
    let log = lab.path("start.log");
    let mut process = Process::start("vswitchd", &lab.binaries().vswitchd(), &arguments, &log, false)?;
    let times = times(began, &|| answers(&socket, ECHO), &mut || process.must_run())?;
    process.stop(PATIENCE);
    Ok(times)
}

fn index(device: &str) -> Result<u32> {
    let path = format!("/sys/class/net/{device}/ifindex");
    // sysfs shows the namespace it was mounted in, so ask /proc, which shows the thread's own.
    let text = fs::read_to_string("/proc/thread-self/net/if_inet6").during(&path)?;
    text.lines()
        .find(|l| l.split_whitespace().last() == Some(device))
        .and_then(|l| u32::from_str_radix(l.split_whitespace().nth(1)?, 16).ok())
        .ok_or_else(|| Failure::new(format!("{device} has no IPv6 address; is IPv6 switched off?")))
}

/// Waits for the first answer and the first packet.
fn times(
    began: Instant,
    answers: &dyn Fn() -> bool,
    must_run: &mut dyn FnMut() -> Result<()>,
) -> Result<Times> {
    let [from, to] = [index(DEVICES[0])?, index(DEVICES[1])?];
    let receiver = UdpSocket::bind(SocketAddrV6::new(GROUP, PORT, 0, to)).during("receiving socket")?;
    receiver.join_multicast_v6(&GROUP, to).during("joining the group")?;
    receiver.set_read_timeout(Some(Duration::from_millis(1))).during("receiving socket")?;
    let sender = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).during("sending socket")?;
    let group = SocketAddrV6::new(GROUP, PORT, 0, from);
    let (mut answer, mut packet) = (None, None);
    let mut buffer = [0; 16];
    while answer.is_none() || packet.is_none() {
        if answer.is_none() && answers() {
            answer = Some(began.elapsed());
        }
        if packet.is_none() {
            // Refused while the device has no carrier.
            let _ = sender.send_to(b"first", group);
            // Waits a millisecond at most.
            if receiver.recv(&mut buffer).is_ok() {
                packet = Some(began.elapsed());
            }
        }
        if began.elapsed() > PATIENCE {
            must_run()?;
            return Err(Failure::new(format!(
                "the switch did not start within {} s: answer {answer:?}, packet {packet:?}",
                PATIENCE.as_secs()
            )));
        }
    }
    match (answer, packet) {
        (Some(answer), Some(packet)) => Ok(Times { answer, packet }),
        _ => Err(Failure::new("the start was not measured")),
    }
}

/// Whether a request on a socket is answered at once.
fn answers(socket: &Path, request: &[u8]) -> bool {
    let ask = || -> std::io::Result<usize> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        stream.write_all(request)?;
        stream.read(&mut [0; 64])
    };
    ask().is_ok_and(|n| n > 0)
}

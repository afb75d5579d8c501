//! From `exec` to the first forwarded packet: a database with a bridge and two TAP ports lies ready, the devices exist.
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
/// Something any JSON-RPC server answers.
const ECHO: &[u8] = br#"{"method":"echo","params":["x"],"id":1}"#;

/// Measures the row.
pub(crate) fn start(bench: &Bench, report: &mut Report) -> Result<()> {
    // A namespace belongs to a thread; this one stays where it is.
    let times = thread::scope(|scope| {
        let rows = scope.spawn(|| in_namespace(&bench.lab, bench.rounds));
        rows.join().map_err(|_| Failure::new("the measuring thread panicked"))?
    })?;
    let mut table = Table::new("start with a bridge and two TAP ports in the database", "ms");
    for time in times {
        table.add("exec to answer on db.sock", time.answer.as_secs_f64() * 1e3);
        table.add("exec to first packet TAP to TAP", time.packet.as_secs_f64() * 1e3);
    }
    report.push(table);
    Ok(())
}

struct Times {
    answer: Duration,
    packet: Duration,
}

fn in_namespace(lab: &Lab, rounds: usize) -> Result<Vec<Times>> {
    pmd::sys::netns::enter_new().during("network namespace")?;
    for (device, address) in DEVICES.iter().zip(["fe80::1/64", "fe80::2/64"]) {
        lab.run("ip", &["tuntap", "add", "dev", device, "mode", "tap", "vnet_hdr"])?;
        let mode = format!("/proc/sys/net/ipv6/conf/{device}/addr_gen_mode");
        fs::write(&mode, "1").during(&mode)?;
        lab.run("ip", &["link", "set", device, "up"])?;
        lab.run("ip", &["addr", "add", address, "dev", device, "nodad"])?;
    }
    let _ = fs::remove_dir_all(lab.path("run"));
    let mut switch = Vswitchd::start(lab)?;
    switch.vsctl("add-br br0")?;
    for device in DEVICES {
        switch.vsctl(&format!("add-port br0 {device} -- set Interface {device} type=tap"))?;
    }
    switch.stop();
    (0..rounds).map(|_| once(lab, switch.rundir())).collect()
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

fn once(lab: &Lab, rundir: &Path) -> Result<Times> {
    let [from, to] = [index(DEVICES[0])?, index(DEVICES[1])?];
    let receiver = UdpSocket::bind(SocketAddrV6::new(GROUP, PORT, 0, to)).during("receiving socket")?;
    receiver.join_multicast_v6(&GROUP, to).during("joining the group")?;
    receiver.set_read_timeout(Some(Duration::from_millis(1))).during("receiving socket")?;
    let sender = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).during("sending socket")?;
    let group = SocketAddrV6::new(GROUP, PORT, 0, from);
    let socket = rundir.join("db.sock");

    let began = Instant::now();
    let arguments = ["--rundir".to_owned(), rundir.display().to_string()];
    let log = lab.path("start.log");
    let mut process = Process::start("vswitchd", &lab.binaries().vswitchd(), &arguments, &log, false)?;
    let (mut answer, mut packet) = (None, None);
    let mut buffer = [0; 16];
    while answer.is_none() || packet.is_none() {
        if answer.is_none() && answers(&socket) {
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
            process.must_run()?;
            return Err(Failure::new(format!(
                "vswitchd did not start within {} s: answer {answer:?}, packet {packet:?}",
                PATIENCE.as_secs()
            )));
        }
    }
    process.stop(PATIENCE);
    match (answer, packet) {
        (Some(answer), Some(packet)) => Ok(Times { answer, packet }),
        _ => Err(Failure::new("the start was not measured")),
    }
}

/// Whether a request on the management socket is answered at once.
fn answers(socket: &Path) -> bool {
    let ask = || -> std::io::Result<usize> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        stream.write_all(ECHO)?;
        stream.read(&mut [0; 64])
    };
    ask().is_ok_and(|n| n > 0)
}

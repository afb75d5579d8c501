//! What the switch costs when nothing happens, and how soon it works after a start: two guests attached, no traffic.

use std::thread;
use std::time::{Duration, Instant};

use tests::failure::Result;
use tests::guest::{Guest, GuestConfig, Nic, Socket};
use tests::lab::Lab;
use tests::switch::Vswitchd;

/// How long idleness is watched.
const WATCH: Duration = Duration::from_secs(30);
/// Long enough for a ping on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Measures and prints the row.
pub(crate) fn idle(lab: &Lab, rounds: usize) -> Result<()> {
    let _ = std::fs::remove_dir_all(lab.path("run"));
    let mut switch = Vswitchd::start(lab)?;
    switch.vsctl("add-br br0")?;
    let mut guests = Vec::new();
    for number in [1, 2] {
        let path = lab.path(&format!("vm{number}.sock"));
        let settings = format!("type=vhost-user-client options:path={}", path.display());
        switch.vsctl(&format!("add-port br0 vm{number} -- set Interface vm{number} {settings}"))?;
        let config = GuestConfig::new(&format!("vm{number}"), Nic::new(path, Socket::QemuListens, number));
        guests.push(Guest::start(lab, &config)?);
    }
    for (number, guest) in (1..).zip(&mut guests) {
        guest.wait_ready()?;
        guest.address("eth0", &format!("10.1.0.{number}/24"))?;
    }
    let Some(first) = guests.first_mut() else { return Ok(()) };
    first.reaches("10.1.0.2", PATIENCE)?;

    let before = switch.cpu_ticks()?;
    thread::sleep(WATCH);
    let ticks = switch.cpu_ticks()? - before;
    println!("\ntwo idle guests");
    // A tick is a hundredth of a second, so ticks per second are per cent.
    #[expect(clippy::cast_precision_loss, reason = "a few thousand ticks at most")]
    let share = ticks as f64 / WATCH.as_secs_f64();
    println!("  processor: {share:.2} % of a core over {} s", WATCH.as_secs());
    println!(
        "  resident memory: {:.1} MiB",
        f64::from(u32::try_from(switch.resident()?).unwrap_or(u32::MAX)) / 1024.0
    );

    // A ping sent while there is no switch waits in the guest's ring and is the first packet the new one forwards.
    let mut times = Vec::new();
    for _ in 0..rounds {
        switch.kill();
        first.run("ping -c 1 -W 30 10.1.0.2 >/tmp/first 2>&1 &")?;
        let began = Instant::now();
        switch.restart()?;
        first.run_for("until grep -q 'bytes from' /tmp/first; do usleep 2000; done", PATIENCE)?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    let all: Vec<String> = times.iter().map(|t| format!("{t:.0}")).collect();
    let median = crate::stats::median(&times);
    println!(
        "  start to first forwarded packet: {median:.0} ms ({}), seen from inside an emulated guest",
        all.join(" ")
    );
    Ok(())
}

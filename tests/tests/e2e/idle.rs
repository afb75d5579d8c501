//! A switch with nothing to do does nothing.

use std::fs;
use std::thread;
use std::time::Duration;

use tests::guest::Socket;

use crate::stage::{PATIENCE, Stage};

#[test]
fn with_idle_guests_the_workers_sleep_and_still_wake_up() {
    let mut stage = Stage::open();
    let cards = [
        (stage.vhost_port("vma", Socket::SwitchListens, 0xa), "10.1.0.1"),
        (stage.vhost_port("vmb", Socket::SwitchListens, 0xb), "10.1.0.2"),
    ];
    let [mut a, mut _b] = stage.guests(cards);
    a.reaches("10.1.0.2", PATIENCE).unwrap();

    // How much of the time any thread of the switch is on a processor or wants one.
    let pid = stage.switch.process().unwrap().pid();
    let ticks = stage.switch.cpu_ticks().unwrap();
    let (mut running, mut seen) = (0, 0);
    for _ in 0..100 {
        thread::sleep(Duration::from_millis(100));
        for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
            // A thread may end between the listing and the look.
            let Ok(stat) = fs::read_to_string(task.path().join("stat")) else { continue };
            let state = stat.rsplit(')').next().unwrap().split_whitespace().next().unwrap().to_owned();
            seen += 1;
            running += u32::from(state == "R");
        }
    }
    let used = stage.switch.cpu_ticks().unwrap() - ticks;
    println!(
        "10 s with two idle guests: {used} clock ticks of 10 ms, {running} of {seen} looks met a running thread"
    );
    // A polling worker would be met running at every one of the 100 looks.
    assert!(running < 20, "threads of an idle switch run: {running} of {seen} looks");

    // Asleep, not dead: the first packet wakes it.
    assert_eq!(a.ping("10.1.0.2", 5).unwrap(), 5);
}

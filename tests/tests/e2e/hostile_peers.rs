//! Guests and front-ends that break the rules: the switch says of their port what happened, and their neighbours lose nothing.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use tests::guest::Socket;
use tests::scripted_guest::ScriptedGuest;
use tests::soak::{Held, Pair};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};

use crate::stage::{PATIENCE, Stage};

/// What somebody does, and words of what the switch must say of it. A guest that is still there then stays until it has said so.
type Deed = (fn(&Path) -> Option<ScriptedGuest>, &'static str);

const DEEDS: [Deed; 7] = [
    (a_directory_for_memory, "no regular file"),
    (a_ring_that_is_not_there, "ring 99 does not exist"),
    (features_that_were_not_offered, "not offered"),
    (five_bytes, "ended inside a message"),
    (no_message_at_all, "connection closed"),
    (memory_that_shrinks, "truncated"),
    (a_ring_index_that_lies, "further ahead than the ring is long"),
];

#[test]
fn port_of_a_hostile_peer_says_what_happened_and_others_lose_nothing() {
    let stage = Stage::open();
    let victim = stage.vhost_port("victim", Socket::SwitchListens, 0xa).path;
    let paths = ["a", "b"].map(|name| stage.vhost_port(name, Socket::SwitchListens, 0xb).path);
    for rule in ["in_port=a,actions=output:b", "in_port=b,actions=output:a"] {
        stage.switch.vsctl_with(&["add-flow", "br0", rule]).unwrap();
    }
    let mut bystanders = Pair::open([&paths[0], &paths[1]], false).unwrap();
    let mut before = None;
    // The second time round nothing is new any more, so nothing more may be held at its end.
    for _ in 0..2 {
        for (deed, words) in DEEDS {
            let guest = deed(&victim);
            for _ in 0..20 {
                bystanders.round().unwrap();
            }
            let says = |text: &str| text.contains(words);
            stage.switch.vsctl_until("list Interface victim", PATIENCE, says).unwrap();
            drop(guest);
            let gone = |text: &str| says(text) && text.contains("status=disconnected");
            stage.switch.vsctl_until("list Interface victim", PATIENCE, gone).unwrap();
            // The next guest finds nothing amiss, and what was wrong is history.
            let guest = ScriptedGuest::connect(&victim, true).unwrap();
            stage
                .switch
                .vsctl_until("get Interface victim error", PATIENCE, |text| text.trim() == "[]")
                .unwrap();
            drop(guest);
            let gone = |text: &str| text.contains("status=disconnected");
            stage.switch.vsctl_until("list Interface victim", PATIENCE, gone).unwrap();
        }
        bystanders.round().unwrap();
        let now = Held::by(&stage.switch).unwrap();
        let before = *before.get_or_insert(now);
        assert!(now.no_more_than(&before), "{before:?} became {now:?}");
    }
    for port in ["a", "b"] {
        assert_eq!(stage.switch.vsctl(&format!("get Interface {port} error")).unwrap().trim(), "[]");
    }
    assert_eq!(bystanders.arrived, 2 * (7 * 20 + 1) * 64);
}

fn a_directory_for_memory(victim: &Path) -> Option<ScriptedGuest> {
    let guest = ScriptedGuest::connect(victim, false).unwrap();
    let directory = File::open("/").unwrap();
    let region = VhostUserMemoryRegionInfo {
        guest_phys_addr: 0,
        memory_size: 0x1000,
        userspace_addr: 0x1000,
        mmap_offset: 0,
        mmap_handle: directory.as_raw_fd(),
    };
    assert!(guest.frontend.set_mem_table(&[region]).is_err());
    None
}

fn a_ring_that_is_not_there(victim: &Path) -> Option<ScriptedGuest> {
    let mut stream = UnixStream::connect(victim).unwrap();
    let words = [8u32, 1, 8, 99, 64].map(u32::to_le_bytes);
    stream.write_all(&words.concat()).unwrap();
    None
}

fn features_that_were_not_offered(victim: &Path) -> Option<ScriptedGuest> {
    let guest = ScriptedGuest::connect(victim, true).unwrap();
    assert!(guest.frontend.set_features(u64::MAX).is_err());
    None
}

fn five_bytes(victim: &Path) -> Option<ScriptedGuest> {
    let mut stream = UnixStream::connect(victim).unwrap();
    stream.write_all(&[1, 0, 0, 0, 1]).unwrap();
    None
}

fn no_message_at_all(victim: &Path) -> Option<ScriptedGuest> {
    let mut stream = UnixStream::connect(victim).unwrap();
    stream.write_all(&[0xff; 64]).unwrap();
    None
}

fn memory_that_shrinks(victim: &Path) -> Option<ScriptedGuest> {
    let guest = ScriptedGuest::connect(victim, false).unwrap();
    rustix::fs::ftruncate(guest.memory().as_fd(), 0).unwrap();
    guest.wake_switch();
    Some(guest)
}

fn a_ring_index_that_lies(victim: &Path) -> Option<ScriptedGuest> {
    let guest = ScriptedGuest::connect(victim, false).unwrap();
    guest.lie_about_the_ring().unwrap();
    Some(guest)
}

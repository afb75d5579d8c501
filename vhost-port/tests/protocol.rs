//! Answers, the configuration space, and a device that is reset: a front-end that counts what it is told.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests; the lint only exempts functions marked as such"
)]

mod guest;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use guest::messages::{Answered, Message, State, Teller, all};
use guest::raw::{NEED_REPLY, PLAIN};
use guest::{Guest, MODERN, burst, negotiate, wait_for};
use pmd::packet::{BatchStorage, Span};
use pmd::port::{Armed, LinkState, Port, Waker};
use pmd::virtio::NetHeader;
use pmd::virtio::features::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vhost::VhostBackend;
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost_port::{Mode, VhostConfig, VhostPort};

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p");
    (dir, path)
}

fn config(path: &Path) -> VhostConfig {
    VhostConfig::new("p", Mode::Listen(path.to_owned()))
}

fn running(path: &Path) -> Teller {
    let mut teller = Teller::connect(path);
    teller.lead_to(State::Running);
    teller
}

/// QEMU 11 asks for an answer to SET_VRING_CALL, ERR and KICK too. One that never comes hangs it, one too many is taken for the
/// answer to what it says next.
#[test]
fn every_message_is_answered_once_when_asked_and_only_then() {
    let (_dir, path) = place();
    let _port = VhostPort::open(config(&path)).unwrap();
    for (message, flags) in all().into_iter().flat_map(|m| [(m.clone(), NEED_REPLY), (m, PLAIN)]) {
        let answers = running(&path).tell(&message, flags);
        let codes: Vec<u32> = answers.iter().map(|answer| answer.0).collect();
        let asked = message.answered == Answered::WithContents || flags == NEED_REPLY;
        let wanted = if asked { vec![message.code] } else { vec![] };
        assert_eq!(codes, wanted, "{message:?} with flags {flags}");
        if message.answered == Answered::WithYes && asked {
            assert_eq!(answers[0].1, [0; 8], "{message:?} was refused");
        }
    }
}

#[test]
fn announcement_arrives_as_if_the_guest_had_sent_it() {
    let (_dir, path) = place();
    let port = VhostPort::open(config(&path)).unwrap();
    let named = |name| all().into_iter().find(|message| message.name == name).unwrap();
    let enable = |on: u8| Message { body: vec![1, 0, 0, 0, on, 0, 0, 0], ..named("SET_VRING_ENABLE") };
    let mut teller = running(&path);
    let mut rxq = port.rx_queue(0).unwrap();
    let waker = Waker::new().unwrap();
    rxq.set_waker(waker.clone());
    assert_eq!(rxq.arm(), Armed::Idle);
    // At once where the ring runs, and when it does where it does not yet.
    for (before, after) in [(None, None), (Some(enable(0)), Some(enable(1)))] {
        before.iter().for_each(|message| drop(teller.tell(message, NEED_REPLY)));
        waker.clear();
        teller.tell(&named("SEND_RARP"), NEED_REPLY);
        if let Some(message) = &after {
            assert_eq!(burst(&mut *rxq).len(), 0, "a ring that does not run");
            waker.clear();
            teller.tell(message, NEED_REPLY);
        }
        let mut fds = [PollFd::new(&waker, PollFlags::IN)];
        assert_eq!(
            poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })),
            Ok(1),
            "a sleeping worker is woken"
        );
        assert_eq!(rxq.arm(), Armed::Work);
        let frames = burst(&mut *rxq);
        assert_eq!(frames.len(), 1);
        let mac = &named("SEND_RARP").body[..6];
        assert_eq!(
            (&frames[0][..6], &frames[0][6..12], &frames[0][12..14]),
            (&[0xff; 6][..], mac, &[0x80, 0x35][..])
        );
        assert_eq!((rxq.arm(), burst(&mut *rxq).len()), (Armed::Idle, 0), "once");
    }
    // One that nobody took does not come out of the next guest's port.
    teller.tell(&enable(0), NEED_REPLY);
    teller.tell(&named("SEND_RARP"), NEED_REPLY);
    drop(teller);
    wait_for(&port, |info| info.link == LinkState::Down);
    let _next = running(&path);
    wait_for(&port, |info| info.link == LinkState::Up);
    assert_eq!(burst(&mut *rxq).len(), 0);
}

#[test]
fn refused_message_is_answered_once_and_ends_the_connection() {
    let bad: [(&str, &[u8]); 10] = [
        ("SET_FEATURES", &[0xff; 8]),
        ("SET_VRING_NUM", &[1, 0, 0, 0, 3, 0, 0, 0]),
        ("SET_VRING_BASE", &[1, 0, 0, 0, 0, 0, 1, 0]),
        ("SET_VRING_CALL without", &[200, 1, 0, 0, 0, 0, 0, 0]),
        ("SET_VRING_KICK without", &[200, 1, 0, 0, 0, 0, 0, 0]),
        ("SET_VRING_ERR without", &[200, 1, 0, 0, 0, 0, 0, 0]),
        ("SET_VRING_ENABLE", &[200, 0, 0, 0, 1, 0, 0, 0]),
        ("NET_SET_MTU", &[9, 0, 0, 0, 0, 0, 0, 0]),
        ("SEND_RARP", &[1, 0, 0, 0, 0, 9, 0, 0]),
        ("SEND_RARP", &[0; 8]),
    ];
    let (_dir, path) = place();
    let port = VhostPort::open(config(&path)).unwrap();
    for (name, body) in bad {
        let mut teller = running(&path);
        let good = all().into_iter().find(|message| message.name == name).unwrap();
        let answers = teller.tell(&Message { body: body.to_vec(), ..good.clone() }, NEED_REPLY);
        assert_eq!(answers, [(good.code, vec![1, 0, 0, 0, 0, 0, 0, 0])], "{name}");
        assert_eq!(teller.raw.answer(), None, "{name}: the connection is closed");
        wait_for(&port, |info| info.error.as_deref().is_some_and(|e| e.contains("connection closed")));
    }
}

/// A guest restarts: everything it said is forgotten, what its front-end said of the connection and of memory is not.
#[test]
fn reset_device_stops_rings_and_keeps_the_connection() {
    let (_dir, path) = place();
    let port = VhostPort::open(config(&path)).unwrap();
    let mut guest = Guest::connect(&path, MODERN, 2);
    let mut rxq = port.rx_queue(0).unwrap();
    for round in 0..3u8 {
        guest.send(1, NetHeader::default(), &[round; 60], &[]);
        assert_eq!(burst(&mut *rxq), [[round; 60]]);
        wait_for(&port, |info| info.link == LinkState::Up);
        guest.frontend.reset_device().unwrap();
        wait_for(&port, |info| info.link == LinkState::Down);
        let says = |key: &str, value: &str| port.info().status.contains(&(key.to_owned(), value.to_owned()));
        assert!(says("status", "connected") && says("features", "0x0000000000000000"));
        assert!(says("num_of_vrings", "0"));
        // A ring that was reset does not run by being enabled: nothing of it is known any more.
        guest.enable(1, true);
        guest.send(1, NetHeader::default(), &[9; 60], &[]);
        assert!(burst(&mut *rxq).is_empty());
        assert_eq!(guest.frontend.get_vring_base(1).unwrap(), 0);
        guest.restart(MODERN);
    }
    drop(guest);
    wait_for(&port, |info| info.status.contains(&("status".into(), "disconnected".into())));
    assert_eq!(port.info().error, None);
}

#[test]
fn each_of_128_queue_pairs_carries_frames() {
    for kind in [0, VIRTIO_F_RING_PACKED] {
        let (_dir, path) = place();
        let port = VhostPort::open(VhostConfig { max_queue_pairs: 128, ..config(&path) }).unwrap();
        let mut guest = Guest::connect(&path, MODERN | VIRTIO_NET_F_MQ | kind, 256);
        assert_eq!(guest.frontend.get_queue_num().unwrap(), 128);
        wait_for(&port, |info| info.rx_queues == 128);
        let mut txqs: Vec<_> = (0..128).map(|worker| port.tx_queue(worker).unwrap()).collect();
        for pair in 0..128u8 {
            let (receive, transmit) = (usize::from(pair) * 2, usize::from(pair) * 2 + 1);
            guest.send(transmit, NetHeader::default(), &[pair; 60], &[]);
            assert_eq!(burst(&mut *port.rx_queue(pair.into()).unwrap()), [[pair; 60]]);
            guest.post(receive, &[2000]);
            let mut storage = BatchStorage::new();
            let mut batch = storage.begin();
            let frame = [!pair; 60];
            batch.receive(Span::from_slice(&frame));
            assert_eq!(txqs[usize::from(pair)].tx_burst(&batch, &[0]), 1);
            assert_eq!(guest.receive(receive).unwrap().1, [!pair; 60]);
        }
    }
}

/// As QEMU stops and starts rings one by one.
#[test]
fn one_ring_is_stopped_and_started_again_while_the_other_runs() {
    for features in [MODERN, MODERN | VIRTIO_F_RING_PACKED] {
        let (_dir, path) = place();
        let port = VhostPort::open(config(&path)).unwrap();
        let mut guest = Guest::connect(&path, features, 2);
        let mut rxq = port.rx_queue(0).unwrap();
        for round in 0..5u8 {
            guest.send(1, NetHeader::default(), &[round; 60], &[]);
            assert_eq!(burst(&mut *rxq), [[round; 60]]);
            assert_eq!(guest.reclaim(1), 1);
            // A fresh ring in its place, as after a reset of that ring alone; then the same ring again.
            guest.frontend.get_vring_base(1).unwrap();
            assert!(burst(&mut *rxq).is_empty());
            guest.post(0, &[2000]);
            assert_eq!(transmit(&port, &[round; 60]), 1);
            assert_eq!(guest.receive(0).unwrap().1, [round; 60]);
            guest.fresh_ring(1);
            guest.send(1, NetHeader::default(), &[round; 70], &[]);
            assert_eq!(burst(&mut *rxq), [[round; 70]]);
            assert_eq!(guest.reclaim(1), 1);
            let base = guest.frontend.get_vring_base(1).unwrap();
            guest.start_ring(1, base as u16);
        }
        assert_eq!(port.info().error, None);
    }
}

#[test]
fn base_of_a_ring_that_never_ran_is_what_was_said_of_it() {
    let (_dir, path) = place();
    let _port = VhostPort::open(config(&path)).unwrap();
    let mut frontend = Frontend::connect(&path, 32).unwrap();
    negotiate(&mut frontend, MODERN);
    assert_eq!(frontend.get_vring_base(7).unwrap(), 0);
    frontend.set_vring_base(7, 41).unwrap();
    assert_eq!(frontend.get_vring_base(7).unwrap(), 41);
    frontend.set_vring_enable(7, true).unwrap();
    frontend.set_vring_enable(7, false).unwrap();
    assert_eq!(frontend.get_vring_base(7).unwrap(), 41);
}

fn transmit(port: &Arc<dyn Port>, frame: &[u8]) -> usize {
    let mut storage = BatchStorage::new();
    let mut batch = storage.begin();
    batch.receive(Span::from_slice(frame));
    port.tx_queue(0).unwrap().tx_burst(&batch, &[0])
}

fn with_config(path: &Path, features: u64) -> Frontend {
    let mut frontend = Frontend::connect(path, 2).unwrap();
    negotiate(&mut frontend, features);
    frontend
}

fn read(frontend: &mut Frontend, offset: u32, len: usize) -> Vec<u8> {
    let flags = VhostUserConfigFlags::empty();
    frontend.get_config(offset, len as u32, flags, &vec![0; len]).unwrap().1
}

#[test]
fn configuration_space_tells_what_the_operator_set() {
    let (_dir, path) = place();
    let mac = [0x52, 0x54, 0, 0, 0, 0xa];
    let speed = 25_000;
    let settings = VhostConfig {
        max_queue_pairs: 4,
        mtu: 9000,
        mac: Some(mac),
        link_speed: Some(speed),
        ..config(&path)
    };
    let port = VhostPort::open(settings).unwrap();
    let own = VIRTIO_NET_F_MAC | VIRTIO_NET_F_STATUS | VIRTIO_NET_F_SPEED_DUPLEX | VIRTIO_NET_F_MTU;
    let mut frontend = with_config(&path, MODERN | own);
    let space = read(&mut frontend, 0, 24);
    let (pairs, mtu) = ([4, 0], 9000u16.to_le_bytes());
    let fields: [&[u8]; 7] = [&mac, &[1, 0], &pairs, &mtu, &speed.to_le_bytes(), &[1], &[0; 7]];
    assert_eq!(space, fields.concat());
    assert_eq!(read(&mut frontend, 10, 2), mtu);
    port.set_mtu(1400).unwrap();
    assert_eq!(read(&mut frontend, 10, 2), 1400u16.to_le_bytes());
    // Past the end there is nothing.
    assert_eq!(read(&mut frontend, 16, 240), [&[1][..], &[0; 239]].concat());
    assert_eq!(read(&mut frontend, 4000, 90), [0; 90]);
}

#[test]
fn driver_sets_its_address_and_nothing_else_by_the_configuration_space() {
    let (_dir, path) = place();
    let port = VhostPort::open(config(&path)).unwrap();
    let mut frontend = with_config(&path, MODERN);
    assert_eq!(read(&mut frontend, 0, 6), [0; 6]);
    assert_eq!(port.info().mac, None);
    let before = read(&mut frontend, 6, 18);
    // Byte by byte, as a legacy driver does.
    let mac = [2, 0, 0, 0, 7, 8];
    for (at, byte) in mac.into_iter().enumerate() {
        frontend.set_config(at as u32, VhostUserConfigFlags::WRITABLE, &[byte]).unwrap();
    }
    frontend.set_config(4, VhostUserConfigFlags::WRITABLE, &[7, 8, 0, 0, 99, 99, 1, 1]).unwrap();
    assert_eq!(read(&mut frontend, 0, 6), mac);
    assert_eq!(read(&mut frontend, 6, 18), before);
    assert_eq!(port.info().mac, Some(mac));
    // It is the guest's, so it goes with it.
    drop(frontend);
    wait_for(&port, |info| info.mac.is_none());
}

/// By a message on the back-end's own channel, once for each change, and only to a front-end that reads the space.
/// A port, its front-end, which reads the configuration space or does not, and the front-end's side of the back-end's channel.
fn told_of_changes(reads: bool) -> (tempfile::TempDir, Arc<dyn Port>, Frontend, UnixStream) {
    let (dir, path) = place();
    let port = VhostPort::open(config(&path)).unwrap();
    let mut frontend = Frontend::connect(&path, 2).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    frontend.get_features().unwrap();
    let mut acked = frontend.get_protocol_features().unwrap();
    acked.set(VhostUserProtocolFeatures::CONFIG, reads);
    frontend.set_protocol_features(acked).unwrap();
    frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    frontend.set_backend_request_fd(&theirs).unwrap();
    (dir, port, frontend, ours)
}

/// Takes the notice of a change, which must be the next thing that is said.
fn expect_notice(channel: &mut UnixStream) {
    let mut message = [0; 12];
    channel.read_exact(&mut message).unwrap();
    assert_eq!(message[..], [2u32, 1, 0].map(u32::to_le_bytes).concat());
}

#[test]
fn change_of_the_mtu_is_told_to_a_front_end_that_reads_it() {
    for reads in [true, false] {
        let (_dir, port, mut frontend, mut channel) = told_of_changes(reads);
        for mtu in [1400, 9000] {
            port.set_mtu(mtu).unwrap();
            port.set_mtu(mtu).unwrap();
            if reads {
                expect_notice(&mut channel);
                assert_eq!(read(&mut frontend, 10, 2), mtu.to_le_bytes());
            }
        }
        drop(port);
        assert_eq!(channel.read_to_end(&mut Vec::new()).unwrap(), 0, "nothing else was said");
    }
}

#[test]
fn port_that_the_operator_takes_down_has_its_link_down_in_the_configuration_space() {
    for reads in [true, false] {
        let (_dir, port, mut frontend, mut channel) = told_of_changes(reads);
        for up in [false, true, false] {
            port.set_admin(up);
            port.set_admin(up);
            if reads {
                expect_notice(&mut channel);
                assert_eq!(read(&mut frontend, 6, 2), u16::from(up).to_le_bytes());
            }
        }
        drop(port);
        assert_eq!(channel.read_to_end(&mut Vec::new()).unwrap(), 0, "nothing else was said");
    }
}

#[test]
fn link_of_a_guest_follows_the_operator() {
    let (_dir, path) = place();
    let port = VhostPort::open(config(&path)).unwrap();
    port.set_admin(false);
    let mut guest = Guest::connect(&path, MODERN, 2);
    // Its driver finds it down, and the rings run all the same.
    assert_eq!(read(&mut guest.frontend, 6, 2), [0; 2]);
    wait_for(&port, |info| info.rx_queues == 1);
    let now = || (port.info().link, port.info().link_resets);
    assert_eq!(now().0, LinkState::Down);
    port.set_admin(true);
    let (link, resets) = now();
    assert_eq!(link, LinkState::Up);
    port.set_admin(false);
    assert_eq!(now(), (LinkState::Down, resets + 1));
}

/// What one port's guest and front-end have set goes to another port, as at a migration.
#[test]
fn state_of_a_device_goes_to_another_port() {
    let ((_dir, from_path), (_dir2, to_path)) = (place(), place());
    let _from = VhostPort::open(config(&from_path)).unwrap();
    let to = VhostPort::open(config(&to_path)).unwrap();
    let [mut source, mut target] = [&from_path, &to_path].map(|path| {
        let mut teller = Teller::connect(path);
        teller.lead_to(State::Memory);
        teller
    });
    let send = |teller: &mut Teller, code: u32, body: &[u8], fds: &[BorrowedFd<'_>]| {
        teller.raw.answers(code, PLAIN, body, fds)
    };
    let named = |name: &str| all().into_iter().find(|message| message.name == name).unwrap();
    for name in ["NET_SET_MTU", "SET_CONFIG", "SET_STATUS"] {
        assert!(source.tell(&named(name), PLAIN).is_empty());
    }
    let (save, load, yes, no) = ([0; 8], [1, 0, 0, 0, 0, 0, 0, 0], [0; 8], [1, 0, 0, 0, 0, 0, 0, 0]);
    let no_descriptor_back = 0x100u64.to_le_bytes();
    let refused = 0x101u64.to_le_bytes();

    let (reader, writer) = rustix::pipe::pipe().unwrap();
    assert_eq!(send(&mut source, 42, &save, &[writer.as_fd()]), [(42, no_descriptor_back.to_vec())]);
    drop(writer);
    assert_eq!(send(&mut source, 43, &[], &[]), [(43, yes.to_vec())]);
    let mut state = Vec::new();
    File::from(reader).read_to_end(&mut state).unwrap();

    // Cut short, not closed, from somewhere else, by a file, or while rings run: refused, and the session goes on.
    let give = |teller: &mut Teller, bytes: &[u8], close: bool| {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        assert_eq!(send(teller, 42, &load, &[reader.as_fd()]), [(42, no_descriptor_back.to_vec())]);
        rustix::io::write(&writer, bytes).unwrap();
        let open = (!close).then_some(writer);
        let answer = send(teller, 43, &[], &[]);
        drop(open);
        answer[0].1.clone()
    };
    assert_eq!(give(&mut target, &state[..9], true), no);
    assert_eq!(give(&mut target, &state, false), no);
    assert_eq!(give(&mut target, &[1; 5000], false), no);
    assert!(to.info().error.unwrap().contains("device state"));
    assert_eq!(send(&mut target, 43, &[], &[]), [(43, no.to_vec())], "nothing is under way");
    let memory = target.memory.try_clone().unwrap();
    assert_eq!(send(&mut target, 42, &load, &[memory.as_fd()]), [(42, refused.to_vec())]);

    assert_eq!(give(&mut target, &state, true), yes);
    assert_eq!(to.info().mac, Some([2, 0, 0, 0, 0, 9]));
    assert!(to.info().status.contains(&("mtu".into(), "1400".into())));
    assert_eq!(target.tell(&named("GET_STATUS"), PLAIN), [(40, vec![15, 0, 0, 0, 0, 0, 0, 0])]);
    assert!(target.tell(&named("SET_VRING_KICK"), PLAIN).is_empty());
    let (reader, _writer) = rustix::pipe::pipe().unwrap();
    assert_eq!(send(&mut target, 42, &load, &[reader.as_fd()]), [(42, refused.to_vec())]);
}

#[test]
fn what_the_operator_did_not_set_is_not_offered() {
    let offered = |change: fn(VhostConfig) -> VhostConfig| {
        let (_dir, path) = place();
        let _port: Arc<dyn Port> = VhostPort::open(change(config(&path))).unwrap();
        Frontend::connect(&path, 2).unwrap().get_features().unwrap()
    };
    let own = VIRTIO_NET_F_MAC | VIRTIO_NET_F_SPEED_DUPLEX;
    assert_eq!(offered(|config| config) & own, 0);
    let set = |config| VhostConfig { mac: Some([2; 6]), link_speed: Some(1000), ..config };
    assert_eq!(offered(set) & own, own);
}

//! Sockets, sessions and messages of a vhost-user port, good and bad.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests; the lint only exempts functions marked as such"
)]

mod guest;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use guest::{Guest, MODERN, burst, negotiate, wait_for};
use pmd::port::{LinkState, Port};
use pmd::virtio::NetHeader;
use pmd::virtio::features::*;
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VringConfigData};
use vhost_port::{Mode, VhostConfig, VhostPort};

fn listen(path: &Path) -> Result<Arc<dyn Port>, String> {
    VhostPort::open(VhostConfig::new("p", Mode::Listen(path.to_owned()))).map_err(|e| e.to_string())
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p");
    (dir, path)
}

fn message(code: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let words = [code, flags, body.len() as u32];
    words.into_iter().flat_map(u32::to_le_bytes).chain(body.iter().copied()).collect()
}

fn number(stream: &mut UnixStream) -> (u32, u64) {
    let mut reply = [0; 20];
    stream.read_exact(&mut reply).unwrap();
    let code = u32::from_le_bytes(reply[..4].try_into().unwrap());
    assert_eq!(reply[4..12], [5, 0, 0, 0, 8, 0, 0, 0]);
    (code, u64::from_le_bytes(reply[12..].try_into().unwrap()))
}

fn exchange(guest: &mut Guest, port: &Arc<dyn Port>) {
    let mut rxq = port.rx_queue(0).unwrap();
    guest.send(1, NetHeader::default(), &[7; 60], &[]);
    assert_eq!(burst(&mut *rxq), [[7; 60]]);
}

#[test]
fn stale_socket_is_replaced_and_removed_at_the_end() {
    let (_dir, path) = place();
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let port = listen(&path).unwrap();
    exchange(&mut Guest::connect(&path, MODERN, 2), &port);
    drop(port);
    assert!(!path.exists());
}

#[test]
fn path_that_cannot_be_used_is_refused_with_a_remedy() {
    let (dir, path) = place();
    let _first = listen(&path).unwrap();
    assert!(listen(&path).err().unwrap().contains("socket path in use"));
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert!(listen(&file).err().unwrap().contains("is no socket"));
    assert_eq!(std::fs::read(&file).unwrap(), b"x");
    let missing = listen(&dir.path().join("missing/p")).err().unwrap();
    assert!(missing.contains("create the directory"), "{missing}");
    assert!(listen(&dir.path().join("x".repeat(120))).err().unwrap().contains("107 bytes"));
}

#[test]
fn settings_out_of_range_are_refused() {
    let (_dir, path) = place();
    let config = VhostConfig::new("p", Mode::Listen(path));
    let open = |config| VhostPort::open(config).err().map(|e| e.to_string());
    assert!(open(VhostConfig { max_queue_pairs: 129, ..config.clone() }).unwrap().contains("1 to 128"));
    assert!(open(VhostConfig { max_queue_pairs: 0, ..config.clone() }).is_some());
    assert!(open(VhostConfig { mtu: 60, ..config }).unwrap().contains("too small"));
}

#[test]
fn socket_gets_the_mode_asked_for() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, path) = place();
    let config = VhostConfig::new("p", Mode::Listen(path.clone()));
    let _port = VhostPort::open(VhostConfig { socket_mode: Some(0o660), ..config }).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
}

#[test]
fn next_guest_is_served_after_the_first() {
    let (_dir, path) = place();
    let port = listen(&path).unwrap();
    for round in 0..3 {
        let features = if round == 1 { VHOST_USER_F_PROTOCOL_FEATURES } else { MODERN };
        let mut guest = Guest::connect(&path, features, 2);
        exchange(&mut guest, &port);
        drop(guest);
        wait_for(&port, |info| info.link == LinkState::Down);
    }
    assert_eq!(port.info().link_resets, 6);
}

#[test]
fn client_waits_for_its_server_and_finds_it_again() {
    let (_dir, path) = place();
    let port = VhostPort::open(VhostConfig::new("c", Mode::Connect(path.clone()))).unwrap();
    assert_eq!(port.driver(), "vhost-user-client");
    let says = |info: &pmd::port::PortInfo, word: &str| {
        info.status.iter().any(|(key, value)| key == "connect_error" && value.contains(word))
    };
    wait_for(&port, |info| says(info, "No such file"));
    for _ in 0..3 {
        let server = UnixListener::bind(&path).unwrap();
        let (stream, _) = server.accept().unwrap();
        let mut guest = Guest::start(Frontend::from_stream(stream, 2), MODERN, 2);
        exchange(&mut guest, &port);
        assert!(!says(&port.info(), ""), "it is connected");
        drop((server, guest));
        std::fs::remove_file(&path).unwrap();
        wait_for(&port, |info| info.link == LinkState::Down);
    }
}

#[test]
fn port_can_be_dropped_in_any_state() {
    let (_dir, path) = place();
    let port = VhostPort::open(VhostConfig::new("c", Mode::Connect(path.clone()))).unwrap();
    drop(port);
    let port = listen(&path).unwrap();
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(&message(1, 1, &[])[..5]).unwrap();
    wait_for(&port, |info| info.status.contains(&("status".into(), "connected".into())));
    drop(port);
    assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0, "the connection is closed");
    let port = listen(&path).unwrap();
    let mut guest = Guest::connect(&path, MODERN, 2);
    let (mut rxq, mut txq) = (port.rx_queue(0).unwrap(), port.tx_queue(0).unwrap());
    guest.send(1, NetHeader::default(), &[7; 60], &[]);
    drop(port);
    assert!(burst(&mut *rxq).is_empty());
    let mut storage = pmd::packet::BatchStorage::new();
    let mut batch = storage.begin();
    batch.receive(pmd::packet::Span::from_slice(&[1; 60]));
    assert_eq!(txq.tx_burst(&batch, &[0]), 0);
}

#[test]
fn messages_the_crate_does_not_dispatch_are_answered() {
    let (_dir, path) = place();
    let port = listen(&path).unwrap();
    let mut stream = UnixStream::connect(&path).unwrap();
    // SET_VRING_ENABLE before SET_FEATURES, as QEMU sends it.
    stream.write_all(&message(15, 1, &[])).unwrap();
    let (code, protocol) = number(&mut stream);
    assert_eq!((code, protocol & 0x18019), (15, 0x18019));
    stream.write_all(&message(1, 1, &[])).unwrap();
    assert_eq!(number(&mut stream).0, 1);
    stream.write_all(&message(16, 1, &protocol.to_le_bytes())).unwrap();
    stream.write_all(&message(18, 9, &[0, 0, 0, 0, 1, 0, 0, 0])).unwrap();
    assert_eq!(number(&mut stream), (18, 0));
    stream.write_all(&message(20, 9, &9000u64.to_le_bytes())).unwrap();
    assert_eq!(number(&mut stream), (20, 0));
    assert!(port.info().status.contains(&("mtu".into(), "9000".into())));
    stream.write_all(&message(39, 9, &15u64.to_le_bytes())).unwrap();
    assert_eq!(number(&mut stream), (39, 0));
    stream.write_all(&message(40, 1, &[])).unwrap();
    assert_eq!(number(&mut stream), (40, 15));
    // A message in two pieces is put together.
    let whole = message(16, 9, &protocol.to_le_bytes());
    stream.write_all(&whole[..14]).unwrap();
    stream.write_all(&whole[14..]).unwrap();
    assert_eq!(number(&mut stream), (16, 0));
    stream.write_all(&message(18, 9, &[200, 0, 0, 0, 1, 0, 0, 0])).unwrap();
    assert_eq!(number(&mut stream), (18, 1));
    wait_for(&port, |info| info.error.as_deref().is_some_and(|e| e.contains("ring 200 does not exist")));
}

#[test]
fn the_back_ends_channel_is_taken_if_it_can_be_one() {
    let (_dir, path) = place();
    let port = listen(&path).unwrap();
    let mut guest = Guest::connect(&path, MODERN, 2);
    let (_ours, theirs) = UnixStream::pair().unwrap();
    guest.frontend.set_backend_request_fd(&theirs).unwrap();
    // Again, as QEMU does for every queue pair.
    guest.frontend.set_backend_request_fd(&theirs).unwrap();
    exchange(&mut guest, &port);
    let file = guest.file.try_clone().unwrap();
    assert!(guest.frontend.set_backend_request_fd(&file).is_err());
    wait_for(&port, |info| info.error.as_deref().is_some_and(|e| e.contains("no unix stream socket")));
}

#[test]
fn bad_message_ends_its_connection_alone() {
    let (_dir, path) = place();
    let port = listen(&path).unwrap();
    let (_dir2, path2) = place();
    let other = listen(&path2).unwrap();
    let mut guest = Guest::connect(&path2, MODERN, 2);
    let bad = [
        message(0, 1, &[]),
        message(99, 1, &[]),
        message(1, 0, &[]),
        message(1, 0xffff_fff1, &[]),
        message(2, 1, &[1, 2, 3]),
        message(2, 1, &u64::MAX.to_le_bytes()),
        message(16, 1, &u64::MAX.to_le_bytes()),
        message(18, 1, &[1]),
        message(19, 1, &[0; 8]),
        message(20, 1, &9000u64.to_le_bytes()),
        message(21, 1, &[]),
        message(5, 1, &[9; 40]),
        message(8, 1, &[0, 0, 0, 0, 3, 0, 0, 0]),
        message(8, 1, &[0xff, 0xff, 0, 0, 64, 0, 0, 0]),
        message(10, 1, &[0, 0, 0, 0, 0, 0, 1, 0]),
        message(12, 1, &[0; 8]),
        message(11, 1, &[77, 0, 0, 0, 0, 0, 0, 0]),
        [1u32, 1, 5000].into_iter().flat_map(u32::to_le_bytes).collect(),
    ];
    for bytes in bad {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(&bytes).unwrap();
        let mut rest = Vec::new();
        // Reset or end of file: both say that the connection is gone.
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "no answer to {bytes:?}");
        wait_for(&port, |info| info.error.as_deref().is_some_and(|e| e.contains("connection closed")));
    }
    exchange(&mut guest, &other);
    exchange(&mut Guest::connect(&path, MODERN, 2), &port);
}

#[test]
fn settings_of_a_ring_are_checked() {
    type Step = fn(&mut Guest) -> bool;
    let far = VringConfigData { avail_ring_addr: 0x10, ..Guest::ring_config(1) };
    assert!(far.avail_ring_addr < far.desc_table_addr);
    let cases: [(Step, &str); 4] = [
        (|g| g.frontend.set_vring_num(1, 48).is_err(), "power of two"),
        (|g| g.frontend.set_vring_base(1, 3).is_err(), "while it runs"),
        (
            |g| {
                let bad = VringConfigData { avail_ring_addr: 0x10, ..Guest::ring_config(1) };
                g.frontend.set_vring_addr(1, &bad).is_err()
            },
            "avail ring at front-end address 0x10",
        ),
        (
            |g| {
                let last = Guest::regions(&g.file)[1];
                let end = last.userspace_addr + last.memory_size - 64;
                let bad = VringConfigData { desc_table_addr: end, ..Guest::ring_config(1) };
                g.frontend.set_vring_addr(1, &bad).is_err()
            },
            "descriptor table",
        ),
    ];
    for (step, words) in cases {
        let (_dir, path) = place();
        let port = listen(&path).unwrap();
        let mut guest = Guest::connect(&path, MODERN, 2);
        assert!(step(&mut guest), "{words}");
        wait_for(&port, |info| info.error.as_deref().is_some_and(|e| e.contains(words)));
    }
}

#[test]
fn memory_regions_are_checked() {
    type Change = fn(&mut vhost::VhostUserMemoryRegionInfo);
    let change: [(Change, &str); 5] = [
        (|r| r.memory_size = 32 << 20, "needs 0x"),
        (|r| r.guest_phys_addr = u64::MAX - 5, "invalid message"),
        (|r| r.mmap_offset = 3 << 40, "needs 0x"),
        (|r| r.guest_phys_addr = 4096, "overlaps"),
        (
            |r| {
                r.userspace_addr =
                    Guest::regions(&std::fs::File::open("/dev/null").unwrap())[0].userspace_addr
            },
            "overlaps",
        ),
    ];
    for (change, words) in change {
        let (_dir, path) = place();
        let port = listen(&path).unwrap();
        let mut frontend = Frontend::connect(&path, 2).unwrap();
        negotiate(&mut frontend, MODERN);
        let file = tempfile::tempfile().unwrap();
        file.set_len(guest::MEMORY).unwrap();
        let mut regions = Guest::regions(&file);
        change(&mut regions[1]);
        assert!(frontend.set_mem_table(&regions).is_err(), "{words}");
        wait_for(&port, |info| info.error.as_deref().is_some_and(|e| e.contains(words)));
    }
    let (_dir, path) = place();
    let port = listen(&path).unwrap();
    let mut frontend = Frontend::connect(&path, 2).unwrap();
    negotiate(&mut frontend, MODERN);
    let region = Guest::regions(&std::fs::File::open("/dev/null").unwrap())[0];
    let null = std::fs::File::open("/dev/null").unwrap();
    let region =
        vhost::VhostUserMemoryRegionInfo { mmap_handle: std::os::fd::AsRawFd::as_raw_fd(&null), ..region };
    assert!(frontend.add_mem_region(&region).is_err());
    wait_for(&port, |info| info.error.as_deref().is_some_and(|e| e.contains("no regular file")));
}

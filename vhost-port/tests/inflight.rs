//! A front-end that wants to have kept what is in flight: it gets a buffer, hands it over, and goes on with another back-end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests; the lint only exempts functions marked as such"
)]

mod guest;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use guest::{Guest, MODERN, RING_SIZE, burst, wait_for};
use pmd::port::{LinkState, Port};
use pmd::virtio::NetHeader;
use pmd::virtio::features::*;
use vhost::VhostBackend;
use vhost::vhost_user::message::VhostUserInflight;
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost_port::{Mode, VhostConfig, VhostPort};

/// A port that keeps nothing by itself.
fn port(path: &Path) -> Arc<dyn Port> {
    VhostPort::open(VhostConfig::new("p", Mode::Listen(path.to_owned()))).unwrap()
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p");
    (dir, path)
}

fn up(port: &Arc<dyn Port>) {
    wait_for(port, |info| info.link == LinkState::Up && info.rx_queues == 1);
}

/// A buffer for two rings, and what the port says of it.
fn buffer(frontend: &mut Frontend) -> (VhostUserInflight, File) {
    let (told, file) = frontend.get_inflight_fd(&VhostUserInflight::new(0, 0, 2, RING_SIZE)).unwrap();
    assert_eq!((told.num_queues, told.queue_size, told.mmap_offset), (2, RING_SIZE, 0));
    assert_eq!(told.mmap_size, file.metadata().unwrap().size());
    (told, file)
}

/// Has the port keep the rings in the buffer from now on.
fn give(frontend: &mut Frontend, (told, file): &(VhostUserInflight, File)) {
    frontend.set_inflight_fd(told, file.as_raw_fd()).unwrap();
}

fn frame(number: u8) -> Vec<u8> {
    vec![number; 60]
}

fn send(guest: &mut Guest, numbers: std::ops::Range<u8>) {
    for number in numbers {
        guest.send(1, NetHeader::default(), &frame(number), &[]);
    }
}

/// Bytes of the head of ring 1's region, behind the features.
fn head(buffer: &File, packed: bool) -> Vec<u8> {
    let stride = if packed { 32 + 32 * u64::from(RING_SIZE) } else { 16 + 16 * u64::from(RING_SIZE) };
    let mut bytes = vec![0; 14];
    buffer.read_exact_at(&mut bytes, stride.next_multiple_of(64) + 8).unwrap();
    bytes
}

#[test]
fn rings_go_on_where_the_buffer_says() {
    for packed in [false, true] {
        let features = MODERN | if packed { VIRTIO_F_RING_PACKED } else { 0 };
        let (_dir, path) = place();
        let first = port(&path);
        let mut guest = Guest::connect(&path, features, 2);
        up(&first);
        let buffer = buffer(&mut guest.frontend);
        give(&mut guest.frontend, &buffer);
        let mut rxq = first.rx_queue(0).unwrap();
        send(&mut guest, 0..40);
        assert_eq!(burst(&mut *rxq), (0..32).map(frame).collect::<Vec<_>>());
        let used = if packed { [0, 0, 0, 0, 32, 0, 32, 0, 1, 1] } else { [0, 0, 32, 0, 0, 0, 0, 0, 0, 0] };
        let known = head(&buffer.1, packed);
        assert_eq!(known[..4], [1, 0, RING_SIZE as u8, 0]);
        assert_eq!(known[4..if packed { 14 } else { 8 }], used[..if packed { 10 } else { 4 }]);
        drop(rxq);
        drop(first);
        let second = port(&path);
        guest.reconnect(&path, |frontend| give(frontend, &buffer));
        up(&second);
        let mut rxq = second.rx_queue(0).unwrap();
        assert_eq!(burst(&mut *rxq), (32..40).map(frame).collect::<Vec<_>>());
        assert_eq!(guest.reclaim(1), 40);
    }
}

/// Its base is the front-end's business then, and the driver may start the ring anew.
#[test]
fn buffer_is_forgotten_when_a_ring_is_stopped() {
    for packed in [false, true] {
        let features = MODERN | if packed { VIRTIO_F_RING_PACKED } else { 0 };
        let (_dir, path) = place();
        let port = port(&path);
        let mut guest = Guest::connect(&path, features, 2);
        up(&port);
        let buffer = buffer(&mut guest.frontend);
        give(&mut guest.frontend, &buffer);
        let mut rxq = port.rx_queue(0).unwrap();
        send(&mut guest, 0..5);
        assert_eq!(burst(&mut *rxq).len(), 5);
        guest.frontend.get_vring_base(1).unwrap();
        // The port has dealt with that when it answers the next message.
        guest.frontend.get_features().unwrap();
        assert_eq!(head(&buffer.1, packed)[..4], [0; 4]);
        guest.fresh_ring(1);
        guest.frontend.get_features().unwrap();
        send(&mut guest, 5..8);
        assert_eq!(burst(&mut *rxq), (5..8).map(frame).collect::<Vec<_>>());
        assert_eq!(guest.reclaim(1), 3);
    }
}

#[test]
fn wrong_buffers_are_refused_with_a_reason() {
    let refused = |ask: fn(&mut Frontend)| {
        let (_dir, path) = place();
        let port = port(&path);
        let mut guest = Guest::connect(&path, MODERN, 2);
        up(&port);
        ask(&mut guest.frontend);
        wait_for(&port, |info| info.error.is_some());
        port.info().error.unwrap()
    };
    let error = refused(|f| {
        assert!(f.get_inflight_fd(&VhostUserInflight::new(0, 0, 100, 64)).is_err());
    });
    assert!(error.contains("100 rings"), "{error}");
    let error = refused(|f| set_wrong(f, 8192, 0));
    assert!(error.contains("needs 0x2000 bytes"), "{error}");
    let error = refused(|f| set_wrong(f, 64, 8));
    assert!(error.contains("not aligned"), "{error}");
}

/// Hands over a file of 4 KiB.
fn set_wrong(frontend: &mut Frontend, size: u64, offset: u64) {
    let file = tempfile::tempfile().unwrap();
    file.set_len(4096).unwrap();
    let told = VhostUserInflight::new(size, offset, 2, RING_SIZE);
    assert!(frontend.set_inflight_fd(&told, file.as_raw_fd()).is_err());
}

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

use guest::{Guest, MODERN, RING_AREA, RING_SIZE, burst, negotiate, wait_for};
use pmd::port::{LinkState, Port};
use pmd::virtio::NetHeader;
use pmd::virtio::driver_ring::DriverRing;
use pmd::virtio::features::*;
use vhost::VhostBackend;
use vhost::vhost_user::message::{VhostUserInflight, VhostUserProtocolFeatures};
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

/// A guest at a port that keeps its rings in a buffer from now on, and what features it has.
fn kept(path: &Path, port: &Arc<dyn Port>, packed: bool) -> (Guest, (VhostUserInflight, File), u64) {
    let features = MODERN | if packed { VIRTIO_F_RING_PACKED } else { 0 };
    let mut guest = Guest::connect(path, features, 2);
    up(port);
    let buffer = buffer(&mut guest.frontend);
    give(&mut guest.frontend, &buffer);
    (guest, buffer, features)
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
        let (_dir, path) = place();
        let first = port(&path);
        let (mut guest, buffer, _) = kept(&path, &first, packed);
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
        let (_dir, path) = place();
        let port = port(&path);
        let (mut guest, buffer, _) = kept(&path, &port, packed);
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

/// Has another port go on with rings that were stopped at these bases, and with what the last one left in flight.
fn hand_over(
    guest: &mut Guest,
    path: &Path,
    features: u64,
    buffer: &(VhostUserInflight, File),
    bases: [u16; 2],
) {
    guest.frontend = Frontend::connect(path, 2).unwrap();
    negotiate(&mut guest.frontend, features);
    // All of it is acknowledged.
    let offered = guest.frontend.get_protocol_features().unwrap();
    assert!(offered.contains(VhostUserProtocolFeatures::GET_VRING_BASE_INFLIGHT));
    guest.frontend.set_mem_table(&Guest::regions(&guest.file)).unwrap();
    give(&mut guest.frontend, buffer);
    for (index, base) in bases.into_iter().enumerate() {
        guest.start_ring(index, base);
        guest.enable(index, true);
    }
}

/// With GET_VRING_BASE_INFLIGHT a stopped ring may leave chains in flight for the next back-end. This one never does.
#[test]
fn stopped_rings_leave_nothing_in_flight_for_the_next_back_end() {
    for packed in [false, true] {
        let ((_dir, path), (_other_dir, other_path)) = (place(), place());
        let (first, second) = (port(&path), port(&other_path));
        let (mut guest, buffer, features) = kept(&path, &first, packed);
        let mut rxq = first.rx_queue(0).unwrap();
        send(&mut guest, 0..40);
        assert_eq!(burst(&mut *rxq).len(), 32);
        let bases = [0, 1].map(|index| guest.frontend.get_vring_base(index).unwrap() as u16);
        hand_over(&mut guest, &other_path, features, &buffer, bases);
        up(&second);
        let mut rxq = second.rx_queue(0).unwrap();
        assert_eq!(burst(&mut *rxq), (32..40).map(frame).collect::<Vec<_>>());
        assert_eq!(guest.reclaim(1), 40);
    }
}

/// One that completes out of order, and was stopped when it had taken five chains and completed the third.
#[test]
fn what_a_stopped_back_end_left_in_flight_is_completed_once() {
    let ((_dir, path), (_other_dir, other_path)) = (place(), place());
    let (first, second) = (port(&path), port(&other_path));
    let mut guest = Guest::connect(&path, MODERN, 2);
    up(&first);
    let buffer = buffer(&mut guest.frontend);
    send(&mut guest, 0..5);
    assert_eq!([0, 1].map(|index| guest.frontend.get_vring_base(index).unwrap()), [0, 0]);
    // What that back-end would have done: in the used ring, and in ring 1's region of the buffer.
    let (_, avail, used) = DriverRing::layout(RING_SIZE);
    let heads = guest.read(RING_AREA + avail as u64 + 4, 10);
    let heads: Vec<u16> = heads.as_chunks().0.iter().map(|head| u16::from_le_bytes(*head)).collect();
    let write = |file: &File, at: u64, bytes: &[u8]| file.write_all_at(bytes, at).unwrap();
    let used = RING_AREA + used as u64;
    write(&guest.file, used + 4, &u32::from(heads[2]).to_le_bytes());
    write(&guest.file, used + 2, &1u16.to_le_bytes());
    let region = (16 + 16 * u64::from(RING_SIZE)).next_multiple_of(64);
    let head = [1, RING_SIZE, heads[2], 1].map(u16::to_le_bytes);
    write(&buffer.1, region + 8, head.as_flattened());
    for (counter, &head) in (0u64..).zip(&heads).filter(|&(counter, _)| counter != 2) {
        let entry = region + 16 + 16 * u64::from(head);
        write(&buffer.1, entry, &[1]);
        write(&buffer.1, entry + 8, &counter.to_le_bytes());
    }
    hand_over(&mut guest, &other_path, MODERN, &buffer, [0, 5]);
    up(&second);
    let mut rxq = second.rx_queue(0).unwrap();
    assert_eq!(burst(&mut *rxq), [0, 1, 3, 4].map(frame));
    send(&mut guest, 5..7);
    assert_eq!(burst(&mut *rxq), [5, 6].map(frame));
    assert_eq!(guest.reclaim(1), 7);
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

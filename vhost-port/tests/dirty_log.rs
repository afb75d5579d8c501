//! The dirty log: what a front-end that moves a guest learns of what the port writes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests; the lint only exempts functions marked as such"
)]

mod guest;

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use guest::log::{Log, PAGE};
use guest::{Guest, MEMORY, MODERN, RING_SIZE, SPLIT, burst, wait_for};
use pmd::packet::{BatchStorage, Span};
use pmd::port::{Armed, LinkState, Port, RxQueue, TxQueue};
use pmd::virtio::NetHeader;
use pmd::virtio::features::*;
use proptest::prelude::*;
use vhost::VhostBackend;
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost_port::{Mode, VhostConfig, VhostPort};

/// What says of which kind the rings are.
const KINDS: [u64; 4] =
    [0, VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED | VIRTIO_F_IN_ORDER];

struct Scene {
    dir: tempfile::TempDir,
    port: Arc<dyn Port>,
    guest: Guest,
    log: Log,
}

/// A guest with one queue pair, whose front-end has handed over a log but not turned logging on.
fn scene(features: u64) -> Scene {
    scene_sized(features, RING_SIZE)
}

fn scene_sized(features: u64, ring_size: u16) -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("p");
    let port = VhostPort::open(VhostConfig::new("p", Mode::Listen(path.clone()))).unwrap();
    port.set_mtu(9000).unwrap();
    let guest = Guest::start_sized(Frontend::connect(&path, 2).unwrap(), features, 2, ring_size);
    wait_for(&port, |info| info.link == LinkState::Up && info.rx_queues == 1);
    let log = Log::new(MEMORY);
    log.give(&guest.frontend);
    Scene { dir, port, guest, log }
}

impl Scene {
    /// Turns logging on as QEMU does: the feature, then each ring's address.
    fn start_logging(&self, features: u64) {
        self.guest.frontend.set_features(features | VHOST_F_LOG_ALL).unwrap();
        for ring in 0..2 {
            self.guest.log_used_at(ring, self.guest.used_gpa(ring));
        }
    }

    fn status(&self, key: &str) -> Option<String> {
        self.port.info().status.into_iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }
}

fn send(txq: &mut dyn TxQueue, frames: &[Vec<u8>]) -> usize {
    let mut storage = BatchStorage::new();
    let mut batch = storage.begin();
    for frame in frames {
        assert!(batch.receive(Span::from_slice(frame)));
    }
    let slots: Vec<_> = (0..frames.len() as u16).collect();
    let sent = txq.tx_burst(&batch, &slots);
    // Somebody else may have the ring just now.
    while !txq.notify() {
        std::thread::yield_now();
    }
    sent
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

/// What the device does once.
#[derive(Clone, Debug)]
enum Step {
    /// Sends frames of these lengths, into chains of buffers of these sizes.
    Send(Vec<usize>, Vec<u32>),
    /// Receives so many frames from the guest.
    Receive(usize),
    /// Asks for kicks, and then not any more.
    Arm,
    /// Throws away what the guest sends by a disabled ring.
    Discard(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let send = (prop::collection::vec(14usize..6000, 1..20), prop::collection::vec(12u32..5000, 1..4));
    let step = prop_oneof![
        4 => send.prop_map(|(frames, sizes)| Step::Send(frames, sizes)),
        3 => (1usize..30).prop_map(Step::Receive),
        1 => Just(Step::Arm),
        1 => (1usize..10).prop_map(Step::Discard),
    ];
    prop::collection::vec(step, 1..16)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_page_that_changes_is_logged(
        steps in steps(),
        kind in prop::sample::select(KINDS.to_vec()),
        event_idx: bool,
        mergeable: bool,
    ) {
        let event_idx = if event_idx { VIRTIO_F_EVENT_IDX } else { 0 };
        let mergeable = if mergeable { 0 } else { VIRTIO_NET_F_MRG_RXBUF };
        let features = (MODERN | kind | event_idx) & !mergeable;
        let mut scene = scene(features);
        scene.start_logging(features);
        let (mut txq, mut rxq) = (scene.port.tx_queue(0).unwrap(), scene.port.rx_queue(0).unwrap());
        scene.log.take();
        for (seed, step) in (0u8..).zip(steps) {
            perform(&mut scene, &mut *txq, &mut *rxq, step, seed);
        }
    }
}

fn perform(scene: &mut Scene, txq: &mut dyn TxQueue, rxq: &mut dyn RxQueue, step: Step, seed: u8) {
    let Scene { guest, log, .. } = scene;
    match step {
        Step::Send(lens, sizes) => {
            while guest.rings[0].driver.free() > sizes.len() {
                guest.post(0, &sizes);
            }
            let frames: Vec<_> = lens.iter().map(|&len| pattern(len, seed.wrapping_add(len as u8))).collect();
            let mut sent = 0;
            let logged = log.observed(guest, |_| sent = send(txq, &frames));
            if sent > 0 {
                assert!(
                    logged.contains(&(guest.used_gpa(0) / PAGE)),
                    "the used ring or the descriptors beside"
                );
                let bytes: usize = frames.iter().map(|frame| frame.len() + 12).sum();
                let most = bytes / PAGE as usize + 2 * RING_SIZE as usize + 2;
                assert!(logged.len() <= most, "{} pages logged for {bytes} bytes", logged.len());
            }
            while guest.receive(0).is_some() {}
        }
        Step::Receive(count) => {
            (0..count as u8).for_each(|i| {
                guest.send(1, NetHeader::default(), &pattern(60, seed.wrapping_add(i)), &[]);
            });
            let mut received = 0;
            let logged = log.observed(guest, |_| {
                received = std::iter::from_fn(|| Some(burst(rxq).len()).filter(|&n| n > 0)).sum();
            });
            assert_eq!(received, count);
            assert_eq!(logged, BTreeSet::from([guest.used_gpa(1) / PAGE]), "only the ring is written");
            assert_eq!(guest.reclaim(1), count);
        }
        Step::Arm => {
            log.observed(guest, |_| assert_eq!(rxq.arm(), Armed::Idle));
            log.observed(guest, |_| rxq.disarm());
        }
        Step::Discard(count) => {
            (0..count as u8).for_each(|i| {
                guest.send(1, NetHeader::default(), &pattern(60, i), &[]);
            });
            let mut frontend = guest.frontend.clone();
            let off = log.observed(guest, |_| frontend.set_vring_enable(1, false).unwrap());
            assert!(off.contains(&(guest.used_gpa(1) / PAGE)));
            assert_eq!(guest.reclaim(1), count);
            log.observed(guest, |_| frontend.set_vring_enable(1, true).unwrap());
        }
    }
}

#[test]
fn logging_starts_and_stops_while_rings_run() {
    for kind in KINDS {
        let features = MODERN | kind;
        let mut scene = scene(features);
        let (mut txq, mut rxq) = (scene.port.tx_queue(0).unwrap(), scene.port.rx_queue(0).unwrap());
        let mut exchange = |scene: &mut Scene, seed| {
            scene.guest.post(0, &[2000]);
            assert_eq!(send(&mut *txq, &[pattern(100, seed)]), 1);
            assert_eq!(scene.guest.receive(0).unwrap().1, pattern(100, seed));
            scene.guest.send(1, NetHeader::default(), &pattern(60, seed), &[]);
            assert_eq!(burst(&mut *rxq), [pattern(60, seed)]);
            assert_eq!(scene.guest.reclaim(1), 1);
            scene.log.take().len()
        };
        // A log alone is none.
        assert_eq!(exchange(&mut scene, 1), 0);
        assert_eq!(scene.status("dirty_log"), None);
        for round in 0..3 {
            scene.start_logging(features);
            assert_eq!(scene.status("dirty_log").as_deref(), Some("on, 4096 pages"));
            assert!(exchange(&mut scene, 10 + round) >= 3, "a buffer and two rings");
            scene.guest.frontend.set_features(features).unwrap();
            assert_eq!(scene.status("dirty_log"), None);
            scene.log.take();
            assert_eq!(exchange(&mut scene, 20 + round), 0);
        }
    }
}

/// Descriptors of a ring in which a burst uses more than are kept of one that is not shown yet (512): a part is shown before the frames' pages
/// are in the log, and the rest after it.
const LARGE: u16 = 900;

#[test]
fn burst_that_is_shown_in_parts_is_logged_whole() {
    for kind in [VIRTIO_F_RING_PACKED, VIRTIO_F_RING_PACKED | VIRTIO_F_IN_ORDER] {
        let features = MODERN | kind;
        let mut scene = scene_sized(features, LARGE);
        scene.start_logging(features);
        let Scene { guest, log, port, .. } = &mut scene;
        let mut txq = port.tx_queue(0).unwrap();
        (0..LARGE).for_each(|_| guest.post(0, &[100]));
        let frames: Vec<_> = (0..14).map(|i| pattern(6000, i)).collect();
        log.take();
        log.observed(guest, |_| assert_eq!(send(&mut *txq, &frames), 14));
        let received: Vec<_> = std::iter::from_fn(|| guest.receive(0)).collect();
        assert!(received.iter().map(|(header, _)| header.num_buffers).sum::<u16>() > 800);
        assert!(received.into_iter().map(|(_, frame)| frame).eq(frames));
    }
}

#[test]
fn used_ring_is_logged_where_the_front_end_says() {
    let elsewhere = 0x7f_0000;
    for kind in KINDS {
        let mut scene = scene(MODERN | kind);
        scene.start_logging(MODERN | kind);
        scene.guest.log_used_at(1, elsewhere);
        let mut rxq = scene.port.rx_queue(0).unwrap();
        scene.log.take();
        rxq.arm();
        assert_eq!(scene.log.take(), BTreeSet::from([elsewhere / PAGE]));
        scene.guest.send(1, NetHeader::default(), &pattern(60, 1), &[]);
        burst(&mut *rxq);
        // The descriptors of a packed ring are the used ones too, and where they are is known.
        let packed = kind & VIRTIO_F_RING_PACKED != 0;
        let expected = if packed { scene.guest.used_gpa(1) } else { elsewhere };
        assert_eq!(scene.log.take(), BTreeSet::from([expected / PAGE]));
    }
}

#[test]
fn log_base_is_answered_whenever_it_comes() {
    // Logging on already, and off; the same log again, and another.
    let scene = scene(MODERN);
    let other = Log::new(MEMORY);
    for log in [&scene.log, &other, &scene.log] {
        log.give(&scene.guest.frontend);
        scene.start_logging(MODERN);
        log.give(&scene.guest.frontend);
        scene.guest.frontend.set_features(MODERN).unwrap();
    }
    // Without rings or memory.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("q");
    let _port = VhostPort::open(VhostConfig::new("q", Mode::Listen(path.clone()))).unwrap();
    let mut frontend = Frontend::connect(&path, 2).unwrap();
    guest::negotiate(&mut frontend, MODERN | VHOST_F_LOG_ALL);
    other.give(&frontend);
}

#[test]
fn bits_are_told_of_by_the_front_ends_event() {
    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
    let mut scene = scene(MODERN);
    let mut txq = scene.port.tx_queue(0).unwrap();
    // Given after the log, and before another one.
    for give_again in [false, true] {
        let event = EventFd::new(EFD_NONBLOCK).unwrap();
        scene.guest.frontend.set_log_fd(event.as_raw_fd()).unwrap();
        if give_again {
            scene.log.give(&scene.guest.frontend);
        }
        scene.start_logging(MODERN);
        let _ = event.read();
        scene.log.take();
        let mut exchange = |guest: &mut Guest, seed| {
            guest.post(0, &[2000]);
            assert_eq!(send(&mut *txq, &[pattern(100, seed)]), 1);
            guest.receive(0).unwrap();
        };
        exchange(&mut scene.guest, 1);
        assert!(event.read().unwrap() >= 1, "bits were set");
        scene.guest.frontend.set_features(MODERN).unwrap();
        exchange(&mut scene.guest, 2);
        event.read().unwrap_err();
    }
    // Writing to it must be harmless.
    assert!(scene.guest.frontend.set_log_fd(scene.guest.file.as_raw_fd()).is_err());
    wait_for(&scene.port, |info| info.error.as_deref().is_some_and(|e| e.contains("not an eventfd")));
}

#[test]
fn bad_log_is_refused_with_its_reason() {
    let len = MEMORY / PAGE / 8;
    let cases: [(u64, &str); 3] = [
        (len - 1, "ends before guest memory"),
        (len + 4096, "bytes of its file"),
        (u64::MAX - 4096, "bytes of its file"),
    ];
    for (len, reason) in cases {
        let scene = scene(MODERN);
        scene.log.give_as(&scene.guest.frontend, len).unwrap_err();
        wait_for(&scene.port, |info| info.error.as_deref().is_some_and(|e| e.contains(reason)));
    }
}

#[test]
fn page_without_a_bit_is_reported_and_no_bit_of_another_is_set() {
    let mut scene = scene(MODERN);
    let [_, second] = Guest::regions(&scene.guest.file);
    scene.guest.frontend.remove_mem_region(&second).unwrap();
    // A log for the first region; the second comes back.
    scene.log.give_as(&scene.guest.frontend, SPLIT / PAGE / 8).unwrap();
    scene.start_logging(MODERN);
    scene.guest.frontend.add_mem_region(&second).unwrap();
    let mut txq = scene.port.tx_queue(0).unwrap();
    while scene.guest.allocate(PAGE) < SPLIT {}
    scene.guest.post(0, &[2000]);
    scene.log.take();
    assert_eq!(send(&mut *txq, &[pattern(100, 1)]), 1);
    assert_eq!(scene.log.take(), BTreeSet::from([scene.guest.used_gpa(0) / PAGE]));
    wait_for(&scene.port, |info| info.error.as_deref().is_some_and(|e| e.contains("is incomplete")));
    assert_eq!(scene.guest.receive(0).unwrap().1, pattern(100, 1), "the guest goes on");
}

#[test]
fn log_that_shrinks_stops_the_port_and_nothing_else() {
    let mut scene = scene(MODERN);
    scene.start_logging(MODERN);
    scene.log.file.set_len(0).unwrap();
    let mut txq = scene.port.tx_queue(0).unwrap();
    scene.guest.post(0, &[2000]);
    send(&mut *txq, &[pattern(100, 1)]);
    wait_for(&scene.port, |info| info.error.as_deref().is_some_and(|e| e.contains("was truncated")));
    drop(txq);
    drop(scene);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("q");
    let port = VhostPort::open(VhostConfig::new("q", Mode::Listen(path.clone()))).unwrap();
    let mut guest = Guest::connect(&path, MODERN, 2);
    wait_for(&port, |info| info.link == LinkState::Up);
    guest.send(1, NetHeader::default(), &pattern(60, 1), &[]);
    assert_eq!(burst(&mut *port.rx_queue(0).unwrap()), [pattern(60, 1)]);
}

/// The whole of a migration, many passes of it: a thread takes bits and copies their pages while frames arrive. At the end,
/// when the rings have stopped and it has gone round once more, its copy of what the device writes is the guest's memory.
#[test]
fn copy_made_while_frames_arrive_is_complete() {
    let large = [VIRTIO_F_RING_PACKED, VIRTIO_F_RING_PACKED | VIRTIO_F_IN_ORDER].map(|kind| (kind, LARGE));
    for (kind, ring_size) in KINDS.map(|kind| (kind, RING_SIZE)).into_iter().chain(large) {
        let (rounds, buffer, count, len) =
            if ring_size == LARGE { (40u32, 100, 14, 6000) } else { (400, 1526, 30, 1400) };
        let features = MODERN | kind;
        let mut scene = scene_sized(features, ring_size);
        let mut copy = scene.guest.read(0, MEMORY as usize);
        scene.start_logging(features);
        let memory = scene.guest.file.try_clone().unwrap();
        let done = AtomicBool::new(false);
        let (log, guest) = (&scene.log, &mut scene.guest);
        let mut txq = scene.port.tx_queue(0).unwrap();
        let passes = std::thread::scope(|scope| {
            let copier = scope.spawn(|| {
                use std::os::unix::fs::FileExt;
                let mut passes = 0;
                loop {
                    let last = done.load(Ordering::Acquire);
                    for page in log.take() {
                        let at = (page * PAGE) as usize;
                        let page = &mut copy[at..at + PAGE as usize];
                        memory.read_exact_at(page, at as u64).unwrap();
                    }
                    if last {
                        return passes;
                    }
                    passes += 1;
                }
            });
            for round in 0..rounds {
                while guest.rings[0].driver.free() > 0 {
                    guest.post(0, &[buffer]);
                }
                let frames: Vec<_> = (0..count).map(|i| pattern(len, (round * count + i) as u8)).collect();
                assert_eq!(send(&mut *txq, &frames), frames.len());
                while guest.receive(0).is_some() {}
            }
            guest.frontend.get_vring_base(0).unwrap();
            done.store(true, Ordering::Release);
            copier.join().unwrap()
        });
        assert!(passes > 3, "only {passes} passes");
        // The driver writes its part of the ring's page unlogged, as a guest's processor does: that is the front-end's to know.
        let (from, to) = (0x40_0000, MEMORY as usize);
        let memory = guest.read(0, to);
        assert!(memory[from..] == copy[from..to], "a buffer differs");
        let used = guest.used_gpa(0) as usize;
        let used = if kind & VIRTIO_F_RING_PACKED == 0 { used..used + 4 + 8 * 64 } else { used..used + 4 };
        assert_eq!(memory[used.clone()], copy[used]);
    }
}

/// A switch dies while its guest is being moved: what it wrote last is in no log. The next one makes up for it, whichever way round the
/// front-end says things, once; and a migration that begins in good order has nothing to make up for.
#[test]
fn log_is_complete_after_the_switch_died_in_a_migration() {
    for log_first in [false, true] {
        let features = MODERN;
        let mut scene = scene(features);
        scene.start_logging(features);
        scene.guest.frontend.get_features().unwrap();
        assert!(scene.log.take().len() < 100, "it knows what it wrote");
        // The connection of the next switch.
        let path = scene.dir.path().join("p");
        scene.guest.frontend = Frontend::connect(&path, 2).unwrap();
        guest::negotiate(&mut scene.guest.frontend, features | VHOST_F_LOG_ALL);
        scene.guest.frontend.set_mem_table(&Guest::regions(&scene.guest.file)).unwrap();
        if log_first {
            scene.log.give(&scene.guest.frontend);
        }
        for ring in 0..2 {
            scene.guest.start_ring(ring, 0);
            scene.guest.enable(ring, true);
        }
        if !log_first {
            wait_for(&scene.port, |info| info.link == LinkState::Up && info.rx_queues == 1);
            scene.guest.send(1, NetHeader::default(), &pattern(60, 1), &[]);
            assert_eq!(burst(&mut *scene.port.rx_queue(0).unwrap()).len(), 1, "traffic does not wait for it");
            scene.log.give(&scene.guest.frontend);
        }
        // A message later it is done.
        scene.guest.frontend.get_features().unwrap();
        assert_eq!(scene.log.take().len() as u64, MEMORY / PAGE);
        for ring in 0..2 {
            scene.guest.enable(ring, false);
            scene.guest.enable(ring, true);
        }
        scene.guest.frontend.get_features().unwrap();
        assert!(scene.log.take().len() < 100, "once is enough");
    }
}

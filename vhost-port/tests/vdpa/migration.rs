//! A guest moves to another host while frames are under way, whoever runs its rings here and there. The front-end does what QEMU does: it
//! turns logging on, copies all memory, then what the log says, stops the rings, copies the rest, and starts the rings over there where they
//! were stopped.
//!
//! Buffers that devices write lie on pages of their own, and those pages arrive by the log or not at all.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pmd::virtio::NetHeader;
use pmd::virtio::features::*;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vhost::VhostBackend;
use vhost_port::vdpa::Capabilities;
use vhost_port::vdpa::fake::{Faults, able_device, plain_function};

use crate::bench::{Bench, FITS, NAMES};
use crate::guest::log::{Log, PAGE};
use crate::guest::{Guest, MEMORY, MODERN};

/// Who runs the rings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Host {
    Software,
    /// A plain function: directly when the driver starts there, else behind a relay.
    Function,
    /// A plain function, given to a guest that was running.
    FunctionLate,
    /// A device that starts anywhere.
    Able,
    /// One that records what it writes, too.
    Recording,
}

impl Host {
    fn capabilities(self) -> fn(&str) -> Capabilities {
        if matches!(self, Host::Able | Host::Recording) { able_device } else { plain_function }
    }

    fn bench(self) -> Bench {
        let bench = Bench::new(self.capabilities());
        if self == Host::Recording {
            bench.cards[0].keep_record();
        }
        if matches!(self, Host::Function | Host::Able | Host::Recording) {
            bench.want(&NAMES[..1]);
        }
        bench
    }
}

/// Frame number `number`.
fn numbered(number: u32) -> Vec<u8> {
    let mut frame = vec![number as u8; 60];
    frame[..4].copy_from_slice(&number.to_le_bytes());
    frame
}

fn number(frame: &[u8]) -> u32 {
    assert_eq!(frame.len(), 60);
    let number = u32::from_le_bytes(frame[..4].try_into().unwrap());
    assert_eq!(frame, numbered(number));
    number
}

/// A guest that sends and receives numbered frames, and what has become of them.
struct Traffic {
    guest: Guest,
    /// Numbers sent, and of those what came out.
    sent: u32,
    out: Vec<u32>,
    /// Numbers that came in for the guest, and of those what it received.
    came: u32,
    received: Vec<u32>,
    /// Chains not yet given back.
    chains: usize,
    /// Pages of receive buffers.
    pages: BTreeSet<u64>,
}

impl Traffic {
    fn new(guest: Guest) -> Traffic {
        let (sent, came, chains) = (0, 0, 0);
        Traffic { guest, sent, out: Vec::new(), came, received: Vec::new(), chains, pages: BTreeSet::new() }
    }

    /// The guest sends so many frames and offers so many buffers; nobody has to take them yet.
    fn offer(&mut self, frames: u32, buffers: usize) {
        for _ in 0..frames {
            self.guest.send(1, NetHeader::default(), &numbered(self.sent), &[20]);
            self.sent += 1;
            self.chains += 1;
        }
        for _ in 0..buffers {
            self.pages.insert(self.guest.post_page(0) / PAGE);
        }
        for ring in &self.guest.rings {
            ring.kick.write(1).unwrap();
        }
    }

    /// Frames come in for the guest.
    fn arrive(&mut self, bench: &mut Bench, frames: u32) {
        for _ in 0..frames {
            let frame = numbered(self.came);
            self.came += 1;
            if bench.say("vdpa-engine").as_deref().unwrap_or("software") == "software" {
                assert_eq!(bench.transmit(&frame), 1);
            } else {
                bench.cards[0].arrive(&frame);
            }
        }
    }

    /// Takes what is there: what came out of card or switch, and what the guest gets back.
    fn take(&mut self, bench: &mut Bench) {
        let sent = bench.cards[0].sent().into_iter().chain(bench.received());
        self.out.extend(sent.map(|frame| number(&frame)));
        while let Some((_, frame)) = self.guest.receive(0) {
            self.received.push(number(&frame));
        }
        self.chains -= self.guest.reclaim(1);
    }

    /// The card works, or the switch, until all has come out, has been received, and given back.
    fn finish(&mut self, bench: &mut Bench) {
        let until = Instant::now() + Duration::from_secs(60);
        let (out, received) = (self.sent as usize, self.came as usize);
        while self.out.len() < out || self.received.len() < received || self.chains > 0 {
            bench.cards[0].work(usize::MAX);
            self.take(bench);
            assert!(Instant::now() < until, "{:?}, {:?} of {received}", self.out, self.received);
            std::thread::yield_now();
        }
    }

    /// The card works on so many chains.
    fn card_works(&mut self, bench: &Bench, mut chains: usize) {
        let until = Instant::now() + Duration::from_secs(60);
        while chains > 0 {
            // A frame out and one in are one step.
            chains = chains.saturating_sub(bench.cards[0].work(chains));
            assert!(Instant::now() < until, "the relay stands still");
            std::thread::yield_now();
        }
    }
}

/// Copies pages from one memory to another.
fn copy(from: &File, to: &File, pages: impl IntoIterator<Item = u64>) {
    let mut bytes = vec![0; PAGE as usize];
    for page in pages {
        from.read_exact_at(&mut bytes, page * PAGE).unwrap();
        to.write_all_at(&bytes, page * PAGE).unwrap();
    }
}

/// Moves a guest of such rings from one host to another.
fn moves(from: Host, to: Host, kind: u64) {
    let features = if kind & VIRTIO_F_RING_PACKED != 0 { MODERN | kind } else { FITS | kind };
    let (mut here, mut traffic) = begin(from, features);
    let (memory, bases) = leave(from, &mut here, &mut traffic, features);
    let there = arrive(to, &mut traffic, memory, bases);
    drop(here);
    assert_eq!(there.port.info().error, None);
    // Everything once and in order, across the move too.
    assert_eq!(traffic.out, (0..traffic.sent).collect::<Vec<_>>());
    assert_eq!(traffic.received, (0..traffic.came).collect::<Vec<_>>());
}

/// A guest on this host, with some traffic behind it.
fn begin(from: Host, features: u64) -> (Bench, Traffic) {
    let mut here = from.bench();
    let mut traffic = Traffic::new(here.guest(features, 2));
    match from {
        Host::Software => {}
        Host::Function | Host::Able | Host::Recording => here.wait_for_engine("direct"),
        Host::FunctionLate => {
            traffic.offer(3, 3);
            traffic.arrive(&mut here, 3);
            traffic.finish(&mut here);
            here.want(&NAMES[..1]);
            here.wait_for_engine("shadow");
        }
    }
    traffic.offer(7, 20);
    traffic.arrive(&mut here, 5);
    traffic.finish(&mut here);
    (here, traffic)
}

/// The guest leaves: its memory as it arrives, and where its rings stand.
fn leave(from: Host, here: &mut Bench, traffic: &mut Traffic, features: u64) -> (File, [u32; 2]) {
    // Logging on. What ran the guest's own rings goes behind a relay.
    let log = Log::new(MEMORY);
    log.give(&traffic.guest.frontend);
    traffic.guest.frontend.set_features(features | VHOST_F_LOG_ALL).unwrap();
    match from {
        Host::Software => {}
        Host::Recording => assert_eq!(here.say("vdpa-engine").unwrap(), "direct"),
        _ => here.wait_for_engine("shadow"),
    }
    // The first pass: everything. Then rounds with frames, and what they leave in the log.
    let memory: File = memfd_create("there", MemfdFlags::CLOEXEC).unwrap().into();
    ftruncate(&memory, MEMORY).unwrap();
    copy(&traffic.guest.file, &memory, 0..MEMORY / PAGE);
    for _ in 0..5 {
        traffic.offer(9, 8);
        traffic.arrive(here, 8);
        traffic.finish(here);
        copy(&traffic.guest.file, &memory, log.take());
    }
    // The last frames are under way: some done, some with the card, some in the ring.
    traffic.offer(12, 8);
    if from == Host::Software {
        traffic.arrive(here, 3);
    } else {
        here.cards[0].arrive(&numbered(traffic.came));
        traffic.came += 1;
        traffic.card_works(here, 6);
    }
    if from == Host::Recording {
        assert_eq!(here.say("vdpa-engine").unwrap(), "direct");
        assert_eq!(here.say("vdpa-switch-overs").unwrap(), "1");
    }
    let bases = [0, 1].map(|ring| traffic.guest.frontend.get_vring_base(ring).unwrap());
    let logged = log.take();
    let known: BTreeSet<u64> = traffic.pages.iter().copied().chain(0..0x10).collect();
    assert!(logged.is_subset(&known), "{:x?}", logged.difference(&known));
    copy(&traffic.guest.file, &memory, logged);
    // What the guest's processors wrote is not the port's to know.
    copy(&traffic.guest.file, &memory, (0..MEMORY / PAGE).filter(|page| !traffic.pages.contains(page)));
    for &page in &traffic.pages {
        let (mut one, mut other) = (vec![0; PAGE as usize], vec![0; PAGE as usize]);
        traffic.guest.file.read_exact_at(&mut one, page * PAGE).unwrap();
        memory.read_exact_at(&mut other, page * PAGE).unwrap();
        assert!(one == other, "page {page:#x} was written and is not in the log");
    }
    traffic.take(here);
    assert_eq!(here.port.info().error, None);
    (memory, bases)
}

/// It goes on over there.
fn arrive(to: Host, traffic: &mut Traffic, memory: File, bases: [u32; 2]) -> Bench {
    let mut there = to.bench();
    traffic.guest.move_to(&there.dir.path().join("p"), memory, &bases);
    match to {
        Host::Software => {}
        Host::Function => there.wait_for_engine("shadow"),
        Host::FunctionLate => {
            traffic.offer(2, 2);
            traffic.finish(&mut there);
            there.want(&NAMES[..1]);
            there.wait_for_engine("shadow");
        }
        Host::Able | Host::Recording => there.wait_for_engine("direct"),
    }
    for _ in 0..5 {
        traffic.offer(6, 6);
        traffic.arrive(&mut there, 6);
        traffic.finish(&mut there);
    }
    there
}

// A port that has a device from the start offers no packed rings.

#[test]
fn guest_moves_from_a_device_to_the_switch() {
    moves(Host::Function, Host::Software, 0);
    moves(Host::Able, Host::Software, 0);
    moves(Host::Able, Host::Software, VIRTIO_F_IN_ORDER);
    moves(Host::Recording, Host::Software, 0);
    moves(Host::Recording, Host::Software, VIRTIO_F_IN_ORDER);
    for kind in [0, VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER] {
        moves(Host::FunctionLate, Host::Software, kind);
    }
}

#[test]
fn guest_moves_from_the_switch_to_a_device() {
    moves(Host::Software, Host::Function, 0);
    moves(Host::Software, Host::Able, 0);
    for kind in [0, VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER] {
        moves(Host::Software, Host::FunctionLate, kind);
    }
}

#[test]
fn guest_moves_from_device_to_device() {
    for from in [Host::Function, Host::FunctionLate, Host::Able, Host::Recording] {
        for to in [Host::Function, Host::FunctionLate, Host::Able, Host::Recording] {
            moves(from, to, 0);
        }
    }
    moves(Host::FunctionLate, Host::FunctionLate, VIRTIO_F_RING_PACKED);
}

/// A thread takes bits and copies their pages while a device receives. At the end, when the rings have stopped and it has gone round
/// once more, its copy of what the device and the relay wrote is the guest's memory.
#[test]
fn copy_made_while_a_device_receives_is_complete() {
    for kind in [0, VIRTIO_F_EVENT_IDX, VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER] {
        copy_while_receiving(&Bench::new(plain_function), kind, "shadow");
    }
    for kind in [0, VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER] {
        let here = Bench::new(able_device);
        here.cards[0].keep_record();
        copy_while_receiving(&here, kind, "direct");
    }
}

fn copy_while_receiving(here: &Bench, kind: u64, engine: &str) {
    here.cards[0].work_when_kicked();
    let mut guest = here.guest(MODERN | kind, 2);
    here.want(&NAMES[..1]);
    here.wait_for_device(NAMES[0]);
    let log = Log::new(MEMORY);
    log.give(&guest.frontend);
    let mut copy = guest.read(0, MEMORY as usize);
    guest.frontend.set_features(MODERN | kind | VHOST_F_LOG_ALL).unwrap();
    here.wait_for_engine(engine);
    let memory = guest.file.try_clone().unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let copier = scope.spawn(|| {
            loop {
                let last = done.load(Ordering::Acquire);
                for page in log.take() {
                    let at = (page * PAGE) as usize;
                    memory.read_exact_at(&mut copy[at..at + PAGE as usize], at as u64).unwrap();
                }
                if last {
                    return;
                }
            }
        });
        let mut frames = 0u32;
        for _ in 0..60 {
            let mut came = 0;
            while guest.rings[0].driver.free() > 0 {
                guest.post(0, &[1526]);
            }
            guest.rings[0].kick.write(1).unwrap();
            for _ in 0..30 {
                here.cards[0].arrive(&numbered(frames));
                frames += 1;
            }
            while came < 30 {
                while guest.receive(0).is_some() {
                    came += 1;
                }
                if came < 30 && !guest.rings[0].driver.enable_interrupts() {
                    guest.await_interrupt(0);
                }
            }
        }
        guest.frontend.get_vring_base(0).unwrap();
        done.store(true, Ordering::Release);
        copier.join().unwrap();
    });
    let memory = guest.read(0, MEMORY as usize);
    assert!(memory[BUFFERS..] == copy[BUFFERS..], "a buffer differs");
    // The driver writes its part of the ring's page unlogged, as a guest's processor does.
    let used = guest.used_gpa(0) as usize;
    let used = if kind & VIRTIO_F_RING_PACKED == 0 { used..used + 4 + 8 * 64 } else { used..used + 4 };
    assert_eq!(memory[used.clone()], copy[used]);
    assert_eq!(here.port.info().error, None);
}

/// Where the guest's buffers begin.
const BUFFERS: usize = 0x40_0000;

#[test]
fn migration_that_is_called_off_gives_the_rings_back_to_the_device() {
    let mut here = Bench::new(able_device);
    here.want(&NAMES[..1]);
    let mut traffic = Traffic::new(here.guest(FITS, 2));
    here.wait_for_engine("direct");
    for _ in 0..10 {
        let log = Log::new(MEMORY);
        log.give(&traffic.guest.frontend);
        traffic.guest.frontend.set_features(FITS | VHOST_F_LOG_ALL).unwrap();
        here.wait_for_engine("shadow");
        // Under way when the relay begins, and when it ends.
        traffic.offer(5, 5);
        traffic.arrive(&mut here, 2);
        traffic.card_works(&here, 3);
        traffic.guest.frontend.set_features(FITS).unwrap();
        here.wait_for_engine("direct");
        log.take();
        traffic.offer(2, 2);
        traffic.arrive(&mut here, 5);
        traffic.finish(&mut here);
        assert!(log.take().is_empty());
    }
    assert_eq!(traffic.out, (0..traffic.sent).collect::<Vec<_>>());
    assert_eq!(traffic.received, (0..traffic.came).collect::<Vec<_>>());
}

/// The record is begun before the front-end has its answer; a device that cannot keep one is left by then.
#[test]
fn device_that_cannot_record_is_left_before_the_front_end_goes_on() {
    for faults in [Faults { track: true, ..Faults::default() }, Faults { collect: true, ..Faults::default() }]
    {
        let here = Host::Recording.bench();
        let mut traffic = Traffic::new(here.guest(FITS, 2));
        here.wait_for_engine("direct");
        here.cards[0].set_faults(faults);
        let log = Log::new(MEMORY);
        log.give(&traffic.guest.frontend);
        traffic.guest.frontend.set_features(FITS | VHOST_F_LOG_ALL).unwrap();
        let running = here.cards[0].seen().2;
        if faults.track {
            // Behind a relay, or not yet again, but not on the guest's own rings.
            assert!(!running || here.say("vdpa-engine").unwrap() != "direct");
            here.wait_for_engine("shadow");
        } else {
            // What it has written nobody knows.
            here.wait_for_engine("software");
            assert!(log.take().len() as u64 >= MEMORY / PAGE);
        }
        traffic.offer(1, 1);
    }
}

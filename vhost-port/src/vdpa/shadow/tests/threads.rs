//! Guest, relay and device, each on a thread of its own, which sleep until they are told: what one of them forgets to say makes the test stand still.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use pmd::sys::sigbus::Alarm;
use pmd::virtio::features::*;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{read, write};

use super::super::fault::DeviceFault;
use super::super::{DeviceRingAddresses, DeviceRingSpec, GuestRing, Relay, RelayCounters, ShadowRings};
use super::device::{DeviceModel, Sight};
use super::guest::{Guest, MEMORY, frame};
use crate::memory::MemTable;
use crate::ring::{DeviceRing, Direction, RingRules, Vring};
use crate::vdpa::{Capabilities, Doorbell, RingStart, StartIndex};

fn event() -> Arc<OwnedFd> {
    Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap())
}

fn signal(event: &OwnedFd) {
    write(event, &1u64.to_ne_bytes()).unwrap();
}

/// Waits for any of them, and takes what was said.
fn await_any(events: &[&Arc<OwnedFd>]) {
    let mut fds: Vec<_> = events.iter().map(|fd| PollFd::new(&**fd, PollFlags::IN)).collect();
    let patience = Timespec { tv_sec: 30, tv_nsec: 0 };
    assert!(poll(&mut fds, Some(&patience)).unwrap() > 0, "nobody said anything");
    for event in events {
        let _ = read(event, &mut [0; 8]);
    }
}

struct Bell(Arc<OwnedFd>);

impl Doorbell for Bell {
    fn ring(&self) {
        signal(&self.0);
    }
}

pub(super) fn capabilities(features: u64, max_ring_size: u16) -> Capabilities {
    Capabilities {
        kind: "model",
        name: "model".to_owned(),
        features,
        max_queue_pairs: 1,
        max_ring_size,
        start_index: StartIndex::Zero,
        reports_index: false,
        iova: vec![0..=(1 << 39) - 1],
        granule: 4096,
        mac: None,
    }
}

/// A ring of a guest, and what it is told by.
struct Side {
    guest: Guest,
    vring: Arc<Vring>,
    kick: Arc<OwnedFd>,
    call: Arc<OwnedFd>,
}

impl Side {
    fn new(size: u16, rules: RingRules, direction: Direction, logged: bool) -> Side {
        let (guest, mut ring) = Guest::new(size, rules, direction);
        let (kick, call) = (event(), event());
        ring.set_call(Some(Arc::clone(&call)));
        let vring = Arc::new(Vring::new(Alarm::new().unwrap()));
        {
            let mut state = vring.lock();
            state.ring = Some(ring);
            state.written = logged.then(|| guest.page_log());
        }
        Side { guest, vring, kick, call }
    }

    fn ring(&self) -> GuestRing {
        let (vring, kick) = (Arc::clone(&self.vring), Some(Arc::clone(&self.kick)));
        GuestRing { vring, direction: self.guest.direction, size: self.guest.driver.size(), kick }
    }

    fn publish(&mut self) {
        if self.guest.driver.publish() {
            signal(&self.kick);
        }
    }

    /// Sleeps until something comes back, and takes it.
    fn await_used(&mut self) {
        let before = self.guest.back;
        while self.guest.back == before {
            if !self.guest.driver.enable_interrupts() {
                await_any(&[&self.call]);
            }
            self.guest.driver.disable_interrupts();
            self.guest.poll();
        }
    }
}

/// A device that receives what it sends, until it is told to end. Returns how many frames went round.
fn echo(
    mut models: [DeviceModel; 2],
    bells: [Arc<OwnedFd>; 2],
    calls: [Arc<OwnedFd>; 2],
    end: Arc<OwnedFd>,
) -> JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut frames = 0;
        loop {
            let [rx, tx] = &mut models;
            rx.take_up_to(usize::MAX);
            tx.take_up_to(usize::MAX);
            while let (Some(to), Some(from)) = (rx.taken.first(), tx.taken.first()) {
                let bytes = tx.read(from);
                let room: u32 = to.pieces.iter().map(|piece| piece.len).sum();
                assert!(room as usize >= bytes.len());
                rx.write(to, &bytes);
                rx.give_back(0, bytes.len() as u32);
                tx.give_back(0, 0);
                frames += 1;
            }
            for (model, call) in models.iter_mut().zip(&calls) {
                if model.owes_interrupt() {
                    signal(call);
                }
            }
            let mut fds = [&bells[0], &bells[1], &end].map(|fd| PollFd::new(&**fd, PollFlags::IN));
            let more = models.iter_mut().map(DeviceModel::wants_kicks).fold(false, |a, b| a | b);
            let can = models.iter().all(|model| !model.taken.is_empty());
            if !more && !can {
                poll(&mut fds, None).unwrap();
            }
            if read(&end, &mut [0; 8]).is_ok() {
                return frames;
            }
            for bell in &bells {
                let _ = read(bell, &mut [0; 8]);
            }
        }
    })
}

/// The device's model of a ring that was to be started.
fn model(rings: &ShadowRings, start: &RingStart, features: u64, guest: &Guest) -> DeviceModel {
    let mapping = rings.mapping();
    let sight = Sight {
        guest: guest.whole,
        guest_len: MEMORY,
        space: mapping.memory.at(0, mapping.memory.len()).unwrap(),
        space_iova: mapping.iova,
        space_len: mapping.memory.len(),
    };
    let &RingStart { size, descriptors, driver: avail, device: used, .. } = start;
    let addresses = DeviceRingAddresses { descriptors, avail, used };
    DeviceModel::new(sight, DeviceRingSpec::new(size, features), addresses)
}

/// One guest, relayed to one device after the other, with frames under way at each change.
fn frames_go_round(rules: RingRules, features: u64, most: u16) {
    let alarm = Alarm::new().unwrap();
    let mut rx = Side::new(64, rules, Direction::Write, true);
    let mut tx = Side::new(64, rules, Direction::Read, false);
    let counters = Arc::new(RelayCounters::default());
    let mut frames = 0;
    for device in 0..3u64 {
        let caps = capabilities(features, most);
        let rings = vec![rx.ring(), tx.ring()];
        let rings = ShadowRings::prepare(rings, features, &caps, &MemTable::default()).unwrap();
        let starts = rings.starts();
        let models =
            [model(&rings, &starts[0], features, &rx.guest), model(&rings, &starts[1], features, &tx.guest)];
        let (bells, end) = ([event(), event()], event());
        let calls = [0, 1].map(|at: usize| Arc::clone(starts[at].call.as_ref().unwrap()));
        let doorbells =
            bells.iter().map(|bell| Arc::new(Bell(Arc::clone(bell))) as Arc<dyn Doorbell>).collect();
        let relay = Relay::start("test", rings, doorbells, Arc::clone(&counters), &alarm).unwrap();
        let thread = echo(models, bells, calls, Arc::clone(&end));
        for round in 0..200 {
            while rx.guest.add(12, round % 2 == 0) {}
            rx.publish();
            for pieces in 1..=(1 + round % 9) {
                if tx.guest.add(pieces, round % 3 == 0) {
                    let bytes = frame(tx.guest.stamp, tx.guest.last_len());
                    rx.guest.expect(bytes);
                }
            }
            tx.publish();
            rx.await_used();
            tx.guest.poll();
        }
        signal(&end);
        frames += thread.join().unwrap();
        assert_eq!(relay.fault(), None);
        let settled = relay.stop();
        assert_eq!((settled.sent_again, settled.returned_empty), (0, 0), "device {device}");
        rx.guest.poll();
        tx.guest.poll();
        assert_eq!(rx.guest.back, frames);
    }
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    assert_eq!((count(&counters.received), count(&counters.sent)), (frames, frames));
    for side in [&rx, &tx] {
        let state = side.vring.lock();
        let ring: &DeviceRing = state.ring.as_ref().unwrap();
        assert_eq!(ring.next_avail(), ring.next_used());
    }
}

#[test]
fn frames_go_round_and_nobody_sleeps_too_long() {
    const INDIRECT: u64 = VIRTIO_F_INDIRECT_DESC;
    for event_idx in [false, true] {
        for packed in [false, true] {
            let rules = RingRules { event_idx, indirect: true, packed, in_order: false };
            let event = if event_idx { VIRTIO_F_EVENT_IDX } else { 0 };
            frames_go_round(rules, INDIRECT | event, 256);
            frames_go_round(rules, INDIRECT | VIRTIO_F_EVENT_IDX | VIRTIO_F_RING_PACKED, 256);
            frames_go_round(rules, event | VIRTIO_NET_F_MRG_RXBUF, 16);
        }
    }
}

#[test]
fn device_that_lies_ends_the_relay_and_rings_the_alarm() {
    let alarm = Alarm::new().unwrap();
    let mut tx = Side::new(16, RingRules::default(), Direction::Read, false);
    let caps = capabilities(0, 256);
    let rings = ShadowRings::prepare(vec![tx.ring()], 0, &caps, &MemTable::default()).unwrap();
    let starts = rings.starts();
    let mut model = model(&rings, &starts[0], 0, &tx.guest);
    let bell = event();
    let relay = Relay::start("test", rings, vec![Arc::new(Bell(Arc::clone(&bell)))], Arc::default(), &alarm);
    let relay = relay.unwrap();
    assert!(tx.guest.add(1, false));
    tx.publish();
    await_any(&[&bell]);
    model.take_up_to(1);
    model.claim(15, 0, 1);
    signal(starts[0].call.as_ref().unwrap());
    let mut fds = [PollFd::new(&*alarm, PollFlags::IN)];
    assert!(poll(&mut fds, Some(&Timespec { tv_sec: 30, tv_nsec: 0 })).unwrap() > 0);
    assert!(matches!(relay.fault(), Some(DeviceFault::Returned(_))));
    assert_eq!(relay.stop().rewound, 1);
}

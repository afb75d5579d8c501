//! The steps that guest, shadow and device can take, in any order, and what must be true after each.
#![expect(unsafe_code, reason = "devices and software write guest memory")]

use std::sync::Arc;

use pmd::memory::Arena;
use pmd::virtio::SharedPtr;
use proptest::prelude::*;

use super::super::relay::Relayed;
use super::super::{DeviceQueue, DeviceRingSpec, RingSpace, Shadow};
use super::device::{DeviceModel, Sight, Taken};
use super::guest::{Guest, MEMORY, MOST_PIECES, frame};
use crate::memory::PageLog;
use crate::ring::{Cursor, DeviceRing, Direction, Ring, RingRules};

const SPACE: u64 = 0x10_0000_0000;

pub(super) fn device_ring(guest: &Guest, spec: DeviceRingSpec) -> (DeviceQueue, DeviceModel) {
    let len = spec.bytes() + 4096;
    let arena = Arc::new(Arena::create("shadow-test", len).unwrap());
    // SAFETY: inside the arena, which the queue keeps.
    let space = unsafe { SharedPtr::new(arena.start()).add(4096) };
    let queue = DeviceQueue::new(spec, RingSpace { arena, offset: 4096, iova: SPACE }).unwrap();
    let sight = Sight {
        guest: guest.whole,
        guest_len: MEMORY,
        space,
        space_iova: SPACE,
        space_len: spec.bytes() as u64,
    };
    let model = DeviceModel::new(sight, spec, queue.addresses());
    (queue, model)
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    /// The driver adds chains of so many pieces, through a table or not, and publishes them.
    Add(Vec<(usize, bool)>),
    /// The shadow relays, at most so many chains.
    Relay(u16),
    /// The device takes so many chains.
    Take(usize),
    /// The device uses chains of those it has, picked by these numbers.
    Use(Vec<usize>),
    /// The driver takes back what it can.
    Poll,
    /// Both sides are asked to tell.
    Arm,
    /// The switch dies, and another one goes on with this device.
    Die(DeviceRingSpec),
    /// Software for a while: so many chains, perhaps none. Then this device.
    Software(u16, DeviceRingSpec),
}

pub(super) fn spec() -> impl Strategy<Value = DeviceRingSpec> {
    (0u32..4, any::<[bool; 3]>()).prop_map(|(shift, [packed, event_idx, indirect])| DeviceRingSpec {
        size: 4 << shift,
        packed,
        event_idx,
        indirect,
    })
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => prop::collection::vec((1..=MOST_PIECES, any::<bool>()), 1..10).prop_map(Step::Add),
        5 => (0u16..20).prop_map(Step::Relay),
        4 => (1usize..20).prop_map(Step::Take),
        4 => prop::collection::vec(0usize..64, 1..20).prop_map(Step::Use),
        3 => Just(Step::Poll),
        1 => Just(Step::Arm),
        1 => spec().prop_map(Step::Die),
        2 => (prop_oneof![Just(0u16), 1u16..20], spec()).prop_map(|(n, spec)| Step::Software(n, spec)),
    ];
    prop::collection::vec(step, 1..120)
}

pub(super) struct Play {
    pub(super) guest: Guest,
    pub(super) ring: DeviceRing,
    pub(super) log: PageLog,
    pub(super) shadow: Option<Shadow>,
    pub(super) model: DeviceModel,
    pub(super) spec: DeviceRingSpec,
    /// The device uses buffers in the order in which it got them.
    pub(super) orderly: bool,
    pub(super) again: u64,
    /// Frames that may be sent again beside those.
    at_most: u64,
    pub(super) empty: u64,
    /// Pages that were changed by others than the guest.
    pub(super) changed: Vec<u64>,
}

impl Play {
    pub(super) fn new(
        size: u16,
        rules: RingRules,
        direction: Direction,
        spec: DeviceRingSpec,
        orderly: bool,
    ) -> Play {
        let (guest, ring) = Guest::new(size, rules, direction);
        let (queue, model) = device_ring(&guest, spec);
        let shadow = Some(Shadow::new(direction, orderly, queue));
        let log = guest.page_log();
        Play {
            guest,
            ring,
            log,
            shadow,
            model,
            spec,
            orderly,
            again: 0,
            at_most: 0,
            empty: 0,
            changed: Vec::new(),
        }
    }

    /// Does what is no work of the guest's, and notes which pages it changed.
    pub(super) fn observed(&mut self, work: impl FnOnce(&mut Play)) {
        let before = self.guest.image();
        work(self);
        let after = self.guest.image();
        let pages = before.chunks(4096).zip(after.chunks(4096)).enumerate();
        self.changed
            .extend(pages.filter(|(_, (before, after))| before != after).map(|(page, _)| page as u64));
    }

    pub(super) fn relay(&mut self, budget: u16) -> Relayed {
        let shadow = self.shadow.as_mut().unwrap();
        let relayed = shadow.relay(&mut self.ring, Some(&mut self.log), budget);
        assert_eq!(relayed.fault, None);
        assert!(relayed.taken <= budget);
        // A ring that was given something wants to be kicked, since the model never says otherwise.
        assert!(relayed.kick || relayed.taken == 0 || self.spec.event_idx || shadow.in_flight() > 0);
        relayed
    }

    pub(super) fn relay_some(&mut self, budget: u16) {
        self.relay(budget);
    }

    /// The device uses the chain at an index: reads or writes it.
    pub(super) fn device_uses(&mut self, pick: usize) {
        if self.model.taken.is_empty() {
            return;
        }
        let index = if self.orderly { 0 } else { pick % self.model.taken.len() };
        let chain: Taken = self.model.taken[index].clone();
        let len = match self.guest.direction {
            Direction::Read => {
                let bytes = self.model.read(&chain);
                self.guest.read(&bytes);
                // Some say how much they sent.
                if pick.is_multiple_of(3) { bytes.len() as u32 } else { 0 }
            }
            Direction::Write => {
                let room: usize = chain.pieces.iter().map(|p| p.len as usize).sum();
                let bytes = frame(pick as u64 + 7, 1 + pick * 37 % room);
                self.model.write(&chain, &bytes);
                let len = bytes.len() as u32;
                self.guest.wrote(chain.pieces[0].addr, bytes);
                len
            }
        };
        self.model.give_back(index, len);
    }

    pub(super) fn fits(&self, spec: DeviceRingSpec) -> DeviceRingSpec {
        // Without tables a ring has to have room for the longest chain.
        if spec.indirect { spec } else { DeviceRingSpec { size: spec.size.max(16), ..spec } }
    }

    pub(super) fn stop(&mut self) {
        let Some(shadow) = self.shadow.take() else { return };
        let settled = shadow.stop(&mut self.ring, Some(&mut self.log));
        if self.orderly {
            assert_eq!((settled.sent_again, settled.returned_empty), (0, 0));
        }
        self.again += settled.sent_again;
        self.empty += settled.returned_empty;
        assert_eq!(self.ring.next_avail(), self.ring.next_used());
    }

    /// A shadow with this device.
    fn start(&mut self, spec: DeviceRingSpec) {
        let spec = self.fits(spec);
        let (queue, model) = device_ring(&self.guest, spec);
        (self.model, self.spec) = (model, spec);
        self.shadow = Some(Shadow::new(self.guest.direction, self.orderly, queue));
    }

    /// All that is not in memory which stays is gone, and nobody had time for anything.
    fn die(&mut self) {
        self.shadow = None;
        self.ring = self.guest.start();
        self.guest.poll();
        // What the guest has not got back, it gets from the next: sent once more, or with other frames.
        self.guest.received.clear();
        let sent = |stamp: &u64| self.guest.sent.contains_key(stamp);
        self.at_most += self.guest.out.values().filter(|(.., stamp)| sent(stamp)).count() as u64;
    }

    /// Our own engine for so many chains.
    pub(super) fn software(&mut self, chains: u16) {
        fn run<R: Ring>(ring: &mut R, guest: &mut Guest, chains: u16) -> Vec<(u64, u64)> {
            let mut wrote = Vec::new();
            for _ in 0..chains {
                let Some(extent) = ring.peek(&mut Cursor::default()).unwrap() else { break };
                ring.forget_segments();
                let bytes = ring.walk(extent, guest.direction).unwrap() as usize;
                let gpa = |addr| guest.memory.by_host(addr).unwrap().gpa(addr).unwrap();
                let pieces: Vec<_> = ring.segments().iter().map(|s| (gpa(s.start.addr()), s.len)).collect();
                let len = match guest.direction {
                    Direction::Read => {
                        let mut frame = vec![0; bytes];
                        let mut rest = &mut frame[..];
                        for &(addr, len) in &pieces {
                            let (now, later) = rest.split_at_mut(len as usize);
                            // SAFETY: a piece lies in guest memory.
                            unsafe { guest.at(addr).copy_out(now) };
                            rest = later;
                        }
                        guest.read(&frame);
                        0
                    }
                    Direction::Write => {
                        let bytes = frame(3, 20);
                        // SAFETY: a first piece has more than twenty bytes.
                        unsafe { guest.at(pieces[0].0).copy_in(&bytes) };
                        wrote.push((pieces[0].0, 20));
                        guest.wrote(pieces[0].0, bytes);
                        20
                    }
                };
                ring.make_room(1);
                ring.complete(extent, len);
            }
            wrote
        }
        let wrote = match &mut self.ring {
            DeviceRing::Split(ring) => run(ring, &mut self.guest, chains),
            DeviceRing::Packed(ring) => run(ring, &mut self.guest, chains),
        };
        wrote.into_iter().for_each(|(addr, len)| self.log.wrote_at(addr, len));
        self.log.flush();
        self.ring.publish();
    }

    pub(super) fn step(&mut self, step: &Step) {
        match step {
            Step::Add(chains) => {
                for &(pieces, table) in chains {
                    self.guest.add(pieces, table);
                }
                let _ = self.guest.driver.publish();
            }
            &Step::Relay(budget) => self.observed(|play| play.relay_some(budget)),
            &Step::Take(chains) => self.model.take_up_to(chains),
            Step::Use(picks) => self.observed(|play| {
                if picks[0] % 2 == 0 {
                    play.model.scribble();
                }
                picks.iter().for_each(|&pick| play.device_uses(pick));
            }),
            Step::Poll => self.guest.poll(),
            Step::Arm => self.observed(|play| {
                let shadow = play.shadow.as_mut().unwrap();
                if !shadow.arm(&mut play.ring, true) {
                    // Nothing to do, so doing it changes nothing.
                    let in_flight = shadow.in_flight();
                    let relayed = play.relay(u16::MAX);
                    assert!(relayed.idle(), "{relayed:?}");
                    assert_eq!(play.shadow.as_ref().unwrap().in_flight(), in_flight);
                }
            }),
            &Step::Die(spec) => {
                self.die();
                self.start(spec);
            }
            &Step::Software(chains, spec) => self.observed(|play| {
                play.stop();
                play.software(chains);
                play.start(spec);
            }),
        }
    }

    /// All comes back, and all that was changed is in the log.
    pub(super) fn end(mut self) {
        self.observed(|play| {
            play.stop();
            play.software(u16::MAX);
        });
        self.guest.poll();
        assert!(self.guest.out.is_empty());
        assert_eq!(self.guest.driver.free(), usize::from(self.guest.driver.size()));
        assert_eq!(self.guest.empty, self.empty);
        let twice: u64 = self.guest.sent.values().map(|&times| u64::from(times) - 1).sum();
        let (least, most) = (self.again, self.again + self.at_most);
        assert!((least..=most).contains(&twice), "a frame is sent twice only if it was said so");
        let logged = self.guest.logged();
        for page in self.changed {
            assert!(logged.contains(&page), "page {page:#x} was changed and is not in the log");
        }
    }
}

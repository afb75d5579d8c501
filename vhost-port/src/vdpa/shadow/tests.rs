//! A guest's driver, the shadow, and a device that does as it likes, in any order of steps: every buffer comes back once, with what was
//! written into it. Then devices that lie, and guests that do.

mod device;
mod guest;
mod play;
mod threads;

use pmd::virtio::driver_ring::{BadUsed, Buffer};
use proptest::prelude::*;

use self::device::DeviceModel;
use self::guest::MEMORY;
use self::play::{Play, Step, spec, steps};
use super::DeviceRingSpec;
use super::fault::{DeviceFault, ShadowFault};
use super::relay::Settled;
use crate::ring::{Direction, RingFault, RingRules};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn every_buffer_comes_back_once(
        size in prop_oneof![Just(1u16), Just(4), Just(16), Just(64)],
        [write, packed, event_idx, in_order, orderly] in any::<[bool; 5]>(),
        first in spec(),
        steps in steps(),
    ) {
        let rules = RingRules { event_idx, indirect: true, packed, in_order };
        let direction = if write { Direction::Write } else { Direction::Read };
        let first = if first.indirect { first } else { DeviceRingSpec { size: 16, ..first } };
        let mut play = Play::new(size, rules, direction, first, orderly);
        steps.iter().for_each(|step| play.step(step));
        play.end();
    }
}

/// A shadow of a ring of 16, with a device that is asked as the test likes.
fn scene(direction: Direction, spec: DeviceRingSpec, orderly: bool) -> Play {
    let rules = RingRules { indirect: true, ..RingRules::default() };
    Play::new(16, rules, direction, spec, orderly)
}

const SPLIT: DeviceRingSpec = DeviceRingSpec { size: 8, packed: false, event_idx: false, indirect: false };
const PACKED: DeviceRingSpec = DeviceRingSpec { packed: true, ..SPLIT };

/// The fault of a device that does this after it was given three buffers of 256 bytes.
fn fault_of(spec: DeviceRingSpec, orderly: bool, act: impl FnOnce(&mut DeviceModel)) -> Option<ShadowFault> {
    let mut play = scene(Direction::Write, spec, orderly);
    play.step(&Step::Add(vec![(1, false); 3]));
    play.relay(16);
    play.model.scribble();
    act(&mut play.model);
    let shadow = play.shadow.as_mut().unwrap();
    let relayed = shadow.relay(&mut play.ring, None, 16);
    if relayed.fault.is_some() {
        // It stays; and the guest gets all back, from whom it is given to next.
        assert_eq!(shadow.relay(&mut play.ring, None, 16).fault, relayed.fault);
        play.stop();
        play.guest.received.clear();
        play.software(u16::MAX);
        let back = std::iter::from_fn(|| play.guest.driver.poll_used().unwrap());
        assert_eq!(back.count(), 3);
    }
    relayed.fault
}

#[test]
fn devices_that_lie_are_found_out() {
    let device = |fault: DeviceFault| Some(ShadowFault::Device(fault));
    for spec in [SPLIT, PACKED] {
        assert_eq!(fault_of(spec, true, |_| {}), None);
        let unknown = |id| device(BadUsed::NotGiven(id).into());
        // A name that no chain has, one that does not exist, and the same chain twice.
        assert_eq!(fault_of(spec, true, |model| model.claim(7, 0, 1)), unknown(7));
        assert_eq!(fault_of(spec, true, |model| model.claim(u16::MAX, 0, 1)), unknown(0xffff));
        let first = |model: &DeviceModel| model.taken[0].id;
        let twice = fault_of(spec, true, |model| {
            model.claim(first(model), 20, 1);
            model.claim(first(model), 20, 1);
        });
        assert!(matches!(twice, Some(ShadowFault::Device(DeviceFault::Returned(_)))), "{twice:?}");
        let long = fault_of(spec, true, |model| model.claim(first(model), 257, 1));
        assert_eq!(long, device(DeviceFault::TooLong { len: 257, capacity: 256 }));
        assert_eq!(fault_of(spec, true, |model| model.give_back(1, 20)), device(DeviceFault::OutOfOrder));
        assert_eq!(fault_of(spec, false, |model| model.give_back(1, 20)), None);
    }
    let jumped = |used| device(BadUsed::TooMany { used, given: 3 }.into());
    assert_eq!(fault_of(SPLIT, true, |model| model.jump(4)), jumped(4));
    assert_eq!(fault_of(SPLIT, true, |model| model.jump(0xffff)), jumped(0xffff));
}

#[test]
fn chain_that_fits_no_ring_of_the_device_is_said_so_and_stays_with_the_guest() {
    let mut play = scene(Direction::Read, SPLIT, true);
    play.step(&Step::Add(vec![(1, false), (9, false)]));
    let shadow = play.shadow.as_mut().unwrap();
    let fault = shadow.relay(&mut play.ring, None, 16).fault;
    assert_eq!(fault, Some(DeviceFault::ChainTooLong { pieces: 9, size: 8 }.into()));
    // With tables it goes.
    let indirect = DeviceRingSpec { indirect: true, ..SPLIT };
    play.step(&Step::Software(0, indirect));
    play.relay(16);
    play.step(&Step::Take(2));
    assert_eq!(play.model.taken.iter().map(|chain| chain.pieces.len()).collect::<Vec<_>>(), [1, 9]);
    play.step(&Step::Use(vec![1, 1]));
    assert_eq!(play.relay(16).returned, 2);
    play.end();
}

#[test]
fn full_ring_of_the_device_holds_the_guest_back() {
    let mut play = scene(Direction::Read, DeviceRingSpec { size: 4, ..SPLIT }, true);
    play.step(&Step::Add(vec![(3, false); 5]));
    assert_eq!(play.relay(16).taken, 2, "one with the device, one that waits");
    let shadow = play.shadow.as_mut().unwrap();
    assert!(!shadow.arm(&mut play.ring, true), "the guest's chains are not what is waited for");
    assert_eq!(play.relay(16).taken, 0);
    play.step(&Step::Take(1));
    play.step(&Step::Use(vec![1]));
    let shadow = play.shadow.as_mut().unwrap();
    assert!(shadow.arm(&mut play.ring, true), "the device has used a chain");
    let relayed = play.relay(16);
    assert_eq!((relayed.taken, relayed.returned), (1, 1));
    play.end();
}

#[test]
fn what_a_guest_does_wrong_is_its_rings_fault_and_what_was_right_goes_on() {
    for packed in [false, true] {
        let rules = RingRules { packed, indirect: true, ..RingRules::default() };
        let mut play = Play::new(16, rules, Direction::Read, SPLIT, true);
        play.step(&Step::Add(vec![(1, false); 2]));
        // A third chain that lies outside memory.
        let outside = [Buffer { addr: MEMORY, len: 60, write: false }];
        assert!(play.guest.driver.add(&outside).is_some());
        let _ = play.guest.driver.publish();
        let shadow = play.shadow.as_mut().unwrap();
        let relayed = shadow.relay(&mut play.ring, None, 16);
        assert_eq!((relayed.taken, relayed.kick), (2, true));
        assert_eq!(relayed.fault, Some(RingFault::OutsideMemory.into()));
        play.step(&Step::Take(3));
        assert_eq!(play.model.taken.len(), 2, "the device is not shown what is wrong");
        play.step(&Step::Use(vec![1, 1]));
        // Whoever stops the ring lets the rest come back.
        let relayed = play.relay(0);
        assert_eq!((relayed.returned, relayed.fault), (2, None));
        play.guest.poll();
        assert!(play.guest.out.is_empty());
    }
}

#[test]
fn what_is_done_behind_a_hole_is_neither_lost_nor_given_back_twice() {
    for spec in [SPLIT, PACKED] {
        for direction in [Direction::Read, Direction::Write] {
            let mut play = scene(direction, spec, false);
            play.step(&Step::Add(vec![(1, false); 4]));
            play.relay(16);
            play.step(&Step::Take(4));
            // The third and the second.
            play.step(&Step::Use(vec![2, 1]));
            assert_eq!(play.relay(16).returned, 0, "both wait for the first");
            let shadow = play.shadow.take().unwrap();
            let settled = shadow.stop(&mut play.ring, Some(&mut play.log));
            let expected = match direction {
                Direction::Read => Settled { returned: 0, rewound: 4, sent_again: 2, returned_empty: 0 },
                Direction::Write => Settled { returned: 2, rewound: 1, sent_again: 0, returned_empty: 1 },
            };
            assert_eq!(settled, expected);
            (play.again, play.empty) = (settled.sent_again, settled.returned_empty);
            play.end();
        }
    }
}

#[test]
fn what_a_device_wrote_into_a_buffer_that_goes_back_empty_is_in_the_log() {
    for spec in [SPLIT, PACKED] {
        let mut play = scene(Direction::Write, spec, false);
        play.step(&Step::Add(vec![(1, false); 2]));
        // An even number picks the first. It is written, and nobody lives to hear of it; later the second is, and the end finds it behind a hole.
        for written in [30, 31] {
            play.step(&Step::Relay(2));
            play.step(&Step::Take(2));
            play.step(&Step::Use(vec![written]));
            if written == 30 {
                play.step(&Step::Die(spec));
            }
        }
        play.end();
    }
}

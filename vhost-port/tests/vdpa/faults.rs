//! Engines come, go and fail at every step while frames pass: each buffer comes back once, and no frame gets lost.

use pmd::port::LinkState;
use pmd::virtio::NetHeader;
use pmd::virtio::features::*;
use proptest::prelude::*;
use vhost::VhostBackend;
use vhost_port::vdpa::fake::{Faults, able_device, plain_function};

use crate::bench::{Bench, NAMES};
use crate::guest::{Guest, MODERN, wait_for};

/// Most buffers that the guest has in a ring: some less than fit.
const MOST: usize = 40;

#[derive(Clone, Debug)]
enum Step {
    /// The guest sends so many frames.
    Send(usize),
    /// It offers so many buffers.
    Post(usize),
    /// So many frames arrive for it, at whoever runs its rings.
    Arrive(usize),
    /// A card works on so many chains.
    Work(usize, usize),
    /// The switch takes what the guest has sent.
    Receive,
    /// The guest looks at what came back.
    Drain,
    /// The operator names these devices.
    Want(Vec<usize>),
    /// Something of a card fails from now on.
    Break(usize, Faults),
    /// There is a new card in its place.
    Replace(usize),
}

fn faults() -> impl Strategy<Value = Faults> {
    let none = Faults::default();
    prop_oneof![
        Just(Faults { map: true, ..none }),
        Just(Faults { unmap: true, ..none }),
        Just(Faults { start: true, ..none }),
        Just(Faults { stop: true, ..none }),
        Just(Faults { stop: true, reset: true, ..none }),
        Just(Faults { set_call: true, ..none }),
        Just(Faults { interrupts: true, ..none }),
        Just(Faults { removed: true, ..none }),
        (0u64..30).prop_map(move |chains| Faults { dies_after: Some(chains), ..none }),
        (0u64..30).prop_map(move |chains| Faults {
            dies_after: Some(chains),
            stop: true,
            reset: true,
            ..none
        }),
    ]
}

fn wants() -> impl Strategy<Value = Vec<usize>> {
    prop::sample::select(vec![vec![], vec![0], vec![1], vec![0, 1], vec![1, 0]])
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1usize..12).prop_map(Step::Send),
        4 => (1usize..12).prop_map(Step::Post),
        4 => (1usize..12).prop_map(Step::Arrive),
        4 => (0usize..2, 1usize..20).prop_map(|(card, chains)| Step::Work(card, chains)),
        2 => Just(Step::Receive),
        2 => Just(Step::Drain),
        4 => wants().prop_map(Step::Want),
        2 => (0usize..2, faults()).prop_map(|(card, faults)| Step::Break(card, faults)),
        2 => (0usize..2).prop_map(Step::Replace),
    ]
}

/// What has been done, by number of frame.
struct Play {
    bench: Bench,
    guest: Guest,
    next: u32,
    sent: Vec<u32>,
    reclaimed: usize,
    /// Frames the switch or a card took for the guest.
    arrived: Vec<u32>,
    posted: usize,
    /// What came through.
    delivered: Vec<u32>,
    received: Vec<u32>,
}

fn numbered(number: u32) -> Vec<u8> {
    [&[2; 12][..], &[8, 0], &number.to_le_bytes(), &[0; 42]].concat()
}

fn number(frame: &[u8]) -> u32 {
    u32::from_le_bytes(frame[14..18].try_into().unwrap())
}

impl Play {
    fn take(&mut self, step: Step) {
        match step {
            Step::Send(count) => {
                for _ in 0..count.min(MOST - (self.sent.len() - self.reclaimed)) {
                    self.next += 1;
                    self.guest.send(1, NetHeader::default(), &numbered(self.next), &[]);
                    self.sent.push(self.next);
                }
                self.guest.rings[1].kick.write(1).unwrap();
            }
            Step::Post(count) => {
                for _ in 0..count.min(MOST - (self.posted - self.received.len())) {
                    self.guest.post(0, &[2000]);
                    self.posted += 1;
                }
                self.guest.rings[0].kick.write(1).unwrap();
            }
            Step::Arrive(count) => (0..count).for_each(|_| self.arrive()),
            Step::Work(card, chains) => {
                self.bench.cards[card].work(chains);
                self.collect();
            }
            Step::Receive => self.collect(),
            Step::Drain => self.drain(),
            Step::Want(cards) => {
                let names: Vec<_> = cards.into_iter().map(|card| NAMES[card]).collect();
                self.bench.want(&names);
                self.settle();
            }
            Step::Break(card, faults) => {
                self.bench.cards[card].set_faults(faults);
                self.settle();
            }
            Step::Replace(card) => self.bench.cards[card].replace(),
        }
    }

    /// Returns when the port has followed what it was told before.
    fn settle(&self) {
        self.guest.frontend.get_features().unwrap();
    }

    fn arrive(&mut self) {
        self.next += 1;
        let frame = numbered(self.next);
        let running = self.bench.cards.iter().find(|card| card.seen().2);
        if let Some(card) = running {
            card.arrive(&frame);
            self.arrived.push(self.next);
        } else if self.bench.transmit(&frame) == 1 {
            self.arrived.push(self.next);
        }
    }

    fn collect(&mut self) {
        let by_cards = self.bench.cards.each_ref().map(|card| card.sent());
        let by_switch = self.bench.received();
        let frames = by_cards.into_iter().flatten().chain(by_switch);
        self.delivered.extend(frames.map(|frame| number(&frame)));
    }

    fn drain(&mut self) {
        self.reclaimed += self.guest.reclaim(1);
        while let Some((_, frame)) = self.guest.receive(0) {
            self.received.push(number(&frame));
        }
    }

    /// All is well again, and the switch has the guest.
    fn end(&mut self) {
        self.bench.cards.iter().for_each(|card| card.replace());
        self.bench.want(&[]);
        self.settle();
        wait_for(&self.bench.port, |info| {
            crate::bench::say(info, "vdpa-engine").is_none_or(|engine| engine == "software")
                && info.link == LinkState::Up
        });
        self.collect();
        self.drain();
    }
}

fn check(kind: u64, able: bool, first: &[usize], steps: Vec<Step>) {
    let bench = Bench::new(if able { able_device } else { plain_function });
    let names: Vec<_> = first.iter().map(|&card| NAMES[card]).collect();
    bench.want(&names);
    // With a card, guests are not offered packed rings: it could run them only behind a relay.
    let kind = if first.is_empty() { kind } else { kind & !VIRTIO_F_RING_PACKED };
    let guest = bench.guest(MODERN | kind, 2);
    wait_for(&bench.port, |info| info.link == LinkState::Up);
    let (next, sent, reclaimed, arrived, posted) = (0, Vec::new(), 0, Vec::new(), 0);
    let (delivered, received) = (Vec::new(), Vec::new());
    let mut play = Play { bench, guest, next, sent, reclaimed, arrived, posted, delivered, received };
    steps.into_iter().for_each(|step| play.take(step));
    play.end();
    assert_eq!(play.reclaimed, play.sent.len(), "each buffer of a frame sent comes back, once");
    play.delivered.sort_unstable();
    assert_eq!(play.delivered, play.sent, "each frame sent arrives, once");
    let lost = play.bench.cards.iter().flat_map(|card| card.lose_waiting());
    let lost: Vec<_> = lost.map(|frame| number(&frame)).collect();
    play.arrived.retain(|number| !lost.contains(number));
    play.received.sort_unstable();
    assert_eq!(play.received, play.arrived, "each frame that was taken for the guest arrives, once");
    // And it goes on.
    while play.posted == play.received.len() {
        play.take(Step::Post(1));
    }
    play.take(Step::Send(1));
    play.arrive();
    play.collect();
    play.drain();
    assert_eq!(play.arrived.len(), play.received.len());
    assert_eq!(play.reclaimed, play.sent.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_or_done_twice_whatever_engines_do(
        kind in prop::sample::select(vec![0, VIRTIO_F_EVENT_IDX, VIRTIO_F_RING_PACKED, VIRTIO_F_RING_PACKED | VIRTIO_F_EVENT_IDX]),
        able: bool,
        first in wants(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        check(kind, able, &first, steps);
    }
}

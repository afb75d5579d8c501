//! A played card for tests: it reads its area as the interface says, moves frames, and fails as hardware does.

use std::collections::HashMap;

use super::area::{queue, rss, shared};
use super::descriptors::card::{rx_given, tx_completed, tx_given};
use super::descriptors::{LEN, Mode, Received};
use super::registers::*;
use crate::nic::test_cards::{self, PlayedCard};
use crate::pci::{FakeDma, FakeModel};

/// A frame that was sent, and what the card was to do to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SentFrame {
    pub(super) bytes: Vec<u8>,
    pub(super) mode: Mode,
}

/// A ring as the card sees it.
#[derive(Clone, Copy, Default)]
struct Ring {
    base: u64,
    size: u32,
    next: u32,
    generation: bool,
}

impl Ring {
    fn at(&self) -> u64 {
        self.base + u64::from(self.next) * LEN as u64
    }

    fn advance(&mut self) {
        self.next += 1;
        if self.next == self.size {
            (self.next, self.generation) = (0, !self.generation);
        }
    }
}

/// A queue: its rings, its vector, what the card has counted.
#[derive(Clone, Default)]
pub(super) struct Queue {
    at: u64,
    rings: [Ring; 3],
    vector: u8,
    counters: [u64; 10],
}

/// Ways to lie, each for the next frame only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lie {
    /// A buffer holds more than it can.
    Length,
    /// A descriptor is completed that the card does not have.
    RxIndex,
    /// The frame begins in the middle.
    NoBeginning,
    /// A ring of another queue.
    Ring,
    /// A frame is done that was never given.
    TxIndex,
}

/// The card.
pub(super) struct Chip {
    masks: HashMap<usize, u32>,
    area: u64,
    last_command: u32,
    is_active: bool,
    pub(super) rx: Vec<Queue>,
    pub(super) tx: Vec<Queue>,
    pub(super) link_up: bool,
    pub(super) sent: Vec<SentFrame>,
    pub(super) resets: u32,
    /// Passes over one head before the next frame.
    pub(super) passes_over: bool,
    /// Takes no frames to send.
    pub(super) stuck: bool,
    pub(super) lie: Option<Lie>,
    /// Never ends its reset; refuses its configuration.
    pub(super) dead: bool,
    pub(super) refuses: bool,
    /// Wants to be told producer indexes.
    pub(super) wants_producer: bool,
}

/// A card that a test and a function share.
pub(super) type Shared = test_cards::Shared<Chip>;

impl PlayedCard for Chip {
    fn plugged_in() -> Self {
        Chip {
            masks: HashMap::new(),
            area: 0,
            last_command: 0,
            is_active: false,
            rx: Vec::new(),
            tx: Vec::new(),
            link_up: true,
            sent: Vec::new(),
            resets: 0,
            passes_over: false,
            stuck: false,
            lie: None,
            dead: false,
            refuses: false,
            wants_producer: false,
        }
    }

    fn bring(&mut self, dma: &FakeDma, frame: &[u8]) -> bool {
        self.deliver(dma, 0, frame)
    }

    fn stick(&mut self, stuck: bool) {
        self.stuck = stuck;
    }

    fn last_sent(&self) -> Option<&[u8]> {
        self.sent.last().map(|sent| &sent.bytes[..])
    }
}

fn read<const N: usize>(dma: &FakeDma, at: u64) -> [u8; N] {
    let mut bytes = [0; N];
    assert!(dma.read(at, &mut bytes), "the card was given an address that is not mapped");
    bytes
}

fn read32(dma: &FakeDma, at: u64) -> u32 {
    u32::from_le_bytes(read(dma, at))
}

fn read64(dma: &FakeDma, at: u64) -> u64 {
    u64::from_le_bytes(read(dma, at))
}

fn write64(dma: &FakeDma, at: u64, value: u64) {
    assert!(dma.write(at, &value.to_le_bytes()));
}

impl Chip {
    fn area_at(&self, offset: usize) -> u64 {
        self.area + offset as u64
    }

    fn activate(&mut self, dma: &FakeDma) {
        assert_eq!(read32(dma, self.area_at(shared::MAGIC)), shared::MAGIC_VALUE);
        assert_eq!(read32(dma, self.area_at(shared::RX_MODE)), 0x1f, "all addresses");
        assert!((60..=9000).contains(&read32(dma, self.area_at(shared::MTU))));
        let numbers: [u8; 4] = read(dma, self.area_at(shared::NUMBERS));
        let (tx, rx) = (u64::from(numbers[2]), u64::from(numbers[3]));
        let queues = read64(dma, self.area_at(shared::QUEUES));
        assert_eq!(u64::from(read32(dma, self.area_at(shared::QUEUES_LEN))), (tx + rx) * 256);
        let queue = |index: u64| {
            let at = queues + index * 256;
            let ring = |i: u64| Ring {
                base: read64(dma, at + queue::RINGS as u64 + 8 * i),
                size: read32(dma, at + queue::SIZES as u64 + 4 * i),
                next: 0,
                generation: true,
            };
            let [vector] = read(dma, at + queue::VECTOR as u64);
            Queue { at, rings: [ring(0), ring(1), ring(2)], vector, counters: [0; 10] }
        };
        self.tx = (0..tx).map(queue).collect();
        self.rx = (tx..tx + rx).map(queue).collect();
        for ring in self.rx.iter().flat_map(|queue| &queue.rings) {
            assert!(ring.size >= 32 && ring.size.is_multiple_of(32) && ring.base.is_multiple_of(512));
        }
        if self.wants_producer {
            self.rx.iter().for_each(|queue| assert!(dma.write(queue.at, &[1])));
        }
        self.is_active = true;
    }

    /// The table by which flows are spread, and whether that is on.
    pub(super) fn spread(&self, dma: &FakeDma) -> Option<[u8; rss::TABLE_LEN]> {
        let is_on = read64(dma, self.area_at(shared::FEATURES)) & shared::FEATURE_RSS != 0;
        is_on.then(|| read(dma, read64(dma, self.area_at(shared::RSS + 8)) + rss::TABLE as u64))
    }

    fn interrupt(&mut self, dma: &FakeDma, vector: u8) {
        let mask = IMR + usize::from(vector) * NEXT;
        // Masks itself with the interrupt, as it was told to.
        if self.masks.insert(mask, 1) == Some(0) {
            dma.interrupt(vector.into());
        }
    }

    /// Brings a frame in by a queue, in buffers of the lengths its descriptors say. False when the card has not enough of them.
    pub(super) fn deliver(&mut self, dma: &FakeDma, index: usize, frame: &[u8]) -> bool {
        if !self.is_active {
            return false;
        }
        let mut queue = self.rx[index].clone();
        if std::mem::take(&mut self.passes_over) {
            queue.rings[0].advance();
        }
        let lie = self.lie.take();
        let (mut done, mut written) = (0, Vec::new());
        while done < frame.len() {
            let which = usize::from(done > 0);
            let ring = &mut queue.rings[which];
            let (len, is_body, generation) = rx_given(read64(dma, ring.at() + 8));
            if generation != ring.generation {
                self.rx[index].counters[8] += 1;
                return false;
            }
            assert_eq!(is_body, done > 0);
            let n = len.min(frame.len() - done);
            assert!(dma.write(read64(dma, ring.at()), &frame[done..done + n]));
            let mut got = Received {
                index: ring.next as u16,
                ring: (index + which * self.rx.len()) as u16,
                len: n,
                first: done == 0,
                last: done + n == frame.len(),
                broken: false,
                checksum_good: frame.len() > 100,
            };
            match lie {
                Some(Lie::Length) => got.len = len + 1,
                Some(Lie::RxIndex) => got.index = got.index.wrapping_sub(1) & (ring.size as u16 - 1),
                Some(Lie::NoBeginning) => got.first = false,
                Some(Lie::Ring) => got.ring = 77,
                Some(Lie::TxIndex) | None => {}
            }
            ring.advance();
            let completion = &mut queue.rings[2];
            written.push((completion.at(), got.to_words(completion.generation)));
            completion.advance();
            done += n;
        }
        for (at, [first, second]) in written {
            write64(dma, at, first);
            write64(dma, at + 8, second);
        }
        queue.counters[2] += 1;
        let vector = queue.vector;
        self.rx[index] = queue;
        self.interrupt(dma, vector);
        true
    }

    /// Sends what a queue has.
    pub(super) fn transmit(&mut self, dma: &FakeDma, index: usize) {
        let (mut bytes, mut mode) = (Vec::new(), None);
        while !self.stuck && self.is_active {
            let ring = &mut self.tx[index].rings[0];
            let (len, wanted, last, generation) = tx_given(read64(dma, ring.at() + 8));
            if generation != ring.generation {
                break;
            }
            mode = mode.or(Some(wanted));
            let mut piece = vec![0; len];
            assert!(dma.read(read64(dma, ring.at()), &mut piece), "an address that is not mapped");
            bytes.extend(piece);
            let at = ring.next as u16;
            ring.advance();
            if last {
                let frame = std::mem::take(&mut bytes);
                self.sent.push(SentFrame { bytes: frame, mode: mode.take().unwrap() });
                let lie = self.lie.take_if(|lie| *lie == Lie::TxIndex).is_some();
                let completion = &mut self.tx[index].rings[2];
                let said = if lie { at + 5 } else { at };
                let [first, second] = tx_completed(said, completion.generation);
                write64(dma, completion.at(), first);
                write64(dma, completion.at() + 8, second);
                completion.advance();
                self.tx[index].counters[2] += 1;
            }
        }
        assert!(bytes.is_empty(), "the card was shown half a frame");
    }

    /// Reports a change of the link.
    pub(super) fn set_link(&mut self, dma: &FakeDma, up: bool) {
        self.link_up = up;
        self.report(dma, EVENT_LINK);
    }

    fn report(&mut self, dma: &FakeDma, events: u32) {
        let at = self.area_at(shared::EVENTS);
        assert!(dma.write(at, &(read32(dma, at) | events).to_le_bytes()));
        self.interrupt(dma, 0);
    }

    /// Stops a transmit queue, and says so.
    pub(super) fn stop_queue(&mut self, dma: &FakeDma) {
        let at = self.tx[0].at + queue::STOPPED as u64;
        assert!(dma.write(at, &[1]) && dma.write(at + 4, &0x8000_0001u32.to_le_bytes()));
        self.report(dma, EVENT_TX_ERROR);
    }

    fn command(&mut self, dma: &FakeDma, command: u32) {
        self.last_command = command;
        match command {
            command::ACTIVATE if !self.refuses => self.activate(dma),
            command::QUIESCE => self.is_active = false,
            command::RESET => {
                self.resets += 1;
                self.is_active = false;
                self.area = 0;
                self.masks.clear();
            }
            command::GET_STATS if self.is_active => {
                for queue in self.rx.iter().chain(&self.tx) {
                    for (i, counter) in queue.counters.iter().enumerate() {
                        write64(dma, queue.at + (queue::COUNTERS + 8 * i) as u64, *counter);
                    }
                }
            }
            _ => {}
        }
    }

    fn answer(&self) -> u32 {
        match self.last_command {
            command::ACTIVATE => u32::from(!self.is_active),
            command::RESET => u32::from(self.dead),
            command::GET_LINK if self.link_up => 10_000 << LINK_SPEED_SHIFT | LINK_UP,
            command::GET_MAC_LOW => 0x5654_5352,
            command::GET_MAC_HIGH => 0x5857,
            _ => 0,
        }
    }
}

impl FakeModel for Shared {
    fn read(&mut self, bar: u8, offset: usize, _width: usize) -> u32 {
        match (bar, offset) {
            (1, REVISIONS) => 0x7f,
            (1, DATA_PATH_REVISIONS) => 1,
            (1, COMMAND) => self.lock().answer(),
            _ => 0,
        }
    }

    fn write(&mut self, bar: u8, offset: usize, _width: usize, value: u32, dma: &FakeDma) {
        let mut chip = self.lock();
        match (bar, offset) {
            (0, TX_PRODUCER..0x640) => chip.transmit(dma, (offset - TX_PRODUCER) / NEXT),
            (0, IMR..0x0c8) => {
                chip.masks.insert(offset, value);
            }
            (1, AREA_LOW) => chip.area = value.into(),
            (1, AREA_HIGH) => chip.area |= u64::from(value) << 32,
            (1, COMMAND) => chip.command(dma, value),
            (1, EVENTS) => {
                let at = chip.area_at(shared::EVENTS);
                assert!(dma.write(at, &(read32(dma, at) & !value).to_le_bytes()));
            }
            _ => {}
        }
    }
}

//! A played gigabit card of Intel for tests: rings, write-back, and the ways in which hardware fails.
//!
//! What the cards do alike is here; a card says in [`Played`] where its registers are and how it reads descriptors.

use std::collections::HashMap;
use std::sync::Arc;

use super::cut_by_card::cut_by_card;
use super::registers::*;
use super::{BUFFER, Context, DESCRIPTOR as LEN, Received, TX_DONE};
use crate::nic::NicConfig;
use crate::nic::test_cards::{self, PlayedCard};
use crate::pci::{FakeDma, FakeModel, PciFn};
use crate::port::{PmdError, Port};

/// Registers of a ring, from its first on.
const RING_LEN: usize = 0x08;
const RING_HEAD: usize = 0x10;
pub(crate) const RING_TAIL: usize = 0x18;

/// The address in the card's memory.
pub(crate) const MAC: [u8; 6] = [0x52, 0x54, 0x52, 0x54, 0, 1];

/// What a card reads from a transmit descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sent {
    Context {
        context: Context,
        /// Length of what is cut, where the context has it.
        payload: Option<usize>,
    },
    Data(Data),
}

/// A data descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Data {
    pub(crate) len: usize,
    /// Length of the whole without headers that are repeated, where the descriptor has it.
    pub(crate) payload: Option<usize>,
    pub(crate) last: bool,
    pub(crate) checksum: bool,
    pub(crate) ip_checksum: bool,
    pub(crate) cut: bool,
    pub(crate) report: bool,
}

/// A frame that was sent, and where the card was to put a checksum.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SentFrame {
    pub(crate) bytes: Vec<u8>,
    pub(crate) checksum: Option<Context>,
}

/// What is different in a card.
pub(crate) trait Played: Default + Send + Sized + 'static {
    /// First registers of the rings of queue 0, and bytes to those of the next queue.
    const RX: usize;
    const TX: usize;
    const QUEUE: usize;
    /// Masks of interrupts: what sets bits of one, and what clears them.
    const MASKS: &'static [(usize, usize)];

    /// Opens the card with its driver.
    fn open(config: NicConfig, function: Arc<dyn PciFn>) -> Result<Arc<dyn Port>, PmdError>;

    /// Reads a transmit descriptor.
    fn sent(words: [u64; 2]) -> Sent;

    /// The vector by which a queue may interrupt now.
    fn rx_vector(chip: &Chip<Self>, queue: usize) -> Option<u16>;

    /// Makes known that the link has changed, and gives the vector for it, which the driver must have asked for.
    fn tell_link(chip: &mut Chip<Self>) -> u16;

    /// The card is reset.
    fn reset(chip: &mut Chip<Self>) {
        let _ = chip;
    }

    /// Reads a register that is not as usual.
    fn read(chip: &mut Chip<Self>, offset: usize) -> Option<u32> {
        let _ = (chip, offset);
        None
    }

    /// Writes a register that is not as usual. False for one that is.
    fn write(chip: &mut Chip<Self>, offset: usize, value: u32) -> bool {
        let _ = (chip, offset, value);
        false
    }
}

/// The card.
#[derive(Default)]
pub(crate) struct Chip<P> {
    pub(crate) registers: HashMap<usize, u32>,
    pub(crate) link_up: bool,
    pub(crate) sent: Vec<SentFrame>,
    building: Vec<u8>,
    /// The last context, and the length of what it cuts if it has that: it is then good for one frame.
    pub(crate) context: Option<(Context, Option<usize>)>,
    /// Contexts read.
    pub(crate) contexts: u64,
    /// Frames that the card has cut.
    pub(crate) cut: u64,
    /// Reports written back.
    pub(crate) reports: u64,
    pub(crate) resets: u32,
    /// Takes no frames to send.
    pub(crate) stuck: bool,
    /// Says the next frame is longer than its buffer.
    pub(crate) lies: bool,
    /// Never ends its reset.
    pub(crate) dead: bool,
    /// What only this card has.
    pub(crate) own: P,
}

/// A card that a test and a function share.
pub(crate) type Shared<P> = test_cards::Shared<Chip<P>>;

impl<P: Played> PlayedCard for Chip<P> {
    fn plugged_in() -> Self {
        Chip { link_up: true, ..Chip::default() }
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

impl<P: Played> Chip<P> {
    pub(crate) fn get(&self, register: usize) -> u32 {
        self.registers.get(&register).copied().unwrap_or(0)
    }

    fn base(&self, ring: usize) -> u64 {
        u64::from(self.get(ring)) | u64::from(self.get(ring + 4)) << 32
    }

    /// Brings a frame in by a queue. False when the card has not enough buffers, or is not started.
    pub(crate) fn deliver(&mut self, dma: &FakeDma, queue: usize, frame: &[u8]) -> bool {
        self.deliver_with(dma, queue, frame, None)
    }

    /// The same, with a tag that was taken out of the frame.
    pub(crate) fn deliver_with(
        &mut self,
        dma: &FakeDma,
        queue: usize,
        frame: &[u8],
        tag: Option<u16>,
    ) -> bool {
        let ring = P::RX + queue * P::QUEUE;
        let slots = self.get(ring + RING_LEN) / LEN as u32;
        if slots == 0 {
            return false;
        }
        let pieces: Vec<&[u8]> = frame.chunks(BUFFER).collect();
        let head = self.get(ring + RING_HEAD);
        let ready = (self.get(ring + RING_TAIL) + slots - head) % slots;
        if (ready as usize) < pieces.len() {
            return false;
        }
        for (i, piece) in pieces.iter().enumerate() {
            let descriptor = self.base(ring) + u64::from((head + i as u32) % slots) * LEN as u64;
            let mut words = [[0; 8]; 2];
            assert!(dma.read(descriptor, &mut words[0]) && dma.read(descriptor + 8, &mut words[1]));
            assert_eq!(words[1], [0; 8], "given with the old status");
            assert!(dma.write(u64::from_le_bytes(words[0]), piece));
            let lie = if std::mem::take(&mut self.lies) { BUFFER } else { 0 };
            let last = i + 1 == pieces.len();
            let (len, checksum_good) = (piece.len() + lie, frame.len() > 100);
            let got = Received { len, last, checksum_good, broken: false, tag: tag.filter(|_| last) };
            // As hardware does: the address is overwritten too.
            assert!(
                dma.write(descriptor, &[0xee; 8]) && dma.write(descriptor + 8, &got.to_word().to_le_bytes())
            );
        }
        self.registers.insert(ring + RING_HEAD, (head + pieces.len() as u32) % slots);
        if let Some(vector) = P::rx_vector(self, queue) {
            dma.interrupt(vector);
        }
        true
    }

    /// Reports a change of the link.
    pub(crate) fn set_link(&mut self, dma: &FakeDma, up: bool) {
        self.link_up = up;
        let vector = P::tell_link(self);
        dma.interrupt(vector);
    }

    /// Sends what a queue has.
    pub(crate) fn transmit(&mut self, dma: &FakeDma, queue: usize) {
        let ring = P::TX + queue * P::QUEUE;
        let slots = self.get(ring + RING_LEN) / LEN as u32;
        while !self.stuck && self.get(ring + RING_HEAD) != self.get(ring + RING_TAIL) {
            let head = self.get(ring + RING_HEAD);
            let descriptor = self.base(ring) + u64::from(head) * LEN as u64;
            let mut words = [[0; 8]; 2];
            assert!(dma.read(descriptor, &mut words[0]) && dma.read(descriptor + 8, &mut words[1]));
            self.take(dma, descriptor, words.map(u64::from_le_bytes));
            self.registers.insert(ring + RING_HEAD, (head + 1) % slots);
        }
    }

    fn take(&mut self, dma: &FakeDma, descriptor: u64, words: [u64; 2]) {
        let data = match P::sent(words) {
            Sent::Context { context, payload } => {
                assert!(self.building.is_empty(), "a context inside of a frame");
                self.context = Some((context, payload));
                self.contexts += 1;
                return;
            }
            Sent::Data(data) => data,
        };
        let mut bytes = vec![0; data.len];
        assert!(dma.read(words[0], &mut bytes), "the card was given an address that is not mapped");
        self.building.extend(bytes);
        if data.last {
            self.send(data);
        }
        if data.report {
            self.reports += 1;
            assert!(dma.write(descriptor + 8, &(words[1] | TX_DONE).to_le_bytes()));
        }
    }

    /// Sends what was built, as its last descriptor says.
    fn send(&mut self, Data { payload, checksum, ip_checksum, cut, .. }: Data) {
        let whole = std::mem::take(&mut self.building);
        let context = self.context.filter(|_| checksum);
        if let Some((Context::Cut(how), in_context)) = context {
            let of_payload = payload.or(in_context).expect("a length, here or in a context of its own");
            assert_eq!(of_payload, whole.len() - usize::from(how.headers), "length of what is cut");
            assert_eq!((cut, ip_checksum), (true, !how.is_v6));
            self.context = self.context.filter(|(_, once)| once.is_none());
            let segments = cut_by_card(&whole, &how).into_iter();
            self.sent.extend(segments.map(|bytes| SentFrame { bytes, checksum: None }));
            self.cut += 1;
        } else {
            assert_eq!(payload.unwrap_or(whole.len()), whole.len(), "length of the whole frame");
            assert!(!cut && !ip_checksum);
            self.sent.push(SentFrame { bytes: whole, checksum: context.map(|(context, _)| context) });
        }
    }
}

impl<P: Played> FakeModel for Shared<P> {
    fn read(&mut self, _bar: u8, offset: usize, _width: usize) -> u32 {
        let mut chip = self.lock();
        if let Some(value) = P::read(&mut chip, offset) {
            return value;
        }
        match offset {
            STATUS => u32::from(chip.link_up) << 1 | STATUS_FULL_DUPLEX | 2 << STATUS_SPEED_SHIFT,
            CTRL if chip.dead => CTRL_RESET,
            RAL => u32::from_le_bytes([MAC[0], MAC[1], MAC[2], MAC[3]]),
            RAH => u32::from_le_bytes([MAC[4], MAC[5], 0, 0x80]),
            // Counters are cleared by reading.
            0x4000..0x4100 => chip.registers.remove(&offset).unwrap_or(0),
            _ => chip.get(offset),
        }
    }

    fn write(&mut self, _bar: u8, offset: usize, _width: usize, value: u32, dma: &FakeDma) {
        let mut chip = self.lock();
        if offset == CTRL && value & CTRL_RESET != 0 {
            chip.resets += 1;
            chip.registers.clear();
            chip.building.clear();
            P::reset(&mut chip);
        } else if P::write(&mut chip, offset, value) {
        } else if let Some((set, _)) = P::MASKS.iter().find(|(set, _)| *set == offset) {
            *chip.registers.entry(*set).or_default() |= value;
        } else if let Some((set, _)) = P::MASKS.iter().find(|(_, clear)| *clear == offset) {
            *chip.registers.entry(*set).or_default() &= !value;
        } else {
            chip.registers.insert(offset, value);
            if let Some(queue) = (0..8).find(|queue| offset == P::TX + queue * P::QUEUE + RING_TAIL) {
                chip.transmit(dma, queue);
            }
        }
    }
}

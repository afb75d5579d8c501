//! A played 82574 for tests: rings, write-back, and the ways in which hardware fails.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::descriptors::Sent;
use super::registers::*;
use crate::nic::intel::{BUFFER, DESCRIPTOR as LEN, Received, TX_DONE};
use crate::pci::{FakeDma, FakeModel};

/// A frame that was sent, and where the card was to put a checksum.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SentFrame {
    pub(super) bytes: Vec<u8>,
    pub(super) checksum: Option<(u8, u8)>,
}

/// The card.
#[derive(Default)]
pub(super) struct Chip {
    pub(super) registers: HashMap<usize, u32>,
    pub(super) link_up: bool,
    pub(super) sent: Vec<SentFrame>,
    building: Vec<u8>,
    context: (u8, u8),
    /// Reports written back.
    pub(super) reports: u64,
    pub(super) resets: u32,
    /// Takes no frames to send.
    pub(super) stuck: bool,
    /// Says the next frame is longer than its buffer.
    pub(super) lies: bool,
    /// Never ends its reset.
    pub(super) dead: bool,
}

/// A card that a test and a function share.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Chip>>);

impl Shared {
    pub(super) fn new() -> Shared {
        Shared(Arc::new(Mutex::new(Chip { link_up: true, ..Chip::default() })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Chip> {
        self.0.lock().unwrap()
    }
}

impl Chip {
    fn get(&self, register: usize) -> u32 {
        self.registers.get(&register).copied().unwrap_or(0)
    }

    fn base(&self, register: usize) -> u64 {
        u64::from(self.get(register)) | u64::from(self.get(register + 4)) << 32
    }

    /// Brings a frame in by a queue. False when the card has not enough buffers.
    pub(super) fn deliver(&mut self, dma: &FakeDma, queue: usize, frame: &[u8]) -> bool {
        let at = queue * QUEUE;
        let slots = self.get(RX_LEN + at) / LEN as u32;
        let pieces: Vec<&[u8]> = frame.chunks(BUFFER).collect();
        let head = self.get(RX_HEAD + at);
        let ready = (self.get(RX_TAIL + at) + slots - head) % slots;
        if (ready as usize) < pieces.len() {
            return false;
        }
        for (i, piece) in pieces.iter().enumerate() {
            let descriptor = self.base(RX_BASE + at) + u64::from((head + i as u32) % slots) * LEN as u64;
            let mut words = [[0; 8]; 2];
            assert!(dma.read(descriptor, &mut words[0]) && dma.read(descriptor + 8, &mut words[1]));
            assert_eq!(words[1], [0; 8], "given with the old status");
            assert!(dma.write(u64::from_le_bytes(words[0]), piece));
            let lie = if std::mem::take(&mut self.lies) { BUFFER } else { 0 };
            let last = i + 1 == pieces.len();
            let got =
                Received { len: piece.len() + lie, last, checksum_good: frame.len() > 100, broken: false };
            // As hardware does: the address is overwritten too.
            assert!(
                dma.write(descriptor, &[0xee; 8]) && dma.write(descriptor + 8, &got.to_word().to_le_bytes())
            );
        }
        self.registers.insert(RX_HEAD + at, (head + pieces.len() as u32) % slots);
        let cause = CAUSE_RX_QUEUE_0 << queue;
        if self.get(IMS) & cause != 0 {
            dma.interrupt((self.get(IVAR) >> (4 * queue) & 7) as u16);
        }
        true
    }

    /// Reports a change of the link.
    pub(super) fn set_link(&mut self, dma: &FakeDma, up: bool) {
        self.link_up = up;
        assert_ne!(self.get(IMS) & CAUSE_LINK, 0);
        dma.interrupt((self.get(IVAR) >> IVAR_OTHER_SHIFT & 7) as u16);
    }

    /// Sends what a queue has.
    pub(super) fn transmit(&mut self, dma: &FakeDma, queue: usize) {
        let at = queue * QUEUE;
        let slots = self.get(TX_LEN + at) / LEN as u32;
        while !self.stuck && self.get(TX_HEAD + at) != self.get(TX_TAIL + at) {
            let head = self.get(TX_HEAD + at);
            let descriptor = self.base(TX_BASE + at) + u64::from(head) * LEN as u64;
            let mut words = [[0; 8]; 2];
            assert!(dma.read(descriptor, &mut words[0]) && dma.read(descriptor + 8, &mut words[1]));
            let words = words.map(u64::from_le_bytes);
            match Sent::from_words(words) {
                Sent::Context { start, at } => self.context = (start, at),
                Sent::Data { len, last, checksum, report } => {
                    let mut bytes = vec![0; len];
                    assert!(
                        dma.read(words[0], &mut bytes),
                        "the card was given an address that is not mapped"
                    );
                    self.building.extend(bytes);
                    if last {
                        let checksum = checksum.then_some(self.context);
                        self.sent.push(SentFrame { bytes: std::mem::take(&mut self.building), checksum });
                    }
                    if report {
                        self.reports += 1;
                        assert!(dma.write(descriptor + 8, &(words[1] | TX_DONE).to_le_bytes()));
                    }
                }
            }
            self.registers.insert(TX_HEAD + at, (head + 1) % slots);
        }
    }
}

impl FakeModel for Shared {
    fn read(&mut self, _bar: u8, offset: usize, _width: usize) -> u32 {
        let mut chip = self.lock();
        match offset {
            STATUS => u32::from(chip.link_up) << 1 | STATUS_FULL_DUPLEX | 2 << STATUS_SPEED_SHIFT,
            CTRL if chip.dead => CTRL_RESET,
            RAL => 0x5452_5452,
            RAH => 0x8000_0100,
            // Counters are cleared by reading.
            0x4000..0x4100 => chip.registers.remove(&offset).unwrap_or(0),
            _ => chip.get(offset),
        }
    }

    fn write(&mut self, _bar: u8, offset: usize, _width: usize, value: u32, dma: &FakeDma) {
        let mut chip = self.lock();
        match offset {
            CTRL if value & CTRL_RESET != 0 => {
                chip.resets += 1;
                chip.registers.clear();
                chip.building.clear();
            }
            IMS => {
                let old = chip.get(IMS);
                chip.registers.insert(IMS, old | value);
            }
            IMC => {
                let old = chip.get(IMS);
                chip.registers.insert(IMS, old & !value);
            }
            _ => {
                chip.registers.insert(offset, value);
                for queue in 0..2 {
                    if offset == TX_TAIL + queue * QUEUE {
                        chip.transmit(dma, queue);
                    }
                }
            }
        }
    }
}

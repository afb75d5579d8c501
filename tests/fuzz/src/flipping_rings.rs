//! Boundary: guest memory and rings, as `descriptor_chains`, but the guest writes with another processor while the worker reads.
//!
//! An input says what was negotiated and which eight bytes of the rings or of an indirect table a second thread changes, over and over,
//! to something and back, while it also offers every descriptor again and again. A worker receives and sends meanwhile.
//!
//! Property: no panic, every burst ends, a frame has the length it was said to have; and when the guest comes to its senses, rings that
//! are started anew carry frames. What is written where is `descriptor_chains`' business: with two writers nobody could tell.
//!
//! An input tells no single story here, because threads interleave as they like: a finding may need several runs to show again.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use pmd::packet::{BatchStorage, Span};
use pmd::port::{RxQueue, TxQueue};
use pmd::virtio::features::*;
use pmd::virtio::packed::Position;
use pmd::virtio::split::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE};
use rustix::fs::{MemfdFlags, memfd_create};
use vhost_port::fuzz::{Bench, Ring};
use vhost_port::{Mode, VhostConfig};

use super::input::Input;

const MEMORY: u64 = 0x2_0000;
/// A ring has this much; then comes an indirect table, then buffers.
const AREA: u64 = 0x1000;
const AVAIL: u64 = 0x400;
const USED: u64 = 0x800;
const TABLE: u64 = 2 * AREA;
const TABLE_LEN: u16 = 8;
const BUFFERS: u64 = 0x1_0000;
const BUFFER: u64 = 0x400;
const SIZE: u16 = 16;
const ROUNDS: usize = 48;

/// Eight bytes, where they go, and what was there.
#[derive(Clone, Copy)]
struct Flip {
    at: u64,
    bad: [u8; 8],
    good: [u8; 8],
}

/// Runs one input: features, then flips.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut stage = Stage::new(input.u8());
    let mut flips = Vec::new();
    while !input.is_empty() && flips.len() < 32 {
        let at = u64::from(input.u16()) % (TABLE + u64::from(TABLE_LEN) * 16 - 8);
        let bad = match input.u8() % 4 {
            0 => input.u64().to_le_bytes(),
            // An address near a border, a length and flags, two indexes: what a descriptor's halves can say.
            1 => (MEMORY.wrapping_add_signed(i64::from(input.u8() as i8))).to_le_bytes(),
            2 => {
                (u64::from(input.u16()) | u64::from(input.u16() & 0x8087) << 32 | u64::from(input.u8()) << 48)
                    .to_le_bytes()
            }
            _ => [0xff; 8],
        };
        let mut good = [0; 8];
        stage.file.read_exact_at(&mut good, at).unwrap();
        flips.push(Flip { at, bad, good });
    }
    let stop = AtomicBool::new(false);
    let (file, packed) = (stage.file.try_clone().unwrap(), stage.packed());
    std::thread::scope(|scope| {
        scope.spawn(|| guest(&file, packed, &flips, &stop));
        for _ in 0..ROUNDS {
            stage.receive();
            stage.send();
            for index in [0, 1] {
                if stage.bench.fault(index).is_some() {
                    stage.start(index);
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    stage.comes_to_its_senses();
}

/// Every kind of ring, with a flip of each field.
pub fn seeds() -> Vec<Vec<u8>> {
    let flip = |at: u16, kind: u8, value: &[u8]| [&at.to_le_bytes()[..], &[kind], value].concat();
    let all = [
        flip(AREA as u16, 0, &[0xf0; 8]),
        flip(AREA as u16, 1, &[0xfe]),
        flip(AREA as u16 + 8, 2, &[0, 5, 1, 0, 3]),
        flip(AREA as u16 + 24, 2, &[64, 0, 4, 0, 0]),
        flip((AREA + AVAIL) as u16, 3, &[]),
        flip(8, 2, &[0xff, 0xff, 2, 0, 1]),
        flip(TABLE as u16 + 8, 2, &[60, 0, 5, 0, 1]),
    ];
    (0..16).map(|features| [vec![features], all.concat()].concat()).collect()
}

/// The second thread: flips, and offers everything again.
fn guest(file: &File, packed: bool, flips: &[Flip], stop: &AtomicBool) {
    let write = |at: u64, bytes: &[u8]| file.write_all_at(bytes, at).unwrap();
    let mut turn = 0u16;
    while !stop.load(Ordering::Relaxed) {
        flips.iter().for_each(|flip| write(flip.at, &flip.bad));
        turn = turn.wrapping_add(SIZE);
        for ring in [0, AREA] {
            if packed {
                let wrap = (turn / SIZE).is_multiple_of(2);
                let bits = Position::from_bits(u16::from(wrap) << 15).avail_flags();
                (0..u64::from(SIZE)).for_each(|slot| {
                    write(ring + slot * 16 + 14, &(kind(ring / AREA) | bits).to_le_bytes());
                });
            } else {
                write(ring + AVAIL + 2, &turn.to_le_bytes());
            }
        }
        flips.iter().for_each(|flip| write(flip.at, &flip.good));
    }
}

fn kind(ring: u64) -> u16 {
    if ring == 0 { DESC_F_WRITE } else { 0 }
}

struct Stage {
    file: File,
    bench: Bench,
    features: u64,
    rx: Box<dyn RxQueue>,
    tx: Box<dyn TxQueue>,
    storage: BatchStorage,
}

impl Stage {
    fn new(bits: u8) -> Stage {
        let when = |bit: u8, features: u64| if bits >> bit & 1 == 1 { features } else { 0 };
        let features = VIRTIO_F_VERSION_1
            | VIRTIO_F_INDIRECT_DESC
            | when(0, VIRTIO_F_RING_PACKED)
            | when(1, VIRTIO_NET_F_MRG_RXBUF)
            | when(2, VIRTIO_F_EVENT_IDX)
            | when(3, VIRTIO_F_IN_ORDER);
        let file: File = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap().into();
        file.set_len(MEMORY).unwrap();
        let mode = Mode::Connect(PathBuf::from("fuzz"));
        let config = VhostConfig { max_queue_pairs: 1, ..VhostConfig::new("fuzz", mode) };
        let mut bench = Bench::new(config).unwrap();
        bench.map(&file, 0, 0, MEMORY).unwrap();
        let (rx, tx) = (bench.rx_queue(0).unwrap(), bench.tx_queue());
        let mut stage = Stage { file, bench, features, rx, tx, storage: BatchStorage::new() };
        stage.write_rings();
        [0, 1].into_iter().for_each(|index| stage.start(index));
        stage
    }

    fn packed(&self) -> bool {
        self.features & VIRTIO_F_RING_PACKED != 0
    }

    /// Good rings, all offered: a buffer each, and the last of the sending ring by an indirect table.
    fn write_rings(&self) {
        let write = |at: u64, bytes: &[u8]| self.file.write_all_at(bytes, at).unwrap();
        write(0, &vec![0; BUFFERS as usize]);
        let bits = if self.packed() { Position::START.avail_flags() } else { 0 };
        let descriptor = |addr: u64, len: u32, id: u16, flags: u16| {
            let last = if self.packed() { [id, flags | bits] } else { [flags, id] };
            [addr.to_le_bytes().to_vec(), len.to_le_bytes().to_vec(), last.map(u16::to_le_bytes).concat()]
                .concat()
        };
        for ring in [0, 1] {
            let base = ring * AREA;
            for slot in 0..SIZE {
                let addr = BUFFERS + (ring * u64::from(SIZE) + u64::from(slot)) * BUFFER;
                let id = if self.packed() { slot } else { 0 };
                let bytes = if ring == 1 && slot == SIZE - 1 {
                    descriptor(TABLE, u32::from(TABLE_LEN) * 16, id, DESC_F_INDIRECT)
                } else {
                    descriptor(addr, BUFFER as u32, id, kind(ring))
                };
                write(base + u64::from(slot) * 16, &bytes);
                write(base + AVAIL + 4 + u64::from(slot) * 2, &slot.to_le_bytes());
            }
            // Of a packed ring this is the driver's event area: it wants to be told of everything.
            let head = if self.packed() { [0, 0] } else { [0, SIZE] };
            write(base + AVAIL, &head.map(u16::to_le_bytes).concat());
        }
        for entry in 0..TABLE_LEN {
            let more = if entry + 1 < TABLE_LEN { DESC_F_NEXT } else { 0 };
            let next = if self.packed() { 0 } else { entry + 1 };
            write(
                TABLE + u64::from(entry) * 16,
                &descriptor(BUFFERS + u64::from(entry) * 64, 64, next, more),
            );
        }
    }

    /// Starts a ring where its driver, which knows of nothing, would.
    fn start(&mut self, index: usize) {
        let area = index as u64 * AREA;
        let base = if self.packed() { Position::START.bits() } else { 0 };
        let ring = Ring {
            index,
            size: SIZE.into(),
            descriptors: area,
            avail: area + AVAIL,
            used: area + USED,
            base,
        };
        self.bench.start(ring, self.features).unwrap();
    }

    fn receive(&mut self) -> usize {
        let mut batch = self.storage.begin();
        let count = self.rx.rx_burst(&mut batch);
        assert_eq!(count, batch.len());
        for slot in 0..count as u16 {
            let frame = batch.frame(slot);
            let mut bytes = vec![0; frame.len()];
            assert_eq!(frame.copy_to(&mut bytes), bytes.len());
        }
        self.rx.rx_done();
        self.rx.arm();
        self.rx.disarm();
        count
    }

    fn send(&mut self) -> usize {
        let mut batch = self.storage.begin();
        batch.receive(Span::from_slice(&[3; 60]));
        batch.receive(Span::from_slice(&[4; 3000]));
        let sent = self.tx.tx_burst(&batch, &[0, 1]);
        self.tx.notify();
        sent
    }

    fn comes_to_its_senses(&mut self) {
        // A descriptor that lied may have had a frame written over the header of one that waits to be sent.
        self.file.write_all_at(&vec![0; (MEMORY - BUFFERS) as usize], BUFFERS).unwrap();
        self.write_rings();
        [0, 1].into_iter().for_each(|index| self.start(index));
        let received = self.receive();
        assert_eq!(received, usize::from(SIZE), "{:?} {:?}", self.bench.fault(1), self.rx.counters().drops);
        assert!(self.send() > 0, "{:?}", self.bench.fault(0));
    }
}

//! Boundary: guest memory and rings. A guest writes any bytes there, at any time.
//!
//! Rings are split or packed, as the input begins.
//!
//! An input is a program: it writes descriptors (in the ring or in indirect tables), indexes and any words, and lets a worker
//! receive from the guest's transmit ring and send to its receive ring in between, also between a burst and its end,
//! when payload is still named.
//!
//! Property: no panic, every burst ends, and
//! - receiving writes nothing but its used ring, or of a packed ring all but the addresses, and its own event area;
//! - sending writes nothing but that and buffers that the guest offered for writing;
//! - a broken ring says why and does nothing more until it is started anew.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use pmd::packet::{BatchStorage, Gso, Offload, Span};
use pmd::port::{RxQueue, TxQueue};
use pmd::virtio::features::*;
use pmd::virtio::packed::{EVENT_LEN, Position};
use pmd::virtio::split::{DESC_F_INDIRECT, DESC_F_WRITE};
use rustix::fs::{MemfdFlags, memfd_create};
use vhost_port::fuzz::{Bench, Ring};
use vhost_port::{Mode, VhostConfig};

use super::input::Input;

/// Two regions of half each, side by side.
const MEMORY: usize = 0x1_0000;
const AREA: usize = 0x1000;
const AVAIL: usize = 0x400;
const USED: usize = 0x800;
/// Rings and indirect tables lie below, buffers should not.
const TABLES: usize = 0x2000;
const PAYLOAD: usize = 0x4000;

/// Runs one input: what was negotiated, then the program.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut stage = Stage::new(&mut input);
    for _ in 0..256 {
        if input.is_empty() {
            return;
        }
        match input.u8() % 8 {
            0 => stage.write_descriptor(&mut input),
            1 => stage.write_word(&mut input),
            2 => stage.offer(&mut input),
            3 => stage.receive(None),
            4 => stage.receive(Some((input.u16(), input.u16()))),
            5 => stage.send(&mut input),
            6 if input.u8().is_multiple_of(2) => stage.sleep(),
            6 => stage.hairpin(),
            _ => stage.start(usize::from(input.u8() % 2), input.u16()),
        }
    }
}

/// Plain chains, chains of several, indirect tables, loops, wrong directions; both ways.
pub fn seeds() -> Vec<Vec<u8>> {
    let head = |bits: u8| vec![bits, 3];
    let desc = |table: u8, slot: u8, addr: u32, len: u16, flags: u8, next: u8| {
        [&[0, table, slot][..], &addr.to_le_bytes(), &len.to_le_bytes(), &[flags, next]].concat()
    };
    let offer = |ring: u8, head: u8| vec![2, ring, head, 1];
    let send = |len: u16, gso: u8| [&[5][..], &len.to_le_bytes(), &[gso]].concat();
    let (rx, tx) = (vec![3], |len| send(len, 0));
    let mutate = vec![4, 0x04, 0x14, 9, 0];
    [
        [head(7), desc(1, 0, 0x5000, 72, 0, 0), offer(1, 0), rx.clone()],
        [
            head(7),
            [desc(1, 0, 0x5000, 12, 1, 1), desc(1, 1, 0x7fe0, 600, 0, 0)].concat(),
            offer(1, 0),
            mutate,
        ],
        [
            head(6),
            [desc(1, 2, 0x2000, 32, 4, 0), desc(2, 0, 0x5000, 12, 1, 1), desc(2, 1, 0x6000, 60, 0, 0)]
                .concat(),
            offer(1, 2),
            rx.clone(),
        ],
        [
            head(5),
            [desc(1, 0, 0x5000, 20, 1, 1), desc(1, 1, 0x5000, 20, 1, 0)].concat(),
            offer(1, 0),
            rx.clone(),
        ],
        [head(7), desc(0, 0, 0x9000, 2000, 2, 0), offer(0, 0), tx(60)],
        [
            head(4),
            [desc(0, 0, 0x9000, 600, 2, 0), desc(0, 1, 0xb000, 600, 2, 0), offer(0, 1)].concat(),
            offer(0, 0),
            tx(1000),
        ],
        [
            head(3),
            [desc(0, 0, 0x9000, 12, 3, 1), desc(0, 1, 0x7ff0, 1600, 2, 0)].concat(),
            offer(0, 0),
            send(3000, 1),
        ],
        [
            head(7),
            desc(0, 0, 0x5000, 20, 0, 0),
            offer(0, 0),
            [tx(60), vec![6, 0, 7, 0, 0, 0], tx(60)].concat(),
        ],
        [
            head(4),
            [desc(0, 0, 0x9000, 2000, 2, 0), offer(0, 0), desc(1, 0, 0x5000, 1500, 0, 0)].concat(),
            offer(1, 0),
            vec![6, 1],
        ],
        [
            head(7),
            desc(1, 0, 0xfff0, 100, 0, 0),
            offer(1, 0),
            [rx.clone(), vec![7, 1, 1, 0], rx.clone()].concat(),
        ],
    ]
    .map(|parts| parts.concat())
    .into_iter()
    .chain(packed_seeds())
    .collect()
}

/// The same for packed rings, of four descriptors: `offer` makes so many available from the next position on.
fn packed_seeds() -> Vec<Vec<u8>> {
    let desc = |table: u8, slot: u8, addr: u32, len: u16, flags: u8, id: u8| {
        [&[0, table, slot][..], &addr.to_le_bytes(), &len.to_le_bytes(), &[flags, id]].concat()
    };
    let offer = |ring: u8, count: u8| vec![2, ring, 0, count];
    let send = |len: u16| [&[5][..], &len.to_le_bytes(), &[0]].concat();
    let rx = || vec![3];
    [
        vec![vec![0x47, 3], desc(1, 0, 0x5000, 72, 0, 0), offer(1, 1), rx()],
        vec![
            vec![0xc7, 3],
            desc(1, 0, 0x5000, 12, 1, 0),
            desc(1, 1, 0x7fe0, 600, 0, 5),
            desc(1, 2, 0x5000, 72, 0, 6),
            offer(1, 3),
            rx(),
            offer(1, 4),
            rx(),
        ],
        vec![
            vec![0x46, 3],
            desc(1, 0, 0x2000, 32, 4, 0),
            desc(2, 0, 0x5000, 12, 1, 1),
            desc(2, 1, 0x6000, 60, 0, 0),
            offer(1, 1),
            rx(),
        ],
        vec![
            vec![0x44, 3],
            desc(0, 0, 0x9000, 600, 2, 0),
            desc(0, 1, 0xb000, 600, 2, 1),
            offer(0, 2),
            send(1000),
            vec![6, 0],
            offer(0, 2),
            send(600),
        ],
    ]
    .map(|parts| parts.concat())
    .into()
}

/// A guest's memory, and a worker on both of its rings.
struct Stage {
    file: File,
    bench: Bench,
    features: u64,
    size: u16,
    /// Where the guest makes its next descriptors available, in packed rings.
    next: [Position; 2],
    /// Buffers of the receive ring when a worker last had to do with it: it reads descriptors ahead, and writes there even if the
    /// guest has changed its mind since.
    past: Vec<Range<usize>>,
    rx: Box<dyn RxQueue>,
    tx: Box<dyn TxQueue>,
    storage: BatchStorage,
}

impl Stage {
    fn new(input: &mut Input<'_>) -> Stage {
        let bits = input.u8();
        let when = |bit: u8, features: u64| if bits >> bit & 1 == 1 { features } else { 0 };
        let features = when(0, VIRTIO_F_EVENT_IDX)
            | when(1, VIRTIO_F_INDIRECT_DESC)
            | when(2, VIRTIO_NET_F_MRG_RXBUF)
            | when(3, VIRTIO_F_VERSION_1)
            | when(4, VIRTIO_NET_F_CSUM | VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_HOST_TSO6)
            | when(5, VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_GUEST_TSO4)
            | when(6, VIRTIO_F_RING_PACKED)
            | when(7, VIRTIO_F_IN_ORDER);
        let file: File = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap().into();
        file.set_len(MEMORY as u64).unwrap();
        let mode = Mode::Connect(PathBuf::from("fuzz"));
        let config = VhostConfig { max_queue_pairs: 1, ..VhostConfig::new("fuzz", mode) };
        let mut bench = Bench::new(config).unwrap();
        let half = MEMORY as u64 / 2;
        bench.map(&file, 0, 0, half).unwrap();
        bench.map(&file, half, half, half).unwrap();
        let (rx, tx) = (bench.rx_queue(0).unwrap(), bench.tx_queue());
        let size = input.u8();
        let size =
            if features & VIRTIO_F_RING_PACKED != 0 { u16::from(size % 40) + 1 } else { 1 << (size % 6) };
        let next = [Position::START; 2];
        let past = Vec::new();
        let mut stage =
            Stage { file, bench, features, size, next, past, rx, tx, storage: BatchStorage::new() };
        let base = if stage.packed() { Position::START.bits() } else { 0 };
        stage.start(0, base);
        stage.start(1, base);
        stage
    }

    fn packed(&self) -> bool {
        self.features & VIRTIO_F_RING_PACKED != 0
    }

    /// Starts a ring at an index, as a front-end does after the guest's driver did.
    fn start(&mut self, index: usize, base: u16) {
        let area = index * AREA;
        if index == 0 {
            self.past.clear();
        }
        let base = if self.packed() {
            let base = (base & 0x8000) | ((base & 0x7fff) % self.size);
            self.next[index] = Position::from_bits(base);
            base
        } else {
            self.write(area + USED + 2, &base.to_le_bytes());
            base
        };
        let [descriptors, avail, used] = [0, AVAIL, USED].map(|part| (area + part) as u64);
        let ring = Ring { index, size: self.size.into(), descriptors, avail, used, base };
        self.bench.start(ring, self.features).unwrap();
        assert_eq!(self.bench.fault(index), None);
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        if at + bytes.len() <= MEMORY {
            self.file.write_all_at(bytes, at as u64).unwrap();
        }
    }

    fn word(&self, at: usize) -> u16 {
        let mut bytes = [0; 2];
        self.file.read_exact_at(&mut bytes, at as u64).unwrap();
        u16::from_le_bytes(bytes)
    }

    fn image(&self) -> Vec<u8> {
        let mut image = vec![0; MEMORY];
        self.file.read_exact_at(&mut image, 0).unwrap();
        image
    }

    /// Table 0 and 1 are those of the rings, higher ones indirect.
    fn write_descriptor(&mut self, input: &mut Input<'_>) {
        let (table, slot) = (usize::from(input.u8() % 8), usize::from(input.u8() % 64));
        let base = if table < 2 { table * AREA } else { TABLES + (table - 2) * 0x200 };
        let (addr, len, flags, next) = (input.u32(), input.u16(), input.u8(), input.u8());
        // The top byte spreads addresses over all 64 bits and lengths over 32.
        let wide = addr >> 24;
        let addr = if wide == 0 { u64::from(addr) } else { u64::from(addr).rotate_right(wide) };
        let len = u32::from(len) << (flags >> 4);
        let mut bytes = addr.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        if self.packed() {
            // Id and flags, available or not as the top bits say.
            bytes.extend([next, 0, flags & 0x87, (flags ^ flags << 1) & 0x80]);
        } else {
            bytes.extend([flags & 7, 0, next, 0]);
        }
        self.write(base + slot * 16, &bytes);
    }

    /// Any word of the first pages, or the payload's header.
    fn write_word(&mut self, input: &mut Input<'_>) {
        let (at, value) = (input.u16(), input.u16());
        self.write(usize::from(at), &value.to_le_bytes());
    }

    /// Offers a head and moves the avail index on; in a packed ring, makes that many descriptors available, the first one last.
    fn offer(&mut self, input: &mut Input<'_>) {
        let (ring, head, ahead) = (usize::from(input.u8() % 2), input.u8(), input.u8());
        if self.packed() {
            let count = u16::from(ahead) % (self.size + 1);
            for at in (0..count).rev().map(|n| self.next[ring].advanced(n, self.size)) {
                let flags = ring * AREA + usize::from(at.slot()) * 16 + 14;
                let word = self.word(flags) & 7 | at.avail_flags();
                self.write(flags, &word.to_le_bytes());
            }
            self.next[ring] = self.next[ring].advanced(count, self.size);
            return;
        }
        let avail = ring * AREA + AVAIL;
        let index = self.word(avail + 2);
        self.write(avail + 4 + usize::from(index % self.size) * 2, &u16::from(head).to_le_bytes());
        self.write(avail + 2, &index.wrapping_add(ahead.into()).to_le_bytes());
    }

    /// Receives a burst; a word may change while its payload is named.
    fn receive(&mut self, change: Option<(u16, u16)>) {
        let broken = self.bench.fault(1).is_some();
        let before = self.image();
        let mut batch = self.storage.begin();
        let count = self.rx.rx_burst(&mut batch);
        assert_eq!(count, batch.len());
        assert!(!broken || count == 0, "a broken ring went on");
        if let Some((at, value)) = change {
            self.file.write_all_at(&value.to_le_bytes(), u64::from(at & !1)).unwrap();
        }
        for slot in 0..count as u16 {
            let frame = batch.frame(slot);
            assert!((14..=65_535 + 22).contains(&frame.len()), "a frame of {} bytes", frame.len());
            let mut bytes = vec![0; frame.len()];
            assert_eq!(frame.copy_to(&mut bytes), bytes.len());
        }
        self.rx.rx_done();
        if change.is_some() {
            return;
        }
        let after = self.image();
        let used = self.devices_own(1);
        only_changed(&before, &after, &used);
        if self.packed() {
            assert!(!broken || before == after, "a broken ring gave chains back");
            return;
        }
        let used = &used[0];
        let word = |image: &[u8], at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
        let (was, is) = (word(&before, used.start + 2), word(&after, used.start + 2));
        assert!(!broken || was == is, "a broken ring gave chains back");
        let done = is.wrapping_sub(was);
        assert!(done <= self.size, "{done} chains from a ring of {}", self.size);
    }

    /// Sends a frame that may need cutting.
    fn send(&mut self, input: &mut Input<'_>) {
        let (len, gso) = (usize::from(input.u16() % 9000), input.u8());
        let mut bytes = super::frames::tcp4(len);
        bytes.truncate(len.max(14));
        let broken = self.bench.fault(0).is_some();
        let before = self.image();
        let mut batch = self.storage.begin();
        batch.receive(Span::from_slice(&bytes));
        if gso % 4 == 1 {
            batch.packet_mut(0).offload = Offload {
                needs_csum: true,
                gso: Gso::TcpV4,
                gso_size: 1000,
                csum_start: 34,
                csum_offset: 16,
                ..Offload::default()
            };
        }
        let sent = self.tx.tx_burst(&batch, &[0]);
        assert!(!broken || sent == 0, "a broken ring went on");
        let after = self.image();
        let mut allowed = writable(&before, 0, self.size, self.packed());
        allowed.append(&mut self.past);
        self.past.clone_from(&allowed);
        self.past.extend(writable(&after, 0, self.size, self.packed()));
        // Where a buffer covers the tables themselves, what the device saw is not what we see.
        if allowed.iter().all(|buffer| buffer.start >= PAYLOAD) {
            allowed.extend(self.devices_own(0));
            only_changed(&before, &after, &allowed);
        }
    }

    /// Sends what it receives back to the guest: payload goes from guest memory to guest memory.
    fn hairpin(&mut self) {
        let before = self.image();
        let mut batch = self.storage.begin();
        let count = self.rx.rx_burst(&mut batch);
        let slots: Vec<u16> = (0..count as u16).collect();
        assert!(self.tx.tx_burst(&batch, &slots) <= count);
        self.rx.rx_done();
        let image = self.image();
        self.past.extend(writable(&before, 0, self.size, self.packed()));
        self.past.extend(writable(&image, 0, self.size, self.packed()));
    }

    /// What the device may write of a ring.
    fn devices_own(&self, ring: usize) -> Vec<Range<usize>> {
        let (table, used) = (ring * AREA, ring * AREA + USED);
        let size = usize::from(self.size);
        let own = used..used + if self.packed() { EVENT_LEN } else { 6 + size * 8 };
        let elements = if self.packed() { size } else { 0 };
        let elements = (0..elements).map(|slot| table + slot * 16 + 8..table + slot * 16 + 16);
        std::iter::once(own).chain(elements).collect()
    }

    /// What a worker does before and after it sleeps.
    fn sleep(&mut self) {
        self.rx.arm();
        self.rx.disarm();
    }
}

/// Buffers that a ring's table, and the indirect tables it names, offer for writing.
fn writable(image: &[u8], ring: usize, size: u16, packed: bool) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let mut tables = vec![(ring * AREA, usize::from(size), true)];
    while let Some((start, count, outer)) = tables.pop() {
        for at in (0..count).map(|i| start + i * 16) {
            let Some(bytes) = image.get(at..at + 16) else { break };
            let addr = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            let Ok(addr) = usize::try_from(addr).map(|a| a.min(MEMORY)) else { continue };
            let len = u32::from_le_bytes(bytes[8..12].try_into().unwrap()) as usize;
            let flags = if packed { [bytes[14], bytes[15]] } else { [bytes[12], bytes[13]] };
            let flags = u16::from_le_bytes(flags);
            if flags & DESC_F_INDIRECT != 0 && outer {
                tables.push((addr, len / 16, false));
            }
            if flags & DESC_F_WRITE != 0 {
                out.push(addr..(addr + len).min(MEMORY));
            }
        }
    }
    out
}

fn only_changed(before: &[u8], after: &[u8], allowed: &[Range<usize>]) {
    if before == after {
        return;
    }
    for (at, (old, new)) in before.iter().zip(after).enumerate() {
        let fine = old == new || allowed.iter().any(|range| range.contains(&at));
        assert!(fine, "the device wrote guest memory at {at:#x}, which was not offered");
    }
}

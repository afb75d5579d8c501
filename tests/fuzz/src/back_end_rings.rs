//! Boundary: the rings of a `virtio-user` port. There the switch plays the guest, and the other switch, the back-end, may write anything
//! into rings and buffers at any time between two bursts of ours.
//!
//! An input says what was negotiated and then what the back-end does: uses buffers that it has or has not, with any length, any id, in any
//! order, with any header in front; writes eight bytes anywhere into a ring; and when we receive and send.
//!
//! Property: no panic, every burst ends, no frame is longer than the buffers it could lie in, the part of a ring that is the
//! back-end's alone is not written by us; and rings that are made anew, as they are after a rule was broken, carry frames both ways.

use pmd::virtio::features::*;
use pmd::virtio::packed::Position;
use vhost_port::front_end::Places;
use vhost_port::fuzz::FrontBench;

use super::input::Input;

/// Bursts and deeds of one input.
const MOST: usize = 64;
/// Longest frame that a driver may make of what it was given.
const LONGEST: usize = 65_535 + 22;

/// Runs one input: features, then deeds.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let features = features(input.u8());
    let mut stage = Stage::new(features);
    for _ in 0..MOST {
        if input.is_empty() || !stage.step(&mut input) {
            break;
        }
    }
    Stage::new(features).carries_frames();
}

fn features(bits: u8) -> u64 {
    let when = |bit: u8, features: u64| if bits >> bit & 1 == 1 { features } else { 0 };
    VIRTIO_F_VERSION_1
        | when(0, VIRTIO_F_RING_PACKED)
        | when(1, VIRTIO_NET_F_MRG_RXBUF)
        | when(2, VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_GUEST_TSO4)
        | when(3, VIRTIO_NET_F_CSUM | VIRTIO_NET_F_HOST_TSO4)
}

/// For every set of features: good frames both ways, then each kind of lie.
pub fn seeds() -> Vec<Vec<u8>> {
    let good = [0, 0, 0, 60, 0, 0, 1, 0, 4, 0, 5, 0, 0, 1, 0, 0, 0, 4];
    let lies: [&[u8]; 5] = [
        // An id that is none, a length that is none.
        &[1, 0, 0xff, 0xff, 0xff, 0xff, 64, 0, 0, 0, 4],
        &[1, 0, 3, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 4],
        // A frame that says it has many buffers; one that says its checksum is far behind.
        &[0, 1, 0, 60, 0, 0, 0xff, 0xff, 4],
        &[0, 1, 0, 60, 1, 1, 1, 0, 4, 5],
        // An index that runs ahead.
        &[2, 2, 2, 0, 0xff, 0x7f, 0, 0, 0, 0, 0, 0, 4, 5, 6],
    ];
    let all: Vec<u8> = lies.concat();
    (0..16).flat_map(|bits| [[&[bits], &good[..]].concat(), [&[bits], &all[..]].concat()]).collect()
}

struct Stage {
    bench: FrontBench,
    packed: bool,
    places: [Places; 2],
    /// Of each ring, what the back-end has used: in a packed ring a position, else a count.
    used: [u16; 2],
}

impl Stage {
    fn new(features: u64) -> Stage {
        let bench = FrontBench::new(features).unwrap();
        let places = [0, 1].map(|index| bench.places(index).unwrap());
        let packed = features & VIRTIO_F_RING_PACKED != 0;
        Stage { bench, packed, places, used: [0; 2] }
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        self.bench.write(at, bytes);
    }

    /// One deed. False when the rings are of no more use.
    fn step(&mut self, input: &mut Input<'_>) -> bool {
        match input.u8() % 7 {
            // Uses the next buffer for a frame of some length, with a header.
            0 => {
                let id = u32::from(self.used[0] % FrontBench::SIZE);
                let (count, len) = (u16::from(input.u8()), u32::from(input.u8()));
                let [flags, gso] = [input.u8(), input.u8()];
                let mut header = [0; FrontBench::HEADER];
                header[..2].copy_from_slice(&[flags, gso]);
                header[4..10].copy_from_slice(&[10, 0, 14, 0, 16, 0]);
                header[10..].copy_from_slice(&input.u16().max(1).to_le_bytes());
                self.write(self.buffer(0, id), &header);
                (0..=count % 4).for_each(|_| self.use_buffer(0, u32::from(self.used[0]) % 256, len + 12));
            }
            // Uses any buffer with any length, of either ring.
            1 => {
                let (ring, id, len) = (usize::from(input.u8() & 1), input.u32(), input.u32());
                self.use_buffer(ring, id, len);
            }
            // Writes eight bytes into a part of a ring.
            2 => {
                let which = input.u8();
                let places = self.places[usize::from(which & 1)];
                let part = places.parts[usize::from(which >> 1) % 3];
                let room = places.end - part;
                let at = part + usize::from(input.u16()) % room.max(1);
                self.write(at, &input.u64().to_le_bytes()[..(places.end - at).min(8)]);
            }
            // Has sent what we gave it.
            3 => {
                let id = u32::from(self.used[1] % FrontBench::SIZE);
                self.use_buffer(1, id, 0);
            }
            4 => return self.receive(),
            5 => return self.send(),
            _ => drop(self.bench.arm()),
        }
        true
    }

    fn buffer(&self, ring: usize, id: u32) -> usize {
        let places = self.places[ring];
        places.buffers + (id as usize % usize::from(FrontBench::SIZE)) * places.stride
    }

    /// Says that a buffer was used, as this kind of ring has it.
    fn use_buffer(&mut self, ring: usize, id: u32, len: u32) {
        let used = self.used[ring];
        self.used[ring] = used.wrapping_add(1);
        let slot = usize::from(used % FrontBench::SIZE);
        let places = self.places[ring];
        if self.packed {
            let wrap = (used / FrontBench::SIZE).is_multiple_of(2);
            let bits = Position::from_bits(u16::from(wrap) << 15).used_flags();
            let at = places.parts[0] + slot * 16;
            self.write(at + 8, &len.to_le_bytes());
            self.write(at + 12, &[(id as u16).to_le_bytes(), bits.to_le_bytes()].concat());
        } else {
            let part = places.parts[2];
            self.write(part + 4 + slot * 8, &[id.to_le_bytes(), len.to_le_bytes()].concat());
            self.write(part + 2, &self.used[ring].to_le_bytes());
        }
    }

    /// What only the back-end writes.
    fn theirs(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for places in self.places {
            all.extend(self.bench.read(places.parts[2], places.end - places.parts[2]));
        }
        all
    }

    fn receive(&mut self) -> bool {
        let before = self.theirs();
        let got = self.bench.receive();
        assert_eq!(self.theirs(), before, "we wrote what is the back-end's");
        let Ok(frames) = got else { return false };
        assert!(frames.len() <= 32);
        assert!(frames.iter().all(|frame| (14..=LONGEST).contains(&frame.len())));
        true
    }

    fn send(&mut self) -> bool {
        let before = self.theirs();
        let sent = self.bench.send(&[&[3; 60], &[4; 3000]]);
        assert_eq!(self.theirs(), before, "we wrote what is the back-end's");
        sent.is_ok()
    }

    fn carries_frames(mut self) {
        for round in 0..300u32 {
            let id = round % 256;
            let frame = [round as u8; 64];
            let mut header = [0; FrontBench::HEADER];
            header[10] = 1;
            self.write(self.buffer(0, id), &[&header[..], &frame].concat());
            self.use_buffer(0, id, 76);
            assert_eq!(self.bench.receive().unwrap(), [frame]);
            assert_eq!(self.bench.send(&[&frame]).unwrap(), 1);
            let out = self.bench.read(self.buffer(1, id), 76);
            assert_eq!(out[12..], frame);
            self.use_buffer(1, id, 0);
        }
    }
}

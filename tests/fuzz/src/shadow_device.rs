//! Boundary: a vDPA device that runs a ring of ours, behind which a relay stands for the guest's.
//!
//! An input says what both rings are like, and then what happens: the guest offers chains, the relay runs, the device uses chains as it should, says that it used
//! one it may not have, moves its index, or writes anything anywhere in the ring's memory, all of which it can reach.
//!
//! Property: no panic, and whatever the device does, the guest gets each chain back once, with no more bytes than it has room for. When the
//! device is taken away, software gives back the rest.

use std::collections::HashMap;

use pmd::virtio::features::*;
use vhost_port::fuzz::{Setting, ShadowBench};

use super::input::Input;

const STEPS: usize = 64;

/// Runs one input: the setting, then steps.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let bits = input.u8();
    let when = |bit: u8, features: u64| if bits >> bit & 1 == 1 { features } else { 0 };
    let setting = Setting {
        guest_size: 16,
        guest_features: VIRTIO_F_VERSION_1 | when(0, VIRTIO_F_RING_PACKED) | when(1, VIRTIO_F_EVENT_IDX),
        device_size: 4 << (input.u8() % 4),
        device_features: VIRTIO_F_VERSION_1
            | when(2, VIRTIO_F_RING_PACKED)
            | when(3, VIRTIO_F_EVENT_IDX)
            | when(4, VIRTIO_F_INDIRECT_DESC),
        receives: bits >> 5 & 1 == 1,
        mergeable: bits >> 6 & 1 == 1,
    };
    let mut bench = ShadowBench::new(setting).unwrap();
    let mut device = Device { used: 0, packed: bits >> 2 & 1 == 1, size: setting.device_size };
    let mut out = HashMap::new();
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        match input.u8() % 8 {
            0 | 1 => {
                let pieces = u16::from(input.u8() % 20 + 1);
                if let Some(id) = bench.offer(pieces) {
                    out.insert(id, u32::from(pieces) * 64);
                }
                bench.publish();
            }
            2 | 3 => drop(bench.relay()),
            4 => device.uses(&bench, input.u16() % 64, u32::from(input.u8())),
            5 => device.uses(&bench, input.u16(), input.u32()),
            6 => device.jumps(&bench, input.u16()),
            _ => {
                let at = usize::from(input.u16()) % bench.device_len();
                let len = usize::from(input.u8() % 32);
                bench.device_write(at, input.bytes(len));
            }
        }
        collect(&mut bench, &mut out);
    }
    bench.finish().unwrap();
    collect(&mut bench, &mut out);
    assert!(out.is_empty(), "chains {out:?} did not come back");
}

fn collect(bench: &mut ShadowBench, out: &mut HashMap<u16, u32>) {
    while let Some((id, len)) = bench.collect().expect("the guest has what it gets back") {
        let capacity = out.remove(&id).expect("a chain comes back once");
        assert!(len <= capacity, "{len} bytes in a chain of {capacity}");
    }
}

/// What a device would know of its ring.
struct Device {
    used: u16,
    packed: bool,
    size: u16,
}

impl Device {
    /// Says that it has used a chain.
    fn uses(&mut self, bench: &ShadowBench, id: u16, len: u32) {
        let [descriptors, _, used] = bench.parts();
        if self.packed {
            let flags: u16 = if (self.used / self.size).is_multiple_of(2) { 0x8080 } else { 0 };
            let at = descriptors + usize::from(self.used % self.size) * 16 + 8;
            let word = u64::from(len) | u64::from(id) << 32 | u64::from(flags) << 48;
            bench.device_write(at, &word.to_le_bytes());
            self.used = self.used.wrapping_add(1);
        } else {
            let word = u64::from(id) | u64::from(len) << 32;
            bench.device_write(used + 4 + usize::from(self.used % self.size) * 8, &word.to_le_bytes());
            self.jumps(bench, 1);
        }
    }

    /// Moves its index.
    fn jumps(&mut self, bench: &ShadowBench, by: u16) {
        self.used = self.used.wrapping_add(by);
        if !self.packed {
            let [.., used] = bench.parts();
            bench.device_write(used + 2, &self.used.to_le_bytes());
        }
    }
}

/// Every kind of ring, with a device that works, one that lies, and one that scribbles.
pub fn seeds() -> Vec<Vec<u8>> {
    let offer = |pieces: u8| [0, pieces - 1];
    let works = |id: u16| [&[4][..], &id.to_le_bytes(), &[20]].concat();
    let steps = [
        offer(1).to_vec(),
        offer(3).to_vec(),
        offer(12).to_vec(),
        vec![2],
        works(0),
        works(1),
        vec![2],
        [&[5][..], &7u16.to_le_bytes(), &u32::MAX.to_le_bytes()].concat(),
        vec![6, 3, 0],
        [&[7, 0x40, 0, 8][..], &[0xff; 8]].concat(),
        vec![2, 2],
    ];
    (0..128).step_by(5).map(|bits| [vec![bits, bits], steps.concat()].concat()).collect()
}

//! The control queue: commands to the network device (VIRTIO 1.2, section 5.1.6.5).
#![expect(unsafe_code, reason = "rings lie in memory shared with the device")]

use std::time::{Duration, Instant};

use super::registers::Window;
use crate::memory::DmaArena;
use crate::virtio::driver_ring::{Buffer, ChainRing, DriverRing, RingMemory};
use crate::virtio::packed_driver_ring::PackedDriverRing;

/// Receive modes.
const RX: u8 = 0;
const RX_PROMISC: u8 = 0;
const RX_ALL_MULTICAST: u8 = 1;
/// Addresses.
const MAC: u8 = 1;
const MAC_ADDR_SET: u8 = 1;
/// Queue pairs in use.
const MQ: u8 = 4;
const MQ_PAIRS: u8 = 0;

/// Descriptors of the queue.
pub(super) const SIZE: u16 = 16;

/// Where a command's request and answer lie, behind the ring.
const REQUEST: usize = 8192;
const ANSWER: usize = 8192 + 256;
/// Bytes of memory.
pub(super) const BYTES: usize = 12288;

/// How long a device may take for a command.
const PATIENCE: Duration = Duration::from_secs(1);

/// The control queue of a network device that runs. Each command waits for its answer: a second at most, then it has failed.
pub struct Control {
    ring: Box<dyn ChainRing + Send>,
    arena: DmaArena,
    doorbell: Window,
    queue: u16,
}

/// Offsets of the second and third part of a ring of `size`.
pub(super) fn parts(packed: bool, size: u16) -> (usize, usize) {
    let (_, second, third) = if packed { PackedDriverRing::layout(size) } else { DriverRing::layout(size) };
    (second, third)
}

impl Control {
    /// A queue in zeroed memory of [`BYTES`]. `None` when `size` is no size, or more than [`SIZE`].
    pub(super) fn new(
        packed: bool,
        size: u16,
        arena: DmaArena,
        doorbell: Window,
        queue: u16,
    ) -> Option<Control> {
        if arena.len() < BYTES || size > SIZE {
            return None;
        }
        let (second, third) = parts(packed, size);
        let memory = RingMemory {
            descriptors: arena.shared(0),
            avail: arena.shared(second),
            used: arena.shared(third),
        };
        // SAFETY: a ring of at most SIZE entries ends before REQUEST, inside the arena, which is kept beside it.
        let ring: Box<dyn ChainRing + Send> = unsafe {
            if packed {
                Box::new(PackedDriverRing::new(memory, size, false, false)?)
            } else {
                Box::new(DriverRing::new(memory, size, false)?)
            }
        };
        Some(Control { ring, arena, doorbell, queue })
    }

    /// Uses this many queue pairs. False when the device refuses.
    pub fn set_pairs(&mut self, pairs: u16) -> bool {
        self.command(MQ, MQ_PAIRS, &pairs.to_le_bytes())
    }

    /// Receives frames for whatever address. False when the device refuses.
    pub fn set_promiscuous(&mut self) -> bool {
        self.command(RX, RX_PROMISC, &[1])
    }

    /// Receives frames for all groups. False when the device refuses.
    pub fn set_all_multicast(&mut self) -> bool {
        self.command(RX, RX_ALL_MULTICAST, &[1])
    }

    /// Receives frames for this address. False when the device refuses.
    pub fn set_mac(&mut self, mac: [u8; 6]) -> bool {
        self.command(MAC, MAC_ADDR_SET, &mac)
    }

    /// Gives a command and waits for the answer. False when the device refuses it or says nothing.
    fn command(&mut self, class: u8, command: u8, data: &[u8]) -> bool {
        let mut request = vec![class, command];
        request.extend_from_slice(data);
        self.arena.copy_in(REQUEST, &request);
        self.arena.copy_in(ANSWER, &[0xff]);
        let buffers = [
            Buffer { addr: self.arena.iova(REQUEST), len: request.len() as u32, write: false },
            Buffer { addr: self.arena.iova(ANSWER), len: 1, write: true },
        ];
        if self.ring.add(&buffers).is_none() {
            return false;
        }
        if self.ring.publish() {
            self.doorbell.write16(0, self.queue);
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.ring.poll_used() {
                Ok(Some(_)) => break,
                Ok(None) if Instant::now() < deadline => std::thread::yield_now(),
                _ => return false,
            }
        }
        let mut answer = [0xff];
        self.arena.copy_out(ANSWER, &mut answer);
        answer == [0]
    }
}

//! Receiving: frames in one buffer, or in as many as `num_buffers` says.

use std::sync::Arc;

use super::descriptors::Ring;
use crate::memory::DmaArena;
use crate::nic::{Fault, Parts, RxRing};
use crate::packet::{BURST, Batch};
use crate::port::{Armed, DropCounters, DropReason};
use crate::virtio::NetHeader;

/// Most buffers of one frame.
pub(super) const MOST_PARTS: usize = 64;

/// Buffers that are given back together, or a quarter of a short ring.
const REFILL: u16 = BURST as u16;

pub(super) struct VirtioRx {
    ring: Ring,
    capacity: usize,
    mergeable: bool,
    refill: u16,
    /// The frame that is coming in, its header, and the buffers of it that are still to come.
    parts: Parts,
    header: NetHeader,
    missing: u16,
}

impl VirtioRx {
    /// A ring whose buffers the device has been given.
    pub(super) fn new(mut ring: Ring, capacity: usize, mergeable: bool) -> VirtioRx {
        let all = ring.free();
        ring.stage_unchanged(all);
        VirtioRx {
            ring,
            capacity,
            mergeable,
            refill: REFILL.min(all / 4).max(1),
            parts: Parts::new(MOST_PARTS),
            header: NetHeader::default(),
            missing: 0,
        }
    }

    /// Tells the device of the first buffers, when it runs.
    pub(super) fn kick(&mut self) {
        self.ring.publish();
    }
}

impl RxRing for VirtioRx {
    fn arena(&self) -> &Arc<DmaArena> {
        self.ring.arena()
    }

    fn receive<'q>(
        &mut self,
        arena: &'q DmaArena,
        batch: &mut Batch<'q>,
        drops: &DropCounters,
    ) -> Result<u64, Fault> {
        let VirtioRx { ring, capacity, mergeable, parts, header, missing, .. } = self;
        let (mut bytes, mut sound) = (0, true);
        while sound && batch.len() < BURST {
            let room = (BURST - batch.len()) as u16;
            let taken = ring.take_used(room, |offset, len, view| {
                let len = len as usize;
                let first = *missing == 0;
                let before = if first { NetHeader::LEN } else { 0 };
                if !sound || len < before || len > *capacity {
                    sound = false;
                    return;
                }
                if first {
                    parts.clear();
                    *header = NetHeader::from_bytes(&view.read(0));
                    *missing = if *mergeable { header.num_buffers.max(1) } else { 1 };
                }
                *missing -= 1;
                sound = parts.push(offset + before, len - before);
                if *missing == 0 && sound {
                    let offload = header.to_offload(parts.total()).map_err(|_| DropReason::RxBadOffload);
                    bytes += parts.end(arena, batch, offload, drops);
                }
            });
            if taken.map_err(|_| Fault::BadDescriptor)? < room {
                break;
            }
        }
        if sound { Ok(bytes) } else { Err(Fault::BadDescriptor) }
    }

    fn release(&mut self) -> bool {
        // Buffers of a frame that is not whole yet were taken last, so they come last.
        let parts = if self.missing == 0 { 0 } else { self.parts.count() as u16 };
        let free = self.ring.free() - parts;
        if free < self.refill {
            return false;
        }
        self.ring.stage_unchanged(free);
        self.ring.publish()
    }

    fn arm(&mut self) -> Armed {
        if self.ring.enable_interrupts() { Armed::Work } else { Armed::Idle }
    }

    fn disarm(&mut self) {
        self.ring.disable_interrupts();
    }
}

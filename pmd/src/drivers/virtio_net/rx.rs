//! Receiving: [`NetRxRing`] finds the frames; what a card, other than another program, may not say stops it.
#![expect(unsafe_code, reason = "receives from memory that a device shares")]

use std::sync::Arc;

use super::descriptors::{Doorbell, Ring};
use crate::memory::DmaArena;
use crate::nic::{Fault, RxRing};
use crate::packet::Batch;
use crate::port::{Armed, DropCounters, DropReason};
use crate::virtio::net_driver::NetRxRing;

pub(super) struct VirtioRx {
    // Before the memory it lies in.
    ring: NetRxRing,
    doorbell: Doorbell,
    arena: Arc<DmaArena>,
}

impl VirtioRx {
    /// A ring with all buffers posted. The device is told by [`RxRing::settle`], when it runs.
    pub(super) fn new(ring: Ring, mergeable: bool) -> VirtioRx {
        let Ring { ring, arena, doorbell } = ring;
        VirtioRx { ring: NetRxRing::new(ring, mergeable), doorbell, arena }
    }
}

impl RxRing for VirtioRx {
    fn arena(&self) -> &Arc<DmaArena> {
        &self.arena
    }

    fn receive<'q>(
        &mut self,
        arena: &'q DmaArena,
        batch: &mut Batch<'q>,
        drops: &DropCounters,
    ) -> Result<u64, Fault> {
        assert!(core::ptr::eq(arena, &*self.arena), "another ring's memory");
        let nonsense = drops.get(DropReason::RxBadDescriptor);
        // SAFETY: the buffers lie in this arena, which 'q borrows.
        let (bytes, outcome) = unsafe { self.ring.receive_lent(batch, drops) };
        if outcome.is_err() || drops.get(DropReason::RxBadDescriptor) != nonsense {
            return Err(Fault::BadDescriptor);
        }
        Ok(bytes)
    }

    fn release(&mut self) -> bool {
        self.ring.give_back();
        false
    }

    fn settle(&mut self) -> bool {
        let wanted = self.ring.wants_kick();
        if wanted {
            self.doorbell.ring();
        }
        wanted
    }

    fn arm(&mut self) -> Armed {
        if self.ring.enable_interrupts() { Armed::Work } else { Armed::Idle }
    }

    fn disarm(&mut self) {
        self.ring.disable_interrupts();
    }
}

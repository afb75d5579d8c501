//! Sending: bursts go to [`NetTxRing`].

use std::sync::Arc;

use super::descriptors::{Doorbell, Ring};
use crate::memory::DmaArena;
use crate::nic::{Fault, TxRing};
use crate::packet::OffloadCaps;
use crate::port::TxBurst;
use crate::virtio::net_driver::NetTxRing;

pub(super) struct VirtioTx {
    // Before the memory it lies in.
    ring: NetTxRing,
    doorbell: Doorbell,
    _arena: Arc<DmaArena>,
}

impl VirtioTx {
    pub(super) fn new(ring: Ring, caps: OffloadCaps) -> VirtioTx {
        let Ring { ring, arena, doorbell } = ring;
        VirtioTx { ring: NetTxRing::new(ring, caps), doorbell, _arena: arena }
    }
}

impl TxRing for VirtioTx {
    fn caps(&self) -> OffloadCaps {
        self.ring.caps()
    }

    fn send_burst(&mut self, burst: TxBurst<'_, '_>) -> Result<usize, Fault> {
        let VirtioTx { ring, doorbell, .. } = self;
        let counters = burst.counters;
        let sent = ring.send(burst, || {
            doorbell.ring();
            counters.add_notification(true);
        });
        // What is found when frames have been sent is told with the next burst, or to the watch.
        if sent == 0 && ring.bad().is_some() { Err(Fault::BadDescriptor) } else { Ok(sent) }
    }

    fn publish(&mut self) -> bool {
        let wanted = self.ring.wants_kick();
        if wanted {
            self.doorbell.ring();
        }
        wanted
    }

    fn progress(&mut self) -> Result<(u64, u32), Fault> {
        let (done, outstanding) = self.ring.progress().map_err(|_| Fault::BadDescriptor)?;
        Ok((done, outstanding.into()))
    }
}

//! Sending: a frame is copied once, behind its header, into a buffer of its own.

use super::descriptors::Ring;
use crate::nic::{Fault, TxRing};
use crate::packet::{Frame, Offload, OffloadCaps};
use crate::port::DropReason;
use crate::virtio::NetHeader;

pub(super) struct VirtioTx {
    ring: Ring,
    caps: OffloadCaps,
    /// Longest frame a buffer holds.
    longest: usize,
    done: u64,
}

impl VirtioTx {
    pub(super) fn new(ring: Ring, caps: OffloadCaps, longest: usize) -> VirtioTx {
        VirtioTx { ring, caps, longest, done: 0 }
    }
}

impl TxRing for VirtioTx {
    fn caps(&self) -> OffloadCaps {
        self.caps
    }

    fn reclaim(&mut self) -> Result<(), Fault> {
        let done = self.ring.reclaim().map_err(|_| Fault::BadDescriptor)?;
        self.done += u64::from(done);
        Ok(())
    }

    fn send(&mut self, frame: &Frame<'_>) -> Result<(), DropReason> {
        if frame.len() > self.longest {
            return Err(DropReason::TxTooLong);
        }
        if self.ring.free() == 0 {
            return Err(DropReason::TxRingFull);
        }
        // What holds for a device that receives does not for one that sends: it vouches for nothing, and merges nothing (5.1.6.2).
        let offload = Offload { csum_valid: false, ..frame.offload };
        let header = NetHeader { num_buffers: 0, ..NetHeader::from_offload(&offload) };
        self.ring.stage_frame(header.to_bytes(), frame);
        Ok(())
    }

    fn publish(&mut self) -> bool {
        self.ring.publish()
    }

    fn progress(&mut self) -> (u64, u32) {
        (self.done, u32::from(self.ring.outstanding()))
    }
}

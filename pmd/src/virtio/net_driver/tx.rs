//! Sending: a frame is copied into one buffer of the ring, behind its header.

use crate::offload::Finisher;
use crate::packet::{Frame, OffloadCaps};
use crate::port::{DropReason, Offloads};
use crate::virtio::NetHeader;
use crate::virtio::burst_driver::{BadDevice, EitherRing};

/// The transmit ring of a network driver.
pub struct NetTxRing {
    ring: EitherRing,
    caps: OffloadCaps,
    /// Bytes a buffer holds behind the header.
    capacity: usize,
    bad: Option<BadDevice>,
}

impl NetTxRing {
    /// Takes a ring whose buffers are all free, of a device that does `caps` for us.
    pub fn new(mut ring: EitherRing, caps: OffloadCaps) -> NetTxRing {
        let mut capacity = usize::MAX;
        ring.for_each_buffer(|view| capacity = capacity.min(view.capacity()));
        NetTxRing { ring, caps, capacity: capacity.saturating_sub(NetHeader::LEN), bad: None }
    }

    /// Puts a frame into the ring, as several where the device cannot cut it itself or shall not; it is shown by [`NetTxRing::publish`].
    ///
    /// # Errors
    /// Why it could not be sent; parts of it may have been.
    #[inline]
    pub fn send(
        &mut self,
        frame: Frame<'_>,
        finisher: &mut Finisher,
        wanted: Offloads,
        max_frame: usize,
    ) -> Result<(), DropReason> {
        finisher.send(frame, wanted.limit(self.caps), max_frame, |piece| self.put(piece)).map(|_| ())
    }

    fn put(&mut self, frame: &Frame<'_>) -> Result<(), DropReason> {
        if frame.len() > self.capacity {
            return Err(DropReason::TxTooLong);
        }
        if self.ring.free() == 0 {
            self.reclaim()?;
        }
        let header = NetHeader { num_buffers: 0, ..NetHeader::from_offload(&frame.offload) }.to_bytes();
        let staged = self.ring.stage(1, |view| {
            view.write(0, header);
            let mut at = NetHeader::LEN;
            view.copy_in(at, frame.head);
            at += frame.head.len();
            frame.for_each_payload(|span| {
                view.copy_from(at, span);
                at += span.len();
            });
            view.set_len(at as u32);
        });
        if staged == 0 { Err(DropReason::TxRingFull) } else { Ok(()) }
    }

    /// Takes back what the device has sent.
    fn reclaim(&mut self) -> Result<(), DropReason> {
        if self.bad.is_some() {
            return Err(DropReason::TxBadRing);
        }
        self.ring.reclaim(u16::MAX).map(drop).map_err(|error| {
            self.bad = Some(error);
            DropReason::TxBadRing
        })
    }

    /// Shows the device what was put. True when it wants to be told.
    #[inline]
    #[must_use = "a device that asked for a kick sleeps until it gets one"]
    pub fn publish(&mut self) -> bool {
        self.ring.publish()
    }

    /// How the device broke the rules, if it did; the ring is then of no more use.
    pub fn bad(&self) -> Option<BadDevice> {
        self.bad
    }
}

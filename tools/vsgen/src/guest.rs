//! One guest: its memory, its conversation with the switch, its two rings.

use pmd::virtio::burst_driver::EitherRing;

use crate::error::{During as _, Error};
use crate::memory::{HugePages, Memory, RECEIVE, Shape, TRANSMIT};
use crate::session::{Session, Terms};

/// Buffers taken or given in one go.
pub(crate) const BURST: u16 = 32;

/// A guest with one queue pair, connected to a port.
pub(crate) struct Guest {
    /// Receive ring.
    pub(crate) rx: EitherRing,
    /// Transmit ring.
    pub(crate) tx: EitherRing,
    session: Session,
    terms: Terms,
    /// The rings point into it, so it goes last.
    memory: Memory,
}

impl Guest {
    /// Connects to the port, lays out the memory and starts the rings, with all receive buffers posted.
    pub(crate) fn attach(terms: Terms, shape: Shape, huge: HugePages) -> Result<Self, Error> {
        let memory = Memory::create(shape, huge)?;
        // Before the switch sees them: their memory must be zero but for what we write.
        let (mut rx, tx) = (memory.ring(RECEIVE)?, memory.ring(TRANSMIT)?);
        rx.stage_unchanged(shape.ring_size);
        let _ = rx.publish();
        let session = Session::start(&terms, &memory)?;
        session.kick(RECEIVE);
        Ok(Self { rx, tx, session, terms, memory })
    }

    /// Connects again to a switch that has been away. The rings are what they were, with all that the switch had not given back.
    pub(crate) fn reattach(&mut self) -> Result<(), Error> {
        self.session = Session::resume(&self.terms, &self.memory)?;
        [RECEIVE, TRANSMIT].into_iter().for_each(|index| self.session.kick(index));
        Ok(())
    }

    /// The conversation.
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// Gives received buffers back to the switch, once a burst of them has come together.
    #[inline]
    pub(crate) fn repost(&mut self) {
        let free = self.rx.free();
        if free >= repost_at(self.rx.size()) {
            self.rx.stage_unchanged(free);
            if self.rx.publish() {
                self.session.kick(RECEIVE);
            }
        }
    }

    /// Shows staged frames to the switch, and wakes it if it wants that.
    #[inline]
    pub(crate) fn publish(&mut self) {
        if self.tx.publish() {
            self.session.kick(TRANSMIT);
        }
    }

    /// Takes transmitted buffers back until `wanted` are free, if the switch has used so many.
    #[inline]
    pub(crate) fn make_room(&mut self, wanted: u16) -> Result<(), Error> {
        if self.tx.free() < wanted {
            // All that are there: the device's index is loaded rarely, and its line travels rarely.
            self.tx.reclaim(u16::MAX).during("transmit ring")?;
        }
        Ok(())
    }
}

/// Free receive buffers that are worth an update of the index.
pub(crate) fn repost_at(ring_size: u16) -> u16 {
    BURST.min(ring_size / 4).max(1)
}

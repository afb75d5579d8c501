//! Receiving: the ring that Intel's cards share, with this function's registers.

use crate::nic::intel::{IntelRx, Interrupt};

use super::registers::{EIMC, EIMS};

/// The receive ring.
pub(super) type IgbvfRx = IntelRx;

/// The vector of the queue: that after the mailbox's.
pub(super) const VECTOR: u32 = 1;

/// How the queue interrupts.
pub(super) fn interrupt() -> Interrupt {
    Interrupt { set: EIMS, clear: EIMC, bits: 1 << VECTOR }
}

//! Receiving: the ring that Intel's cards share, with this card's registers.

use crate::nic::intel::{IntelRx, Interrupt};

use super::registers::{CAUSE_RX_QUEUE_0, IMC, IMS, QUEUE, RX_TAIL};

/// The receive ring.
pub(super) type E1000eRx = IntelRx;

/// Tail register of a queue.
pub(super) fn tail(queue: u16) -> usize {
    RX_TAIL + usize::from(queue) * QUEUE
}

/// How a queue interrupts: by a cause of its own.
pub(super) fn interrupt(queue: u16) -> Interrupt {
    Interrupt { set: IMS, clear: IMC, bits: CAUSE_RX_QUEUE_0 << queue }
}

//! Receiving: the ring that Intel's cards share, with this card's registers.

use crate::nic::intel::{IntelRx, Interrupt};

use super::registers::{EIMC, EIMS, QUEUE, RX_TAIL};

/// The receive ring.
pub(super) type IgbRx = IntelRx;

/// Tail register of a queue.
pub(super) fn tail(queue: u16) -> usize {
    RX_TAIL + usize::from(queue) * QUEUE
}

/// How a queue interrupts: by the vector after that of the link.
pub(super) fn interrupt(queue: u16) -> Interrupt {
    Interrupt { set: EIMS, clear: EIMC, bits: 1 << (1 + queue) }
}

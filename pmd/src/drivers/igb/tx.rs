//! Sending: the ring that Intel's cards share, with this card's registers.

use super::registers::{QUEUE, TX_TAIL};
use crate::nic::intel::{Advanced, IntelTx};

/// The transmit ring.
pub(super) type IgbTx = IntelTx<Advanced>;

/// Tail register of a queue.
pub(super) fn tail(queue: u16) -> usize {
    TX_TAIL + usize::from(queue) * QUEUE
}

//! Sending: the ring that Intel's cards share, with this card's registers and descriptors.

use super::descriptors::Extended;
use super::registers::{QUEUE, TX_TAIL};
use crate::nic::intel::IntelTx;

/// The transmit ring.
pub(super) type E1000eTx = IntelTx<Extended>;

/// Tail register of a queue.
pub(super) fn tail(queue: u16) -> usize {
    TX_TAIL + usize::from(queue) * QUEUE
}

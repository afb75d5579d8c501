//! What a driver implements: a port and its queues.
//!
//! A port has two sides. The control side ([`Port`]) is shared and may block; the data side
//! ([`RxQueue`], [`TxQueue`]) is owned by exactly one worker and never blocks. Moving a queue between workers
//! is a message that carries the box, not a lock.

mod drops;
mod error;
mod info;
mod offloads;
mod stats;
#[cfg(test)]
pub(crate) mod test_bursts;
#[cfg(test)]
pub(crate) mod test_events;
mod traits;
mod waker;

pub use drops::{DropCounters, DropReason};
pub use error::PmdError;
pub use info::{LinkState, PortInfo};
pub use offloads::{OffloadSwitches, Offloads, TxLimits, offload_status};
pub use stats::{QueueCounters, QueueSnapshot, SentBurst};
pub use traits::{Armed, Port, PortEvents, RxQueue, TxBurst, TxQueue};
pub use waker::Waker;

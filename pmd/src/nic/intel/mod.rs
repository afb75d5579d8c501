//! What the gigabit cards of Intel have in common: extended receive descriptors, and transmit rings whose frames are chains of descriptors
//! with a report at the end of a batch. A driver says where its registers are and how its transmit descriptors look;
//! what they do alike, reset and link among it, is in `gigabit`.

mod gigabit;
pub(crate) mod registers;
mod rx;
mod tx;

pub(crate) use gigabit::{Gigabit, OVERHEAD, Places, RESET};
pub use rx::{BUFFER, IntelRx, Interrupt, Received};
pub use tx::{Format, IntelTx, TX_DONE, TX_REPORT};

/// Bytes of a descriptor of either kind.
pub const DESCRIPTOR: usize = 16;

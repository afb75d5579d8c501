//! What the gigabit cards of Intel have in common: extended receive descriptors, and transmit rings whose frames are chains of descriptors
//! with a report at the end of a batch. A driver says where its registers are and how its transmit descriptors look;
//! what they do alike, reset and link among it, is in `gigabit`.

mod advanced;
#[cfg(test)]
mod cut_by_card;
mod format;
mod gigabit;
#[cfg(test)]
pub(crate) mod model;
#[cfg(test)]
mod pf_and_vf;
#[cfg(test)]
pub(crate) mod post;
pub(crate) mod registers;
mod rx;
#[cfg(test)]
pub(crate) mod suite;
#[cfg(test)]
mod suite_cut;
mod tx;
pub(crate) mod vf_messages;

pub(crate) use advanced::Advanced;
#[cfg(test)]
pub(crate) use advanced::sent;
pub use format::{Context, Cut, Format};
pub(crate) use gigabit::{Gigabit, OVERHEAD, Places, RESET, link, place_ring, wait};
pub use rx::{BUFFER, IntelRx, Interrupt, Received};
pub use tx::{IntelTx, TX_DONE, TX_REPORT};

/// Bytes of a descriptor of either kind.
pub const DESCRIPTOR: usize = 16;

//! What the drivers of physical cards have in common: the port around the rings.
//!
//! ```text
//!   model    Card, RxRing, TxRing: what a driver writes: its registers and descriptors
//!   frames   a TxRing of a FrameRing, which a driver writes whose card takes frame after frame
//!   cell     a ring, and who may touch it now: its worker for a burst, or the control side
//!   rx, tx   RxQueue and TxQueue over a ring: counters, software offloads, doorbells, sleeping
//!   port     Port over a card: queues handed out, MTU, reports
//!   filters  what a card that cannot receive everything is asked for
//!   copy     a piece of a frame into a buffer of the card
//!   intel    rings that Intel's gigabit cards share
//!   watch    a thread per port: link changes, cards that hang, cards that are pulled
//! ```
//!
//! # Rings and restarts
//!
//! A ring lies in a cell (`cell`). A worker locks it once per burst and never waits: a ring that the control side has is a burst of nothing. The
//! control side takes all cells before it resets the card, puts new rings into them and gives them back; workers notice only that
//! nothing came for some milliseconds.
//!
//! Received payload stays in the ring's buffers until [`crate::port::RxQueue::rx_done`]. Till then the cell is *held*, and the control side
//! waits for that too, so a card is never restarted under a packet that is on its way.
//!
//! # Doorbells
//!
//! A register write to a card costs as much as some hundred instructions and a packet on its bus. So there is one per batch of buffers
//! given back, at once or in the next round, and one per [`crate::port::TxQueue::notify`], which a worker calls once per round.
//!
//! # A card that lies
//!
//! A card sits behind an IOMMU and can only write what it was given. What it writes back is checked as a guest's descriptors are; a ring
//! that makes no sense is not looked at any more, and the watch restarts the card (`watch`).

mod cell;
mod copy;
mod filters;
mod frames;
pub mod intel;
mod model;
mod parts;
mod port;
mod rx;
#[cfg(test)]
pub(crate) mod test_cards;
mod tx;
mod watch;

pub(crate) use copy::copy_piece;
pub(crate) use filters::is_station;
pub use filters::{Filters, mac_address};
pub use model::{Card, CardInfo, Fault, FrameRing, Link, Queues, RxRing, Settings, TxRing};
pub use parts::Parts;
pub use port::{NicConfig, open};

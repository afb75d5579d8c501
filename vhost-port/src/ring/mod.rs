//! The device side of a guest's rings.
//!
//! ```text
//!   config    what the front-end said, collected   ──activate──▶  split     a checked, running ring
//!   chain     bounded walk of one descriptor chain               vring     its lock, shared by worker and control
//!   fault     what a guest did wrong
//! ```
//!
//! Everything the guest writes is read once and checked before use. A violation latches the ring: it stops, says
//! why, and stays stopped until the front-end starts it anew.

mod chain;
mod config;
mod fault;
mod split;
#[cfg(test)]
mod tests;
mod vring;

pub(crate) use chain::{Direction, Segment};
pub(crate) use config::{RingAddresses, RingConfig, checked_size};
pub(crate) use fault::RingFault;
pub(crate) use split::{Chain, RingRules, SplitRing};
pub(crate) use vring::{RingState, Vring};

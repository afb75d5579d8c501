//! The device side of a guest's rings.
//!
//! ```text
//!   config    what the front-end said, collected   ──activate──▶  split, packed   a checked, running ring
//!   chain     bounded walk of one descriptor chain               ahead     what is known of it beyond its next chain
//!   device    a ring of either kind, and what a burst does with it
//!   journal   what of a packed ring outlives us          ring_file the file in which it is kept
//!   inflight  what is in flight, where the front-end wants it kept
//!   fault     what a guest did wrong                             vring     its lock, shared by worker and control
//!   ring_log  its own writes, noted for a migration
//! ```
//!
//! Everything the guest writes is read once and checked before use. A violation latches the ring: it stops, says
//! why, and stays stopped until the front-end starts it anew.

mod ahead;
mod chain;
mod config;
mod device;
mod fault;
mod inflight;
mod journal;
mod kill;
mod packed;
mod packed_ahead;
#[cfg(test)]
mod packed_tests;
mod ring_file;
mod ring_log;
mod split;
#[cfg(test)]
mod tests;
mod vring;

pub(crate) use ahead::Chain;
pub(crate) use chain::{Direction, MAX_SEGMENTS, Segment};
pub(crate) use config::{Activated, Kept, Resume, RingAddresses, RingConfig, RingConfigError, checked_size};
pub(crate) use device::{Cursor, DeviceRing, Extent, Ring};
pub(crate) use fault::RingFault;
pub(crate) use inflight::{InflightBuffer, InflightRegion};
pub(crate) use journal::MOST_NOTES;
pub(crate) use ring_file::RingFile;
pub(crate) use split::RingRules;
pub(crate) use vring::{RingState, Vring};

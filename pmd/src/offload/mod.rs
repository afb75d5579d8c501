//! Offloads in software, at the edge where a frame leaves: what the far side cannot do, and large frames for one that takes them.
//!
//! A frame crosses the switch as its sender made it: checksum partial, up to 64 KiB of payload. A transmit queue whose
//! far side takes that hands it on untouched. Otherwise [`Finisher`] completes the checksum or cuts the frame into segments,
//! whose payload is slices of the original: no payload byte is copied here. [`Merger`] goes the other way.
//!
//! Everything in [`crate::packet::Offload`] and in the headers came from a peer: nothing is believed that the frame
//! does not bear out, and the work per frame is bounded ([`MAX_SEGMENTS`]).
//!
//! Cost: one pass over the payload to sum it; headers are rebuilt per segment in a scratch buffer.

mod by_card;
mod finisher;
mod fragment;
mod headers;
mod merge;
mod sum;

pub(crate) use by_card::{CutByCard, transport};
pub use finisher::{Finished, Finisher, MAX_SEGMENTS};
pub use merge::{Merger, Takes};

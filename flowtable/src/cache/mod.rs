//! A cache in front of the megaflow table: from the hash of a whole key to a guess.

mod signature;

pub use signature::{DEFAULT_HINTS, SignatureCache};

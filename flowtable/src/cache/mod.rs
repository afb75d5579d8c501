//! Caches in front of the megaflow table: whole keys, no masks.

mod exact_match;

pub use exact_match::{DEFAULT_ENTRIES, ExactMatchCache};

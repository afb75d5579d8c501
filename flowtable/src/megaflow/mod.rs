//! The megaflow table: keys under masks, found by tuple-space search.
//!
//! The slow path installs one entry for each class of packets that it would treat alike: the key of the first one
//! and the mask of the bits it looked at. All entries of one mask form a subtable; a lookup tries the subtables
//! one by one, those with most recent hits first, and takes the first match. There are no priorities: entries that
//! overlap agree by construction.
//!
//! Cost: one hash over the mask's words and one cache line for each subtable that has no match, two or three lines
//! more in the one that has.

mod bucket;
mod subtable;
mod table;

pub use table::{MegaflowTable, SubtableStats};

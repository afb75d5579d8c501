//! The megaflow table: keys under masks, found by tuple-space search.

mod table;

pub use table::{MegaflowTable, SubtableStats};

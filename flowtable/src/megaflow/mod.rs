//! The megaflow table: keys under masks, found by tuple-space search.
//!
//! The slow path installs one entry for each class of packets that it would treat alike: the key of the first one
//! and the mask of the bits it looked at. All entries of one port and one mask form a subtable; a lookup tries the subtables
//! of the packet's port one by one, those with most recent hits first, and takes the first match. There are no
//! priorities: entries that overlap agree by construction.
//!
//! Every megaflow of a switch compares the port, so each port has a list of its own: it tries no masks that only other
//! ports use, ranks by its own traffic, and knows how deep into a packet its masks look ([`PortFlows::depth`]).
//!
//! Cost: one hash over the mask's words and one cache line for each subtable that has no match; two lines where there is
//! one, the second being the masked key and the value together.

mod bucket;
mod subtable;
mod table;
mod tuples;

pub use table::{MegaflowTable, PortFlows, SubtableStats};
pub use tuples::Place;

//! What a flow does to its packets, as data, and the byte changes that carry it out.
//!
//! The datapath walks an [`ActionList`] and calls [`rewrite`] for the steps that change bytes; this module never
//! sees a packet buffer.

mod action;
mod crc32c;
mod list;
pub mod rewrite;
mod set_field;

pub use action::Action;
pub use list::ActionList;
pub use set_field::SetField;

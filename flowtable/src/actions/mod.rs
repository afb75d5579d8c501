//! What a flow does to its packets, as data, and the byte changes that carry it out.
//!
//! The datapath walks an [`ActionList`]; this module never sees a packet buffer.

mod action;
mod list;
mod set_field;

pub use action::Action;
pub use list::ActionList;
pub use set_field::SetField;

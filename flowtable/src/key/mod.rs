//! The flow key: what of a packet the switch may look at.

mod field;
mod flow_key;
mod flow_match;

pub use field::{FIELDS, Field, FieldSpec, Prerequisite, ValueKind};
pub use flow_key::{FlowKey, FlowMask, KEY_WORDS, PortNo, VLAN_PRESENT};
pub use flow_match::FlowMatch;

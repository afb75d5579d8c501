//! The flow key: what of a packet the switch may look at.

mod flow_key;

pub use flow_key::{FlowKey, FlowMask, KEY_WORDS, PortNo, VLAN_PRESENT};

//! The flow key: what of a packet the switch may look at.

mod extract;
mod flow_key;
mod hash;
mod mask;

pub use extract::{Layers, extract};
pub use flow_key::{FlowKey, FlowMask, KEY_WORDS, PortNo, VLAN_PRESENT};
pub(crate) use hash::{PLAIN_WORDS, is_plain};
pub use hash::{flow_hash, hash_key, hash_masked};
pub use mask::SparseMask;

//! The flow key: what of a packet the switch may look at.

mod connection;
mod depth;
mod extract;
mod field;
mod flow_key;
mod flow_match;
mod hash;
mod mask;
mod shallow;

pub use connection::{Beside, CONNECTION_WORDS, connection, is_same_connection};
pub use depth::Depth;
pub use extract::{Layers, extract, extract_unusual, extract_usual};
pub use field::{FIELDS, Field, FieldSpec, Prerequisite, ValueKind};
pub use flow_key::{FlowKey, FlowMask, KEY_WORDS, PLAIN_WORDS, PortNo, VLAN_PRESENT};
pub use flow_match::FlowMatch;
pub use hash::{flow_hash, hash_key};
pub use mask::SparseMask;
pub use shallow::{Shallow, shallow, tcp_flags};

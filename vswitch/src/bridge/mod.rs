//! Bridges: ports, VLANs, learned addresses and rules, as the slow path and management see them.
//!
//! ```text
//!  management ──set, add, remove, flows──▶ Bridges ◀──translate, learn── slow path
//!                                             │
//!                                           epoch: which state a megaflow was computed from
//! ```
//!
//! Workers never come here. [`Bridges`] is one read-write lock around plain data; the slow path reads, management
//! writes. Each change that can alter a translation takes a new [`Bridges::epoch`], and the bridge remembers the
//! epoch of its own last change, so that megaflows of other bridges need not be computed again.
//!
//! Learned addresses change far more often than anything else, so they take no epoch: the MAC table says which
//! entries changed ([`MacChange`]), and the slow path looks again at the megaflows that asked for those.

mod bridges;
mod clock;
mod config;
mod error;
mod flows;
mod learning;
mod mac_table;
mod port_names;
mod ports;
mod state;
mod vlan;

pub use bridges::Bridges;
pub use clock::Clock;
pub use config::{BridgeConfig, BridgePortConfig, DEFAULT_MAC_AGEING_S, DEFAULT_MAC_TABLE_SIZE, FailMode};
pub use error::BridgeError;
pub use learning::{BridgeMacChange, FdbEntry, Learn};
pub use mac_table::{FLAP_MS, Learned, MacChange, MacEntry, MacKey, MacStats, MacTable};
pub use ports::PortView;
pub(crate) use state::{Bridge, BridgePort, State};
pub use state::{BridgeId, OFPORT_MAX};
pub use vlan::{PortVlans, VlanConfig, VlanError, VlanMode, VlanSet};

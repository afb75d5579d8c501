//! Frames in and out of a guest's rings: the port and its queues.

mod from_guest;
mod port;
mod rules;
mod shared;
mod to_guest;

pub(crate) use from_guest::VhostRx;
pub use port::VhostPort;
pub(crate) use rules::NetRules;
pub(crate) use shared::{Peer, Shared};
pub(crate) use to_guest::VhostTx;

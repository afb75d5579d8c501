//! Frames in and out of a guest's rings: the queues of a port.

mod from_guest;
mod rules;
mod shared;
mod to_guest;

pub(crate) use from_guest::VhostRx;
pub(crate) use rules::NetRules;
pub(crate) use shared::{Peer, Shared};
pub(crate) use to_guest::VhostTx;

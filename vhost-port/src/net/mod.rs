//! Frames in and out of a guest's rings: the queues of a port.

mod announce;
mod from_guest;
mod held;
mod rules;
mod run;
mod shared;
mod to_guest;
mod writer;

pub(crate) use from_guest::VhostRx;
pub(crate) use held::{Held, LateSender};
pub(crate) use rules::NetRules;
pub(crate) use shared::{Peer, Shared};
pub(crate) use to_guest::VhostTx;

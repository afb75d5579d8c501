//! A guest as a port: vhost-user sessions and the device side of a guest's rings.
//!
//! ```text
//!   session   the control thread: socket, messages, settings ──lock──▶ ring
//!   memory    the guest's memory, mapped and checked
//!   ring      split and packed rings, device side: bounded walks, notifications
//!   front_end the same conversation from the other side: an uplink into another switch's vhost-user port
//!   net       frames in and out: the Port and its queues ◀──lock── worker
//!   vdpa      a device that runs the rings instead of us
//! ```
//!
//! # Trust
//!
//! The guest writes rings and payload at any time; the front-end (QEMU) sends messages and descriptors. Both may lie.
//! What the front-end says is checked in `session` and `memory` when it says it; what the guest says is read once and
//! checked in `ring` and `net`. A guest's violation stops that ring, a front-end's ends that connection; each is
//! reported once, in the log and in `PortInfo::error`. Other ports do not notice.
//!
//! # Rings that are started but disabled
//!
//! A guest's receive ring is left alone. What a guest puts into its transmit ring is taken and dropped, by the control thread:
//! workers have nothing to do with such a ring. It is looked at when it is disabled and at every kick; one without a kick
//! descriptor only when its settings change.
//!
//! # The vhost crate
//!
//! Its `postcopy` feature must stay off here: feature unification would turn it on for `vhost-user-backend` too, which
//! then refuses every memory table.

mod config;
pub mod front_end;
#[doc(hidden)]
pub mod fuzz;
mod memory;
mod net;
mod port;
mod ring;
mod session;
pub mod vdpa;

pub use config::{Mode, OffloadOffer, VhostConfig};
pub use port::VhostPort;

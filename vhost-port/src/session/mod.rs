//! The control side of a port: its thread, its connection, and the front-end's messages.
//!
//! ```text
//!   endpoint   listen, or connect and retry     divert    messages the vhost crate does not dispatch
//!   control    the thread: connection after connection   machine   one session's state, a method per message
//!   features   what we offer                    rings     messages about rings
//!   config_space   what the guest's driver reads of the device
//!   inflight   a front-end's own record of what is in flight
//!   iommu      translations, and asking for them     backend_channel   our messages to the front-end
//!   migration  moving a guest away, and receiving one
//!   postcopy   a guest whose memory arrives while it runs
//!   device_state   what another back-end goes on from
//! ```
//!
//! One thread per port, so a front-end that sends half a message and stops holds up nobody else. The thread waits on
//! the socket and on the port's alarm together and hands a message on only once all its bytes have arrived.

mod backend_channel;
mod config_space;
mod control;
mod device_state;
mod divert;
mod doorbells;
mod endpoint;
mod engage;
mod features;
mod inflight;
mod iommu;
mod machine;
mod migration;
mod offload;
mod postcopy;
mod rings;
mod shadow;
mod tracking;

pub(crate) use control::{interrupt, serve, start};
pub(crate) use endpoint::{Connector, Listener};
pub(crate) use features::offload_features;

//! The other side of vhost-user: we are the front-end, and another switch's vhost-user port is the device.
//!
//! ```text
//!   session   one conversation: features, memory, rings; also what the traffic generator stands on
//!   memory    the rings and buffers of all queues, in one memfd that the back-end maps
//!   control   the thread: connect or listen, again and again
//!   port      type virtio-user: the Port
//!   queues    its queues, over pmd's virtio driver
//!   bench     its rings alone, for a fuzz target
//! ```
//!
//! The back-end is another process. It gets the memory of rings and buffers and nothing else; what it says is checked like a guest's:
//! by the rings ([`pmd::virtio::net_driver`]) and by the `vhost` crate. One that breaks the rules is left, and connected to
//! again.

pub(crate) mod bench;
mod control;
mod memory;
mod port;
mod queues;
mod session;

pub use memory::Places;
pub use port::{VirtioUserConfig, VirtioUserPort};
pub use session::{Region, RingPlace, Session, SessionError, Wanted};

#[cfg(test)]
mod tests;

//! A virtio function on PCI, modern (VIRTIO 1.0 and later), as its driver sees it.
//!
//! ```text
//!   registers   where the parts of the function lie, and what is in them
//!   transport   reset, features, status, queues: what every user of such a function does in the same way
//!   control     the control queue of a network device
//!   model       such a network device without hardware, for tests
//! ```
//!
//! Two things are made of it: a port (`drivers::virtio_net`), whose rings are ours, and a vDPA device (`vhost-port`), whose rings are a
//! guest's. Control path only, but for the doorbells.

mod control;
mod model;
mod registers;
mod transport;

pub use control::Control;
pub use model::{ModelDevice, VirtioNetModel};
pub use registers::{NO_VECTOR, Window, net, status};
pub use transport::{DoorbellPlace, Transport};

//! Virtio as the specification writes it down: feature bits, the network header, ring layouts, and the driver
//! side of split and packed rings: of each kind one that can do everything, one that is fast. And a virtio function on PCI.
//!
//! Shared by everything that speaks virtio: the vhost-user device side (`vhost-port`), the TAP driver (whose
//! packets carry the same header), tests and traffic generators. Only layouts and rules live here; who owns the
//! memory and who is trusted is the user's business.
//!
//! Source: Virtual I/O Device (VIRTIO) Version 1.2; section numbers refer to it.

pub mod burst_driver;
pub mod driver_ring;
pub mod features;
pub mod net_driver;
mod net_header;
pub mod packed;
pub mod packed_driver_ring;
pub mod pci;
mod shared_ptr;
pub mod split;

pub use net_header::{BadOffload, NetHeader};
pub use shared_ptr::SharedPtr;

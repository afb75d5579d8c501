//! The shadow of a guest's ring: a relay to a ring of our own, which a device runs.
//!
//! ```text
//!   guest's ring ──▶ walk, checked as in software ──▶ Flights ──▶ DeviceQueue ──▶ device
//!   (any index,      (ring: bounded, read once)       (our copy)   (ring of ours)    │ payload by DMA
//!    any kind)  ◀── completed in the guest's order ◀─────┘ ◀── used: id, bytes ◀─────┘
//! ```
//!
//! # Why
//!
//! A virtio PCI function starts rings at index zero and cannot say where they stopped. So a guest that is running can be put on one, or
//! taken off it, only when the device never sees the guest's ring. The device gets a ring of ours with the same buffers in it, by
//! guest physical address, and reads and writes them itself: we touch descriptors, never payload. The relay also knows each buffer that
//! the device wrote, which is a dirty log for devices that have none ([`PageLog`](crate::memory::PageLog)), and each that a device which died had.
//!
//! # The guest's ring is always where it would be in software
//!
//! **Chains go back in the order in which the guest made them available**, whatever order the device uses them in; those that
//! are done early wait in [`flight`]. So what a guest's ring looks like is never more than "all before here is done, all after is
//! untouched", as with our own engine ([`crate::ring`]), and everything that relies on it holds without another word: one index says
//! it all (GET_VRING_BASE, a migration); the journal of packed rings; IN_ORDER guests on devices that are not; a switch that is
//! killed at any instant loses and doubles nothing; and whoever takes over simply goes on with the ring. Devices do use buffers in order,
//! so nothing waits in practice. One that does not cannot have mergeable receive buffers put right for it, and is refused
//! ([`fault::DeviceFault::OutOfOrder`]).
//!
//! # Trust
//!
//! A guest's chain is walked by the same code, with the same bounds and faults, as in software, and copied: the device sees what was
//! checked. Addresses lie in guest memory, which is all that the device's IOMMU lets it reach. A device is trusted less than
//! our code: an id that it does not have, more chains than it has, and more bytes than fit are faults of the device, and it may write
//! all over its ring, since nothing of that is read back as a fact.
//!
//! # Bounds
//!
//! No more chains are under way than the device's ring has descriptors, and some. When it is full, chains stay with the guest, which is not even
//! asked for kicks: the device's next interrupt goes on with it.

mod fault;
mod flight;
mod queue;
mod relay;
mod rings;
#[cfg(test)]
mod tests;
mod thread;

pub(crate) use queue::{DeviceQueue, DeviceRingAddresses, DeviceRingSpec, RingSpace};
pub(crate) use relay::Shadow;
pub(crate) use rings::{GuestRing, ShadowRings};
pub(crate) use thread::{Relay, RelayCounters};

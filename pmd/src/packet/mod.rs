//! Packets: private heads, payload in place.
//!
//! Guest memory is shared with an adversary, so what the switch parses or rewrites is first copied. A
//! [`Packet`] is a slot of a worker's [`BatchStorage`]: a private head with headroom, offload metadata, and
//! a list of [`Span`]s that name the rest of the frame where it lies.
//!
//! Invariant: a borrowed payload never outlives the poll iteration that received it. [`Batch`] carries the
//! lifetime of the borrow of the receive queue, so the queue cannot take its descriptors back
//! ([`crate::port::RxQueue::rx_done`]) while a batch still names them. What must wait is copied whole.
//!
//! Cost: the slots of a worker are about 40 KiB, reused each burst, so they stay in the first two caches.

mod batch;
mod frame;
mod free_stack;
mod join;
mod meta;
mod owned;
mod pool;
pub(crate) mod short_copy;
mod slot;
mod span;

pub use batch::{BURST, Batch, BatchStorage, CLONES, SlotId};
pub use frame::{Frame, MAX_FRAME, MIN_FRAME};
pub use join::{Join, Joins};
pub use meta::{Gso, Offload, OffloadCaps};
pub use owned::OwnedPacket;
pub use pool::{CHUNK, Pool, PoolCache};
pub use slot::{HEAD_CAPACITY, HEAD_SPLIT, HEADROOM, Packet};
pub use span::Span;

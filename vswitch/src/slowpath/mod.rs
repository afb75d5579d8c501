//! The slow path: decides about packets no megaflow knows, and keeps the megaflows true.
//!
//! ```text
//!  upcalls ─▶ translate ─▶ learn ─▶ install the megaflow ─▶ execute the packet
//!                                          │
//!                                      registry ◀── revalidation: epoch, MAC changes, hits, idle time
//! ```
//!
//! One thread owns all of it, so there are no locks here; others talk to it by [`SlowPathHandle`]. Long work (a
//! pass over all megaflows) is done in slices between batches of upcalls, so that a packet never waits for
//! more than a slice. The work itself is in `Engine`, which knows no thread and no clock of its own: tests drive it step by step.
//!
//! What makes a megaflow wrong, and what is done about it:
//! - A bridge changed: its epoch is younger than the flow's; the next pass translates again. [`SlowPathHandle::revalidate_now`]
//!   makes that pass at once and returns when it is done.
//! - An address was learned, moved or forgotten: only the flows that asked for it are translated again, at once.
//! - A sender moved: flows from its old port go, so that its next frame there is noticed.
//! - Nobody used it: it expires.
//!
//! Bounds: the upcall queue bounds packets and is fair per port; [`Limits::flows`] bounds megaflows.

mod engine;
mod handle;
mod registry;
mod revalidate;
mod sinks;
mod thread;
mod upcalls;

pub use engine::{Limits, SlowPathCounters, SlowPathStats};
pub use handle::SlowPathHandle;
pub use sinks::SinkList;
pub use thread::SlowPath;
#[cfg(test)]
use thread::Stepped;

#[cfg(test)]
mod tests;

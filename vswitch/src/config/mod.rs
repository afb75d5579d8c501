//! From the database to the running switch, and back.
//!
//! ```text
//!   Snapshot ─ model ─▶ Desired ─ diff(Running) ─▶ [Step] ─ apply(Target) ─▶ Running
//!                (validate per row)                                             │
//!   one transaction: ofport, error, status, cur_cfg  ◀───────── report ─────────┘
//! ```
//!
//! - Each row stands alone: an interface that cannot be gets its `error` and `ofport` -1; all others run.
//! - What runs is compared with what is wanted, never assumed: whatever order changes come in, or whatever failed
//!   before, the next pass does what is missing and only that.
//! - What failed is tried again by each pass, and there is one every few seconds while something has failed: a port heals when
//!   its path comes free or its device can be made.
//! - `cur_cfg` becomes `next_cfg` after [`Target::sync`]: when a client sees it, packets are treated so.
//! - The switch is behind a trait, so that all of this runs in a test without one.
//!
//! One thread ([`ConfigThread`]) does it all; it may wait for the switch and for the disk, nobody waits for it.

mod apply;
mod diff;
mod kind;
mod model;
mod reconcile;
mod report;
mod target;
mod validate;

#[cfg(test)]
mod tests;

pub use apply::{LivePort, Running};
pub use diff::{Step, diff};
pub use model::{Desired, PortSpec};
pub use reconcile::{ConfigError, ConfigThread, Reconciler};
pub use target::Target;

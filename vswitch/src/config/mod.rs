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
//! - `cur_cfg` becomes `next_cfg` after [`Target::sync`]: when a client sees it, packets are treated so.
//! - The switch is behind a trait, so that all of this runs in a test without one.
//!
//! One thread ([`ConfigThread`]) does it all; it may wait for the switch and for the disk, nobody waits for it.

mod apply;
mod diff;
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

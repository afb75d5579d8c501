//! The fast path: workers that carry bursts from receive queues to transmit queues.
//!
//! ```text
//!  rx burst ─▶ keys ─▶ signature cache ─▶ megaflow table ─▶ actions ─▶ staging per port ─▶ tx burst
//!                                │ miss                                      ▲
//!                                ▼                                           │ Command::Execute
//!                          upcall queue ─▶ slow path ─▶ Command::Install ────┘
//! ```
//!
//! Nothing here knows bridges, rules, configuration or management. The two doors are the upcall queue
//! ([`upcall`]) out and the command queue ([`command`]) in; both are bounded and lock-free, and a worker waits
//! for neither. Everything a worker writes (tables, statistics) has that worker as its only writer.
//!
//! Per packet: no allocation, no lock, no log, no clock read, no reference count.

pub mod command;
pub mod flow;
pub mod upcall;
pub mod worker;

mod act;
mod backlog;
mod burst;
mod classify;
mod counters;
mod execute;
mod flow_stats;
mod idle;
mod transmit;

pub use command::{Command, RxAssignment, WorkerHandle};
pub use counters::{RxqCounters, WorkerCounters, WorkerSnapshot};
pub use flow::{FlowSink, Megaflow};
pub use flow_stats::{FlowStats, StatsSlot};
pub use idle::IdlePolicy;
pub use upcall::{Upcall, UpcallReceiver, UpcallSender, upcall_queue};
pub use worker::spawn;

#[cfg(test)]
mod tests;

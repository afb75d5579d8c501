//! The management socket: RFC 7047's methods for several clients at once.
//!
//! One thread accepts, one per client serves, both asleep in `poll` when nothing happens. A client that
//! does not read is not read from either; one that sends nonsense is closed; neither is noticed by others.

mod listener;
mod locks;
mod mailbox;
mod monitor;
mod monitor_request;
mod session;
mod shared;

pub use listener::{Server, ServerError, ServerHandle};
pub use shared::{Limits, Methods, NoMethods};

#[cfg(test)]
mod replay_tests;
#[cfg(test)]
mod tests;

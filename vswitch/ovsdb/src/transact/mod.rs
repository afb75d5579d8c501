//! Transactions: the operations of RFC 7047 section 5.2 from JSON, and typed local ones.

mod condition;
mod local;
mod members;
mod mutation;
mod operation;
mod run;

pub(crate) use condition::{Condition, value_of};
pub use local::LocalTxn;
pub(crate) use run::{Context, Outcome, execute};

#[cfg(test)]
mod tests;

//! The database file: OVSDB's own append-only format, so `ovsdb-tool` reads it and can write it.
//!
//! Each record is `OVSDB JSON <length> <sha1>\n` and that many bytes of JSON. The first holds the schema,
//! each further one a transaction. A record is one `write`, so `kill -9` leaves whole records and at most
//! one torn one at the end; `durable` commits also wait for the disk.

mod file;
mod load;
mod record;

pub(crate) use file::{Journal, open};
pub use file::{OpenError, Warning};
pub use record::{Damage, DamageKind, Replay, encode, replay};

#[cfg(test)]
mod tests;

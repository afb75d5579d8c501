//! An RFC 7047 (OVSDB) database server to embed: values, schema, transactions, journal, sockets, client.
//!
//! The switch keeps its desired state in an `Open_vSwitch` database so that the tools people already run
//! (`ovs-vsctl`, `ovsdb-client`, Python `ovsdbapp`, libvirt) manage it unchanged. No second daemon: the
//! database lives in the switch process, and a commit is a pointer swap the rest of the process can read
//! without waiting.
//!
//! How the parts fit:
//!
//! ```text
//! socket → jsonrpc::Framer → server session → transact → database (copy-on-write Snapshot)
//!             one thread per client              │              │ publish
//!                                                └→ journal     └→ monitors = diff of two Snapshots
//! ```
//!
//! - A [`Snapshot`] is immutable and shared by `Arc`; readers hold one for as long as they like.
//! - A transaction works on its own copy and replaces the current snapshot only when every rule of the
//!   schema holds and the journal has the record.
//! - A monitor remembers the last snapshot it told its client about; an update is the difference to the
//!   current one. A slow client therefore costs no memory and loses no final state.
//!
//! Trust: everything that arrives on the socket is hostile until parsed; sizes, depth, and counts are
//! bounded ([`server::Limits`]), a bad request fails alone, a bad stream ends only its own session.
//!
//! This crate imports nothing else of the switch.

pub mod client;
pub mod database;
mod error;
pub mod journal;
pub mod jsonrpc;
pub mod schema;
pub mod server;
pub mod transact;
mod uuid;
pub mod value;

pub use database::{Db, RowView, Snapshot, Subscription, TableView};
pub use error::{ErrorKind, OvsdbError};
pub use journal::{OpenError, Warning};
pub use schema::DatabaseSchema;
pub use server::{Methods, NoMethods, Server, ServerHandle};
pub use transact::LocalTxn;
pub use uuid::Uuid;
pub use value::{Atom, Datum};

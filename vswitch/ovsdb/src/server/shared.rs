//! What all sessions of a server have in common.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::Value;

use super::locks::Locks;
use crate::jsonrpc::FrameLimits;
use crate::schema::server_schema;
use crate::{Datum, Db, OvsdbError, Uuid};

/// Methods beyond RFC 7047 on the same socket. Called on the client's thread: a slow one delays that
/// client only.
pub trait Methods: Send + Sync {
    /// `None`: no such method. `Err`: the text a person should see; sent as `{"error": "failed",
    /// "details": text}`.
    fn call(&self, method: &str, params: &Value) -> Option<Result<Value, String>>;
}

/// Serves RFC 7047 and nothing else.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoMethods;

impl Methods for NoMethods {
    fn call(&self, _method: &str, _params: &Value) -> Option<Result<Value, String>> {
        None
    }
}

/// Bounds on what clients may use up.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bounds on one message.
    pub message: FrameLimits,
    /// Clients at once; one more is told so and closed.
    pub clients: usize,
    /// Monitors of one client.
    pub monitors: usize,
    /// Unanswered `transact`s (blocked in `wait`) of one client.
    pub waiting: usize,
    /// Locks held or awaited by one client.
    pub locks: usize,
    /// Bytes not yet taken by a client above which nothing more is done for it.
    pub unsent: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            message: FrameLimits::default(),
            clients: 128,
            monitors: 128,
            waiting: 128,
            locks: 64,
            unsent: 1 << 20,
        }
    }
}

/// Shared by the listener and all sessions.
pub(super) struct Shared {
    pub(super) databases: BTreeMap<String, Db>,
    pub(super) methods: Arc<dyn Methods>,
    pub(super) limits: Limits,
    pub(super) locks: Locks,
    pub(super) stop: AtomicBool,
    pub(super) server_id: Uuid,
}

/// The name of the database about databases: read-only to clients.
pub(super) const SERVER_DATABASE: &str = "_Server";

impl Shared {
    pub(super) fn new(db: &Db, methods: Arc<dyn Methods>, limits: Limits) -> Result<Shared, OvsdbError> {
        let about = Db::in_memory(server_schema());
        let served = [db, &about].map(|db| (db.schema().name.clone(), db.clone()));
        about.transact_local(|txn| {
            for (name, db) in &served {
                let schema = Datum::from(db.schema().to_json().to_string());
                let columns = [
                    ("name", Datum::from(name.as_str())),
                    ("model", Datum::from("standalone")),
                    ("connected", Datum::from(true)),
                    ("leader", Datum::from(true)),
                    ("schema", schema),
                ];
                txn.insert("Database", columns)?;
            }
            Ok(())
        })?;
        Ok(Shared {
            databases: served.into_iter().collect(),
            methods,
            limits,
            locks: Locks::default(),
            stop: AtomicBool::new(false),
            server_id: Uuid::random(),
        })
    }
}

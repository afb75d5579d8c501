//! Running the operations of one `transact` request, all or nothing.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::database::{CommitOptions, Db, Failure, Working};
use crate::error::excerpt;
use crate::value::Names;
use crate::{ErrorKind, OvsdbError, Uuid};

/// What a transaction needs to know of the session that asks for it.
pub(crate) struct Context<'a> {
    /// Time since the request arrived; a blocked one is run again and again.
    pub(crate) elapsed: Duration,
    /// Whether the session holds this lock.
    pub(crate) owns_lock: &'a dyn Fn(&str) -> bool,
    /// Refuse operations that write.
    pub(crate) read_only: bool,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The array of results to reply with, errors in their places.
    Done(Vec<Value>),
    /// A `wait` is not satisfied: run again after the next commit, or when this much time has passed since
    /// the request arrived.
    Blocked(Option<Duration>),
}

/// Why a transaction did not run to its end.
#[derive(Debug)]
pub(super) enum Stop {
    Error(OvsdbError),
    Block(Option<Duration>),
}

impl From<OvsdbError> for Stop {
    fn from(fault: OvsdbError) -> Self {
        Stop::Error(fault)
    }
}

/// A transaction under way.
pub(super) struct Transaction<'a> {
    pub(super) working: &'a mut Working,
    pub(super) options: &'a mut CommitOptions,
    pub(super) context: &'a Context<'a>,
    pub(super) names: Names,
    /// Rows selected so far.
    pub(super) selected: usize,
}

/// Runs the operations and commits if all succeed.
pub(crate) fn execute(db: &Db, operations: &[Value], context: &Context<'_>) -> Outcome {
    let mut results = Vec::with_capacity(operations.len());
    let done = db.commit(|working, options| {
        let mut names = Names::default();
        let prepared: Vec<_> = operations.iter().map(|json| prepare(json, &mut names)).collect();
        let mut transaction = Transaction { working, options, context, names, selected: 0 };
        for prepared in prepared {
            let (op, uuid) = prepared?;
            results.push(transaction.operation(op, uuid)?);
        }
        Ok(())
    });
    match done {
        Ok(()) => {}
        Err(Failure::Body(Stop::Block(limit))) => return Outcome::Blocked(limit),
        Err(Failure::Body(Stop::Error(fault))) => {
            results.push(fault.to_json());
            results.resize(operations.len(), Value::Null);
        }
        Err(Failure::Commit(fault)) => results.push(fault.to_json()),
    }
    Outcome::Done(results)
}

/// Settles the UUID of an insert before anything runs, so that names may be used before they are defined.
fn prepare<'a>(json: &'a Value, names: &mut Names) -> Result<(&'a Map<String, Value>, Uuid), OvsdbError> {
    let op = json.as_object().ok_or_else(|| {
        OvsdbError::syntax(format!("an operation should be an object, not {}", excerpt(json)))
    })?;
    if op.get("op").and_then(Value::as_str) != Some("insert") {
        return Ok((op, Uuid::ZERO));
    }
    let uuid = match op.get("uuid") {
        None => Uuid::random(),
        Some(json) => {
            let text = json.as_str().or_else(|| json.get(1).and_then(Value::as_str));
            text.and_then(Uuid::parse).filter(|uuid| *uuid != Uuid::ZERO).ok_or_else(|| {
                OvsdbError::syntax(format!("insert: \"uuid\" should be a row's UUID, not {}", excerpt(json)))
            })?
        }
    };
    if let Some(name) = op.get("uuid-name") {
        let name = name.as_str().ok_or_else(|| {
            OvsdbError::new(ErrorKind::SyntaxError, "insert: \"uuid-name\" should be a string")
        })?;
        names.define(name, uuid)?;
    }
    Ok((op, uuid))
}

//! Errors as the protocol carries them: a fixed tag that programs compare, and details for a person.

use serde_json::{Value, json};

/// The tags of RFC 7047 (and the few `ovsdb-server` added). Clients match on [`ErrorKind::tag`].
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A value, a row count or an index breaks a rule of the schema.
    ConstraintViolation,
    /// A strong reference names a row that is not there.
    ReferentialIntegrityViolation,
    /// No such table.
    UnknownTable,
    /// No such column.
    UnknownColumn,
    /// The request is not shaped as RFC 7047 says.
    SyntaxError,
    /// Division by zero.
    DomainError,
    /// Arithmetic left the range of the type.
    RangeError,
    /// Two inserts of one transaction use the same `uuid-name`.
    DuplicateUuidName,
    /// An insert asks for a UUID that is taken.
    DuplicateUuid,
    /// `assert` on a lock this session does not hold.
    NotOwner,
    /// The `abort` operation.
    Aborted,
    /// `wait` ran out of time.
    TimedOut,
    /// A limit of this server.
    ResourcesExhausted,
    /// The journal could not be written.
    IoError,
    /// Valid, but this server does not do it.
    NotSupported,
    /// The client may not do this (for example write to `_Server`).
    NotAllowed,
    /// No such database here.
    UnknownDatabase,
    /// `monitor_cancel` or `monitor_cond_change` on an id that is not active.
    UnknownMonitor,
    /// A monitor id used twice in one session.
    DuplicateMonitorId,
    /// No such method.
    UnknownMethod,
    /// The client cancelled the request.
    Canceled,
    /// One of the program's own methods failed.
    Failed,
}

impl ErrorKind {
    /// The exact string sent as `error`.
    pub fn tag(self) -> &'static str {
        match self {
            ErrorKind::ConstraintViolation => "constraint violation",
            ErrorKind::ReferentialIntegrityViolation => "referential integrity violation",
            ErrorKind::UnknownTable => "unknown table",
            ErrorKind::UnknownColumn => "unknown column",
            ErrorKind::SyntaxError => "syntax error",
            ErrorKind::DomainError => "domain error",
            ErrorKind::RangeError => "range error",
            ErrorKind::DuplicateUuidName => "duplicate uuid-name",
            ErrorKind::DuplicateUuid => "duplicate uuid",
            ErrorKind::NotOwner => "not owner",
            ErrorKind::Aborted => "aborted",
            ErrorKind::TimedOut => "timed out",
            ErrorKind::ResourcesExhausted => "resources exhausted",
            ErrorKind::IoError => "I/O error",
            ErrorKind::NotSupported => "not supported",
            ErrorKind::NotAllowed => "not allowed",
            ErrorKind::UnknownDatabase => "unknown database",
            ErrorKind::UnknownMonitor => "unknown monitor",
            ErrorKind::DuplicateMonitorId => "duplicate monitor ID",
            ErrorKind::UnknownMethod => "unknown method",
            ErrorKind::Canceled => "canceled",
            ErrorKind::Failed => "failed",
        }
    }
}

/// A failure of one operation or request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {details}", kind.tag())]
pub struct OvsdbError {
    /// What programs compare.
    pub kind: ErrorKind,
    /// What went wrong, where, and what to do about it.
    pub details: String,
}

impl OvsdbError {
    /// An error of this kind with this explanation.
    pub fn new(kind: ErrorKind, details: impl Into<String>) -> Self {
        OvsdbError { kind, details: details.into() }
    }

    /// A breach of the schema's constraints.
    pub(crate) fn constraint(details: impl Into<String>) -> Self {
        Self::new(ErrorKind::ConstraintViolation, details)
    }

    /// A malformed request.
    pub(crate) fn syntax(details: impl Into<String>) -> Self {
        Self::new(ErrorKind::SyntaxError, details)
    }

    /// The same error with the place it happened put in front.
    #[must_use]
    pub(crate) fn at(mut self, place: impl std::fmt::Display) -> Self {
        self.details = format!("{place}: {}", self.details);
        self
    }

    /// The `<error>` object of RFC 7047 section 3.1.
    pub fn to_json(&self) -> Value {
        json!({"error": self.kind.tag(), "details": self.details})
    }
}

/// How a JSON value is called in an error: short, and never the whole of a megabyte.
pub(crate) fn excerpt(value: &Value) -> String {
    const KEEP: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(KEEP) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

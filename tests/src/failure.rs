//! The one error type of the harness.
//!
//! A lab step either works or somebody reads why not, so an error here is a sentence: what was tried, what came back,
//! and, where a log exists, its last lines.

use std::fmt;

/// What went wrong in the lab, for a person to read.
pub struct Failure(String);

/// Result of a lab step.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// An error that says `message`.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// `unwrap` in a test prints `Debug`; quoting and escaping would hide the log lines in it.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self(message)
    }
}

/// Adds what was being tried to an error of any kind.
pub trait During<T> {
    /// Turns an error into "`what`: error".
    ///
    /// # Errors
    /// The original error, with `what` in front.
    fn during(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> During<T> for std::result::Result<T, E> {
    fn during(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|e| Failure(format!("{what}: {e}")))
    }
}

//! What can go wrong, and the exit code it earns.

/// Why a run did not come to its end.
#[derive(thiserror::Error, Debug)]
pub(crate) enum Error {
    /// The command line asks for what cannot be: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// It was tried and failed: exit code 1.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// The process's exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Failed(_) => 1,
        }
    }
}

/// Says during what something failed.
pub(crate) trait During<T> {
    /// Turns any error into [`Error::Failed`], with its place.
    fn during(self, what: impl std::fmt::Display) -> Result<T, Error>;
}

impl<T, E: std::fmt::Display> During<T> for Result<T, E> {
    fn during(self, what: impl std::fmt::Display) -> Result<T, Error> {
        self.map_err(|why| Error::Failed(format!("{what}: {why}")))
    }
}

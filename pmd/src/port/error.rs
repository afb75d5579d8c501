//! Errors of ports and drivers: who erred, on what, and the remedy.

/// Why a port could not do what it was asked. The text is shown to the operator as `Interface.error`.
#[derive(thiserror::Error, Debug)]
pub enum PmdError {
    /// The operator asked for something that cannot be: an option, a name, a combination.
    #[error("{0}")]
    Config(String),
    /// The kernel refused.
    #[error("{what}: {source}{}", hint(.remedy))]
    System {
        /// What was being done, naming the thing.
        what: String,
        /// What the operator can do about it; may be empty.
        remedy: String,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// A queue index out of range, or a queue already taken.
    #[error("queue {index} of {port} {problem}")]
    Queue {
        /// Port asked.
        port: String,
        /// Queue asked for.
        index: u16,
        /// `does not exist` or `is in use`.
        problem: &'static str,
    },
}

fn hint(remedy: &str) -> String {
    if remedy.is_empty() { String::new() } else { format!(" ({remedy})") }
}

impl PmdError {
    /// A kernel error with what was tried and what to do.
    pub fn system(
        what: impl Into<String>,
        remedy: impl Into<String>,
        source: impl Into<std::io::Error>,
    ) -> Self {
        PmdError::System { what: what.into(), remedy: remedy.into(), source: source.into() }
    }
}

//! What can go wrong in one run of `vsctl`, and the exit code each outcome earns.
//!
//! Scripts written for `ovs-vsctl` look at exit codes, so they are the same here: 1 for anything that
//! failed, 2 for `br-exists` on a bridge that does not exist, 65 when the database accepted the change but
//! the switch could not set an interface up, 142 (128 + SIGALRM) when `--timeout` expired.

use std::io;

use thiserror::Error;

/// A [`Error::Failed`] built like `format!`.
macro_rules! failed {
    ($($arg:tt)*) => { $crate::error::Error::Failed(format!($($arg)*)) };
}

/// A [`Error::Usage`] built like `format!`.
macro_rules! usage {
    ($($arg:tt)*) => { $crate::error::Error::Usage(format!($($arg)*)) };
}

pub(crate) use {failed, usage};

/// Exit code when an interface this run created could not be set up by the switch (`EX_DATAERR`).
pub(crate) const EXIT_SETUP: u8 = 65;

/// Exit code when `--timeout` expired: what a shell reports for a process that died of SIGALRM.
pub(crate) const EXIT_TIMEOUT: u8 = 142;

/// Exit code when nobody reads the output any more: what a shell reports for a process that died of SIGPIPE.
const EXIT_PIPE: u8 = 141;

/// Why a command did not succeed.
#[derive(Debug, Error)]
pub(crate) enum Error {
    /// The command line is wrong; the text says how to write it.
    #[error("{0}")]
    Usage(String),
    /// The command is well formed but cannot be done: no such bridge, name taken, refused by the switch.
    #[error("{0}")]
    Failed(String),
    /// The switch is not reachable or broke the conversation off.
    #[error("{0}")]
    Connection(String),
    /// The database accepted the change, the switch could not carry it out.
    #[error("{0}")]
    Setup(String),
    /// A question whose answer is the exit code (`br-exists`); nothing is printed.
    #[error("exit code {0}")]
    Answer(u8),
    /// The condition of `wait-until` does not hold yet: run the chain again after the next change.
    #[error("the condition does not hold yet")]
    NotYet,
}

impl Error {
    /// The output could not be written. A reader that has seen enough (`vsctl list port | head -1`) is no reason to complain.
    pub(crate) fn output(why: &io::Error) -> Self {
        match why.kind() {
            io::ErrorKind::BrokenPipe => Self::Answer(EXIT_PIPE),
            _ => failed!("cannot write the output: {why}"),
        }
    }

    /// The exit code of the process.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Failed(_) | Self::Connection(_) | Self::NotYet => 1,
            Self::Setup(_) => EXIT_SETUP,
            Self::Answer(code) => *code,
        }
    }

    /// Whether there is anything to tell the user.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self, Self::Answer(_))
    }
}

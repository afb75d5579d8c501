//! One indivisible value: integer, real, boolean, string or a reference to a row.

use std::cmp::Ordering;

/// A reference to a row, in the three stages of its life inside one run.
///
/// A row that this run inserts has no UUID until the server commits, and a symbol such as `@mirror` may be
/// used before the command that creates its row; both are resolved when operations are written out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum RowRef {
    /// A row the server knows, by UUID in lower case.
    Uuid(String),
    /// A row of this transaction, by its place in the plan.
    New(usize),
    /// A name given with `--id=@name`, possibly by a later command; includes the `@`.
    Symbol(String),
}

/// A finite or infinite 64-bit float with a total order, so that sets of reals can be sorted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Real(pub(crate) f64);

impl PartialEq for Real {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Real {}

impl PartialOrd for Real {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Real {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// One value of a base type (RFC 7047 section 5.1, `<atom>`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Atom {
    /// A signed 64-bit integer.
    Integer(i64),
    /// A real number.
    Real(Real),
    /// `true` or `false`.
    Boolean(bool),
    /// Unicode text.
    String(String),
    /// A reference to a row.
    Row(RowRef),
}

impl Atom {
    /// A string atom.
    pub(crate) fn string(text: impl Into<String>) -> Self {
        Self::String(text.into())
    }

    /// The text of a string atom.
    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }
}

//! RFC 7047 values: atoms, and the sets and maps of atoms that fill columns.

mod atom;
mod datum;
mod difference;
mod parse;

pub use atom::{Atom, AtomType, Real};
pub use datum::Datum;
pub(crate) use difference::{apply_difference, difference};
pub use parse::Names;
pub(crate) use parse::{Strictness, is_id};

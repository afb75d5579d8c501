//! Column values: the data types of RFC 7047 (OVSDB), their JSON form on the wire, and the text form in
//! which `ovs-vsctl` reads and prints them.
//!
//! ```text
//!   text  ──parse──▶  Datum  ──json──▶  wire          br0  [a, b]  {k=v, "k 2"=x}  @new
//!   text  ◀──print──  Datum  ◀──json──  wire
//! ```
//!
//! A [`Datum`] is a set of atoms or a map between atoms; an optional value is a set of at most one. Both are
//! kept sorted, so equal values compare equal and print the same. What a column may hold is said by its
//! [`ColumnType`], which comes from the server's schema: nothing here knows a table by name.

mod atom;
mod datum;
mod json;
mod parse;
mod print;
mod setting;
mod types;

pub(crate) use atom::{Atom, Real, RowRef};
pub(crate) use datum::Datum;
pub(crate) use json::{datum_from_json, datum_to_json, datum_to_output};
pub(crate) use parse::{parse_atom, parse_datum, parse_token, split_items};
pub(crate) use print::{atom_bare, atom_text, datum_bare, datum_text};
pub(crate) use setting::Setting;
pub(crate) use types::{AtomKind, BaseType, ColumnType};

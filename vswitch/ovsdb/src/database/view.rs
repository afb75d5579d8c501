//! Typed reading of a [`Snapshot`].
//!
//! Table and column names given here are constants of the caller that the schema was written with. A wrong
//! one is a bug of this program, not of its input: it asserts in debug builds and reads as empty otherwise.

use std::collections::BTreeMap;

use super::{Row, Snapshot, Table};
use crate::Uuid;
use crate::schema::TableSchema;
use crate::value::{Atom, Datum};

static NOTHING: Datum = Datum::EMPTY;

/// One table of a snapshot.
#[derive(Copy, Clone, Debug)]
pub struct TableView<'a> {
    schema: Option<&'a TableSchema>,
    table: Option<&'a Table>,
}

/// One row of a snapshot.
#[derive(Copy, Clone, Debug)]
pub struct RowView<'a> {
    uuid: Uuid,
    row: &'a Row,
    schema: &'a TableSchema,
}

impl Snapshot {
    /// The table of that name.
    pub fn table(&self, name: &str) -> TableView<'_> {
        let position = self.schema.position(name).ok();
        debug_assert!(position.is_some(), "no table {name}");
        TableView {
            schema: position.and_then(|at| self.schema.tables.get(at)),
            table: position.and_then(|at| self.tables.get(at)).map(AsRef::as_ref),
        }
    }
}

impl<'a> TableView<'a> {
    /// All rows, ascending by UUID.
    pub fn rows(self) -> impl Iterator<Item = RowView<'a>> {
        let rows = self.table.map(|table| table.rows.iter()).into_iter().flatten();
        rows.filter_map(move |(uuid, row)| Some(RowView { uuid: *uuid, row, schema: self.schema? }))
    }

    /// The row of that identity.
    pub fn row(self, uuid: Uuid) -> Option<RowView<'a>> {
        let row = self.table?.rows.get(&uuid)?;
        Some(RowView { uuid, row, schema: self.schema? })
    }

    /// The first row; for tables that hold at most one.
    pub fn first(self) -> Option<RowView<'a>> {
        self.rows().next()
    }

    /// The first row whose string column has this value. Linear.
    pub fn find(self, column: &str, value: &str) -> Option<RowView<'a>> {
        self.rows().find(|row| row.opt_str(column) == Some(value))
    }

    /// How many rows.
    pub fn len(self) -> usize {
        self.table.map_or(0, |table| table.rows.len())
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

impl<'a> RowView<'a> {
    /// The row's identity.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Changes with every change of the row.
    pub fn version(&self) -> Uuid {
        self.row.version
    }

    /// The value of a column as stored.
    pub fn datum(&self, column: &str) -> &'a Datum {
        let found = self.schema.position(column).ok().and_then(|at| self.row.columns.get(at));
        debug_assert!(found.is_some(), "no column {}.{column}", self.schema.name);
        found.unwrap_or(&NOTHING)
    }

    /// A string; empty where the column is.
    pub fn str(&self, column: &str) -> &'a str {
        self.opt_str(column).unwrap_or_default()
    }

    /// An optional string.
    pub fn opt_str(&self, column: &str) -> Option<&'a str> {
        self.datum(column).single().and_then(Atom::as_str)
    }

    /// An integer; 0 where the column is empty.
    pub fn int(&self, column: &str) -> i64 {
        self.opt_int(column).unwrap_or_default()
    }

    /// An optional integer.
    pub fn opt_int(&self, column: &str) -> Option<i64> {
        self.datum(column).single().and_then(Atom::as_int)
    }

    /// A boolean; false where the column is empty.
    pub fn bool(&self, column: &str) -> bool {
        self.opt_bool(column).unwrap_or_default()
    }

    /// An optional boolean.
    pub fn opt_bool(&self, column: &str) -> Option<bool> {
        self.datum(column).single().and_then(Atom::as_bool)
    }

    /// The strings of a set, ascending.
    pub fn set(&self, column: &str) -> Vec<&'a str> {
        self.datum(column).keys().iter().filter_map(Atom::as_str).collect()
    }

    /// The integers of a set, ascending.
    pub fn ints(&self, column: &str) -> Vec<i64> {
        self.datum(column).keys().iter().filter_map(Atom::as_int).collect()
    }

    /// A string-to-string map.
    pub fn map(&self, column: &str) -> BTreeMap<&'a str, &'a str> {
        self.datum(column).pairs().filter_map(|(k, v)| Some((k.as_str()?, v.as_str()?))).collect()
    }

    /// One value of a string-to-string map.
    pub fn map_get(&self, column: &str, key: &str) -> Option<&'a str> {
        self.datum(column).get(&Atom::from(key)).and_then(Atom::as_str)
    }

    /// The rows a column refers to: elements of a set, or values of a map.
    pub fn refs(&self, column: &str) -> Vec<Uuid> {
        let datum = self.datum(column);
        let atoms = if datum.values().is_empty() { datum.keys() } else { datum.values() };
        atoms.iter().filter_map(Atom::as_uuid).collect()
    }
}

//! The plan of one run: what the database looked like, what the chain of commands wants it to look like, and
//! the OVSDB operations that get from one to the other or fail without changing anything.
//!
//! ```text
//!   select ──▶ rows ──commands read and write──▶ rows' ──operations()──▶ wait… insert… update… delete… mutate
//! ```
//!
//! Commands run against an in-memory copy, so a later command of a chain sees what an earlier one did
//! (`add-br br0 -- add-port br0 p0`). Every value a decision was based on is *guarded*: the transaction opens with
//! a `wait` on it, and if another client changed it in between, nothing is applied and the run starts over from
//! a fresh copy. This is the optimistic locking of OVSDB clients: no lock is ever held.
//!
//! Invariants: columns of an existing row are sent only if they differ from the copy; a row deleted by the chain
//! is not visible to later commands; row handles stay valid for the life of the plan.

mod operations;
mod record;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::error::{Error, failed, usage};
use crate::schema::{Schema, UUID};
use crate::value::{Atom, Datum, RowRef, datum_from_json};

pub(crate) use operations::Outcome;
pub(crate) use record::tables_for;

/// A row of the plan. Handles are only made by the plan they index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RowId(usize);

#[derive(Debug)]
struct Row {
    table: String,
    /// The UUID the server knows; `None` for a row this plan inserts.
    uuid: Option<String>,
    /// Content as the server sent it; empty for a new row.
    before: BTreeMap<String, Datum>,
    /// Columns the chain wrote.
    written: BTreeMap<String, Datum>,
    /// Columns a decision was based on.
    guarded: BTreeSet<String>,
    deleted: bool,
}

/// The copy of the database and the changes made to it so far.
#[derive(Debug)]
pub(crate) struct Plan<'s> {
    schema: &'s Schema,
    rows: Vec<Row>,
    by_uuid: BTreeMap<String, RowId>,
    /// Tables that were fetched: reading another one is a bug in a command's list of tables.
    fetched: BTreeSet<String>,
    /// Tables whose emptiness a decision was based on.
    empty: BTreeSet<String>,
    symbols: BTreeMap<String, RowId>,
    comments: Vec<String>,
    /// The command line, logged with the changes it made.
    origin: Option<String>,
}

impl<'s> Plan<'s> {
    /// A plan over a database without rows in any table; [`Plan::load`] fills it.
    pub(crate) fn new(schema: &'s Schema) -> Self {
        Self {
            schema,
            rows: Vec::new(),
            by_uuid: BTreeMap::new(),
            fetched: BTreeSet::new(),
            empty: BTreeSet::new(),
            symbols: BTreeMap::new(),
            comments: Vec::new(),
            origin: None,
        }
    }

    /// Says who makes the changes. The server's log of changes names it, if there are any.
    pub(crate) fn sign(&mut self, origin: impl Into<String>) {
        self.origin = Some(origin.into());
    }

    /// Takes in the rows a `select` returned of the columns of `table` that the chain may look at.
    ///
    /// # Errors
    /// When a row does not fit the schema.
    pub(crate) fn load(&mut self, table: &str, rows: &[Value]) -> Result<(), Error> {
        let columns = &self.schema.table(table)?.columns;
        self.fetched.insert(table.to_owned());
        for json in rows {
            let mut before = BTreeMap::new();
            for (name, column) in columns {
                if let Some(value) = json.get(name) {
                    before.insert(name.clone(), datum_from_json(value, &column.kind)?);
                }
            }
            let Some(Atom::Row(RowRef::Uuid(uuid))) = before.get(UUID).and_then(Datum::as_scalar) else {
                return Err(failed!("the server sent a row of {table} without {UUID}"));
            };
            let uuid = uuid.clone();
            self.by_uuid.insert(uuid.clone(), RowId(self.rows.len()));
            self.push(table, Some(uuid), before);
        }
        Ok(())
    }

    fn push(&mut self, table: &str, uuid: Option<String>, before: BTreeMap<String, Datum>) -> RowId {
        let id = RowId(self.rows.len());
        self.rows.push(Row {
            table: table.to_owned(),
            uuid,
            before,
            written: BTreeMap::new(),
            guarded: BTreeSet::new(),
            deleted: false,
        });
        id
    }

    /// The schema the plan is checked against.
    pub(crate) fn schema(&self) -> &'s Schema {
        self.schema
    }

    // Handles are private to the plan and rows are never removed, so the index is always in range.
    fn row(&self, id: RowId) -> &Row {
        &self.rows[id.0]
    }

    fn row_mut(&mut self, id: RowId) -> &mut Row {
        &mut self.rows[id.0]
    }

    /// The table a row is in.
    pub(crate) fn table_of(&self, id: RowId) -> &str {
        &self.row(id).table
    }

    /// The rows of a table, without those the chain deleted.
    ///
    /// # Errors
    /// When the table was not fetched.
    pub(crate) fn rows(&self, table: &str) -> Result<Vec<RowId>, Error> {
        if !self.fetched.contains(table) {
            return Err(failed!("table {table} is needed here but was not fetched (this is a bug in vsctl)"));
        }
        let live = |(_, row): &(usize, &Row)| !row.deleted && row.table == table;
        Ok(self.rows.iter().enumerate().filter(live).map(|(index, _)| RowId(index)).collect())
    }

    /// How other rows refer to this one.
    pub(crate) fn reference(&self, id: RowId) -> RowRef {
        match &self.row(id).uuid {
            Some(uuid) => RowRef::Uuid(uuid.clone()),
            None => RowRef::New(id.0),
        }
    }

    /// The row a reference points to, if it is in the copy and not deleted.
    pub(crate) fn resolve(&self, reference: &RowRef) -> Option<RowId> {
        let id = match reference {
            RowRef::Uuid(uuid) => *self.by_uuid.get(uuid)?,
            RowRef::New(index) => RowId(*index),
            RowRef::Symbol(name) => *self.symbols.get(name)?,
        };
        self.rows.get(id.0).filter(|row| !row.deleted).map(|_| id)
    }

    /// The content of a column, as the chain left it.
    ///
    /// # Errors
    /// When the schema has no such column, or it was not fetched: a default in its place would be written back over what is there.
    pub(crate) fn get(&self, id: RowId, column: &str) -> Result<Datum, Error> {
        let row = self.row(id);
        if column == UUID {
            return Ok(Datum::rows([self.reference(id)]));
        }
        let kind = &self.schema.column(&row.table, column)?.kind;
        match row.written.get(column).or_else(|| row.before.get(column)) {
            Some(datum) => Ok(datum.clone()),
            None if row.uuid.is_none() => Ok(kind.default_datum()),
            None => Err(failed!(
                "column {column} of table {} is needed here but was not fetched (this is a bug in vsctl)",
                row.table
            )),
        }
    }

    /// The text of a string column; empty if it is not set.
    ///
    /// # Errors
    /// When the schema has no such column.
    pub(crate) fn text(&self, id: RowId, column: &str) -> Result<String, Error> {
        Ok(self.get(id, column)?.as_str().unwrap_or_default().to_owned())
    }

    /// The rows a column refers to, as far as they are in the copy.
    ///
    /// # Errors
    /// When the schema has no such column.
    pub(crate) fn follow(&self, id: RowId, column: &str) -> Result<Vec<RowId>, Error> {
        let datum = self.get(id, column)?;
        Ok(datum
            .atoms()
            .filter_map(|atom| if let Atom::Row(row) = atom { self.resolve(row) } else { None })
            .collect())
    }

    /// Makes the transaction fail if another client changes this column before it is applied.
    pub(crate) fn guard(&mut self, id: RowId, column: &str) {
        self.row_mut(id).guarded.insert(column.to_owned());
    }

    /// Writes a column. Writing what is there already is no change.
    ///
    /// # Errors
    /// When the column is immutable and the row exists on the server.
    pub(crate) fn set(&mut self, id: RowId, column: &str, datum: Datum) -> Result<(), Error> {
        let table = self.row(id).table.clone();
        let mutable = self.schema.column(&table, column)?.mutable;
        if column == UUID || (!mutable && self.row(id).uuid.is_some()) {
            return Err(usage!(
                "cannot modify column {column} of table {table}: it is read-only in an existing row"
            ));
        }
        let row = self.row_mut(id);
        if row.uuid.is_some() && row.before.get(column) == Some(&datum) {
            row.written.remove(column);
        } else {
            row.written.insert(column.to_owned(), datum);
        }
        Ok(())
    }

    /// Adds a row.
    pub(crate) fn insert(&mut self, table: &str) -> RowId {
        self.fetched.insert(table.to_owned());
        self.push(table, None, BTreeMap::new())
    }

    /// Deletes a row. References to it are the caller's to remove.
    pub(crate) fn delete(&mut self, id: RowId) {
        self.row_mut(id).deleted = true;
    }

    /// Gives a row the name of an `--id=@name` option.
    ///
    /// # Errors
    /// When the name is taken.
    pub(crate) fn name_row(&mut self, symbol: &str, id: RowId) -> Result<(), Error> {
        match self.symbols.insert(symbol.to_owned(), id) {
            None => Ok(()),
            Some(_) => Err(usage!("row name \"{symbol}\" is given to two rows: choose another --id=@NAME")),
        }
    }

    /// Adds a line to the server's log of changes.
    pub(crate) fn comment(&mut self, text: impl Into<String>) {
        self.comments.push(text.into());
    }

    /// Rows this plan inserts into `table`.
    pub(crate) fn inserted(&self, table: &str) -> Vec<RowId> {
        let new = |(_, row): &(usize, &Row)| row.uuid.is_none() && !row.deleted && row.table == table;
        self.rows.iter().enumerate().filter(new).map(|(index, _)| RowId(index)).collect()
    }

    /// Adds a reference to a column that holds a set of them, and guards the column.
    ///
    /// # Errors
    /// When the schema has no such column.
    pub(crate) fn attach(&mut self, id: RowId, column: &str, child: RowId) -> Result<(), Error> {
        self.guard(id, column);
        let row = self.row(id);
        let fresh = row.uuid.is_none() && !row.written.contains_key(column);
        // The default of a column that cannot be empty refers to no row at all: it is replaced, not added to.
        let mut datum = if fresh { Datum::rows([]) } else { self.get(id, column)? };
        if let Datum::Set(set) = &mut datum {
            set.insert(Atom::Row(self.reference(child)));
        }
        self.set(id, column, datum)
    }

    /// Takes a reference out of a column that holds a set of them, and guards the column.
    ///
    /// # Errors
    /// When the schema has no such column.
    pub(crate) fn detach(&mut self, id: RowId, column: &str, child: RowId) -> Result<(), Error> {
        self.guard(id, column);
        let mut datum = self.get(id, column)?;
        if let Datum::Set(set) = &mut datum {
            set.remove(&Atom::Row(self.reference(child)));
        }
        self.set(id, column, datum)
    }

    /// The one row of table Open_vSwitch, made if the database is new.
    ///
    /// # Errors
    /// When the table was not fetched.
    pub(crate) fn root(&mut self) -> Result<RowId, Error> {
        const ROOT: &str = "Open_vSwitch";
        match self.rows(ROOT)?.first() {
            Some(id) => Ok(*id),
            None => {
                self.empty.insert(ROOT.to_owned());
                Ok(self.insert(ROOT))
            }
        }
    }
}

#[cfg(test)]
mod tests;

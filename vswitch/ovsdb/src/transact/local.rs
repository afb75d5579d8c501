//! Transactions of the program itself: typed, atomic, under the same rules as a client's.

use serde_json::Value;

use super::mutation::Mutation;
use super::operation::mutate_row;
use crate::database::{CommitOptions, Failure, Working};
use crate::value::Datum;
use crate::{Db, OvsdbError, Snapshot, Uuid};

/// A local transaction under way. What it has changed so far shows in [`LocalTxn::snapshot`].
pub struct LocalTxn<'a> {
    working: &'a mut Working,
    options: &'a mut CommitOptions,
}

impl Db {
    /// Runs `body` as one transaction. If it returns an error nothing happened; otherwise the result is
    /// committed if the schema's rules allow. Do not call this from within `body`: it would wait for itself.
    pub fn transact_local<T>(
        &self,
        body: impl FnOnce(&mut LocalTxn<'_>) -> Result<T, OvsdbError>,
    ) -> Result<T, OvsdbError> {
        let done = self.commit(|working, options| body(&mut LocalTxn { working, options }));
        done.map_err(|failure| match failure {
            Failure::Body(fault) | Failure::Commit(fault) => fault,
        })
    }

    /// Runs the operations of RFC 7047 section 5.2 as a client's `transact` would and gives its results.
    /// A `wait` that would block is answered with `timed out` at once.
    pub fn transact_json(&self, operations: &[Value]) -> Vec<Value> {
        let context =
            super::Context { elapsed: std::time::Duration::MAX, owns_lock: &|_| false, read_only: false };
        match super::execute(self, operations, &context) {
            super::Outcome::Done(results) => results,
            super::Outcome::Blocked(_) => {
                let fault = OvsdbError::new(crate::ErrorKind::TimedOut, "a wait without timeout would block");
                let mut results = vec![fault.to_json()];
                results.resize(operations.len(), Value::Null);
                results
            }
        }
    }
}

impl LocalTxn<'_> {
    /// The database as this transaction sees it.
    pub fn snapshot(&self) -> &Snapshot {
        &self.working.now
    }

    /// Adds a row; columns not given take their defaults. A row outside the root tables must be referred to
    /// by the end of the transaction or it is gone.
    pub fn insert<'c>(
        &mut self,
        table: &str,
        columns: impl IntoIterator<Item = (&'c str, Datum)>,
    ) -> Result<Uuid, OvsdbError> {
        let at = self.working.now.schema.position(table)?;
        let schema = self.working.table_schema(at)?;
        let given = columns.into_iter().map(|(name, datum)| {
            let column = schema.position(name)?;
            check(schema, column, &datum)?;
            Ok((column, datum))
        });
        let given = given.collect::<Result<_, OvsdbError>>()?;
        let uuid = Uuid::random();
        self.working.insert(at, uuid, given)?;
        Ok(uuid)
    }

    /// Sets columns of a row; values equal to the present ones cost and notify nothing. False if the row is
    /// gone: rows belong to clients, so that is for the caller to expect.
    pub fn update<'c>(
        &mut self,
        table: &str,
        row: Uuid,
        columns: impl IntoIterator<Item = (&'c str, Datum)>,
    ) -> Result<bool, OvsdbError> {
        let at = self.working.now.schema.position(table)?;
        let mut found = self.working.now.has_row(at, row);
        for (name, datum) in columns {
            let schema = self.working.table_schema(at)?;
            let column = schema.position(name)?;
            check(schema, column, &datum)?;
            found &= self.working.set(at, row, column, datum)?;
        }
        Ok(found)
    }

    /// Adds elements to a set, or pairs with new keys to a map. False if the row is gone.
    pub fn add(&mut self, table: &str, row: Uuid, column: &str, elements: Datum) -> Result<bool, OvsdbError> {
        self.mutate(table, row, column, true, elements)
    }

    /// Removes elements of a set, or of a map the given keys or pairs. False if the row is gone.
    pub fn remove(
        &mut self,
        table: &str,
        row: Uuid,
        column: &str,
        elements: Datum,
    ) -> Result<bool, OvsdbError> {
        self.mutate(table, row, column, false, elements)
    }

    fn mutate(
        &mut self,
        table: &str,
        row: Uuid,
        column: &str,
        insert: bool,
        with: Datum,
    ) -> Result<bool, OvsdbError> {
        let at = self.working.now.schema.position(table)?;
        let column = self.working.table_schema(at)?.position(column)?;
        mutate_row(self.working, at, row, &Mutation::elements(column, insert, with))
    }

    /// Deletes a row. False if it was gone already.
    pub fn delete(&mut self, table: &str, row: Uuid) -> Result<bool, OvsdbError> {
        let at = self.working.now.schema.position(table)?;
        self.working.delete(at, row)
    }

    /// Text for the journal record.
    pub fn comment(&mut self, text: &str) {
        text.clone_into(&mut self.options.comment);
    }

    /// Report success only when the record has reached the disk.
    pub fn durable(&mut self) {
        self.options.durable = true;
    }
}

fn check(schema: &crate::schema::TableSchema, column: usize, datum: &Datum) -> Result<(), OvsdbError> {
    let Some(column) = schema.columns.get(column) else { return Ok(()) };
    let place = || format!("{}.{}", schema.name, column.name);
    let is_map = column.kind.value.is_some();
    let mistyped = datum.keys().iter().any(|atom| atom.atom_type() != column.kind.key.atom)
        || datum
            .values()
            .iter()
            .any(|atom| column.kind.value.as_ref().map(|v| v.atom) != Some(atom.atom_type()))
        || (!datum.is_empty() && is_map == datum.values().is_empty());
    if mistyped {
        return Err(OvsdbError::constraint("the value is not of the column's type").at(place()));
    }
    column.kind.check(datum).map_err(|fault| fault.at(place()))
}

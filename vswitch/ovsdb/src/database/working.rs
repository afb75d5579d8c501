//! The private copy a transaction works on, and what turns it into the next snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Change, Row, Snapshot, changes, integrity};
use crate::schema::TableSchema;
use crate::value::Datum;
use crate::{ErrorKind, OvsdbError, Uuid};

/// Most rows in all tables together: bounds what clients can make this process hold.
const MAX_ROWS: usize = 1 << 20;

/// Changes not yet committed.
pub(crate) struct Working {
    base: Arc<Snapshot>,
    pub(crate) now: Snapshot,
}

impl Working {
    pub(crate) fn on(base: Arc<Snapshot>) -> Working {
        let now = Snapshot::clone(&base);
        Working { base, now }
    }

    pub(crate) fn table_schema(&self, table: usize) -> Result<&TableSchema, OvsdbError> {
        self.now
            .schema
            .tables
            .get(table)
            .ok_or_else(|| OvsdbError::new(ErrorKind::UnknownTable, format!("no table at position {table}")))
    }

    /// Adds a row; columns not given take their defaults.
    pub(crate) fn insert(
        &mut self,
        table: usize,
        uuid: Uuid,
        mut given: BTreeMap<usize, Datum>,
    ) -> Result<(), OvsdbError> {
        let schema = self.table_schema(table)?;
        if self.now.has_row(table, uuid) {
            return Err(OvsdbError::new(
                ErrorKind::DuplicateUuid,
                format!("table {} already has row {uuid}", schema.name),
            ));
        }
        if self.now.row_count() >= MAX_ROWS {
            return Err(OvsdbError::new(
                ErrorKind::ResourcesExhausted,
                format!("the database holds {MAX_ROWS} rows, the most it takes; delete some first"),
            ));
        }
        let columns = schema.columns.iter().enumerate();
        let columns =
            columns.map(|(at, column)| given.remove(&at).unwrap_or_else(|| column.kind.default_datum()));
        let row = Row { version: Uuid::random(), columns: columns.collect() };
        self.rows(table)?.insert(uuid, Arc::new(row));
        Ok(())
    }

    /// Puts a value into a column of a row. False if the row does not exist.
    pub(crate) fn set(
        &mut self,
        table: usize,
        uuid: Uuid,
        column: usize,
        datum: Datum,
    ) -> Result<bool, OvsdbError> {
        let Some(current) = self.now.row(table, uuid).and_then(|row| row.columns.get(column)) else {
            return Ok(false);
        };
        if *current != datum
            && let Some(row) = self.rows(table)?.get_mut(&uuid)
            && let Some(slot) = Arc::make_mut(row).columns.get_mut(column)
        {
            *slot = datum;
        }
        Ok(true)
    }

    /// Removes a row. False if it does not exist.
    pub(crate) fn delete(&mut self, table: usize, uuid: Uuid) -> Result<bool, OvsdbError> {
        if !self.now.has_row(table, uuid) {
            return Ok(false);
        }
        Ok(self.rows(table)?.remove(&uuid).is_some())
    }

    fn rows(&mut self, table: usize) -> Result<&mut BTreeMap<Uuid, Arc<Row>>, OvsdbError> {
        let table = self.now.tables.get_mut(table);
        table
            .map(|table| &mut Arc::make_mut(table).rows)
            .ok_or_else(|| OvsdbError::new(ErrorKind::UnknownTable, "no such table"))
    }

    /// Applies the rules of a commit and gives changed rows new versions. `None`: nothing changed.
    pub(crate) fn settle(mut self) -> Result<Option<Snapshot>, OvsdbError> {
        integrity::settle(&self.base, &mut self.now)?;
        let mut any = false;
        for (old, slot) in self.base.tables.iter().zip(&mut self.now.tables) {
            let found: Vec<(Uuid, Option<Arc<Row>>, bool)> = changes(old, slot)
                .into_iter()
                .map(|Change { uuid, old, new }| {
                    let same = matches!((old, new), (Some(old), Some(new)) if old.columns == new.columns);
                    (uuid, old.cloned().filter(|_| same), old.is_some() && new.is_some())
                })
                .collect();
            any |= found.iter().any(|(_, unchanged, _)| unchanged.is_none());
            if found.is_empty() {
                // Copied on the way to a change that was undone within the transaction, or never touched.
                *slot = Arc::clone(old);
                continue;
            }
            let rows = &mut Arc::make_mut(slot).rows;
            for (uuid, unchanged, modified) in found {
                match (unchanged, rows.get_mut(&uuid)) {
                    (Some(before), Some(row)) => *row = before,
                    (None, Some(row)) if modified => Arc::make_mut(row).version = Uuid::random(),
                    _ => {}
                }
            }
        }
        self.now.sequence = self.base.sequence.saturating_add(1);
        self.now.transaction = Uuid::random();
        Ok(any.then_some(self.now))
    }
}

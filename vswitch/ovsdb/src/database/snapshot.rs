//! A consistent state of the whole database, shared and never changed.
//!
//! Tables, rows and values are behind `Arc`s: the next snapshot copies only the paths a transaction touched,
//! and "did this table or row change" is a pointer comparison.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::value::Datum;
use crate::{DatabaseSchema, Uuid};

/// One row: its version and its columns in schema order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) version: Uuid,
    pub(crate) columns: Vec<Datum>,
}

/// The rows of one table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) rows: BTreeMap<Uuid, Arc<Row>>,
}

/// The database after one particular commit.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) schema: Arc<DatabaseSchema>,
    pub(crate) tables: Vec<Arc<Table>>,
    pub(crate) sequence: u64,
    pub(crate) transaction: Uuid,
}

impl Snapshot {
    /// A database with no rows.
    pub(crate) fn empty(schema: Arc<DatabaseSchema>) -> Snapshot {
        let tables = schema.tables.iter().map(|_| Arc::new(Table::default())).collect();
        Snapshot { schema, tables, sequence: 0, transaction: Uuid::random() }
    }

    /// What tables and columns there are.
    pub fn schema(&self) -> &Arc<DatabaseSchema> {
        &self.schema
    }

    /// Counts commits since the database was opened; a later snapshot has a larger number.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Names this state for `monitor_cond_since`.
    pub(crate) fn transaction(&self) -> Uuid {
        self.transaction
    }

    /// Rows in all tables.
    pub(crate) fn row_count(&self) -> usize {
        self.tables.iter().map(|table| table.rows.len()).sum()
    }

    pub(crate) fn row(&self, table: usize, uuid: Uuid) -> Option<&Arc<Row>> {
        self.tables.get(table).and_then(|table| table.rows.get(&uuid))
    }

    pub(crate) fn has_row(&self, table: usize, uuid: Uuid) -> bool {
        self.row(table, uuid).is_some()
    }
}

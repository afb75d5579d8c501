//! Records to a snapshot and back.
//!
//! Loading is lenient where writing is strict: the file may come from another schema version or from
//! `ovsdb-server`, and a switch that does not start helps nobody. What does not fit is dropped and named.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::database::{Change, CommitOptions, Row, Snapshot, changes, repair};
use crate::schema::TableSchema;
use crate::value::{Datum, Names, Strictness, apply_difference};
use crate::{DatabaseSchema, Uuid};

/// What was dropped while loading, each kind of loss once with a count.
#[derive(Default)]
pub(super) struct Losses(BTreeMap<String, usize>);

impl Losses {
    fn note(&mut self, what: String) {
        *self.0.entry(what).or_default() += 1;
    }

    /// In words.
    pub(super) fn report(self) -> impl Iterator<Item = String> {
        self.0
            .into_iter()
            .map(|(what, times)| if times == 1 { what } else { format!("{what} ({times} times)") })
    }
}

/// Applies transaction records to an empty database of `schema`.
pub(super) fn load(schema: Arc<DatabaseSchema>, transactions: &[Value]) -> (Snapshot, Losses) {
    let mut losses = Losses::default();
    let mut snapshot = Snapshot::empty(schema);
    for record in transactions {
        apply(&mut snapshot, record, &mut losses);
    }
    for fault in repair(&mut snapshot) {
        losses.note(fault);
    }
    (snapshot, losses)
}

fn apply(snapshot: &mut Snapshot, record: &Value, losses: &mut Losses) {
    let Some(members) = record.as_object() else {
        losses.note("a transaction that is not an object was ignored".to_owned());
        return;
    };
    let is_diff = members.get("_is_diff").and_then(Value::as_bool).unwrap_or(false);
    let schema = Arc::clone(&snapshot.schema);
    for (name, rows) in members.iter().filter(|(name, _)| !name.starts_with('_')) {
        let (Ok(at), Some(rows)) = (schema.position(name), rows.as_object()) else {
            losses.note(format!("table {name} is not in the schema: its rows were dropped"));
            continue;
        };
        let (Some(table_schema), Some(table)) = (schema.tables.get(at), snapshot.tables.get_mut(at)) else {
            continue;
        };
        let table = &mut Arc::make_mut(table).rows;
        for (id, columns) in rows {
            let Some(uuid) = Uuid::parse(id) else {
                losses.note(format!("a row of table {name} with a malformed UUID was dropped"));
                continue;
            };
            let Some(columns) = columns.as_object() else {
                table.remove(&uuid);
                continue;
            };
            let row = table.entry(uuid).or_insert_with(|| Arc::new(default_row(table_schema)));
            let row = Arc::make_mut(row);
            row.version = Uuid::random();
            apply_row(row, table_schema, columns, is_diff, losses);
        }
    }
}

fn default_row(table: &TableSchema) -> Row {
    Row { version: Uuid::ZERO, columns: table.columns.iter().map(|c| c.kind.default_datum()).collect() }
}

fn apply_row(
    row: &mut Row,
    table: &TableSchema,
    columns: &Map<String, Value>,
    is_diff: bool,
    losses: &mut Losses,
) {
    for (name, json) in columns {
        let Ok(at) = table.position(name) else {
            losses
                .note(format!("column {}.{name} is not in the schema: its values were dropped", table.name));
            continue;
        };
        let (Some(column), Some(slot)) = (table.columns.get(at), row.columns.get_mut(at)) else { continue };
        if column.ephemeral {
            continue;
        }
        let strictness = if is_diff { Strictness::Argument } else { Strictness::Stored };
        let value = Datum::from_json(json, &column.kind, &Names::default(), strictness).and_then(|datum| {
            let datum = if is_diff { apply_difference(slot, &datum, &column.kind) } else { datum };
            column.kind.check(&datum).map(|()| datum)
        });
        match value {
            Ok(datum) => *slot = datum,
            Err(fault) => {
                losses.note(format!("a value of {}.{name} was dropped: {}", table.name, fault.details))
            }
        }
    }
}

/// The record that turns `old` into `new`; `None` if only ephemeral columns differ.
pub(super) fn transaction_record(old: &Snapshot, new: &Snapshot, options: &CommitOptions) -> Option<Value> {
    let mut record = Map::new();
    for ((before, after), table) in old.tables.iter().zip(&new.tables).zip(&new.schema.tables) {
        let mut rows = Map::new();
        for Change { uuid, old, new } in changes(before, after) {
            let json = match (old, new) {
                (_, None) => Value::Null,
                (None, Some(new)) => Value::Object(row_record(table, &default_row(table), new)),
                (Some(old), Some(new)) => {
                    let columns = row_record(table, old, new);
                    if columns.is_empty() {
                        continue;
                    }
                    Value::Object(columns)
                }
            };
            rows.insert(uuid.to_string(), json);
        }
        if !rows.is_empty() {
            record.insert(table.name.to_string(), Value::Object(rows));
        }
    }
    if record.is_empty() {
        return None;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    record.insert("_date".to_owned(), json!(u64::try_from(now.as_millis()).unwrap_or(u64::MAX)));
    if !options.comment.is_empty() {
        record.insert("_comment".to_owned(), json!(options.comment));
    }
    Some(Value::Object(record))
}

fn row_record(table: &TableSchema, old: &Row, new: &Row) -> Map<String, Value> {
    let values = old.columns.iter().zip(&new.columns);
    let changed =
        table.columns.iter().zip(values).filter(|(column, (old, new))| !column.ephemeral && old != new);
    changed.map(|(column, (_, new))| (column.name.to_string(), new.to_json(&column.kind))).collect()
}

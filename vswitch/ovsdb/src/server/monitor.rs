//! Monitors: telling a client how what it watches differs from what it was last told.
//!
//! A monitor keeps the snapshot its client knows; an update is the difference to the current one. So a slow
//! client costs no queue, commits it was too slow for fall together, and the last state always arrives.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::monitor_request::{self, Select, TableRequest};
use crate::database::{Row, changes};
use crate::jsonrpc::notification;
use crate::schema::TableSchema;
use crate::transact::value_of;
use crate::value::difference;
use crate::{OvsdbError, Snapshot, Uuid};

/// Which dialect of updates a client asked for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// `monitor` and `update`: RFC 7047.
    Plain,
    /// `monitor_cond` and `update2`: differences.
    Conditional,
    /// `monitor_cond_since` and `update3`: with transaction ids.
    Since,
}

/// One active monitor.
#[derive(Debug)]
pub(super) struct Monitor {
    pub(super) id: Value,
    dialect: Dialect,
    requests: Vec<TableRequest>,
    known: Arc<Snapshot>,
}

type Pick = fn(&Select) -> bool;

impl Monitor {
    /// A monitor whose client knows nothing yet.
    pub(super) fn new(
        id: Value,
        dialect: Dialect,
        requests: &Value,
        now: Arc<Snapshot>,
    ) -> Result<Monitor, OvsdbError> {
        let requests = monitor_request::parse(requests, now.schema(), dialect != Dialect::Plain)?;
        Ok(Monitor { id, dialect, requests, known: now })
    }

    /// The reply to the request that made it. `since`: the state the client says it has from before.
    pub(super) fn initial(&self, since: Option<Uuid>) -> Value {
        let current = self.known.transaction();
        if self.dialect == Dialect::Since && since == Some(current) {
            return json!([true, current.to_string(), {}]);
        }
        let empty = Snapshot::empty(Arc::clone(self.known.schema()));
        let tables = self.table_updates(&empty, &self.known, &self.requests, true);
        match self.dialect {
            Dialect::Since => json!([false, current.to_string(), tables]),
            _ => tables,
        }
    }

    /// The notification that brings the client to `now`; `None` if nothing it watches differs.
    pub(super) fn update(&mut self, now: &Arc<Snapshot>) -> Option<Value> {
        if Arc::ptr_eq(&self.known, now) {
            return None;
        }
        let tables = self.table_updates(&self.known, now, &self.requests, false);
        self.known = Arc::clone(now);
        self.notify(&tables)
    }

    fn notify(&self, tables: &Value) -> Option<Value> {
        if tables.as_object().is_none_or(Map::is_empty) {
            return None;
        }
        Some(match self.dialect {
            Dialect::Plain => notification("update", &json!([self.id, tables])),
            Dialect::Conditional => notification("update2", &json!([self.id, tables])),
            Dialect::Since => {
                notification("update3", &json!([self.id, self.known.transaction().to_string(), tables]))
            }
        })
    }

    /// Replaces conditions (`monitor_cond_change`); gives the notification of rows that thereby come or go.
    pub(super) fn change(&mut self, new_id: Value, changes: &Value) -> Result<Option<Value>, OvsdbError> {
        if self.dialect == Dialect::Plain {
            return Err(OvsdbError::syntax("the monitor was not made by monitor_cond"));
        }
        let tables =
            changes.as_object().ok_or_else(|| OvsdbError::syntax("condition changes should be an object"))?;
        let schema = Arc::clone(self.known.schema());
        let mut requests = self.requests.clone();
        for (name, json) in tables {
            let at = schema.position(name)?;
            let (Some(table), Some(request)) =
                (schema.tables.get(at), requests.iter_mut().find(|request| request.table == at))
            else {
                return Err(OvsdbError::syntax(format!("table {name} is not monitored")));
            };
            for part in monitor_request::parts(json) {
                if let Some(clauses) = part.get("where") {
                    request.condition = monitor_request::condition(clauses, table)?;
                }
            }
        }
        let mut updates = Map::new();
        for (old, new) in
            self.requests.iter().zip(&requests).filter(|(old, new)| old.condition != new.condition)
        {
            let (Some(table), Some(rows)) = (schema.tables.get(old.table), self.known.tables.get(old.table))
            else {
                continue;
            };
            let rows = rows.rows.iter().filter_map(|(uuid, row)| {
                let before = Some(row.as_ref()).filter(|row| old.condition.any(*uuid, row));
                let after = Some(row.as_ref()).filter(|row| new.condition.any(*uuid, row));
                Some((uuid.to_string(), self.row_update(table, new, *uuid, before, after, false)?))
            });
            let rows: Map<String, Value> = rows.collect();
            if !rows.is_empty() {
                updates.insert(table.name.to_string(), Value::Object(rows));
            }
        }
        self.id = new_id;
        self.requests = requests;
        Ok(self.notify(&Value::Object(updates)))
    }

    fn table_updates(
        &self,
        old: &Snapshot,
        new: &Snapshot,
        requests: &[TableRequest],
        initial: bool,
    ) -> Value {
        let mut updates = Map::new();
        for request in requests {
            let tables = (old.tables.get(request.table), new.tables.get(request.table));
            let ((Some(old), Some(new)), Some(schema)) = (tables, new.schema().tables.get(request.table))
            else {
                continue;
            };
            let rows = changes(old, new).into_iter().filter_map(|change| {
                let seen = |row: Option<&'_ Arc<Row>>| {
                    row.is_some_and(|row| request.condition.any(change.uuid, row))
                };
                let before = change.old.filter(|_| seen(change.old)).map(AsRef::as_ref);
                let after = change.new.filter(|_| seen(change.new)).map(AsRef::as_ref);
                let update = self.row_update(schema, request, change.uuid, before, after, initial)?;
                Some((change.uuid.to_string(), update))
            });
            let rows: Map<String, Value> = rows.collect();
            if !rows.is_empty() {
                updates.insert(schema.name.to_string(), Value::Object(rows));
            }
        }
        Value::Object(updates)
    }

    /// The `<row-update>` or `<row-update2>` of one row; `None` if the client need not hear of it.
    fn row_update(
        &self,
        schema: &TableSchema,
        request: &TableRequest,
        uuid: Uuid,
        old: Option<&Row>,
        new: Option<&Row>,
        initial: bool,
    ) -> Option<Value> {
        let view = RowWriter { schema, request, uuid };
        let plain = self.dialect == Dialect::Plain;
        match (old, new) {
            (None, None) => None,
            (None, Some(new)) => {
                let pick: Pick = if initial { |select| select.initial } else { |select| select.insert };
                let columns = view.whole(new, pick, !plain)?;
                let name = match (plain, initial) {
                    (true, _) => "new",
                    (false, true) => "initial",
                    (false, false) => "insert",
                };
                Some(json!({ name: columns }))
            }
            (Some(old), None) => {
                let columns = view.whole(old, |select| select.delete, false)?;
                Some(if plain { json!({ "old": columns }) } else { json!({"delete": null}) })
            }
            (Some(old), Some(new)) => view.modified(old, new, plain),
        }
    }
}

/// Writes one row as one request wants it.
struct RowWriter<'a> {
    schema: &'a TableSchema,
    request: &'a TableRequest,
    uuid: Uuid,
}

impl RowWriter<'_> {
    fn name(&self, column: crate::schema::Column) -> String {
        match column {
            crate::schema::Column::Uuid => "_uuid".to_owned(),
            crate::schema::Column::Version => "_version".to_owned(),
            crate::schema::Column::At(at) => {
                self.schema.columns.get(at).map(|column| column.name.to_string()).unwrap_or_default()
            }
        }
    }

    /// All columns picked, without those at their default if `sparse`; `None` if none is picked at all.
    fn whole(&self, row: &Row, pick: Pick, sparse: bool) -> Option<Value> {
        let mut picked = self.request.columns.iter().filter(|(_, select)| pick(select)).peekable();
        // A request for no columns still wants to hear of rows.
        if picked.peek().is_none() && !self.request.columns.is_empty() {
            return None;
        }
        let columns = picked.filter_map(|(column, _)| {
            let kind = self.schema.kind(*column);
            let value = value_of(self.uuid, row, *column);
            (!sparse || *value != kind.default_datum()).then(|| (self.name(*column), value.to_json(kind)))
        });
        Some(Value::Object(columns.collect()))
    }

    fn modified(&self, old: &Row, new: &Row, plain: bool) -> Option<Value> {
        let (mut before, mut after) = (Map::new(), Map::new());
        let mut any = false;
        for (column, _) in self.request.columns.iter().filter(|(_, select)| select.modify) {
            let kind = self.schema.kind(*column);
            let (was, is) = (value_of(self.uuid, old, *column), value_of(self.uuid, new, *column));
            let changed = was != is;
            any |= changed;
            if plain {
                after.insert(self.name(*column), is.to_json(kind));
            }
            if changed && plain {
                before.insert(self.name(*column), was.to_json(kind));
            } else if changed {
                after.insert(self.name(*column), difference(&was, &is, kind).to_json(kind));
            }
        }
        any.then(|| if plain { json!({"old": before, "new": after}) } else { json!({ "modify": after }) })
    }
}

//! From a plan to the operations of one `transact` request (RFC 7047 section 5.2), and back from its results.
//!
//! Order inside the request: `wait` guards first, so that nothing is touched if the ground moved; then `insert`,
//! `update`, `delete`; then `comment`; last the increment of `next_cfg` that tells the switch to act.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Plan, Row, RowId};
use crate::error::{Error, failed, usage};
use crate::schema::UUID;
use crate::value::{Atom, Datum, RowRef, datum_to_json};

/// Operations ready to send, and what their results mean.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The operations in order.
    pub(crate) operations: Vec<Value>,
    /// Which operation inserts which row.
    inserts: Vec<(usize, RowId)>,
    /// Which operation selects `next_cfg` after its increment.
    next_cfg: Option<usize>,
    /// Rows that would vanish at once because nothing refers to them.
    pub(crate) warnings: Vec<String>,
}

/// What a committed batch did.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The transaction is committed.
    Committed {
        /// UUIDs of inserted rows.
        uuids: BTreeMap<RowId, String>,
        /// The value of `next_cfg` to wait for.
        next_cfg: Option<i64>,
    },
    /// A guard failed: another client was faster. Fetch again and start over.
    Overtaken,
}

impl Row {
    fn where_clause(&self) -> Value {
        json!([[UUID, "==", ["uuid", self.uuid]]])
    }
}

impl Plan<'_> {
    /// Writes the plan out. `bump` adds the increment of `next_cfg` if there is any change. A plan without
    /// changes and without comments gives no operations.
    ///
    /// # Errors
    /// When a symbol `@name` is used that no `--id=@name` gives to a row.
    pub(crate) fn operations(&self, bump: bool) -> Result<Batch, Error> {
        let changed = self.rows.iter().any(Row::is_changed);
        let mut batch =
            Batch { operations: Vec::new(), inserts: Vec::new(), next_cfg: None, warnings: Vec::new() };
        if !changed && self.comments.is_empty() {
            return Ok(batch);
        }
        self.write_guards(&mut batch);
        self.write_changes(&mut batch)?;
        let comment = |text: &String| json!({"op": "comment", "comment": text});
        batch.operations.extend(self.origin.iter().filter(|_| changed).chain(&self.comments).map(comment));
        if bump && changed {
            self.write_bump(&mut batch);
        }
        self.warn_unreferenced(&mut batch);
        Ok(batch)
    }

    fn write_guards(&self, batch: &mut Batch) {
        for table in &self.empty {
            batch.operations.push(json!({"op": "wait", "table": table, "timeout": 0, "where": [],
                "columns": [UUID], "until": "==", "rows": []}));
        }
        for row in self.rows.iter().filter(|row| row.uuid.is_some() && !row.guarded.is_empty()) {
            let server_side = |reference: &RowRef| match reference {
                RowRef::Uuid(uuid) => json!(["uuid", uuid]),
                // A row as the server sent it refers to nothing but UUIDs.
                RowRef::New(_) | RowRef::Symbol(_) => Value::Null,
            };
            let seen: Map<_, _> = row
                .guarded
                .iter()
                .filter_map(|column| {
                    Some((column.clone(), datum_to_json(row.before.get(column)?, &server_side)))
                })
                .collect();
            batch.operations.push(json!({"op": "wait", "table": row.table, "timeout": 0,
                "where": row.where_clause(), "columns": row.guarded, "until": "==", "rows": [seen]}));
        }
    }

    fn write_changes(&self, batch: &mut Batch) -> Result<(), Error> {
        for (index, row) in self.rows.iter().enumerate().filter(|(_, row)| row.uuid.is_none() && !row.deleted)
        {
            batch.inserts.push((batch.operations.len(), RowId(index)));
            batch.operations.push(json!({"op": "insert", "table": row.table,
                "uuid-name": row_name(index), "row": self.write_columns(row)?}));
        }
        for row in
            self.rows.iter().filter(|row| row.uuid.is_some() && !row.deleted && !row.written.is_empty())
        {
            batch.operations.push(json!({"op": "update", "table": row.table,
                "where": row.where_clause(), "row": self.write_columns(row)?}));
        }
        for row in self.rows.iter().filter(|row| row.uuid.is_some() && row.deleted) {
            batch.operations.push(json!({"op": "delete", "table": row.table, "where": row.where_clause()}));
        }
        Ok(())
    }

    fn write_columns(&self, row: &Row) -> Result<Map<String, Value>, Error> {
        let columns = row.written.iter();
        columns.map(|(name, datum)| Ok((name.clone(), self.write_datum(datum)?))).collect()
    }

    fn write_datum(&self, datum: &Datum) -> Result<Value, Error> {
        let unknown = datum.atoms().find_map(|atom| match atom {
            Atom::Row(RowRef::Symbol(name)) if !self.symbols.contains_key(name) => Some(name),
            _ => None,
        });
        if let Some(name) = unknown {
            return Err(usage!(
                "row \"{name}\" is used but never created: add \"-- --id={name} create TABLE …\" to the command line"
            ));
        }
        Ok(datum_to_json(datum, &|reference| self.wire_reference(reference)))
    }

    fn wire_reference(&self, reference: &RowRef) -> Value {
        match reference {
            RowRef::Uuid(uuid) => json!(["uuid", uuid]),
            RowRef::New(index) => json!(["named-uuid", row_name(*index)]),
            RowRef::Symbol(name) => match self.symbols.get(name) {
                Some(id) => self.wire_reference(&self.reference(*id)),
                None => Value::Null,
            },
        }
    }

    fn write_bump(&self, batch: &mut Batch) {
        const ROOT: &str = "Open_vSwitch";
        let Some((index, root)) =
            self.rows.iter().enumerate().find(|(_, row)| row.table == ROOT && !row.deleted)
        else {
            return;
        };
        let clause = match root.uuid {
            Some(_) => root.where_clause(),
            None => json!([[UUID, "==", ["named-uuid", row_name(index)]]]),
        };
        batch.operations.push(json!({"op": "mutate", "table": ROOT, "where": clause,
            "mutations": [["next_cfg", "+=", 1]]}));
        batch.next_cfg = Some(batch.operations.len());
        batch
            .operations
            .push(json!({"op": "select", "table": ROOT, "where": clause, "columns": ["next_cfg"]}));
    }

    /// A row of a non-root table lives only while another row refers to it; saying so beats silence.
    fn warn_unreferenced(&self, batch: &mut Batch) {
        let used: Vec<RowId> = self
            .rows
            .iter()
            .filter(|row| !row.deleted)
            .flat_map(|row| row.written.values().flat_map(Datum::atoms))
            .filter_map(|atom| if let Atom::Row(reference) = atom { self.resolve(reference) } else { None })
            .collect();
        for (_, id) in &batch.inserts {
            let table = self.table_of(*id);
            if used.contains(id) || self.schema.table(table).is_ok_and(|table| table.root) {
                continue;
            }
            let name =
                self.symbols.iter().find(|(_, row)| *row == id).map_or("the new row", |(name, _)| name);
            batch.warnings.push(format!(
                "{name} of table {table} was created but nothing refers to it, so it does not stay in the database"
            ));
        }
    }
}

impl Row {
    fn is_changed(&self) -> bool {
        match self.uuid {
            Some(_) => self.deleted || !self.written.is_empty(),
            None => !self.deleted,
        }
    }
}

fn row_name(index: usize) -> String {
    format!("row{index}")
}

impl Batch {
    /// Reads the results of the operations; `aborted` is true if the batch was sent with a final `abort`.
    ///
    /// # Errors
    /// When the server refused an operation or the commit, in its words and ours.
    pub(crate) fn outcome(&self, results: &[Value], aborted: bool) -> Result<Outcome, Error> {
        for (index, result) in results.iter().enumerate() {
            let Some(error) = result.get("error").and_then(Value::as_str) else { continue };
            if error == "timed out" && self.operations.get(index).is_some_and(|op| op["op"] == "wait") {
                return Ok(Outcome::Overtaken);
            }
            if aborted && index == self.operations.len() {
                break;
            }
            let details = result.get("details").and_then(Value::as_str).unwrap_or("no details given");
            return Err(failed!("the switch refused the change: {error} ({details})"));
        }
        let uuid = |(index, id): &(usize, RowId)| {
            let uuid = results.get(*index)?.get("uuid")?.get(1)?.as_str()?;
            Some((*id, uuid.to_owned()))
        };
        let next_cfg = self
            .next_cfg
            .and_then(|index| results.get(index)?.get("rows")?.get(0)?.get("next_cfg")?.as_i64());
        Ok(Outcome::Committed { uuids: self.inserts.iter().filter_map(uuid).collect(), next_cfg })
    }
}

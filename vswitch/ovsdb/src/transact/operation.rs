//! The operations themselves (RFC 7047 section 5.2), each on the working copy of one transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::condition::{Condition, value_of};
use super::members::Members;
use super::mutation::Mutation;
use super::run::{Stop, Transaction};
use crate::database::Row;
use crate::error::excerpt;
use crate::schema::{Column, TableSchema};
use crate::value::{Datum, Names, Strictness};
use crate::{ErrorKind, OvsdbError, Uuid};

type Done = Result<Value, Stop>;

/// Most rows the selects of one transaction return together: a small request must not make a reply of any size.
const MOST_SELECTED: usize = 1 << 18;

impl Transaction<'_> {
    /// Runs one operation and gives its result object.
    pub(super) fn operation(&mut self, op: &Map<String, Value>, uuid: Uuid) -> Done {
        let name = op
            .get("op")
            .and_then(Value::as_str)
            .ok_or_else(|| OvsdbError::syntax("an operation needs \"op\""))?;
        let writes = matches!(name, "insert" | "update" | "mutate" | "delete");
        if writes && self.context.read_only {
            return Err(OvsdbError::new(ErrorKind::NotAllowed, "this database is read-only").into());
        }
        match name {
            "insert" => self.insert(op, uuid),
            "select" => self.select(op),
            "update" => self.update(op),
            "mutate" => self.mutate(op),
            "delete" => self.delete(op),
            "wait" => self.wait(op),
            "commit" => self.commit(op),
            "abort" => {
                Members::of(op, "abort", &["op"])?;
                Err(OvsdbError::new(ErrorKind::Aborted, "the transaction asked for it").into())
            }
            "comment" => {
                let text = Members::of(op, "comment", &["op", "comment"])?.text("comment")?;
                if !self.options.comment.is_empty() {
                    self.options.comment.push('\n');
                }
                self.options.comment.push_str(text);
                Ok(json!({}))
            }
            "assert" => {
                let lock = Members::of(op, "assert", &["op", "lock"])?.text("lock")?;
                if (self.context.owns_lock)(lock) {
                    return Ok(json!({}));
                }
                let details =
                    format!("this session does not hold lock {lock:?}; ask for it with \"lock\" first");
                Err(OvsdbError::new(ErrorKind::NotOwner, details).into())
            }
            other => Err(OvsdbError::new(
                ErrorKind::NotSupported,
                format!("no operation {}", excerpt(&json!(other))),
            )
            .into()),
        }
    }

    fn table(&self, members: &Members<'_>) -> Result<usize, OvsdbError> {
        self.working.now.schema.position(members.text("table")?)
    }

    fn schema_of(&self, members: &Members<'_>) -> Result<(usize, &TableSchema), OvsdbError> {
        let table = self.table(members)?;
        Ok((table, self.working.table_schema(table)?))
    }

    fn matching(&self, table: usize, condition: &Condition) -> Vec<Uuid> {
        let Some(rows) = self.working.now.tables.get(table).map(|table| &table.rows) else {
            return Vec::new();
        };
        if let Some(only) = condition.only_row() {
            return rows
                .get(&only)
                .filter(|row| condition.all(only, row))
                .map(|_| only)
                .into_iter()
                .collect();
        }
        rows.iter().filter(|(uuid, row)| condition.all(**uuid, row)).map(|(uuid, _)| *uuid).collect()
    }

    fn insert(&mut self, op: &Map<String, Value>, uuid: Uuid) -> Done {
        let members = Members::of(op, "insert", &["op", "table", "row", "uuid-name", "uuid"])?;
        let (table, schema) = self.schema_of(&members)?;
        let row = members.object("row")?;
        let given = row
            .iter()
            .map(|(name, json)| {
                let at = schema.position(name)?;
                Ok((at, column_value(schema, at, json, &self.names)?))
            })
            .collect::<Result<BTreeMap<usize, Datum>, OvsdbError>>()?;
        self.working.insert(table, uuid, given)?;
        Ok(json!({"uuid": ["uuid", uuid.to_string()]}))
    }

    fn select(&mut self, op: &Map<String, Value>) -> Done {
        let members = Members::of(op, "select", &["op", "table", "where", "columns"])?;
        let (table, schema) = self.schema_of(&members)?;
        let condition = Condition::parse(members.array("where")?, schema, &self.names)?;
        let columns = columns(&members, schema)?;
        let mut rows = Vec::new();
        let matching = self.matching(table, &condition);
        let selected = self.selected.saturating_add(matching.len());
        if selected > MOST_SELECTED {
            let details = format!("the transaction selects more than {MOST_SELECTED} rows; split it");
            return Err(OvsdbError::new(ErrorKind::ResourcesExhausted, details).into());
        }
        for uuid in matching {
            let Some(row) = self.working.now.row(table, uuid) else { continue };
            let shown = columns.iter().map(|(name, column)| {
                let value = value_of(uuid, row, *column).to_json(schema.kind(*column));
                ((*name).to_owned(), value)
            });
            rows.push(Value::Object(shown.collect()));
        }
        self.selected = selected;
        Ok(json!({ "rows": rows }))
    }

    fn update(&mut self, op: &Map<String, Value>) -> Done {
        let members = Members::of(op, "update", &["op", "table", "where", "row"])?;
        let (table, schema) = self.schema_of(&members)?;
        let condition = Condition::parse(members.array("where")?, schema, &self.names)?;
        let mut values = Vec::new();
        for (name, json) in members.object("row")? {
            let at = schema.position(name)?;
            if schema.columns.get(at).is_some_and(|column| !column.mutable) {
                let details = format!("{}.{name} cannot change after the row was inserted", schema.name);
                return Err(OvsdbError::constraint(details).into());
            }
            values.push((at, column_value(schema, at, json, &self.names)?));
        }
        let rows = self.matching(table, &condition);
        for uuid in &rows {
            for (at, datum) in &values {
                self.working.set(table, *uuid, *at, datum.clone())?;
            }
        }
        Ok(json!({"count": rows.len()}))
    }

    fn mutate(&mut self, op: &Map<String, Value>) -> Done {
        let members = Members::of(op, "mutate", &["op", "table", "where", "mutations"])?;
        let (table, schema) = self.schema_of(&members)?;
        let condition = Condition::parse(members.array("where")?, schema, &self.names)?;
        let mutations = members.array("mutations")?.iter();
        let mutations = mutations
            .map(|json| Mutation::parse(json, schema, &self.names))
            .collect::<Result<Vec<_>, _>>()?;
        let rows = self.matching(table, &condition);
        for uuid in &rows {
            for mutation in &mutations {
                mutate_row(self.working, table, *uuid, mutation)?;
            }
        }
        Ok(json!({"count": rows.len()}))
    }

    fn delete(&mut self, op: &Map<String, Value>) -> Done {
        let members = Members::of(op, "delete", &["op", "table", "where"])?;
        let (table, schema) = self.schema_of(&members)?;
        let condition = Condition::parse(members.array("where")?, schema, &self.names)?;
        let rows = self.matching(table, &condition);
        for uuid in &rows {
            self.working.delete(table, *uuid)?;
        }
        Ok(json!({"count": rows.len()}))
    }

    fn wait(&mut self, op: &Map<String, Value>) -> Done {
        let known = ["op", "table", "where", "columns", "until", "rows", "timeout"];
        let members = Members::of(op, "wait", &known)?;
        let (table, schema) = self.schema_of(&members)?;
        let condition = Condition::parse(members.array("where")?, schema, &self.names)?;
        let columns = columns(&members, schema)?;
        let want_equal = match members.text("until")? {
            "==" => true,
            "!=" => false,
            _ => return Err(OvsdbError::syntax("wait: \"until\" should be \"==\" or \"!=\"").into()),
        };
        let timeout = members.optional("timeout", "a count of milliseconds", Value::as_u64)?;
        let wanted = members.array("rows")?.iter().map(|row| wanted_row(row, schema, &columns, &self.names));
        let wanted = wanted.collect::<Result<BTreeSet<Vec<Datum>>, _>>()?;
        let project = |uuid: Uuid, row: &Row| -> Vec<Datum> {
            columns.iter().map(|(_, column)| value_of(uuid, row, *column).into_owned()).collect()
        };
        let matching = self.matching(table, &condition).into_iter();
        let found: BTreeSet<Vec<Datum>> =
            matching.filter_map(|uuid| Some(project(uuid, self.working.now.row(table, uuid)?))).collect();
        if (found == wanted) == want_equal {
            return Ok(json!({}));
        }
        let limit = timeout.map(Duration::from_millis);
        if limit.is_some_and(|limit| self.context.elapsed >= limit) {
            let what = format!("rows of table {} did not come to the awaited state", schema.name);
            let details = match timeout {
                Some(0) => format!("{what}: another client changed them; read again and retry"),
                _ => format!("{what} in time"),
            };
            return Err(OvsdbError::new(ErrorKind::TimedOut, details).into());
        }
        Err(Stop::Block(limit))
    }

    fn commit(&mut self, op: &Map<String, Value>) -> Done {
        let members = Members::of(op, "commit", &["op", "durable"])?;
        self.options.durable |= members.optional("durable", "a boolean", Value::as_bool)?.unwrap_or(false);
        Ok(json!({}))
    }
}

/// Applies one mutation to one row; a row that is not there is left alone.
pub(super) fn mutate_row(
    working: &mut crate::database::Working,
    table: usize,
    uuid: Uuid,
    mutation: &Mutation,
) -> Result<bool, OvsdbError> {
    let schema = working.table_schema(table)?;
    let row = working.now.row(table, uuid);
    let (Some(column), Some(value)) =
        (schema.columns.get(mutation.column), row.and_then(|row| row.columns.get(mutation.column)))
    else {
        return Ok(false);
    };
    let place =
        |fault: OvsdbError| fault.at(format!("mutation of {}.{} of row {uuid}", schema.name, column.name));
    let changed = mutation.apply(value, &column.kind).map_err(place)?;
    working.set(table, uuid, mutation.column, changed)
}

fn column_value(schema: &TableSchema, at: usize, json: &Value, names: &Names) -> Result<Datum, OvsdbError> {
    let Some(column) = schema.columns.get(at) else { return Ok(Datum::empty()) };
    Datum::from_json(json, &column.kind, names, Strictness::Stored)
        .map_err(|fault| fault.at(format!("{}.{}", schema.name, column.name)))
}

/// The `columns` member; all columns when it is absent.
fn columns<'a>(members: &Members<'a>, schema: &'a TableSchema) -> Result<Vec<(&'a str, Column)>, OvsdbError> {
    if members.get("columns").is_none() {
        let declared = schema.columns.iter().enumerate().map(|(at, column)| (&*column.name, Column::At(at)));
        return Ok([("_uuid", Column::Uuid), ("_version", Column::Version)]
            .into_iter()
            .chain(declared)
            .collect());
    }
    let listed = members.array("columns")?.iter().map(|json| {
        let name = json
            .as_str()
            .ok_or_else(|| OvsdbError::syntax(format!("{} is not a column name", excerpt(json))))?;
        Ok((name, schema.column(name)?))
    });
    listed.collect()
}

/// One of wait's `rows`, in the order of `columns`; a column it leaves out counts as default.
fn wanted_row(
    json: &Value,
    schema: &TableSchema,
    columns: &[(&str, Column)],
    names: &Names,
) -> Result<Vec<Datum>, OvsdbError> {
    let row =
        json.as_object().ok_or_else(|| OvsdbError::syntax(format!("{} is not a row", excerpt(json))))?;
    if let Some(odd) = row.keys().find(|name| !columns.iter().any(|(column, _)| column == name)) {
        schema.column(odd)?;
        return Err(OvsdbError::syntax(format!("wait: a row has {odd:?}, which \"columns\" does not list")));
    }
    let values = columns.iter().map(|(name, column)| {
        let kind = schema.kind(*column);
        match row.get(*name) {
            None => Ok(kind.default_datum()),
            Some(json) => Datum::from_json(json, kind, names, Strictness::Argument)
                .map_err(|fault| fault.at(format!("{}.{name}", schema.name))),
        }
    });
    values.collect()
}

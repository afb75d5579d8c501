//! Reading what a client wants to monitor.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::error::excerpt;
use crate::schema::{Column, TableSchema};
use crate::transact::Condition;
use crate::value::Names;
use crate::{DatabaseSchema, OvsdbError};

/// Which kinds of change a column is reported for.
#[derive(Copy, Clone, Debug)]
pub(super) struct Select {
    pub(super) initial: bool,
    pub(super) insert: bool,
    pub(super) delete: bool,
    pub(super) modify: bool,
}

/// What is monitored of one table.
#[derive(Clone, Debug)]
pub(super) struct TableRequest {
    pub(super) table: usize,
    pub(super) columns: Vec<(Column, Select)>,
    /// Rows for which no clause holds do not exist for the client.
    pub(super) condition: Condition,
}

/// Reads `<monitor-requests>` (RFC 7047 section 4.1.5; `where` as in `monitor_cond`).
pub(super) fn parse(
    json: &Value,
    schema: &DatabaseSchema,
    conditional: bool,
) -> Result<Vec<TableRequest>, OvsdbError> {
    let tables = json.as_object().ok_or_else(|| {
        OvsdbError::syntax(format!("monitor requests should be an object, not {}", excerpt(json)))
    })?;
    let mut requests = Vec::new();
    for (name, json) in tables {
        let table = schema.position(name)?;
        let Some(table_schema) = schema.tables.get(table) else { continue };
        let mut request = TableRequest { table, columns: Vec::new(), condition: Condition::default() };
        for part in parts(json) {
            read_part(part, table_schema, conditional, &mut request).map_err(|fault| fault.at(name))?;
        }
        let mut seen = BTreeSet::new();
        if let Some((column, _)) =
            request.columns.iter().find(|(column, _)| !seen.insert(format!("{column:?}")))
        {
            let column = match column {
                Column::At(at) => table_schema.columns.get(*at).map_or("", |column| &column.name),
                Column::Uuid => "_uuid",
                Column::Version => "_version",
            };
            return Err(OvsdbError::syntax(format!("{name}: column {column:?} is monitored twice")));
        }
        requests.push(request);
    }
    Ok(requests)
}

/// A request alone or a list of them.
pub(super) fn parts(json: &Value) -> &[Value] {
    json.as_array().map_or_else(|| std::slice::from_ref(json), Vec::as_slice)
}

fn read_part(
    json: &Value,
    schema: &TableSchema,
    conditional: bool,
    request: &mut TableRequest,
) -> Result<(), OvsdbError> {
    let syntax =
        || OvsdbError::syntax(format!("a monitor request should be an object, not {}", excerpt(json)));
    let part = json.as_object().ok_or_else(syntax)?;
    let select = select(part)?;
    if part.contains_key("columns") {
        let listed = part.get("columns").and_then(Value::as_array).ok_or_else(syntax)?;
        for json in listed {
            let name = json.as_str().ok_or_else(syntax)?;
            request.columns.push((schema.column(name)?, select));
        }
    } else {
        // Everything but _uuid, which each update carries anyway.
        request.columns.push((Column::Version, select));
        request.columns.extend((0..schema.columns.len()).map(|at| (Column::At(at), select)));
    }
    match part.get("where") {
        Some(_) if !conditional => Err(OvsdbError::syntax("\"where\" needs monitor_cond")),
        Some(clauses) => {
            request.condition = condition(clauses, schema)?;
            Ok(())
        }
        None => Ok(()),
    }
}

/// Reads a monitor's `where`.
pub(super) fn condition(json: &Value, schema: &TableSchema) -> Result<Condition, OvsdbError> {
    if json.is_boolean() {
        return Condition::parse(std::slice::from_ref(json), schema, &Names::default());
    }
    let clauses = json.as_array().ok_or_else(|| OvsdbError::syntax("\"where\" should be an array"))?;
    Condition::parse(clauses, schema, &Names::default())
}

fn select(part: &Map<String, Value>) -> Result<Select, OvsdbError> {
    let all = Select { initial: true, insert: true, delete: true, modify: true };
    let Some(json) = part.get("select") else { return Ok(all) };
    let members = json.as_object().ok_or_else(|| OvsdbError::syntax("\"select\" should be an object"))?;
    let wanted = |name: &str| members.get(name).and_then(Value::as_bool).unwrap_or(true);
    Ok(Select {
        initial: wanted("initial"),
        insert: wanted("insert"),
        delete: wanted("delete"),
        modify: wanted("modify"),
    })
}

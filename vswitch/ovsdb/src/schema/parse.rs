//! Schema JSON to [`DatabaseSchema`]: for databases written by others and for the journal's first record.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{BaseType, ColumnSchema, ColumnType, Constraint, DatabaseSchema, TableSchema};
use crate::OvsdbError;
use crate::error::excerpt;
use crate::value::{AtomType, Datum, Names, Strictness, is_id};

impl DatabaseSchema {
    /// Reads a `<database-schema>`. Members it does not know (`cksum`, extensions) are ignored.
    pub fn from_json(json: &Value) -> Result<DatabaseSchema, OvsdbError> {
        let members = object(json, "a database schema")?;
        let name = text(members, "name").ok_or_else(|| OvsdbError::syntax("the schema has no name"))?;
        let version = text(members, "version").unwrap_or("0.0.0");
        let tables = object(members.get("tables").unwrap_or(&Value::Null), "the schema's tables")?;
        let tables = tables
            .iter()
            .map(|(name, json)| table(name, json).map_err(|e| e.at(name)))
            .collect::<Result<Vec<_>, _>>()?;
        DatabaseSchema::new(name, version, tables)
    }
}

fn object<'a>(json: &'a Value, what: &str) -> Result<&'a Map<String, Value>, OvsdbError> {
    json.as_object()
        .ok_or_else(|| OvsdbError::syntax(format!("{what} should be an object, not {}", excerpt(json))))
}

fn text<'a>(members: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    members.get(name).and_then(Value::as_str)
}

fn flag(members: &Map<String, Value>, name: &str, default: bool) -> bool {
    members.get(name).and_then(Value::as_bool).unwrap_or(default)
}

fn table(name: &str, json: &Value) -> Result<TableSchema, OvsdbError> {
    if !is_id(name) || name.starts_with('_') {
        return Err(OvsdbError::syntax(format!("{name:?} is not a table name")));
    }
    let members = object(json, "a table")?;
    let columns = object(members.get("columns").unwrap_or(&Value::Null), "columns")?
        .iter()
        .map(|(name, json)| column(name, json).map_err(|e| e.at(name)))
        .collect::<Result<Vec<_>, _>>()?;
    let max_rows = members.get("maxRows").and_then(Value::as_u64).unwrap_or(u64::MAX);
    let mut indexes = Vec::new();
    for index in members.get("indexes").and_then(Value::as_array).into_iter().flatten() {
        let columns: Option<Vec<&str>> =
            index.as_array().map(|list| list.iter().filter_map(Value::as_str).collect());
        indexes.push(
            columns.ok_or_else(|| OvsdbError::syntax(format!("index {} is not a list", excerpt(index))))?,
        );
    }
    TableSchema::new(name, columns, flag(members, "isRoot", false), max_rows, &indexes)
}

fn column(name: &str, json: &Value) -> Result<ColumnSchema, OvsdbError> {
    if !is_id(name) || name.starts_with('_') {
        return Err(OvsdbError::syntax(format!("{name:?} is not a column name")));
    }
    let members = object(json, "a column")?;
    let kind = column_type(members.get("type").unwrap_or(&Value::Null))?;
    let weak = |base: &BaseType| base.reference().is_some_and(|(_, weak)| weak);
    Ok(ColumnSchema {
        name: Arc::from(name),
        ephemeral: flag(members, "ephemeral", false),
        // A weak reference must be free to vanish with its target.
        mutable: flag(members, "mutable", true) || weak(&kind.key) || kind.value.as_ref().is_some_and(weak),
        kind,
    })
}

fn column_type(json: &Value) -> Result<ColumnType, OvsdbError> {
    let Some(members) = json.as_object() else { return Ok(ColumnType::scalar(base_type(json)?)) };
    let key = base_type(members.get("key").unwrap_or(&Value::Null))?;
    let value = members.get("value").map(base_type).transpose()?;
    let count = |name: &str| -> Result<u32, OvsdbError> {
        match members.get(name) {
            None => Ok(1),
            Some(Value::String(s)) if s == "unlimited" => Ok(ColumnType::UNLIMITED),
            Some(json) => json.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| {
                OvsdbError::syntax(format!("{name} should be a count, not {}", excerpt(json)))
            }),
        }
    };
    let (min, max) = (count("min")?, count("max")?);
    if min > 1 || max == 0 {
        return Err(OvsdbError::syntax(format!("min {min}, max {max}: min is 0 or 1 and max at least 1")));
    }
    Ok(ColumnType { key, value, min, max })
}

fn base_type(json: &Value) -> Result<BaseType, OvsdbError> {
    let atom_type = |name: Option<&str>| {
        name.and_then(AtomType::parse)
            .ok_or_else(|| OvsdbError::syntax(format!("{} is not an atomic type", excerpt(json))))
    };
    let Some(members) = json.as_object() else { return Ok(BaseType::of(atom_type(json.as_str())?)) };
    let atom = atom_type(text(members, "type"))?;
    let int = |name: &str, default: i64| members.get(name).and_then(Value::as_i64).unwrap_or(default);
    let real = |name: &str, default: f64| members.get(name).and_then(Value::as_f64).unwrap_or(default);
    let length = |name: &str, default: u64| members.get(name).and_then(Value::as_u64).unwrap_or(default);
    let has = |a: &str, b: &str| members.contains_key(a) || members.contains_key(b);
    let constraint = if let Some(allowed) = members.get("enum") {
        let set = ColumnType { key: BaseType::of(atom), value: None, min: 0, max: ColumnType::UNLIMITED };
        Constraint::Enum(Datum::from_json(allowed, &set, &Names::default(), Strictness::Stored)?)
    } else {
        match atom {
            AtomType::Integer if has("minInteger", "maxInteger") => {
                Constraint::Integers(int("minInteger", i64::MIN), int("maxInteger", i64::MAX))
            }
            AtomType::Real if has("minReal", "maxReal") => {
                Constraint::Reals(real("minReal", f64::NEG_INFINITY), real("maxReal", f64::INFINITY))
            }
            AtomType::String if has("minLength", "maxLength") => {
                Constraint::Length(length("minLength", 0), length("maxLength", u64::MAX))
            }
            AtomType::Uuid => {
                text(members, "refTable").map_or(Constraint::None, |table| Constraint::Reference {
                    table: table.to_owned(),
                    weak: text(members, "refType") == Some("weak"),
                })
            }
            _ => Constraint::None,
        }
    };
    Ok(BaseType { atom, constraint })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn our_schemas_survive_json() {
        for schema in [crate::schema::vswitch_schema(), crate::schema::server_schema()] {
            assert_eq!(DatabaseSchema::from_json(&schema.to_json()), Ok(schema));
        }
    }

    #[test]
    fn faults_name_the_place() {
        let with = |column: Value| {
            DatabaseSchema::from_json(&json!({"name": "d", "tables": {"T": {"columns": {"c": column}}}}))
        };
        assert!(with(json!({"type": "integer"})).is_ok());
        for bad in [
            json!({"type": "int"}),
            json!({"type": {"key": "integer", "min": 2}}),
            json!({"type": {"key": "integer", "max": 0}}),
            json!({"type": {"key": {"type": "uuid", "refTable": "Nowhere"}}}),
            json!({}),
        ] {
            let error = with(bad.clone()).unwrap_err();
            assert!(error.details.contains("T"), "{bad}: {error}");
        }
    }
}

//! The server's schema: tables and columns by exact or abbreviated name.
//!
//! The schema is read from the server at every start, so `vsctl` can inspect and change tables that were
//! added after it was built, and it can never disagree with the daemon about a type.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use crate::error::{Error, failed, usage};
use crate::value::{AtomKind, ColumnType};

/// The database `vsctl` works on.
pub(crate) const DATABASE: &str = "Open_vSwitch";

/// The column every row has without the schema naming it.
pub(crate) const UUID: &str = "_uuid";

/// One column.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    /// What it holds.
    pub(crate) kind: ColumnType,
    /// Whether an existing row may change it.
    pub(crate) mutable: bool,
}

/// One table: columns by name.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// Columns in alphabetical order, `_uuid` among them.
    pub(crate) columns: BTreeMap<String, Column>,
    /// Whether rows live without anything referring to them.
    pub(crate) root: bool,
}

/// The whole schema.
#[derive(Debug, Clone)]
pub(crate) struct Schema {
    tables: BTreeMap<String, Table>,
}

impl Schema {
    /// Reads the result of `get_schema` (RFC 7047 section 3.2).
    ///
    /// # Errors
    /// When it is not a schema.
    pub(crate) fn from_json(json: &Value) -> Result<Self, Error> {
        let object = |json: &Value, key: &str| {
            json.get(key)
                .and_then(Value::as_object)
                .cloned()
                .ok_or_else(|| failed!("the server's schema has no \"{key}\""))
        };
        let mut tables = BTreeMap::new();
        for (name, table) in object(json, "tables")? {
            let mut columns = BTreeMap::new();
            for (column, json) in object(&table, "columns")? {
                let kind = json.get("type").unwrap_or(&Value::Null);
                let mutable = json.get("mutable").and_then(Value::as_bool).unwrap_or(true);
                columns.insert(column, Column { kind: ColumnType::from_json(kind)?, mutable });
            }
            let uuid = Column { kind: ColumnType::scalar(AtomKind::Uuid), mutable: false };
            columns.insert(UUID.to_owned(), uuid);
            let root = table.get("isRoot").and_then(Value::as_bool).unwrap_or(false);
            tables.insert(name, Table { columns, root });
        }
        Ok(Self { tables })
    }

    /// The table named exactly `name`.
    ///
    /// # Errors
    /// When the server does not have it.
    pub(crate) fn table(&self, name: &str) -> Result<&Table, Error> {
        self.tables.get(name).ok_or_else(|| failed!("the server's database has no table {name}"))
    }

    /// The column named exactly `column`.
    ///
    /// # Errors
    /// When the server does not have it.
    pub(crate) fn column(&self, table: &str, column: &str) -> Result<&Column, Error> {
        let found = self.table(table)?.columns.get(column);
        found.ok_or_else(|| failed!("the server's table {table} has no column {column}"))
    }

    /// The table the user means: upper and lower case, `-` and `_` are the same, and any unique beginning will do.
    ///
    /// # Errors
    /// When no table or several fit; the text lists them.
    pub(crate) fn find_table(&self, text: &str) -> Result<&str, Error> {
        find_name("table", text, self.tables.keys().map(String::as_str))
    }

    /// The column the user means, abbreviated like a table.
    ///
    /// # Errors
    /// When no column or several fit; the text lists them.
    pub(crate) fn find_column(&self, table: &str, text: &str) -> Result<&str, Error> {
        let columns = self.table(table)?.columns.keys().map(String::as_str);
        find_name(&format!("column of table {table}"), text, columns)
    }
}

fn fold(name: &str) -> String {
    name.to_ascii_lowercase().replace('-', "_")
}

/// Finds the one name that `text` stands for.
fn find_name<'a>(
    what: &str,
    text: &str,
    names: impl Iterator<Item = &'a str> + Clone,
) -> Result<&'a str, Error> {
    let wanted = fold(text);
    if let Some(exact) = names.clone().find(|name| fold(name) == wanted) {
        return Ok(exact);
    }
    let near: Vec<_> =
        names.clone().filter(|name| !wanted.is_empty() && fold(name).starts_with(&wanted)).collect();
    match near.as_slice() {
        [only] => Ok(only),
        [] => {
            let mut all = String::new();
            for name in names {
                let _ = write!(all, " {name}");
            }
            Err(usage!("\"{text}\" is not a {what}; there is:{all}"))
        }
        several => Err(usage!("\"{text}\" could be more than one {what}: {}", several.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fold_and_abbreviate() {
        let names = ["Bridge", "Controller", "CT_Zone", "Port"];
        let find = |text| find_name("table", text, names.iter().copied());
        assert_eq!(find("bridge").unwrap(), "Bridge");
        assert_eq!(find("po").unwrap(), "Port");
        assert_eq!(find("ct-zone").unwrap(), "CT_Zone");
        assert!(find("c").unwrap_err().to_string().contains("Controller, CT_Zone"));
        assert!(find("queue").unwrap_err().to_string().contains("Bridge Controller"));
        assert!(find("").is_err());
    }

    #[test]
    fn an_exact_name_wins_over_a_longer_one() {
        let names = ["tag", "tagged"];
        assert_eq!(find_name("column", "tag", names.iter().copied()).unwrap(), "tag");
    }

    #[test]
    fn a_broken_schema_is_an_error() {
        for bad in ["{}", r#"{"tables":{"T":{}}}"#, r#"{"tables":{"T":{"columns":{"c":{"type":"float"}}}}}"#]
        {
            let json = serde_json::from_str(bad).unwrap();
            assert!(Schema::from_json(&json).is_err(), "{bad}");
        }
    }
}

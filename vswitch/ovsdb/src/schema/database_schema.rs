//! Tables and columns of a database, addressed by position once a name has been looked up.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::ColumnType;
use crate::{ErrorKind, OvsdbError};

/// One column.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnSchema {
    /// Its name.
    pub name: Arc<str>,
    /// What it holds.
    pub kind: ColumnType,
    /// Not written to the journal: gone after a restart.
    pub ephemeral: bool,
    /// Whether it may change after the insert.
    pub mutable: bool,
}

/// A column of a table, or one of the two every table has (RFC 7047 section 3.2).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Column {
    /// `_uuid`.
    Uuid,
    /// `_version`.
    Version,
    /// The declared column at this position.
    At(usize),
}

/// References a table's columns hold, worked out once so that commits need no name lookups.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ReferenceColumn {
    /// Position of the column.
    pub column: usize,
    /// Table position the keys refer to.
    pub key: Option<usize>,
    /// Table position the values refer to.
    pub value: Option<usize>,
}

/// One table.
#[derive(Clone, Debug, PartialEq)]
pub struct TableSchema {
    /// Its name.
    pub name: Arc<str>,
    /// Its columns; positions are used everywhere else.
    pub columns: Vec<ColumnSchema>,
    /// Rows live on their own; rows of other tables live only while strongly referenced.
    pub is_root: bool,
    /// Most rows after a commit.
    pub max_rows: u64,
    /// Sets of column positions whose values are unique together.
    pub indexes: Vec<Vec<usize>>,
    pub(crate) by_name: BTreeMap<Arc<str>, usize>,
    pub(crate) strong: Vec<ReferenceColumn>,
    pub(crate) weak: Vec<ReferenceColumn>,
}

impl TableSchema {
    /// A table; `indexes` name columns.
    pub(crate) fn new(
        name: &str,
        columns: Vec<ColumnSchema>,
        is_root: bool,
        max_rows: u64,
        indexes: &[Vec<&str>],
    ) -> Result<TableSchema, OvsdbError> {
        let mut by_name = BTreeMap::new();
        for (at, column) in columns.iter().enumerate() {
            if by_name.insert(Arc::clone(&column.name), at).is_some() {
                return Err(OvsdbError::syntax(format!("{name}.{} is declared twice", column.name)));
            }
        }
        let position = |column: &str| {
            by_name.get(column).copied().ok_or_else(|| {
                OvsdbError::syntax(format!(
                    "an index of {name} names column {column:?}, which it does not have"
                ))
            })
        };
        let indexes = indexes
            .iter()
            .map(|index| index.iter().map(|column| position(column)).collect::<Result<Vec<_>, _>>())
            .collect::<Result<Vec<_>, _>>()?;
        let name = Arc::from(name);
        Ok(TableSchema { name, columns, is_root, max_rows, indexes, by_name, strong: vec![], weak: vec![] })
    }

    /// The column of that name, `_uuid` and `_version` included.
    pub fn column(&self, name: &str) -> Result<Column, OvsdbError> {
        match name {
            "_uuid" => Ok(Column::Uuid),
            "_version" => Ok(Column::Version),
            _ => self.position(name).map(Column::At),
        }
    }

    /// The position of a declared column.
    pub fn position(&self, name: &str) -> Result<usize, OvsdbError> {
        self.by_name.get(name).copied().ok_or_else(|| {
            OvsdbError::new(
                ErrorKind::UnknownColumn,
                format!("table {} has no column {name:?}; get_schema lists its columns", self.name),
            )
        })
    }

    fn to_json(&self) -> Value {
        let mut columns = Map::new();
        for column in &self.columns {
            let mut members = Map::new();
            members.insert("type".to_owned(), column.kind.to_json());
            if column.ephemeral {
                members.insert("ephemeral".to_owned(), json!(true));
            }
            if !column.mutable {
                members.insert("mutable".to_owned(), json!(false));
            }
            columns.insert(column.name.to_string(), Value::Object(members));
        }
        let mut members = Map::new();
        members.insert("columns".to_owned(), Value::Object(columns));
        if self.max_rows != u64::MAX {
            members.insert("maxRows".to_owned(), json!(self.max_rows));
        }
        if self.is_root {
            members.insert("isRoot".to_owned(), json!(true));
        }
        if !self.indexes.is_empty() {
            let names = |index: &Vec<usize>| -> Vec<Value> {
                index.iter().filter_map(|&at| self.columns.get(at)).map(|c| json!(&*c.name)).collect()
            };
            members.insert("indexes".to_owned(), json!(self.indexes.iter().map(names).collect::<Vec<_>>()));
        }
        Value::Object(members)
    }
}

/// A database's schema.
#[derive(Clone, Debug, PartialEq)]
pub struct DatabaseSchema {
    /// The name clients use.
    pub name: String,
    /// `x.y.z`.
    pub version: String,
    /// Its tables; positions are used everywhere else.
    pub tables: Vec<TableSchema>,
    by_name: BTreeMap<Arc<str>, usize>,
}

impl DatabaseSchema {
    /// Puts tables together and resolves the references between them.
    pub(crate) fn new(
        name: &str,
        version: &str,
        mut tables: Vec<TableSchema>,
    ) -> Result<DatabaseSchema, OvsdbError> {
        let mut by_name = BTreeMap::new();
        for (at, table) in tables.iter().enumerate() {
            if by_name.insert(Arc::clone(&table.name), at).is_some() {
                return Err(OvsdbError::syntax(format!("table {} is declared twice", table.name)));
            }
        }
        let any_root = tables.iter().any(|table| table.is_root);
        for table in &mut tables {
            // A schema that never says isRoot predates it: every table is a root (RFC 7047 section 3.2).
            table.is_root |= !any_root;
            resolve_references(table, &by_name)?;
        }
        Ok(DatabaseSchema { name: name.to_owned(), version: version.to_owned(), tables, by_name })
    }

    /// A database without tables.
    pub(crate) fn empty(name: &str, version: &str) -> DatabaseSchema {
        DatabaseSchema {
            name: name.to_owned(),
            version: version.to_owned(),
            tables: Vec::new(),
            by_name: BTreeMap::new(),
        }
    }

    /// The position of a table.
    pub fn position(&self, name: &str) -> Result<usize, OvsdbError> {
        self.by_name.get(name).copied().ok_or_else(|| {
            OvsdbError::new(
                ErrorKind::UnknownTable,
                format!("database {} has no table {name:?}; get_schema lists its tables", self.name),
            )
        })
    }

    /// The table of that name.
    pub fn table(&self, name: &str) -> Option<&TableSchema> {
        self.by_name.get(name).and_then(|&at| self.tables.get(at))
    }

    /// The `<database-schema>` of RFC 7047 section 3.2.
    pub fn to_json(&self) -> Value {
        let mut tables = Map::new();
        for table in &self.tables {
            tables.insert(table.name.to_string(), table.to_json());
        }
        json!({"name": self.name, "version": self.version, "tables": tables})
    }
}

fn resolve_references(
    table: &mut TableSchema,
    by_name: &BTreeMap<Arc<str>, usize>,
) -> Result<(), OvsdbError> {
    for (at, column) in table.columns.iter().enumerate() {
        let target =
            |base: Option<&super::BaseType>, weak_wanted: bool| match base.and_then(|b| b.reference()) {
                Some((name, weak)) if weak == weak_wanted => {
                    by_name.get(name).copied().map(Some).ok_or_else(|| {
                        OvsdbError::syntax(format!(
                            "{}.{} refers to table {name:?}, which is not declared",
                            table.name, column.name
                        ))
                    })
                }
                _ => Ok(None),
            };
        for weak in [false, true] {
            let key = target(Some(&column.kind.key), weak)?;
            let value = target(column.kind.value.as_ref(), weak)?;
            if key.is_some() || value.is_some() {
                let list = if weak { &mut table.weak } else { &mut table.strong };
                list.push(ReferenceColumn { column: at, key, value });
            }
        }
    }
    Ok(())
}

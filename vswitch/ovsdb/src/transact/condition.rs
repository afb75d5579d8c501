//! Conditions: which rows an operation or a monitor means (RFC 7047 section 5.1, and booleans as
//! `ovsdb-server` takes them).

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::Value;

use crate::database::Row;
use crate::error::excerpt;
use crate::schema::{BaseType, Column, ColumnType, Constraint, TableSchema};
use crate::value::{AtomType, Datum, Names, Strictness};
use crate::{OvsdbError, Uuid};

/// Type of `_uuid` and `_version`.
static UUID_TYPE: ColumnType = ColumnType {
    key: BaseType { atom: AtomType::Uuid, constraint: Constraint::None },
    value: None,
    min: 1,
    max: 1,
};

/// The value of a column, the two implicit ones included.
pub(crate) fn value_of(uuid: Uuid, row: &Row, column: Column) -> Cow<'_, Datum> {
    match column {
        Column::Uuid => Cow::Owned(Datum::from(uuid)),
        Column::Version => Cow::Owned(Datum::from(row.version)),
        Column::At(at) => row.columns.get(at).map_or_else(|| Cow::Owned(Datum::empty()), Cow::Borrowed),
    }
}

impl TableSchema {
    /// The type of a column, the two implicit ones included.
    pub(crate) fn kind(&self, column: Column) -> &ColumnType {
        match column {
            Column::At(at) => self.columns.get(at).map_or(&UUID_TYPE, |column| &column.kind),
            Column::Uuid | Column::Version => &UUID_TYPE,
        }
    }
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Function {
    Less,
    LessOrEqual,
    Equal,
    NotEqual,
    GreaterOrEqual,
    Greater,
    Includes,
    Excludes,
}

impl Function {
    fn parse(text: &str) -> Option<Function> {
        Some(match text {
            "<" => Function::Less,
            "<=" => Function::LessOrEqual,
            "==" => Function::Equal,
            "!=" => Function::NotEqual,
            ">=" => Function::GreaterOrEqual,
            ">" => Function::Greater,
            "includes" => Function::Includes,
            "excludes" => Function::Excludes,
            _ => return None,
        })
    }

    fn is_order(self) -> bool {
        matches!(self, Function::Less | Function::LessOrEqual | Function::GreaterOrEqual | Function::Greater)
    }

    fn holds(self, value: &Datum, argument: &Datum) -> bool {
        let order = || value.single().zip(argument.single()).map(|(a, b)| a.cmp(b));
        match self {
            Function::Less => order() == Some(Ordering::Less),
            Function::LessOrEqual => matches!(order(), Some(Ordering::Less | Ordering::Equal)),
            Function::GreaterOrEqual => matches!(order(), Some(Ordering::Greater | Ordering::Equal)),
            Function::Greater => order() == Some(Ordering::Greater),
            Function::Equal => value == argument,
            Function::NotEqual => value != argument,
            Function::Includes => argument.elements().all(|(k, v)| value.has_element(k, v)),
            Function::Excludes => !argument.elements().any(|(k, v)| value.has_element(k, v)),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Clause {
    Constant(bool),
    Test { column: Column, function: Function, argument: Datum },
}

/// A list of clauses.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Condition {
    clauses: Vec<Clause>,
}

impl Condition {
    /// Reads a `where`.
    pub(crate) fn parse(
        clauses: &[Value],
        table: &TableSchema,
        names: &Names,
    ) -> Result<Condition, OvsdbError> {
        let clauses = clauses.iter().map(|json| clause(json, table, names)).collect::<Result<_, _>>()?;
        Ok(Condition { clauses })
    }

    /// Whether every clause holds: a transaction's `where`. True of no clauses.
    pub(crate) fn all(&self, uuid: Uuid, row: &Row) -> bool {
        self.clauses.iter().all(|clause| clause.holds(uuid, row))
    }

    /// Whether any clause holds: a monitor's `where`. True of no clauses.
    pub(crate) fn any(&self, uuid: Uuid, row: &Row) -> bool {
        self.clauses.is_empty() || self.clauses.iter().any(|clause| clause.holds(uuid, row))
    }

    /// The one row this can be about, when it names it: spares a walk over the table.
    pub(crate) fn only_row(&self) -> Option<Uuid> {
        self.clauses.iter().find_map(|clause| match clause {
            Clause::Test { column: Column::Uuid, function: Function::Equal, argument } => {
                argument.single().and_then(crate::Atom::as_uuid)
            }
            _ => None,
        })
    }
}

impl Clause {
    fn holds(&self, uuid: Uuid, row: &Row) -> bool {
        match self {
            Clause::Constant(truth) => *truth,
            Clause::Test { column, function, argument } => {
                function.holds(value_of(uuid, row, *column).as_ref(), argument)
            }
        }
    }
}

fn clause(json: &Value, table: &TableSchema, names: &Names) -> Result<Clause, OvsdbError> {
    if let Some(truth) = json.as_bool() {
        return Ok(Clause::Constant(truth));
    }
    let Some([column_name, function, argument]) = json.as_array().map(Vec::as_slice) else {
        return Err(OvsdbError::syntax(format!(
            "condition {} should be [column, function, value] or a boolean",
            excerpt(json)
        )));
    };
    let column_name = column_name
        .as_str()
        .ok_or_else(|| OvsdbError::syntax(format!("{} is not a column name", excerpt(column_name))))?;
    let column = table.column(column_name)?;
    let kind = table.kind(column);
    let at = |fault: OvsdbError| fault.at(format!("condition on {}.{column_name}", table.name));
    let function = function.as_str().and_then(Function::parse).ok_or_else(|| {
        at(OvsdbError::syntax(format!(
            "{} is not a function; use < <= == != >= > includes or excludes",
            excerpt(function)
        )))
    })?;
    let ordered =
        matches!(kind.key.atom, AtomType::Integer | AtomType::Real) && kind.value.is_none() && kind.max == 1;
    if function.is_order() && !ordered {
        return Err(at(OvsdbError::syntax(
            "only a single integer or real can be compared by order; use == != includes or excludes",
        )));
    }
    let argument = Datum::from_json(argument, kind, names, Strictness::Argument).map_err(at)?;
    if function.is_order() && argument.len() != 1 {
        return Err(at(OvsdbError::syntax("an order comparison needs exactly one value")));
    }
    Ok(Clause::Test { column, function, argument })
}

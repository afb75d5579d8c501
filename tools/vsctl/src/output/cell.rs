//! One cell of a table, in the three forms it may be printed in.

use serde_json::{Value, json};

use crate::value::{ColumnType, Datum, datum_bare, datum_text, datum_to_output};

/// One cell.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cell {
    /// As `ovs-vsctl` prints the value: quotes and brackets where needed.
    pub(crate) text: String,
    /// Without quotes and brackets, for `--data bare`.
    pub(crate) bare: String,
    /// For `--format json` and `--data json`.
    pub(crate) json: Value,
}

impl Cell {
    /// A column value.
    pub(crate) fn datum(datum: &Datum, kind: &ColumnType) -> Self {
        Self { text: datum_text(datum, kind.max), bare: datum_bare(datum), json: datum_to_output(datum) }
    }

    /// Plain text.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { bare: text.clone(), json: json!(text), text }
    }

    /// Nothing: an empty cell, `null` in JSON.
    pub(crate) fn none() -> Self {
        Self { text: String::new(), bare: String::new(), json: Value::Null }
    }

    /// A whole number.
    pub(crate) fn count(n: u64) -> Self {
        Self { text: n.to_string(), bare: n.to_string(), json: json!(n) }
    }

    /// A real number with a fixed number of decimals in text, and all of them in JSON.
    pub(crate) fn real(x: f64, decimals: usize) -> Self {
        let text = format!("{x:.decimals$}");
        Self { bare: text.clone(), text, json: json!(x) }
    }
}

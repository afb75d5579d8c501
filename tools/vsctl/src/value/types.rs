//! Column types as the server's schema describes them (RFC 7047 section 3.2, `<type>` and `<base-type>`).

use serde_json::Value;

use super::{Atom, Datum, Real, RowRef};
use crate::error::{Error, failed};

/// The five base types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtomKind {
    /// `integer`
    Integer,
    /// `real`
    Real,
    /// `boolean`
    Boolean,
    /// `string`
    String,
    /// `uuid`
    Uuid,
}

impl AtomKind {
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "integer" => Self::Integer,
            "real" => Self::Real,
            "boolean" => Self::Boolean,
            "string" => Self::String,
            "uuid" => Self::Uuid,
            _ => return None,
        })
    }

    /// What a value of this kind is called in an error message.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Integer => "an integer",
            Self::Real => "a real number",
            Self::Boolean => "a Boolean (true or false)",
            Self::String => "a string",
            Self::Uuid => "a row (UUID, or @name from --id=@name)",
        }
    }
}

/// A base type and the constraints on it that are worth checking before asking the server.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BaseType {
    /// Which of the five.
    pub(crate) kind: AtomKind,
    /// The closed list of values, if there is one.
    pub(crate) choices: Vec<Atom>,
    /// Inclusive bounds of an integer.
    pub(crate) integers: (i64, i64),
    /// The table a UUID refers to.
    pub(crate) ref_table: Option<String>,
}

impl BaseType {
    /// An unconstrained base type.
    pub(crate) fn plain(kind: AtomKind) -> Self {
        Self { kind, choices: Vec::new(), integers: (i64::MIN, i64::MAX), ref_table: None }
    }

    /// Reads a `<base-type>`.
    ///
    /// # Errors
    /// When the schema is not one RFC 7047 allows.
    pub(crate) fn from_json(json: &Value) -> Result<Self, Error> {
        let name = json.as_str().or_else(|| json.get("type").and_then(Value::as_str));
        let kind = name
            .and_then(AtomKind::from_name)
            .ok_or_else(|| failed!("the server's schema has an unknown base type {json}"))?;
        let bound = |key: &str| json.get(key).and_then(Value::as_i64);
        let mut base = Self::plain(kind);
        base.integers = (bound("minInteger").unwrap_or(i64::MIN), bound("maxInteger").unwrap_or(i64::MAX));
        base.ref_table = json.get("refTable").and_then(Value::as_str).map(str::to_owned);
        if let Some(choices) = json.get("enum") {
            let set = ColumnType::set_of(Self::plain(kind), 0, usize::MAX);
            base.choices = super::datum_from_json(choices, &set)?.keys().cloned().collect();
        }
        Ok(base)
    }

    /// What a new row holds when nobody said otherwise.
    pub(crate) fn default_atom(&self) -> Atom {
        match self.kind {
            AtomKind::Integer => Atom::Integer(0),
            AtomKind::Real => Atom::Real(Real(0.0)),
            AtomKind::Boolean => Atom::Boolean(false),
            AtomKind::String => Atom::string(""),
            AtomKind::Uuid => Atom::Row(RowRef::Uuid("00000000-0000-0000-0000-000000000000".to_owned())),
        }
    }
}

/// The type of a column: a base type, or a map between two, and how many there may be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ColumnType {
    /// The type of the atoms of a set, or of the keys of a map.
    pub(crate) key: BaseType,
    /// The type of the values of a map.
    pub(crate) value: Option<BaseType>,
    /// Smallest number of elements: 0 or 1.
    pub(crate) min: usize,
    /// Largest number of elements; `usize::MAX` for unlimited.
    pub(crate) max: usize,
}

impl ColumnType {
    /// A column of exactly one atom.
    pub(crate) fn scalar(kind: AtomKind) -> Self {
        Self::set_of(BaseType::plain(kind), 1, 1)
    }

    /// A column of `min` to `max` atoms.
    pub(crate) fn set_of(key: BaseType, min: usize, max: usize) -> Self {
        Self { key, value: None, min, max }
    }

    /// Whether the column is a map.
    pub(crate) fn is_map(&self) -> bool {
        self.value.is_some()
    }

    /// Reads a `<type>`.
    ///
    /// # Errors
    /// When the schema is not one RFC 7047 allows.
    pub(crate) fn from_json(json: &Value) -> Result<Self, Error> {
        let Some(object) = json.as_object() else {
            return Ok(Self::set_of(BaseType::from_json(json)?, 1, 1));
        };
        let key =
            object.get("key").ok_or_else(|| failed!("the server's schema has a type without key: {json}"))?;
        let count = |name: &str| match object.get(name) {
            None => 1,
            Some(n) if n.as_str() == Some("unlimited") => usize::MAX,
            Some(n) => n.as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX),
        };
        Ok(Self {
            key: BaseType::from_json(key)?,
            value: object.get("value").map(BaseType::from_json).transpose()?,
            min: count("min"),
            max: count("max"),
        })
    }

    /// What a new row holds when nobody said otherwise (RFC 7047 section 5.2.1, `insert`).
    pub(crate) fn default_datum(&self) -> Datum {
        match (&self.value, self.min) {
            (None, 0) => Datum::Set([].into()),
            (Some(_), 0) => Datum::Map([].into()),
            (None, _) => Datum::scalar(self.key.default_atom()),
            (Some(value), _) => Datum::Map([(self.key.default_atom(), value.default_atom())].into()),
        }
    }
}

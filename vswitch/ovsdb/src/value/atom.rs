//! Atoms: the scalars of RFC 7047 section 3.1.
//!
//! Strings are `Arc<str>` because snapshots share rows and rows share values; a copy is a counter.

use std::fmt;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::Uuid;

/// The type of an atom.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum AtomType {
    /// 64-bit signed.
    Integer,
    /// Double precision, always finite.
    Real,
    /// True or false.
    Boolean,
    /// UTF-8 without NUL.
    String,
    /// Identity of a row.
    Uuid,
}

impl AtomType {
    /// The word used in schemas.
    pub fn name(self) -> &'static str {
        match self {
            AtomType::Integer => "integer",
            AtomType::Real => "real",
            AtomType::Boolean => "boolean",
            AtomType::String => "string",
            AtomType::Uuid => "uuid",
        }
    }

    /// The type of that name.
    pub fn parse(name: &str) -> Option<AtomType> {
        [AtomType::Integer, AtomType::Real, AtomType::Boolean, AtomType::String, AtomType::Uuid]
            .into_iter()
            .find(|t| t.name() == name)
    }

    /// What a mandatory column holds when nobody set it (RFC 7047 section 5.2.1).
    pub fn default_atom(self) -> Atom {
        match self {
            AtomType::Integer => Atom::Int(0),
            AtomType::Real => Atom::Real(Real::ZERO),
            AtomType::Boolean => Atom::Bool(false),
            AtomType::String => Atom::Str(Arc::from("")),
            AtomType::Uuid => Atom::Uuid(Uuid::ZERO),
        }
    }
}

/// A finite double with a total order; negative zero is stored as zero so that equal means equal.
#[derive(Copy, Clone, Debug)]
pub struct Real(f64);

impl Real {
    /// Zero.
    pub const ZERO: Real = Real(0.0);

    /// `None` for infinities and NaN, which JSON cannot carry.
    pub fn new(value: f64) -> Option<Real> {
        value.is_finite().then_some(Real(if value == 0.0 { 0.0 } else { value }))
    }

    /// The number.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl PartialEq for Real {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Real {}
impl PartialOrd for Real {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Real {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// One scalar value. Orders within its type; atoms of one column all have one type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Atom {
    /// An integer.
    Int(i64),
    /// A real.
    Real(Real),
    /// A boolean.
    Bool(bool),
    /// A string.
    Str(Arc<str>),
    /// A row.
    Uuid(Uuid),
}

impl Atom {
    /// Its type.
    pub fn atom_type(&self) -> AtomType {
        match self {
            Atom::Int(_) => AtomType::Integer,
            Atom::Real(_) => AtomType::Real,
            Atom::Bool(_) => AtomType::Boolean,
            Atom::Str(_) => AtomType::String,
            Atom::Uuid(_) => AtomType::Uuid,
        }
    }

    /// The `<atom>` of RFC 7047 section 5.1.
    pub fn to_json(&self) -> Value {
        match self {
            Atom::Int(n) => json!(n),
            Atom::Real(r) => json!(r.get()),
            Atom::Bool(b) => json!(b),
            Atom::Str(s) => json!(&**s),
            Atom::Uuid(id) => json!(["uuid", id.to_string()]),
        }
    }

    /// The integer, if it is one.
    pub fn as_int(&self) -> Option<i64> {
        if let Atom::Int(n) = self { Some(*n) } else { None }
    }

    /// The boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        if let Atom::Bool(b) = self { Some(*b) } else { None }
    }

    /// The text, if it is a string.
    pub fn as_str(&self) -> Option<&str> {
        if let Atom::Str(s) = self { Some(s) } else { None }
    }

    /// The row, if it is one.
    pub fn as_uuid(&self) -> Option<Uuid> {
        if let Atom::Uuid(id) = self { Some(*id) } else { None }
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Atom::Int(n) => write!(f, "{n}"),
            Atom::Real(r) => write!(f, "{}", r.get()),
            Atom::Bool(b) => write!(f, "{b}"),
            Atom::Str(s) => write!(f, "{s:?}"),
            Atom::Uuid(id) => write!(f, "{id}"),
        }
    }
}

impl From<i64> for Atom {
    fn from(n: i64) -> Self {
        Atom::Int(n)
    }
}
impl From<bool> for Atom {
    fn from(b: bool) -> Self {
        Atom::Bool(b)
    }
}
impl From<&str> for Atom {
    fn from(s: &str) -> Self {
        Atom::Str(Arc::from(s))
    }
}
impl From<String> for Atom {
    fn from(s: String) -> Self {
        Atom::Str(Arc::from(s))
    }
}
impl From<Uuid> for Atom {
    fn from(id: Uuid) -> Self {
        Atom::Uuid(id)
    }
}

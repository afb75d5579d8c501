//! Types of columns: an atom type with constraints, how many of them, and for maps the values' type.

use serde_json::{Map, Value, json};

use crate::OvsdbError;
use crate::value::{Atom, AtomType, Datum};

/// What an atom must meet beyond its type.
#[derive(Clone, Debug, PartialEq)]
pub enum Constraint {
    /// Nothing.
    None,
    /// One of these.
    Enum(Datum),
    /// An integer within these bounds, both included.
    Integers(i64, i64),
    /// A real within these bounds, both included.
    Reals(f64, f64),
    /// A string of so many characters.
    Length(u64, u64),
    /// A row of this table. A strong reference must exist and keeps its target alive; a weak one vanishes
    /// with its target.
    Reference {
        /// The table referred to.
        table: String,
        /// Whether it is weak.
        weak: bool,
    },
}

/// The type of set elements, map keys or map values.
#[derive(Clone, Debug, PartialEq)]
pub struct BaseType {
    /// The scalar.
    pub atom: AtomType,
    /// What it must meet.
    pub constraint: Constraint,
}

impl BaseType {
    /// The unconstrained type.
    pub fn of(atom: AtomType) -> BaseType {
        BaseType { atom, constraint: Constraint::None }
    }

    /// The table it refers to, and whether weakly.
    pub fn reference(&self) -> Option<(&str, bool)> {
        if let Constraint::Reference { table, weak } = &self.constraint { Some((table, *weak)) } else { None }
    }

    /// Refuses an atom outside the constraint.
    pub fn check(&self, atom: &Atom) -> Result<(), OvsdbError> {
        let fine = match (&self.constraint, atom) {
            (Constraint::Enum(allowed), atom) => allowed.contains(atom),
            (Constraint::Integers(min, max), Atom::Int(n)) => (min..=max).contains(&n),
            (Constraint::Reals(min, max), Atom::Real(r)) => (*min..=*max).contains(&r.get()),
            (Constraint::Length(min, max), Atom::Str(s)) => {
                (*min..=*max).contains(&(s.chars().count() as u64))
            }
            _ => true,
        };
        if fine {
            return Ok(());
        }
        Err(OvsdbError::constraint(format!("{atom} is not allowed: {}", self.describe())))
    }

    fn describe(&self) -> String {
        match &self.constraint {
            Constraint::None | Constraint::Reference { .. } => self.atom.name().to_owned(),
            Constraint::Enum(allowed) => {
                let names: Vec<String> = allowed.keys().iter().map(ToString::to_string).collect();
                format!("use one of {}", names.join(", "))
            }
            Constraint::Integers(min, i64::MAX) => format!("use an integer of at least {min}"),
            Constraint::Integers(min, max) => format!("use an integer from {min} to {max}"),
            Constraint::Reals(min, max) => format!("use a number from {min} to {max}"),
            Constraint::Length(min, u64::MAX) => format!("use at least {min} characters"),
            Constraint::Length(min, max) => format!("use {min} to {max} characters"),
        }
    }

    fn to_json(&self) -> Value {
        let mut members = Map::new();
        let mut put = |name: &str, value: Value| members.insert(name.to_owned(), value);
        put("type", json!(self.atom.name()));
        match &self.constraint {
            Constraint::None => return json!(self.atom.name()),
            Constraint::Enum(allowed) => {
                put("enum", json!(["set", allowed.keys().iter().map(Atom::to_json).collect::<Vec<_>>()]));
            }
            Constraint::Integers(min, max) => {
                if *min != i64::MIN {
                    put("minInteger", json!(min));
                }
                if *max != i64::MAX {
                    put("maxInteger", json!(max));
                }
            }
            Constraint::Reals(min, max) => {
                if min.is_finite() {
                    put("minReal", json!(min));
                }
                if max.is_finite() {
                    put("maxReal", json!(max));
                }
            }
            Constraint::Length(min, max) => {
                if *min != 0 {
                    put("minLength", json!(min));
                }
                if *max != u64::MAX {
                    put("maxLength", json!(max));
                }
            }
            Constraint::Reference { table, weak } => {
                put("refTable", json!(table));
                if *weak {
                    put("refType", json!("weak"));
                }
            }
        }
        Value::Object(members)
    }
}

/// The full type of a column.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnType {
    /// Elements of the set or keys of the map.
    pub key: BaseType,
    /// Values of the map; `None` for a set.
    pub value: Option<BaseType>,
    /// Fewest elements: 0 or 1.
    pub min: u32,
    /// Most elements; [`ColumnType::UNLIMITED`] for no limit.
    pub max: u32,
}

impl ColumnType {
    /// No upper limit on the number of elements.
    pub const UNLIMITED: u32 = u32::MAX;

    /// Exactly one.
    pub fn scalar(key: BaseType) -> ColumnType {
        ColumnType { key, value: None, min: 1, max: 1 }
    }

    /// The value of the column in a row that does not set it.
    pub fn default_datum(&self) -> Datum {
        match (self.min, &self.value) {
            (0, _) => Datum::empty(),
            (_, None) => Datum::scalar(self.key.atom.default_atom()),
            (_, Some(value)) => Datum::map([(self.key.atom.default_atom(), value.atom.default_atom())]),
        }
    }

    /// Refuses a value with too few or too many elements or with one outside its constraint.
    pub fn check(&self, datum: &Datum) -> Result<(), OvsdbError> {
        self.check_count(datum.len())?;
        datum.keys().iter().try_for_each(|key| self.key.check(key))?;
        match &self.value {
            Some(value_type) => datum.values().iter().try_for_each(|value| value_type.check(value)),
            None => Ok(()),
        }
    }

    /// Refuses too few or too many elements.
    pub fn check_count(&self, count: usize) -> Result<(), OvsdbError> {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if count < self.min {
            return Err(OvsdbError::constraint(format!(
                "{count} elements are too few: the column needs at least {}",
                self.min
            )));
        }
        if count > self.max {
            return Err(OvsdbError::constraint(format!(
                "{count} elements are too many: the column takes at most {}",
                self.max
            )));
        }
        Ok(())
    }

    /// The `<type>` of RFC 7047 section 3.2, in its shortest spelling.
    pub fn to_json(&self) -> Value {
        let plain = self.key.constraint == Constraint::None;
        if plain && self.value.is_none() && (self.min, self.max) == (1, 1) {
            return json!(self.key.atom.name());
        }
        let mut members = Map::new();
        members.insert("key".to_owned(), self.key.to_json());
        if let Some(value) = &self.value {
            members.insert("value".to_owned(), value.to_json());
        }
        if self.min != 1 {
            members.insert("min".to_owned(), json!(self.min));
        }
        if self.max != 1 {
            let max = if self.max == Self::UNLIMITED { json!("unlimited") } else { json!(self.max) };
            members.insert("max".to_owned(), max);
        }
        Value::Object(members)
    }
}

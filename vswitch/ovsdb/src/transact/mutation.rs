//! Mutations: changing a column by what it holds (RFC 7047 section 5.1).

use serde_json::Value;

use crate::error::excerpt;
use crate::schema::{ColumnType, TableSchema};
use crate::value::{Atom, AtomType, Datum, Names, Real, Strictness};
use crate::{ErrorKind, OvsdbError};

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Mutator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Insert,
    Delete,
}

/// One mutation of one column.
#[derive(Clone, Debug)]
pub(super) struct Mutation {
    pub(super) column: usize,
    mutator: Mutator,
    argument: Datum,
}

impl Mutation {
    /// Reads `[column, mutator, value]`.
    pub(super) fn parse(json: &Value, table: &TableSchema, names: &Names) -> Result<Mutation, OvsdbError> {
        let shape =
            || OvsdbError::syntax(format!("mutation {} should be [column, mutator, value]", excerpt(json)));
        let Some([name, mutator, argument]) = json.as_array().map(Vec::as_slice) else { return Err(shape()) };
        let (name, mutator_text) = name.as_str().zip(mutator.as_str()).ok_or_else(shape)?;
        let position = table.position(name)?;
        let column = table.columns.get(position).ok_or_else(shape)?;
        let at = |fault: OvsdbError| fault.at(format!("mutation of {}.{name}", table.name));
        if !column.mutable {
            return Err(at(OvsdbError::constraint("the column cannot change after the row was inserted")));
        }
        let mutator = match mutator_text {
            "+=" => Mutator::Add,
            "-=" => Mutator::Subtract,
            "*=" => Mutator::Multiply,
            "/=" => Mutator::Divide,
            "%=" => Mutator::Remainder,
            "insert" => Mutator::Insert,
            "delete" => Mutator::Delete,
            other => {
                let use_instead = "use += -= *= /= %= insert or delete";
                return Err(at(OvsdbError::syntax(format!("{other:?} is not a mutator; {use_instead}"))));
            }
        };
        let argument = argument_datum(mutator, argument, &column.kind, names).map_err(at)?;
        Ok(Mutation { column: position, mutator, argument })
    }

    /// A mutation built by the program, not parsed.
    pub(super) fn elements(column: usize, insert: bool, argument: Datum) -> Mutation {
        Mutation { column, mutator: if insert { Mutator::Insert } else { Mutator::Delete }, argument }
    }

    /// The column's value afterwards; checked against its type.
    pub(super) fn apply(&self, value: &Datum, kind: &ColumnType) -> Result<Datum, OvsdbError> {
        let changed = match self.mutator {
            Mutator::Insert => {
                let fresh = self.argument.elements().filter(|(key, _)| !value.contains(key));
                copy(value.elements().chain(fresh))
            }
            Mutator::Delete => {
                // For a map, a set of keys deletes whatever their values, a map only equal pairs.
                let by_pair = !self.argument.values().is_empty();
                copy(value.elements().filter(|(key, paired)| {
                    !self.argument.has_element(key, if by_pair { *paired } else { None })
                }))
            }
            _ => {
                let operand = self.argument.single();
                let operand =
                    operand.ok_or_else(|| OvsdbError::syntax("arithmetic needs exactly one number"))?;
                let results = value.keys().iter().map(|atom| arithmetic(self.mutator, atom, operand));
                let results = results.collect::<Result<Vec<Atom>, _>>()?;
                let datum = Datum::set(results);
                if datum.len() != value.len() {
                    return Err(OvsdbError::constraint("two elements of the set would become equal"));
                }
                datum
            }
        };
        kind.check(&changed)?;
        Ok(changed)
    }
}

fn copy<'a>(elements: impl Iterator<Item = (&'a Atom, Option<&'a Atom>)>) -> Datum {
    Datum::from_elements(elements.map(|(key, value)| (key.clone(), value.cloned())))
}

fn argument_datum(
    mutator: Mutator,
    json: &Value,
    kind: &ColumnType,
    names: &Names,
) -> Result<Datum, OvsdbError> {
    let keys_only = ColumnType { value: None, min: 0, max: ColumnType::UNLIMITED, ..kind.clone() };
    match mutator {
        Mutator::Insert => Datum::from_json(json, kind, names, Strictness::Argument),
        Mutator::Delete => match Datum::from_json(json, kind, names, Strictness::Argument) {
            Err(_) if kind.value.is_some() => Datum::from_json(json, &keys_only, names, Strictness::Argument),
            other => other,
        },
        _ => {
            let numeric = match kind.key.atom {
                AtomType::Integer => true,
                AtomType::Real => mutator != Mutator::Remainder,
                _ => false,
            };
            if !numeric || kind.value.is_some() {
                return Err(OvsdbError::syntax(
                    "arithmetic works on integers and reals (and %= on integers) only; use insert or delete",
                ));
            }
            let datum = Datum::from_json(json, &keys_only, names, Strictness::Argument)?;
            datum.single().ok_or_else(|| OvsdbError::syntax("arithmetic needs exactly one number"))?;
            Ok(datum)
        }
    }
}

fn arithmetic(mutator: Mutator, left: &Atom, right: &Atom) -> Result<Atom, OvsdbError> {
    let range =
        || OvsdbError::new(ErrorKind::RangeError, format!("{left} and {right} leave the range of the type"));
    let zero = || OvsdbError::new(ErrorKind::DomainError, format!("{left} cannot be divided by zero"));
    match (left, right) {
        (Atom::Int(_), Atom::Int(0)) if matches!(mutator, Mutator::Divide | Mutator::Remainder) => {
            Err(zero())
        }
        (Atom::Int(a), Atom::Int(b)) => match mutator {
            Mutator::Add => a.checked_add(*b),
            Mutator::Subtract => a.checked_sub(*b),
            Mutator::Multiply => a.checked_mul(*b),
            Mutator::Divide => a.checked_div(*b),
            _ => a.checked_rem(*b),
        }
        .map(Atom::Int)
        .ok_or_else(range),
        (Atom::Real(_), Atom::Real(b)) if b.get() == 0.0 && mutator == Mutator::Divide => Err(zero()),
        (Atom::Real(a), Atom::Real(b)) => Real::new(match mutator {
            Mutator::Add => a.get() + b.get(),
            Mutator::Subtract => a.get() - b.get(),
            Mutator::Multiply => a.get() * b.get(),
            _ => a.get() / b.get(),
        })
        .map(Atom::Real)
        .ok_or_else(range),
        _ => Err(OvsdbError::syntax("arithmetic needs two numbers of one type")),
    }
}

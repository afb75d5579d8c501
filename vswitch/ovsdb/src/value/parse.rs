//! JSON to values, with every rule of the column's type applied at this one door.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::{Atom, AtomType, Datum, Real};
use crate::error::excerpt;
use crate::schema::ColumnType;
use crate::{ErrorKind, OvsdbError, Uuid};

/// The `uuid-name`s of one transaction. Filled before the operations run, so a name may be used before
/// the insert that defines it.
#[derive(Debug, Default)]
pub struct Names(BTreeMap<String, Uuid>);

impl Names {
    /// Binds a name; an error if it is taken or not an `<id>`.
    pub(crate) fn define(&mut self, name: &str, uuid: Uuid) -> Result<(), OvsdbError> {
        if !is_id(name) {
            return Err(OvsdbError::syntax(format!(
                "uuid-name {name:?} is not an identifier: use letters, digits and _, not starting with a digit"
            )));
        }
        if self.0.insert(name.to_owned(), uuid).is_some() {
            return Err(OvsdbError::new(
                ErrorKind::DuplicateUuidName,
                format!("uuid-name {name:?} is given to two inserts; name each row differently"),
            ));
        }
        Ok(())
    }

    /// The row of that name.
    pub(crate) fn get(&self, name: &str) -> Option<Uuid> {
        self.0.get(name).copied()
    }
}

/// The `<id>` of RFC 7047 section 3.1.
pub(crate) fn is_id(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// How much of the column's type a value must meet.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// To be stored: element count, enumerations and ranges.
    Stored,
    /// An argument of a condition or mutation: only the atoms' types.
    Argument,
}

/// Reads an atom of the given type.
fn atom_from_json(json: &Value, want: AtomType, names: &Names) -> Result<Atom, OvsdbError> {
    let wrong = || OvsdbError::syntax(format!("{} is not of type {}", excerpt(json), want.name()));
    match want {
        AtomType::Integer => integer(json).map(Atom::Int).ok_or_else(wrong),
        AtomType::Real => json.as_f64().and_then(Real::new).map(Atom::Real).ok_or_else(wrong),
        AtomType::Boolean => json.as_bool().map(Atom::Bool).ok_or_else(wrong),
        AtomType::String => {
            let text = json.as_str().ok_or_else(wrong)?;
            if text.contains('\0') {
                return Err(OvsdbError::constraint("a string may not contain a NUL character"));
            }
            Ok(Atom::Str(Arc::from(text)))
        }
        AtomType::Uuid => uuid(json, names).ok_or_else(wrong)?.map(Atom::Uuid),
    }
}

/// JSON integers, and reals that are integers a double carries exactly: C clients print some that way.
fn integer(json: &Value) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if let Some(n) = json.as_i64() {
        return Some(n);
    }
    let real = if json.is_u64() { return None } else { json.as_f64()? };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "an integer of magnitude below 2^53 converts exactly"
    )]
    (real.fract() == 0.0 && real.abs() < EXACT).then_some(real as i64)
}

fn uuid(json: &Value, names: &Names) -> Option<Result<Uuid, OvsdbError>> {
    let [tag, text] = json.as_array()?.as_slice() else { return None };
    let text = text.as_str()?;
    match tag.as_str()? {
        "uuid" => Uuid::parse(text).map(Ok),
        "named-uuid" => Some(names.get(text).ok_or_else(|| {
            OvsdbError::new(
                ErrorKind::ReferentialIntegrityViolation,
                format!("named-uuid {text:?} is not the uuid-name of any insert in this transaction"),
            )
        })),
        _ => None,
    }
}

impl Datum {
    /// Reads a value for a column of this type.
    pub(crate) fn from_json(
        json: &Value,
        column: &ColumnType,
        names: &Names,
        strictness: Strictness,
    ) -> Result<Datum, OvsdbError> {
        let elements = match &column.value {
            Some(value_type) => {
                let mut elements = Vec::new();
                for pair in
                    tagged(json, "map").ok_or_else(|| wrong_shape(json, "[\"map\", [[key, value], …]]"))?
                {
                    let Some([key, value]) = pair.as_array().map(Vec::as_slice) else {
                        return Err(wrong_shape(pair, "a [key, value] pair"));
                    };
                    let key = atom_from_json(key, column.key.atom, names)?;
                    let value = atom_from_json(value, value_type.atom, names)?;
                    elements.push((key, Some(value)));
                }
                elements
            }
            None => set_elements(json, column.key.atom, names)?,
        };
        let count = elements.len();
        let datum = Datum::from_elements(elements);
        if datum.len() != count {
            return Err(OvsdbError::constraint(format!("{} has an element or key twice", excerpt(json))));
        }
        if strictness == Strictness::Stored {
            column.check(&datum)?;
        }
        Ok(datum)
    }
}

/// A set in any of its three spellings: `["set", […]]`, or its only element alone.
fn set_elements(
    json: &Value,
    atom: AtomType,
    names: &Names,
) -> Result<Vec<(Atom, Option<Atom>)>, OvsdbError> {
    match tagged(json, "set") {
        Some(items) => items.iter().map(|item| Ok((atom_from_json(item, atom, names)?, None))).collect(),
        None => Ok(vec![(atom_from_json(json, atom, names)?, None)]),
    }
}

fn wrong_shape(json: &Value, wanted: &str) -> OvsdbError {
    OvsdbError::syntax(format!("{} should be {wanted}", excerpt(json)))
}

/// The items of `[tag, [items…]]`.
fn tagged<'a>(json: &'a Value, tag: &str) -> Option<&'a [Value]> {
    match json.as_array()?.as_slice() {
        [first, items] if first.as_str() == Some(tag) => items.as_array().map(Vec::as_slice),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::BaseType;

    fn ints(min: u32, max: u32) -> ColumnType {
        ColumnType { key: BaseType::of(AtomType::Integer), value: None, min, max }
    }

    fn read(json: &Value, column: &ColumnType) -> Result<Datum, OvsdbError> {
        Datum::from_json(json, column, &Names::default(), Strictness::Stored)
    }

    #[test]
    fn a_single_element_needs_no_set_wrapper() {
        let column = ints(0, 5);
        assert_eq!(read(&json!(3), &column), Ok(Datum::from(3)));
        assert_eq!(read(&json!(["set", [3]]), &column), Ok(Datum::from(3)));
        assert_eq!(read(&json!(["set", []]), &column), Ok(Datum::empty()));
        assert_eq!(Datum::from(3).to_json(&column), json!(3));
        assert_eq!(Datum::set([2i64, 1]).to_json(&column), json!(["set", [1, 2]]));
    }

    #[test]
    fn count_and_duplicates_are_checked() {
        let column = ints(1, 2);
        assert_eq!(read(&json!(["set", []]), &column).unwrap_err().kind, ErrorKind::ConstraintViolation);
        assert_eq!(
            read(&json!(["set", [1, 2, 3]]), &column).unwrap_err().kind,
            ErrorKind::ConstraintViolation
        );
        assert_eq!(read(&json!(["set", [1, 1]]), &column).unwrap_err().kind, ErrorKind::ConstraintViolation);
    }

    #[test]
    fn integers_keep_all_64_bits_and_nothing_more() {
        let column = ints(1, 1);
        assert_eq!(read(&json!(i64::MIN), &column), Ok(Datum::from(i64::MIN)));
        assert_eq!(read(&json!(4.0), &column), Ok(Datum::from(4)));
        for bad in [json!(1.5), json!(u64::MAX), json!(1e300), json!("1"), json!(null)] {
            assert_eq!(read(&bad, &column).unwrap_err().kind, ErrorKind::SyntaxError, "{bad}");
        }
    }

    #[test]
    fn strings_refuse_nul() {
        let column = ColumnType::scalar(BaseType::of(AtomType::String));
        assert_eq!(read(&json!("a\0b"), &column).unwrap_err().kind, ErrorKind::ConstraintViolation);
    }
}

//! Column values on the wire (RFC 7047 section 5.1, `<value>`) and in `--format json` output.

use serde_json::{Value, json};

use super::{Atom, AtomKind, BaseType, ColumnType, Datum, Real, RowRef};
use crate::error::{Error, failed};

fn mismatch(json: &Value, kind: AtomKind) -> Error {
    failed!("the server sent {json} where its own schema promises {}", kind.describe())
}

fn atom_from_json(json: &Value, base: &BaseType) -> Result<Atom, Error> {
    let atom = match base.kind {
        AtomKind::Integer => json.as_i64().map(Atom::Integer),
        AtomKind::Real => json.as_f64().map(|x| Atom::Real(Real(x))),
        AtomKind::Boolean => json.as_bool().map(Atom::Boolean),
        AtomKind::String => json.as_str().map(Atom::string),
        AtomKind::Uuid => match tagged(json) {
            Some(("uuid", Value::String(uuid))) => Some(Atom::Row(RowRef::Uuid(uuid.to_ascii_lowercase()))),
            _ => None,
        },
    };
    atom.ok_or_else(|| mismatch(json, base.kind))
}

/// Splits `["tag", content]`.
fn tagged(json: &Value) -> Option<(&str, &Value)> {
    match json.as_array().map(Vec::as_slice) {
        Some([Value::String(tag), content]) => Some((tag, content)),
        _ => None,
    }
}

/// Reads a `<value>` of the given type.
///
/// # Errors
/// When the server broke its own schema.
pub(crate) fn datum_from_json(json: &Value, kind: &ColumnType) -> Result<Datum, Error> {
    if let Some(value_type) = &kind.value {
        let Some(("map", Value::Array(pairs))) = tagged(json) else {
            return Err(failed!("the server sent {json} where its own schema promises a map"));
        };
        let pair = |pair: &Value| match pair.as_array().map(Vec::as_slice) {
            Some([key, value]) => Ok((atom_from_json(key, &kind.key)?, atom_from_json(value, value_type)?)),
            _ => Err(failed!("the server sent {pair} where a key-value pair belongs")),
        };
        return Ok(Datum::Map(pairs.iter().map(pair).collect::<Result<_, _>>()?));
    }
    match tagged(json) {
        Some(("set", Value::Array(items))) => Ok(Datum::Set(
            items.iter().map(|item| atom_from_json(item, &kind.key)).collect::<Result<_, _>>()?,
        )),
        _ => Ok(Datum::scalar(atom_from_json(json, &kind.key)?)),
    }
}

fn atom_to_json(atom: &Atom, reference: &impl Fn(&RowRef) -> Value) -> Value {
    match atom {
        Atom::Integer(n) => json!(n),
        Atom::Real(Real(x)) => json!(x),
        Atom::Boolean(b) => json!(b),
        Atom::String(text) => json!(text),
        Atom::Row(row) => reference(row),
    }
}

/// Writes a `<value>`; `reference` says how a row is named (`["uuid", …]` or `["named-uuid", …]`).
pub(crate) fn datum_to_json(datum: &Datum, reference: &impl Fn(&RowRef) -> Value) -> Value {
    if let Some(atom) = datum.as_scalar() {
        return atom_to_json(atom, reference);
    }
    match datum {
        Datum::Set(set) => {
            json!(["set", set.iter().map(|atom| atom_to_json(atom, reference)).collect::<Vec<_>>()])
        }
        Datum::Map(map) => {
            let pair = |(key, value)| json!([atom_to_json(key, reference), atom_to_json(value, reference)]);
            json!(["map", map.iter().map(pair).collect::<Vec<_>>()])
        }
    }
}

/// A value as `--format json` prints it: as on the wire, except that rows not committed yet go by name.
pub(crate) fn datum_to_output(datum: &Datum) -> Value {
    datum_to_json(datum, &|row| match row {
        RowRef::Uuid(uuid) => json!(["uuid", uuid]),
        RowRef::New(index) => json!(["named-uuid", format!("row{index}")]),
        RowRef::Symbol(name) => json!(["named-uuid", name]),
    })
}

//! Reading the switch's answers. A field that is missing reads as zero, empty or "?", so that an older `vsctl`
//! and a newer switch understand each other.

use serde_json::Value;

/// The items of a list field.
pub(super) fn list<'a>(json: &'a Value, field: &str) -> &'a [Value] {
    json.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A text field.
pub(super) fn text<'a>(json: &'a Value, field: &str) -> &'a str {
    json.get(field).and_then(Value::as_str).unwrap_or("?")
}

/// A text field that may well be absent.
pub(super) fn text_or_empty<'a>(json: &'a Value, field: &str) -> &'a str {
    json.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// A counter.
pub(super) fn count(json: &Value, field: &str) -> u64 {
    json.get(field).and_then(Value::as_u64).unwrap_or(0)
}

/// A real number.
pub(super) fn real(json: &Value, field: &str) -> f64 {
    json.get(field).and_then(Value::as_f64).unwrap_or(0.0)
}

/// The counters of an object field, by name.
pub(super) fn counts<'a>(json: &'a Value, field: &str) -> Vec<(&'a str, u64)> {
    let object = json.get(field).and_then(Value::as_object);
    object.into_iter().flatten().map(|(name, n)| (name.as_str(), n.as_u64().unwrap_or(0))).collect()
}

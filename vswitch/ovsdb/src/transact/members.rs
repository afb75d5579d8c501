//! Reading the members of a request object; what is missing, misspelt or misplaced is named.

use serde_json::{Map, Value};

use crate::OvsdbError;
use crate::error::excerpt;

/// The members of one object of a request.
pub(super) struct Members<'a> {
    map: &'a Map<String, Value>,
    what: &'static str,
}

impl<'a> Members<'a> {
    /// The object, if it is one and has no member outside `known`.
    pub(super) fn of(
        map: &'a Map<String, Value>,
        what: &'static str,
        known: &[&str],
    ) -> Result<Self, OvsdbError> {
        if let Some(odd) = map.keys().find(|name| !known.contains(&name.as_str())) {
            return Err(OvsdbError::syntax(format!(
                "{what} takes no member {odd:?}; it takes {}",
                known.join(", ")
            )));
        }
        Ok(Members { map, what })
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name)
    }

    fn needed(&self, name: &str, kind: &str) -> OvsdbError {
        match self.map.get(name) {
            Some(json) => {
                OvsdbError::syntax(format!("{}: {name:?} should be {kind}, not {}", self.what, excerpt(json)))
            }
            None => OvsdbError::syntax(format!("{} needs {name:?}, {kind}", self.what)),
        }
    }

    pub(super) fn text(&self, name: &str) -> Result<&'a str, OvsdbError> {
        self.get(name).and_then(Value::as_str).ok_or_else(|| self.needed(name, "a string"))
    }

    pub(super) fn array(&self, name: &str) -> Result<&'a [Value], OvsdbError> {
        self.get(name)
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .ok_or_else(|| self.needed(name, "an array"))
    }

    pub(super) fn object(&self, name: &str) -> Result<&'a Map<String, Value>, OvsdbError> {
        self.get(name).and_then(Value::as_object).ok_or_else(|| self.needed(name, "an object"))
    }

    /// An optional member: absent is `None`, of the wrong type an error.
    pub(super) fn optional<T>(
        &self,
        name: &str,
        kind: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, OvsdbError> {
        match self.get(name) {
            None => Ok(None),
            Some(json) => read(json).map(Some).ok_or_else(|| self.needed(name, kind)),
        }
    }
}

//! Positional parameters of a call, with errors that name the parameter.

use serde_json::Value;

use crate::switch::Switch;

/// The parameter at `index`, absent if it is missing or null.
pub(super) fn optional<'a>(params: &'a Value, index: usize, name: &str) -> Result<Option<&'a str>, String> {
    match params.get(index) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(format!("parameter {name} must be a string or null, not {other}")),
    }
}

/// The string at `index`.
pub(super) fn required<'a>(params: &'a Value, index: usize, name: &str) -> Result<&'a str, String> {
    optional(params, index, name)?.ok_or_else(|| format!("parameter {name} is missing"))
}

/// The bridge named first, or all of them.
pub(super) fn bridges(switch: &Switch, params: &Value) -> Result<Vec<String>, String> {
    Ok(match optional(params, 0, "bridge")? {
        Some(bridge) => vec![bridge.to_owned()],
        None => switch.bridges().names(),
    })
}

/// A MAC address as people write it.
pub(super) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

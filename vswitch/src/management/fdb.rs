//! `vs.fdb.show` and `vs.fdb.flush`.

use serde_json::{Value, json};

use super::params::{bridges, mac_text};
use crate::switch::Switch;

pub(super) fn show(switch: &Switch, params: &Value) -> Result<Value, String> {
    let mut entries = Vec::new();
    for bridge in bridges(switch, params)? {
        for entry in switch.bridges().fdb(&bridge).map_err(|e| e.to_string())? {
            entries.push(json!({
                "bridge": bridge,
                "port": entry.port,
                "ofport": entry.ofport,
                "vlan": entry.vlan,
                "mac": mac_text(entry.mac),
                "age_s": entry.age_s,
            }));
        }
    }
    Ok(json!({ "entries": entries }))
}

pub(super) fn flush(switch: &Switch, params: &Value) -> Result<Value, String> {
    let mut flushed = 0;
    for bridge in bridges(switch, params)? {
        flushed += switch.bridges().fdb_flush(&bridge).map_err(|e| e.to_string())?;
    }
    switch.sync();
    Ok(json!({ "flushed": flushed }))
}

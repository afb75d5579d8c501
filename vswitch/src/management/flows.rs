//! `vs.flow.*` and `vs.dp.flows`.

use flowtable::key::{FlowMatch, PortNo};
use flowtable::rules::{OFPORT_LOCAL, Rule};
use flowtable::text::{PortNames, datapath, openflow};
use serde_json::{Value, json};

use super::params::required;
use crate::bridge::Bridges;
use crate::switch::{DpFlow, Switch};

/// OpenFlow numbers and names on one bridge.
struct BridgePorts {
    ports: Vec<(u16, String)>,
}

impl BridgePorts {
    fn of(bridges: &Bridges, bridge: &str) -> Result<BridgePorts, String> {
        let ports = bridges.ports(bridge).map_err(|e| e.to_string())?;
        Ok(BridgePorts { ports: ports.into_iter().map(|port| (port.ofport, port.name)).collect() })
    }
}

impl PortNames for BridgePorts {
    fn name(&self, port: PortNo) -> Option<String> {
        let found = self.ports.iter().find(|(ofport, _)| u32::from(*ofport) == port.0);
        found.filter(|(ofport, _)| *ofport != OFPORT_LOCAL).map(|(_, name)| name.clone())
    }

    fn number(&self, name: &str) -> Option<PortNo> {
        self.ports.iter().find(|(_, port)| port == name).map(|&(ofport, _)| PortNo(ofport.into()))
    }
}

/// The rules of `[bridge, [text…]]`, and the bridge.
fn read<'p>(switch: &Switch, params: &'p Value) -> Result<(&'p str, Vec<Rule>), String> {
    let bridge = required(params, 0, "bridge")?;
    let Some(Value::Array(texts)) = params.get(1) else {
        return Err("parameter flows must be an array of strings".into());
    };
    let names = BridgePorts::of(switch.bridges(), bridge)?;
    let now_ms = switch.now_ms();
    let mut rules = Vec::with_capacity(texts.len());
    for (at, text) in texts.iter().enumerate() {
        let text = text.as_str().ok_or_else(|| format!("flow {at} must be a string, not {text}"))?;
        rules.push(openflow::parse_flow(text, &names, now_ms).map_err(|e| format!("flow {text:?}: {e}"))?);
    }
    Ok((bridge, rules))
}

pub(super) fn add(switch: &Switch, params: &Value) -> Result<Value, String> {
    let (bridge, rules) = read(switch, params)?;
    switch.bridges().add_rules(bridge, rules).map_err(|e| e.to_string())?;
    switch.sync();
    Ok(json!({}))
}

/// Whether [`add`] would take the same parameters.
pub(super) fn check(switch: &Switch, params: &Value) -> Result<Value, String> {
    let (bridge, rules) = read(switch, params)?;
    switch.bridges().check_rules(bridge, &rules).map_err(|e| e.to_string())?;
    Ok(json!({}))
}

pub(super) fn delete(switch: &Switch, params: &Value) -> Result<Value, String> {
    let bridge = required(params, 0, "bridge")?;
    let text = required(params, 1, "match")?;
    let strict = params.get(2).and_then(Value::as_bool).unwrap_or(false);
    let names = BridgePorts::of(switch.bridges(), bridge)?;
    let filter =
        openflow::parse_flow_match(text, &names, strict).map_err(|e| format!("match {text:?}: {e}"))?;
    let deleted = switch.bridges().delete_rules(bridge, &filter, strict).map_err(|e| e.to_string())?;
    switch.sync();
    Ok(json!({ "deleted": deleted }))
}

pub(super) fn dump(switch: &Switch, params: &Value) -> Result<Value, String> {
    let bridge = required(params, 0, "bridge")?;
    let text = required(params, 1, "match")?;
    let names = BridgePorts::of(switch.bridges(), bridge)?;
    let filter =
        openflow::parse_flow_match(text, &names, false).map_err(|e| format!("match {text:?}: {e}"))?;
    // Counters are credited from the megaflows when they are revalidated.
    switch.sync();
    let rules = switch.bridges().rules(bridge, &filter).map_err(|e| e.to_string())?;
    let now_ms = switch.now_ms();
    Ok(json!({ "flows": rules.iter().map(|r| rule(r, &names, now_ms)).collect::<Vec<_>>() }))
}

fn rule(rule: &Rule, names: &BridgePorts, now_ms: u64) -> Value {
    let idle_ms = now_ms.saturating_sub(rule.stats.last_used_ms().max(rule.created_ms));
    json!({
        "table": rule.table_id,
        "cookie": format!("{:#x}", rule.cookie),
        "duration_s": now_ms.saturating_sub(rule.created_ms) as f64 / 1000.0,
        "n_packets": rule.stats.packets(),
        "n_bytes": rule.stats.bytes(),
        "idle_age_s": idle_ms / 1000,
        "priority": rule.priority,
        "idle_timeout": rule.idle_timeout_s,
        "hard_timeout": rule.hard_timeout_s,
        "match": openflow::format_match(&rule.flow_match, names),
        "actions": openflow::format_actions(&rule.actions, names),
    })
}

pub(super) fn megaflows(switch: &Switch) -> Result<Value, String> {
    let flows = switch.dp_flows();
    let mut cores: Vec<u32> = switch.worker_reports().iter().map(|worker| worker.core).collect();
    cores.sort_unstable();
    let now_ms = switch.now_ms();
    let of_core = |core: u32| {
        let mine = flows.iter().filter(|f| f.core == core);
        json!({ "core": core, "flows": mine.map(|f| megaflow(f, switch.bridges(), now_ms)).collect::<Vec<_>>() })
    };
    Ok(json!({ "workers": cores.into_iter().map(of_core).collect::<Vec<_>>() }))
}

fn megaflow(installed: &DpFlow, bridges: &Bridges, now_ms: u64) -> Value {
    let flow = &installed.flow;
    let used_ms = flow.stats.used_ms();
    let used_s = (used_ms != 0).then(|| now_ms.saturating_sub(used_ms) as f64 / 1000.0);
    let flow_match = FlowMatch::new(flow.key(), flow.mask());
    json!({
        "match": datapath::format_match(&flow_match, bridges),
        "packets": flow.stats.packets(),
        "bytes": flow.stats.bytes(),
        "used_s": used_s,
        "tcp_flags": flow.stats.tcp_flags(),
        "actions": datapath::format_actions(&flow.actions, bridges),
        "bridge": bridges.bridge_of_port(PortNo(flow.key().in_port)),
    })
}

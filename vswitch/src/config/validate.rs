//! Rows to settings, each checked by itself. A fault names the value and what to write instead.

use std::collections::BTreeMap;
use std::time::Duration;

use pmd::port::Offloads;
use vhost_port::vdpa::DeviceName;
use vswitch_ovsdb::RowView;

use super::kind::kind;
use super::model::PortSpec;
use crate::bridge::{BridgeConfig, FailMode, VlanConfig, VlanMode};
use crate::datapath::IdlePolicy;
use crate::slowpath::Limits;
use crate::switch::{Assign, AutoBalance, Balance, PortKind, PortOffloads};

pub(super) type Options<'a> = BTreeMap<&'a str, &'a str>;

/// `Open_vSwitch.other_config:pmd-cpu-mask`: hexadecimal, bit n is CPU n.
pub(super) fn cpu_mask(text: &str) -> Result<Vec<u32>, String> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    let mut cpus = Vec::new();
    let mut base = 0u32;
    for digit in digits.chars().rev() {
        let bits = digit.to_digit(16).ok_or_else(|| {
            format!("other_config:pmd-cpu-mask={text} is not a hexadecimal mask: bit n set means CPU n, 0x6 is CPUs 1 and 2")
        })?;
        cpus.extend((0..4).filter(|bit| bits & (1 << bit) != 0).map(|bit| base + bit));
        base += 4;
    }
    Ok(cpus)
}

/// The longest `pmd-spin-us`: a minute. Who wants more wants `pmd-always-poll`.
const LONGEST_SPIN_US: u64 = 60_000_000;

/// When workers sleep: `pmd-always-poll`, and `pmd-spin-us` microseconds of polling after the last packet.
pub(super) fn idle(config: &Options<'_>, notes: &mut Vec<String>) -> IdlePolicy {
    let mut idle = IdlePolicy::default();
    if let Some(us) = noted(notes, number(config, "pmd-spin-us", 0, LONGEST_SPIN_US)).flatten() {
        idle.spin = Duration::from_micros(us);
    }
    if let Some(always) = noted(notes, flag(config, "pmd-always-poll", false)) {
        idle.always_poll = always;
    }
    idle
}

/// How receive queues are spread: `pmd-rxq-assign`, `pmd-rxq-isolate`, `pmd-auto-lb` and its thresholds. A value that cannot be is
/// noted and its default holds.
pub(super) fn balance(config: &Options<'_>, notes: &mut Vec<String>) -> Balance {
    let mut balance = Balance::default();
    if let Some(name) = config.get("pmd-rxq-assign") {
        match Assign::NAMES.iter().find(|(known, _)| known == name) {
            Some((_, assign)) => balance.assign = *assign,
            None => {
                notes.push(format!("other_config:pmd-rxq-assign={name}: use cycles, roundrobin or group"))
            }
        }
    }
    if let Some(isolate) = noted(notes, flag(config, "pmd-rxq-isolate", true)) {
        balance.isolate = isolate;
    }
    let mut setting =
        |key, default, min, max| noted(notes, number(config, key, min, max)).flatten().unwrap_or(default);
    let minutes = setting("pmd-auto-lb-rebal-interval", 1, 0, 20_000);
    let load = setting("pmd-auto-lb-load-threshold", 95, 0, 100);
    let gain = setting("pmd-auto-lb-improvement-threshold", 25, 0, 100);
    if noted(notes, flag(config, "pmd-auto-lb", false)) == Some(true) {
        balance.auto = Some(AutoBalance {
            // As Open vSwitch takes it: none is one.
            interval: Duration::from_secs(minutes.max(1) * 60),
            load_pct: load as u8,
            improvement_pct: gain as u8,
        });
    }
    balance
}

/// The largest `flow-limit`: sixteen million megaflows are about 16 GiB.
const MOST_FLOWS: u64 = 1 << 24;
/// The smallest `max-idle` and `max-revalidator` in milliseconds; those of Open vSwitch.
const LEAST_IDLE_MS: u64 = 500;
const LEAST_PASS_MS: u64 = 100;
/// The largest of either: a day.
const DAY_MS: u64 = 86_400_000;

/// How many megaflows there may be, and how long: `flow-limit`, `max-idle`, `max-revalidator`. A value that cannot be is noted
/// and its default holds.
pub(super) fn limits(config: &Options<'_>, notes: &mut Vec<String>) -> Limits {
    let mut limits = Limits::default();
    if let Some(flows) = noted(notes, number(config, "flow-limit", 1, MOST_FLOWS)).flatten() {
        limits.flows = usize::try_from(flows).unwrap_or(usize::MAX);
    }
    if let Some(ms) = noted(notes, number(config, "max-idle", LEAST_IDLE_MS, DAY_MS)).flatten() {
        limits.idle_ms = ms;
    }
    if let Some(ms) = noted(notes, number(config, "max-revalidator", LEAST_PASS_MS, DAY_MS)).flatten() {
        limits.pass_ms = ms;
    }
    limits
}

/// Milliseconds between writes of statistics, if set.
pub(super) fn stats_interval_ms(config: &Options<'_>, notes: &mut Vec<String>) -> Option<u64> {
    noted(notes, number(config, "stats-update-interval", 0, u64::from(u32::MAX))).flatten()
}

/// The value, or `None` with a note of the fault: the rest goes on with the default.
fn noted<T>(notes: &mut Vec<String>, value: Result<T, String>) -> Option<T> {
    value.map_err(|fault| notes.push(format!("other_config:{fault}"))).ok()
}

/// A name becomes part of paths and of a kernel interface.
fn name_is_usable(name: &str) -> Result<(), String> {
    let odd = |c: char| c == '/' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name == "." || name == ".." || name.contains(odd) {
        return Err(format!("{name:?} cannot be a name: use no slashes and no blanks"));
    }
    Ok(())
}

/// A row of `Bridge`.
pub(super) fn bridge(row: &RowView<'_>) -> Result<BridgeConfig, String> {
    let name = row.str("name");
    name_is_usable(name)?;
    let other = row.map("other_config");
    let mut config = BridgeConfig::new(name);
    if let Some(text) = other.get("datapath-id") {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let id = u64::from_str_radix(digits, 16).ok().filter(|id| *id != 0);
        config.datapath_id = Some(id.ok_or_else(|| {
            format!("other_config:datapath-id={text}: use 16 hexadecimal digits, not all zero")
        })?);
    }
    if let Some(seconds) = number(&other, "mac-aging-time", 1, u64::from(u32::MAX))? {
        config.mac_ageing_s = u32::try_from(seconds).unwrap_or(u32::MAX);
    }
    if let Some(size) = number(&other, "mac-table-size", 1, 1 << 24)? {
        config.mac_table_size = usize::try_from(size).unwrap_or(usize::MAX);
    }
    config.flood_vlans =
        row.ints("flood_vlans").into_iter().filter_map(|vlan| u16::try_from(vlan).ok()).collect();
    if row.opt_str("fail_mode") == Some("secure") {
        config.fail_mode = FailMode::Secure;
    }
    config.forward_bpdu = other.get("forward-bpdu") == Some(&"true");
    Ok(config)
}

pub(super) fn number(options: &Options<'_>, key: &str, min: u64, max: u64) -> Result<Option<u64>, String> {
    let Some(text) = options.get(key) else { return Ok(None) };
    let value = text.parse().ok().filter(|value| (min..=max).contains(value));
    value.map(Some).ok_or_else(|| format!("{key}={text}: use a number from {min} to {max}"))
}

pub(super) fn flag(options: &Options<'_>, key: &str, default: bool) -> Result<bool, String> {
    match options.get(key) {
        None => Ok(default),
        Some(&"true") => Ok(true),
        Some(&"false") => Ok(false),
        Some(text) => Err(format!("{key}={text}: use true or false")),
    }
}

/// Settings of a bridge that this switch does not act on, if any are made.
pub(super) fn bridge_notes(row: &RowView<'_>) -> Option<String> {
    let flags = ["stp_enable", "rstp_enable", "mcast_snooping_enable"];
    let references = ["mirrors", "netflow", "sflow", "ipfix", "controller", "auto_attach"];
    let set = flags.into_iter().filter(|column| row.bool(column));
    let referring = references.into_iter().filter(|column| !row.datum(column).is_empty());
    passed_over(&set.chain(referring).collect::<Vec<_>>())
}

/// Settings of a port and its interface that this switch does not act on, if any are made.
fn port_notes(port: &RowView<'_>, row: &RowView<'_>, kind: &PortKind) -> Option<String> {
    let of_port =
        ["qos", "mac", "cvlans", "lacp"].into_iter().filter(|column| !port.datum(column).is_empty());
    let of_guest = matches!(kind, PortKind::VhostUser { .. } | PortKind::VhostUserClient { .. });
    let mac = (!of_guest).then_some("mac");
    let given = ["bfd", "cfm_mpid", "lldp"].into_iter().chain(mac);
    let given = given.filter(|column| !row.datum(column).is_empty());
    let rates = ["ingress_policing_rate", "ingress_policing_kpkts_rate"];
    let rates = rates.into_iter().filter(|column| row.int(column) != 0);
    let priority_tags = port.map_get("other_config", "priority-tags").map(|_| "other_config:priority-tags");
    passed_over(&of_port.chain(given).chain(rates).chain(priority_tags).collect::<Vec<_>>())
}

fn passed_over(columns: &[&str]) -> Option<String> {
    (!columns.is_empty()).then(|| format!("not built yet and passed over: {}", columns.join(", ")))
}

/// A row of `Interface` under one of `Port`. The second part lists settings passed over.
pub(super) fn interface(
    bridge: &str,
    port: &RowView<'_>,
    row: &RowView<'_>,
) -> Result<(PortSpec, Vec<String>), String> {
    let name = row.str("name");
    name_is_usable(name)?;
    let local = name == bridge;
    let kind = kind(name, row.str("type"), local, row.opt_str("mac"), &row.map("options"))?;
    let mut notes: Vec<String> = port_notes(port, row, &kind).into_iter().collect();
    let mtu = row.opt_int("mtu_request").and_then(|mtu| {
        let fits = u16::try_from(mtu).ok().filter(|mtu| *mtu >= 68);
        if fits.is_none() {
            notes.push(format!("mtu_request {mtu} was passed over: use 68 to 65535"));
        }
        fits
    });
    let affinity = match row.map_get("other_config", "pmd-rxq-affinity").map(affinity).transpose() {
        Ok(affinity) => affinity.unwrap_or_default(),
        Err(fault) => {
            notes.push(fault);
            BTreeMap::new()
        }
    };
    let spec = PortSpec {
        name: name.to_owned(),
        bridge: bridge.to_owned(),
        kind,
        ofport_request: row.opt_int("ofport_request").and_then(|port| u16::try_from(port).ok()),
        local,
        vlan: vlan(port)?,
        mtu,
        affinity,
        offloads: offloads(&row.map("options"), &mut notes),
        vdpa: vdpa(&row.map("options"), &mut notes),
        admin_up: admin_up(&row.map("options"), &mut notes),
    };
    Ok((spec, notes))
}

fn vlan(port: &RowView<'_>) -> Result<VlanConfig, String> {
    let mode = match port.opt_str("vlan_mode") {
        None => None,
        Some(name) => Some(VlanMode::from_name(name).ok_or_else(|| {
            format!("vlan_mode {name} is not built yet: use access, trunk, native-tagged or native-untagged")
        })?),
    };
    let vlan = |n: i64| u16::try_from(n).ok();
    Ok(VlanConfig {
        mode,
        tag: port.opt_int("tag").and_then(vlan),
        trunks: port.ints("trunks").into_iter().filter_map(vlan).collect(),
    })
}

/// `csum`, `tso`, `uso`, `ufo`, `gro`: what may be left to the far side, and merging. One that cannot be read is noted, and holds
/// as if it were not there: a slip of the pen must not take a running port away.
fn offloads(options: &Options<'_>, notes: &mut Vec<String>) -> PortOffloads {
    let mut on = |key| {
        let read = flag(options, key, true);
        read.unwrap_or_else(|fault| {
            notes.push(format!("options:{fault}; until then it is on"));
            true
        })
    };
    let tx = Offloads { csum: on("csum"), tso: on("tso"), uso: on("uso"), ufo: on("ufo") };
    let gro = on("gro");
    let asked: Vec<_> =
        ["tso", "uso", "ufo"].into_iter().filter(|key| options.get(key) == Some(&"true")).collect();
    if !tx.csum && !asked.is_empty() {
        notes.push(format!(
            "options:{}=true does nothing while options:csum=false: every segment needs a checksum",
            asked.join(", ")
        ));
    }
    PortOffloads { tx, gro }
}

/// `vdpa`, `vdpa-standby`: devices that are to run the guest's rings. One that cannot be is noted, and the guest stays with the switch.
fn vdpa(options: &Options<'_>, notes: &mut Vec<String>) -> Vec<String> {
    let mut names = Vec::new();
    for key in ["vdpa", "vdpa-standby"] {
        let Some(text) = options.get(key) else { continue };
        match text.parse::<DeviceName>() {
            Ok(name) if names.contains(&name.to_string()) => {
                notes.push(format!(
                    "options:{key}={text} is the device of options:vdpa: name another, or none"
                ));
            }
            Ok(name) => names.push(name.to_string()),
            Err(fault) => notes.push(format!("options:{key}: {fault}")),
        }
    }
    names
}

/// `admin-state`: whether the operator has the port up. What cannot be read is noted, and the port is up.
fn admin_up(options: &Options<'_>, notes: &mut Vec<String>) -> bool {
    match options.get("admin-state") {
        None | Some(&"up") => true,
        Some(&"down") => false,
        Some(text) => {
            notes.push(format!("options:admin-state={text}: use up or down; until then it is up"));
            true
        }
    }
}

/// `pmd-rxq-affinity`: `queue:cpu,queue:cpu`.
fn affinity(text: &str) -> Result<BTreeMap<u16, u32>, String> {
    let entries = text.split([',', ' ']).filter(|entry| !entry.is_empty()).map(|entry| {
        let (queue, cpu) = entry.split_once(':')?;
        Some((queue.trim().parse().ok()?, cpu.trim().parse().ok()?))
    });
    entries.collect::<Option<_>>().ok_or_else(|| {
        format!("other_config:pmd-rxq-affinity={text} was passed over: use QUEUE:CPU,QUEUE:CPU")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_masks() {
        assert_eq!(cpu_mask("0x6"), Ok(vec![1, 2]));
        assert_eq!(cpu_mask("1"), Ok(vec![0]));
        assert_eq!(cpu_mask("100000000000000001"), Ok(vec![0, 68]));
        assert!(cpu_mask("1,2").unwrap_err().contains("pmd-cpu-mask=1,2"));
    }

    #[test]
    fn limits_of_the_slow_path() {
        let mut notes = Vec::new();
        assert_eq!(limits(&Options::new(), &mut notes), Limits::default());
        let set =
            Options::from([("flow-limit", "1000000"), ("max-idle", "30000"), ("max-revalidator", "250")]);
        let taken = limits(&set, &mut notes);
        assert_eq!((taken.flows, taken.idle_ms, taken.pass_ms), (1_000_000, 30_000, 250));
        assert!(notes.is_empty());
        let odd = Options::from([("flow-limit", "0"), ("max-idle", "10"), ("max-revalidator", "soon")]);
        assert_eq!(limits(&odd, &mut notes), Limits::default());
        assert_eq!(notes.len(), 3);
        assert_eq!(notes[1], "other_config:max-idle=10: use a number from 500 to 86400000");
    }

    #[test]
    fn ways_to_spread_queues() {
        let mut notes = Vec::new();
        assert_eq!(balance(&Options::new(), &mut notes), Balance::default());
        let set = Options::from([
            ("pmd-rxq-assign", "group"),
            ("pmd-rxq-isolate", "false"),
            ("pmd-auto-lb", "true"),
            ("pmd-auto-lb-rebal-interval", "3"),
            ("pmd-auto-lb-load-threshold", "70"),
        ]);
        let auto = AutoBalance { interval: Duration::from_secs(180), load_pct: 70, improvement_pct: 25 };
        let wanted = Balance { assign: Assign::Group, isolate: false, auto: Some(auto) };
        assert_eq!(balance(&set, &mut notes), wanted);
        assert!(notes.is_empty());
        let odd = Options::from([
            ("pmd-rxq-assign", "fair"),
            ("pmd-auto-lb", "maybe"),
            ("pmd-auto-lb-load-threshold", "101"),
        ]);
        assert_eq!(balance(&odd, &mut notes), Balance::default());
        assert_eq!(notes.len(), 3);
    }

    #[test]
    fn affinities() {
        assert_eq!(affinity("0:3,1:5"), Ok(BTreeMap::from([(0, 3), (1, 5)])));
        assert!(affinity("0-3").is_err());
    }

    #[test]
    fn unusable_names() {
        for name in ["", "..", "a/b", "a b", "a\n"] {
            assert!(name_is_usable(name).is_err(), "{name:?}");
        }
        assert!(name_is_usable("vnet-12.3").is_ok());
    }
}

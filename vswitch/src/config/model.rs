//! What the database asks for, as plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use vswitch_ovsdb::{RowView, Snapshot};

use super::validate;
use crate::bridge::{BridgeConfig, VlanConfig};
use crate::datapath::IdlePolicy;
use crate::slowpath::Limits;
use crate::switch::{Balance, PortChange, PortKind, PortOffloads, PortRequest};

/// A port that should run: one row of `Interface` under one of `Port`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortSpec {
    /// Name of the interface.
    pub name: String,
    /// Bridge it is on.
    pub bridge: String,
    /// Driver and options.
    pub kind: PortKind,
    /// OpenFlow number wanted.
    pub ofport_request: Option<u16>,
    /// Whether it is the bridge's own port.
    pub local: bool,
    /// VLAN settings.
    pub vlan: VlanConfig,
    /// MTU wanted.
    pub mtu: Option<u16>,
    /// Receive queues pinned to CPUs.
    pub affinity: BTreeMap<u16, u32>,
    /// Offloads.
    pub offloads: PortOffloads,
    /// Devices that are to run the guest's rings, best first.
    pub vdpa: Vec<String>,
    /// Whether frames may pass.
    pub admin_up: bool,
}

impl PortSpec {
    /// The request that opens it, with the OpenFlow number it had before if it asks for none. MTU and offloads are set afterwards,
    /// so that what the driver refuses does not cost the port.
    pub(super) fn request(&self, before: Option<u16>) -> PortRequest {
        PortRequest {
            name: self.name.clone(),
            bridge: self.bridge.clone(),
            kind: self.kind.clone(),
            ofport_request: self.ofport_request.or(before),
            local: self.local,
            vlan: self.vlan.clone(),
            mtu: None,
            affinity: self.affinity.clone(),
            admin_up: self.admin_up,
        }
    }

    /// The change that gives a running port these settings.
    pub(super) fn change(&self, mtu: Option<u16>) -> PortChange {
        PortChange {
            vlan: self.vlan.clone(),
            mtu,
            affinity: self.affinity.clone(),
            offloads: self.offloads,
            vdpa: self.vdpa.clone(),
            admin_up: self.admin_up,
        }
    }
}

/// Everything the database asks for, and per row what of it cannot be.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Desired {
    /// Bridges by name.
    pub bridges: BTreeMap<String, BridgeConfig>,
    /// Ports by interface name.
    pub ports: BTreeMap<String, PortSpec>,
    /// OpenFlow numbers interfaces had when last they ran, as the database remembers them: rules that name ports by
    /// number stay right over a restart.
    pub numbers: BTreeMap<String, u16>,
    /// Bridges that cannot be, and why.
    pub bridge_faults: BTreeMap<String, String>,
    /// Settings that were passed over while the rest of the bridge works.
    pub bridge_notes: BTreeMap<String, String>,
    /// Interfaces that cannot be, and why.
    pub port_faults: BTreeMap<String, String>,
    /// Settings that were passed over while the rest of the interface runs.
    pub port_notes: BTreeMap<String, String>,
    /// Settings of the switch itself that were passed over.
    pub root_notes: Vec<String>,
    /// CPUs for workers; `None` lets the switch choose, an error is a mask that could not be read.
    pub workers: Option<Result<Vec<u32>, String>>,
    /// When workers sleep.
    pub idle: IdlePolicy,
    /// How receive queues are spread over workers.
    pub balance: Balance,
    /// How many megaflows there may be and how long they stay.
    pub limits: Limits,
    /// How often statistics are written.
    pub stats_interval: Duration,
    /// The request that `cur_cfg` shall acknowledge.
    pub next_cfg: i64,
}

/// `stats-update-interval` unless set.
const STATS_INTERVAL_MS: u64 = 5000;
/// The shortest taken: each write wakes every client that monitors statistics.
const SHORTEST_INTERVAL_MS: u64 = 100;

impl Desired {
    /// Reads a snapshot of the database.
    pub fn from_snapshot(snapshot: &Snapshot) -> Desired {
        let mut desired =
            Desired { stats_interval: Duration::from_millis(STATS_INTERVAL_MS), ..Desired::default() };
        let Some(root) = snapshot.table("Open_vSwitch").first() else { return desired };
        let config = root.map("other_config");
        desired.next_cfg = root.int("next_cfg");
        desired.workers = config.get("pmd-cpu-mask").map(|mask| validate::cpu_mask(mask));
        desired.root_notes.extend(desired.workers.iter().filter_map(|mask| mask.clone().err()));
        desired.idle = validate::idle(&config, &mut desired.root_notes);
        desired.balance = validate::balance(&config, &mut desired.root_notes);
        desired.limits = validate::limits(&config, &mut desired.root_notes);
        if let Some(ms) = validate::stats_interval_ms(&config, &mut desired.root_notes) {
            desired.stats_interval = Duration::from_millis(ms.max(SHORTEST_INTERVAL_MS));
        }
        let mut used = BTreeSet::new();
        for bridge in root.refs("bridges") {
            if let Some(bridge) = snapshot.table("Bridge").row(bridge) {
                desired.add_bridge(snapshot, &bridge, &mut used);
            }
        }
        desired
    }

    fn add_bridge(
        &mut self,
        snapshot: &Snapshot,
        row: &RowView<'_>,
        used: &mut BTreeSet<vswitch_ovsdb::Uuid>,
    ) {
        let bridge = validate::bridge(row);
        let fault = bridge.as_ref().err().cloned();
        let name = row.str("name");
        if let Some(note) = validate::bridge_notes(row) {
            self.bridge_notes.insert(name.to_owned(), note);
        }
        match bridge {
            Ok(config) => {
                self.bridges.insert(name.to_owned(), config);
            }
            Err(fault) => {
                self.bridge_faults.insert(name.to_owned(), fault);
            }
        }
        for port in row.refs("ports") {
            let Some(port) = snapshot.table("Port").row(port) else { continue };
            let interfaces = port.refs("interfaces");
            let bond = (interfaces.len() > 1).then(|| {
                format!(
                    "port {} has several interfaces: bonds are not built yet, give each a port",
                    port.str("name")
                )
            });
            for interface in interfaces {
                let Some(interface) = snapshot.table("Interface").row(interface) else { continue };
                // One that two ports share belongs to the first.
                if used.insert(interface.uuid()) {
                    let problem = fault.as_ref().map(|fault| format!("bridge {name}: {fault}"));
                    self.add_interface(name, &port, &interface, problem.or_else(|| bond.clone()));
                }
            }
        }
    }

    fn add_interface(
        &mut self,
        bridge: &str,
        port: &RowView<'_>,
        row: &RowView<'_>,
        problem: Option<String>,
    ) {
        let name = row.str("name").to_owned();
        let spec = match problem {
            Some(problem) => Err(problem),
            None => validate::interface(bridge, port, row),
        };
        match spec {
            Ok((spec, notes)) => {
                if !notes.is_empty() {
                    self.port_notes.insert(name.clone(), notes.join("; "));
                }
                if let Some(number) = row.opt_int("ofport").and_then(ofport) {
                    self.numbers.insert(name.clone(), number);
                }
                self.ports.insert(name, spec);
            }
            Err(fault) => {
                self.port_faults.insert(name, fault);
            }
        }
    }
}

/// A number of an ordinary port.
fn ofport(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| (1..=65279).contains(number))
}

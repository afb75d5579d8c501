//! Taking the steps, and keeping book of what runs and of what failed.

use std::collections::BTreeMap;

use super::diff::Step;
use super::model::PortSpec;
use super::target::Target;
use crate::bridge::BridgeConfig;
use crate::datapath::IdlePolicy;
use crate::slowpath::Limits;
use crate::switch::{Balance, PortChange, PortKind, PortOffloads};

/// A port that runs.
#[derive(Clone, PartialEq, Debug)]
pub struct LivePort {
    /// As it was asked for.
    pub spec: PortSpec,
    /// Its OpenFlow number.
    pub ofport: u16,
    /// A part of the request that could not be had.
    pub complaint: Option<String>,
    /// Why a bridge's own port leads nowhere until its device can be made; `None` for a port that is what it should be.
    pub stand_in: Option<String>,
}

/// What runs, and what of the last pass failed.
#[derive(Clone, Default, Debug)]
pub struct Running {
    /// Bridges as last set.
    pub bridges: BTreeMap<String, BridgeConfig>,
    /// Ports by name.
    pub ports: BTreeMap<String, LivePort>,
    /// CPUs of the workers as last asked for; `None` before the first time.
    pub workers: Option<Option<Vec<u32>>>,
    /// Idle policy as last set.
    pub idle: Option<IdlePolicy>,
    /// Spreading of receive queues as last set.
    pub balance: Option<Balance>,
    /// Limits of the slow path as last set.
    pub limits: Option<Limits>,
    /// Bridges that failed in the last pass.
    pub bridge_errors: BTreeMap<String, String>,
    /// Ports that failed in the last pass.
    pub port_errors: BTreeMap<String, String>,
    /// Why workers are not as last asked for.
    pub worker_error: Option<String>,
}

/// Largest payload of a frame where `mtu_request` says nothing.
const DEFAULT_MTU: u16 = 1500;

impl Running {
    /// Takes the steps; a failed one is noted and the rest go on.
    pub fn apply(&mut self, target: &dyn Target, steps: Vec<Step>) {
        self.bridge_errors.clear();
        self.port_errors.clear();
        for step in steps {
            match step {
                Step::RemovePort(name) => self.remove_port(target, &name),
                Step::RemoveBridge(name) => self.remove_bridge(target, &name),
                Step::SetWorkers(cpus) => self.set_workers(target, cpus),
                Step::SetIdle(idle) => {
                    target.set_idle(idle);
                    self.idle = Some(idle);
                }
                Step::SetBalance(balance) => {
                    target.set_balance(balance);
                    self.balance = Some(balance);
                }
                Step::SetLimits(limits) => {
                    target.set_limits(limits);
                    self.limits = Some(limits);
                }
                Step::SetBridge(config) => self.set_bridge(target, config),
                Step::AddPort(spec, before) => self.add_port(target, spec, before),
                Step::ChangePort(spec) => self.change_port(target, spec),
                Step::Heal(name) => self.heal(target, &name),
            }
        }
    }

    /// Whether a later pass may succeed where the last one failed: a path that comes free, a device, a CPU.
    pub fn failing(&self) -> bool {
        !self.bridge_errors.is_empty()
            || !self.port_errors.is_empty()
            || self.worker_error.is_some()
            || self.ports.values().any(|port| port.stand_in.is_some())
    }

    /// Closes a port; a later pass opens it anew if it is wanted.
    pub(super) fn remove_port(&mut self, target: &dyn Target, name: &str) {
        // Whatever it says, the port is not ours any more: keeping it in the book would repeat the failure for ever.
        if let Err(error) = target.remove_port(name) {
            log::warn!("removing port {name}: {error}");
        }
        self.ports.remove(name);
    }

    fn remove_bridge(&mut self, target: &dyn Target, name: &str) {
        if let Err(error) = target.remove_bridge(name) {
            log::warn!("removing bridge {name}: {error}");
        }
        self.bridges.remove(name);
        self.ports.retain(|_, port| port.spec.bridge != name);
    }

    fn set_workers(&mut self, target: &dyn Target, cpus: Option<Vec<u32>>) {
        // Not in the book while it fails, so that the next pass tries again.
        self.worker_error = target.set_workers(cpus.as_deref()).err();
        self.workers = self.worker_error.is_none().then_some(cpus);
    }

    fn set_bridge(&mut self, target: &dyn Target, config: BridgeConfig) {
        let name = config.name.clone();
        match target.set_bridge(config.clone()) {
            Ok(()) => {
                self.bridges.insert(name, config);
            }
            Err(error) => {
                self.bridge_errors.insert(name, error);
            }
        }
    }

    fn add_port(&mut self, target: &dyn Target, spec: PortSpec, before: Option<u16>) {
        if let Some(error) =
            self.bridge_errors.get(&spec.bridge).filter(|_| !self.bridges.contains_key(&spec.bridge))
        {
            let error = format!("bridge {}: {error}", spec.bridge);
            self.port_errors.insert(spec.name, error);
            return;
        }
        let mut added = target.add_port(spec.request(before));
        let mut stand_in = None;
        if let Err(error) = &added
            && spec.local
        {
            // Without privilege there is no TAP, but a bridge between guests needs none: its own port then leads nowhere.
            let mut request = spec.request(before);
            request.kind = PortKind::Null;
            if let Ok(ofport) = target.add_port(request) {
                stand_in = Some(format!("the host cannot reach this bridge, the rest of it works: {error}"));
                added = Ok(ofport);
            }
        }
        match added {
            Ok(ofport) => {
                let mut complaint = None;
                let differs =
                    spec.mtu.is_some() || spec.offloads != PortOffloads::default() || !spec.vdpa.is_empty();
                if differs && stand_in.is_none() {
                    complaint = target.set_port(&spec.name, spec.change(spec.mtu)).err();
                }
                self.ports.insert(spec.name.clone(), LivePort { spec, ofport, complaint, stand_in });
            }
            Err(error) => {
                self.port_errors.insert(spec.name, error);
            }
        }
    }

    /// Puts the real device in the place of a stand-in, once there can be one.
    fn heal(&mut self, target: &dyn Target, name: &str) {
        let Some(live) = self.ports.get(name) else { return };
        let spec = live.spec.clone();
        if target.can_open(&spec.request(None)) {
            self.remove_port(target, name);
            self.add_port(target, spec, None);
        }
    }

    fn change_port(&mut self, target: &dyn Target, spec: PortSpec) {
        let Some(live) = self.ports.get_mut(&spec.name) else { return };
        // One that was refused is asked for again, so that its complaint does not get lost.
        let again = live.complaint.is_some() && spec.mtu.is_some();
        let differs = spec.mtu != live.spec.mtu || again;
        let mtu = (differs && live.stand_in.is_none()).then(|| spec.mtu.unwrap_or(DEFAULT_MTU));
        // What stands in for a device has no offloads and no rings; the device will get them.
        let change = |mtu| match live.stand_in {
            None => spec.change(mtu),
            Some(_) => PortChange { offloads: PortOffloads::default(), vdpa: Vec::new(), ..spec.change(mtu) },
        };
        let mut complaint = target.set_port(&spec.name, change(mtu)).err();
        if complaint.is_some() && mtu.is_some() {
            // The MTU may be what the driver refuses; the rest shall not suffer for it.
            let rest = target.set_port(&spec.name, change(None)).err();
            complaint = rest.or(complaint);
        }
        live.spec = spec;
        live.complaint = complaint;
    }
}

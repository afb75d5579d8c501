//! Taking the steps, and keeping book of what runs and of what failed.

use std::collections::BTreeMap;

use super::diff::Step;
use super::model::PortSpec;
use super::target::Target;
use crate::bridge::BridgeConfig;
use crate::datapath::IdlePolicy;
use crate::switch::PortKind;

/// A port that runs.
#[derive(Clone, PartialEq, Debug)]
pub struct LivePort {
    /// As it was asked for.
    pub spec: PortSpec,
    /// Its OpenFlow number.
    pub ofport: u16,
    /// A part of the request that could not be had.
    pub complaint: Option<String>,
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
    /// Bridges that failed in the last pass.
    pub bridge_errors: BTreeMap<String, String>,
    /// Ports that failed in the last pass.
    pub port_errors: BTreeMap<String, String>,
}

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
                Step::SetBridge(config) => self.set_bridge(target, config),
                Step::AddPort(spec, before) => self.add_port(target, spec, before),
                Step::ChangePort(spec) => self.change_port(target, spec),
            }
        }
    }

    fn remove_port(&mut self, target: &dyn Target, name: &str) {
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
        if let Err(error) = target.set_workers(cpus.as_deref()) {
            log::error!("workers stay as they are: {error}");
        }
        self.workers = Some(cpus);
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
        let mut complaint = None;
        let mut added = target.add_port(spec.request(before));
        if let Err(error) = &added
            && spec.local
        {
            // Without privilege there is no TAP, but a bridge between guests needs none: its own port then leads nowhere.
            let mut stand_in = spec.request(before);
            stand_in.kind = PortKind::Null;
            let instead = target.add_port(stand_in);
            complaint = instead
                .is_ok()
                .then(|| format!("the host cannot reach this bridge, the rest of it works: {error}"));
            if instead.is_ok() {
                added = instead;
            }
        }
        match added {
            Ok(ofport) => {
                if spec.mtu.is_some() && complaint.is_none() {
                    complaint = target.set_port(&spec.name, spec.change(spec.mtu)).err();
                }
                self.ports.insert(spec.name.clone(), LivePort { spec, ofport, complaint });
            }
            Err(error) => {
                self.port_errors.insert(spec.name, error);
            }
        }
    }

    fn change_port(&mut self, target: &dyn Target, spec: PortSpec) {
        let Some(live) = self.ports.get_mut(&spec.name) else { return };
        let mtu = spec.mtu.filter(|_| spec.mtu != live.spec.mtu);
        let mut complaint = target.set_port(&spec.name, spec.change(mtu)).err();
        if complaint.is_some() && mtu.is_some() {
            // The MTU may be what the driver refuses; the rest shall not suffer for it.
            let rest = target.set_port(&spec.name, spec.change(None)).err();
            complaint = rest.or(complaint);
        }
        live.spec = spec;
        live.complaint = complaint;
    }
}

//! What to do so that what runs becomes what is wanted.
//!
//! Order matters: names and numbers are freed before they are taken, bridges exist before their ports, and
//! workers before the queues they poll.

use super::apply::{LivePort, Running};
use super::model::{Desired, PortSpec};
use crate::bridge::BridgeConfig;
use crate::datapath::IdlePolicy;
use crate::slowpath::Limits;
use crate::switch::Balance;

/// One change of the running switch.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// Close a port: it is not wanted, or only a new one can be as wanted.
    RemovePort(String),
    /// Remove a bridge.
    RemoveBridge(String),
    /// Run workers on these CPUs.
    SetWorkers(Option<Vec<u32>>),
    /// Change when they sleep.
    SetIdle(IdlePolicy),
    /// Change how receive queues are spread over workers.
    SetBalance(Balance),
    /// Change how many megaflows there may be and how long they stay.
    SetLimits(Limits),
    /// Add or change a bridge.
    SetBridge(BridgeConfig),
    /// Open a port, with the OpenFlow number it had before if that is free.
    AddPort(PortSpec, Option<u16>),
    /// Change a port while it runs.
    ChangePort(PortSpec),
    /// Try to replace the stand-in of a bridge's own port by the device it should be.
    Heal(String),
}

/// The steps from one to the other, in the order to take them. Empty when they agree.
pub fn diff(running: &Running, desired: &Desired) -> Vec<Step> {
    let mut steps = Vec::new();
    for (name, live) in &running.ports {
        if desired.ports.get(name).is_none_or(|wanted| must_reopen(live, wanted)) {
            steps.push(Step::RemovePort(name.clone()));
        }
    }
    for name in running.bridges.keys().filter(|name| !desired.bridges.contains_key(*name)) {
        steps.push(Step::RemoveBridge(name.clone()));
    }
    // A mask that could not be read leaves the workers as they are.
    match &desired.workers {
        None if running.workers != Some(None) => steps.push(Step::SetWorkers(None)),
        Some(Ok(cpus)) if running.workers != Some(Some(cpus.clone())) => {
            steps.push(Step::SetWorkers(Some(cpus.clone())));
        }
        _ => {}
    }
    if running.idle != Some(desired.idle) {
        steps.push(Step::SetIdle(desired.idle));
    }
    if running.balance != Some(desired.balance) {
        steps.push(Step::SetBalance(desired.balance));
    }
    if running.limits != Some(desired.limits) {
        steps.push(Step::SetLimits(desired.limits));
    }
    for (name, config) in &desired.bridges {
        if running.bridges.get(name) != Some(config) {
            steps.push(Step::SetBridge(config.clone()));
        }
    }
    // Bridges' own ports first, then those that ask for a number, then those that had one, before others can be given it.
    let mut opened = Vec::new();
    for (name, wanted) in &desired.ports {
        match running.ports.get(name) {
            Some(live) if !must_reopen(live, wanted) => {
                if live.spec != *wanted {
                    steps.push(Step::ChangePort(wanted.clone()));
                }
                if live.stand_in.is_some() {
                    steps.push(Step::Heal(name.clone()));
                }
            }
            _ => opened.push((wanted.clone(), desired.numbers.get(name).copied())),
        }
    }
    opened.sort_by_key(|(spec, before)| (!spec.local, spec.ofport_request.is_none(), before.is_none()));
    steps.extend(opened.into_iter().map(|(spec, before)| Step::AddPort(spec, before)));
    steps
}

/// Whether the difference cannot be made while the port runs.
fn must_reopen(live: &LivePort, wanted: &PortSpec) -> bool {
    let spec = &live.spec;
    let renumber = wanted.ofport_request != spec.ofport_request
        && wanted.ofport_request.is_some_and(|number| number != live.ofport);
    spec.kind != wanted.kind || spec.bridge != wanted.bridge || spec.local != wanted.local || renumber
}

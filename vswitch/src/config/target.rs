//! What configuration needs of a switch.

use crate::bridge::BridgeConfig;
use crate::datapath::IdlePolicy;
use crate::slowpath::Limits;
use crate::switch::{Balance, PortChange, PortReport, PortRequest, Switch, SwitchError};

/// The running side. Methods are called from one thread; errors are texts for the operator.
pub trait Target: Send + Sync {
    /// One worker on each of these CPUs; `None` lets the switch choose.
    fn set_workers(&self, cpus: Option<&[u32]>) -> Result<(), String>;
    /// When workers sleep.
    fn set_idle(&self, idle: IdlePolicy);
    /// How receive queues are spread over workers.
    fn set_balance(&self, balance: Balance);
    /// How many megaflows there may be and how long they stay.
    fn set_limits(&self, limits: Limits);
    /// Adds or changes a bridge.
    fn set_bridge(&self, config: BridgeConfig) -> Result<(), String>;
    /// Removes a bridge with its ports.
    fn remove_bridge(&self, name: &str) -> Result<(), String>;
    /// Whether the device of a request can be opened now. Opens and closes it; the switch does not change.
    fn can_open(&self, request: &PortRequest) -> bool;
    /// Opens a port and joins it to its bridge; gives its OpenFlow number.
    fn add_port(&self, request: PortRequest) -> Result<u16, String>;
    /// Changes a running port.
    fn set_port(&self, name: &str, change: PortChange) -> Result<(), String>;
    /// Closes a port.
    fn remove_port(&self, name: &str) -> Result<(), String>;
    /// Returns when all changes made before are live.
    fn sync(&self);
    /// State and counters of all ports.
    fn reports(&self) -> Vec<PortReport>;
    /// Counters of a port that somebody else has: see [`pmd::port::Port::counters_elsewhere`].
    fn counters_elsewhere(&self, name: &str) -> Vec<(&'static str, u64)>;
}

fn text(result: Result<(), SwitchError>) -> Result<(), String> {
    result.map_err(|error| error.to_string())
}

impl Target for Switch {
    fn set_workers(&self, cpus: Option<&[u32]>) -> Result<(), String> {
        text(self.set_workers(cpus))
    }

    fn set_idle(&self, idle: IdlePolicy) {
        self.set_idle(idle);
    }

    fn set_balance(&self, balance: Balance) {
        self.set_balance(balance);
    }

    fn set_limits(&self, limits: Limits) {
        self.set_limits(limits);
    }

    fn set_bridge(&self, config: BridgeConfig) -> Result<(), String> {
        text(self.set_bridge(config))
    }

    fn remove_bridge(&self, name: &str) -> Result<(), String> {
        text(self.remove_bridge(name))
    }

    fn can_open(&self, request: &PortRequest) -> bool {
        self.can_open(request)
    }

    fn add_port(&self, request: PortRequest) -> Result<u16, String> {
        self.add_port(request).map_err(|error| error.to_string())
    }

    fn set_port(&self, name: &str, change: PortChange) -> Result<(), String> {
        text(self.set_port(name, change))
    }

    fn remove_port(&self, name: &str) -> Result<(), String> {
        text(self.remove_port(name))
    }

    fn sync(&self) {
        self.sync();
    }

    fn reports(&self) -> Vec<PortReport> {
        self.port_reports(None)
    }

    fn counters_elsewhere(&self, name: &str) -> Vec<(&'static str, u64)> {
        self.counters_elsewhere(name)
    }
}

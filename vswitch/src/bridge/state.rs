//! One bridge, and all of them together, as plain data.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use flowtable::key::{FlowMatch, PortNo};
use flowtable::rules::{OFPORT_LOCAL, Rule, RuleAction, RuleTable};
use flowtable::seeded::SeededMap;

use super::config::{BridgeConfig, FailMode};
use super::error::BridgeError;
use super::mac_table::MacTable;
use super::vlan::{PortVlans, VlanConfig, VlanSet};

/// Largest OpenFlow number an ordinary port can have.
pub const OFPORT_MAX: u16 = 0xfeff;

/// Identity of a bridge for as long as it lives; never given again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BridgeId(pub u32);

/// A port of a bridge.
#[derive(Debug)]
pub(crate) struct BridgePort {
    pub(crate) name: String,
    pub(crate) ofport: u16,
    pub(crate) dp: PortNo,
    pub(crate) vlan: VlanConfig,
    pub(crate) vlans: PortVlans,
    pub(crate) no_flood: bool,
    /// The operator has taken it down: nothing is learned of it.
    pub(crate) down: bool,
    /// Nobody is behind it now (no carrier, no guest): floods leave it out.
    pub(crate) no_link: bool,
}

/// A bridge.
pub(crate) struct Bridge {
    pub(crate) id: BridgeId,
    pub(crate) config: BridgeConfig,
    /// Epoch of its last change, other than those of `floods_epoch`.
    pub(crate) epoch: u64,
    /// Epoch of the last change that concerns floods alone: which ports take part in them.
    pub(crate) floods_epoch: u64,
    pub(crate) ports: BTreeMap<u16, BridgePort>,
    pub(crate) rules: RuleTable,
    pub(crate) flood_vlans: VlanSet,
    macs: Mutex<MacTable>,
}

impl Bridge {
    pub(super) fn new(id: BridgeId, config: BridgeConfig, now_ms: u64) -> Result<Bridge, BridgeError> {
        let flood_vlans = flood_set(&config)?;
        let (limit, ageing_ms) = mac_limits(&config);
        let mut rules = RuleTable::new();
        if config.fail_mode == FailMode::Standalone {
            rules.add(Rule::new(0, FlowMatch::default(), vec![RuleAction::Normal], now_ms));
        }
        let macs = Mutex::new(MacTable::new(limit, ageing_ms));
        let ports = BTreeMap::new();
        Ok(Bridge { id, config, epoch: 0, floods_epoch: 0, ports, rules, flood_vlans, macs })
    }

    /// Takes new settings.
    pub(super) fn configure(&mut self, config: BridgeConfig) -> Result<(), BridgeError> {
        self.flood_vlans = flood_set(&config)?;
        let (limit, ageing_ms) = mac_limits(&config);
        self.macs().set_limits(limit, ageing_ms);
        if self.config.flood_vlans != config.flood_vlans {
            self.macs().flush();
        }
        self.config = config;
        Ok(())
    }

    /// Whether a translation of that epoch still holds, as far as it does not depend on learned addresses.
    pub(crate) fn is_as_at(&self, epoch: u64, floods: bool) -> bool {
        self.epoch <= epoch && (!floods || self.floods_epoch <= epoch)
    }

    pub(crate) fn macs(&self) -> MutexGuard<'_, MacTable> {
        // A panic elsewhere cannot have left a half-done operation of the table that matters: at worst an entry is lost.
        self.macs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number a new port gets.
    pub(super) fn choose_ofport(&self, request: Option<u16>, local: bool) -> Option<u16> {
        if local {
            return Some(OFPORT_LOCAL);
        }
        let free = |port: &u16| (1..=OFPORT_MAX).contains(port) && !self.ports.contains_key(port);
        request.filter(free).or_else(|| (1..=OFPORT_MAX).find(free))
    }
}

impl fmt::Debug for Bridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bridge")
            .field("config", &self.config)
            .field("ports", &self.ports)
            .field("rules", &self.rules.iter().collect::<Vec<_>>())
            .field("macs", &self.macs().entries(0))
            .finish_non_exhaustive()
    }
}

fn flood_set(config: &BridgeConfig) -> Result<VlanSet, BridgeError> {
    VlanSet::new(&config.flood_vlans)
        .map_err(|vlan| BridgeError::FloodVlan { bridge: config.name.clone(), vlan })
}

fn mac_limits(config: &BridgeConfig) -> (usize, u64) {
    (config.mac_table_size.max(1), u64::from(config.mac_ageing_s.max(1)) * 1000)
}

/// Everything behind the lock of [`super::Bridges`].
#[derive(Default)]
pub(crate) struct State {
    pub(super) bridges: BTreeMap<BridgeId, Bridge>,
    pub(super) names: BTreeMap<String, BridgeId>,
    pub(super) ports: SeededMap<PortNo, (BridgeId, u16)>,
    pub(super) port_names: BTreeMap<String, PortNo>,
    pub(super) next_id: u32,
    pub(super) epoch: u64,
}

impl State {
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) fn bridge(&self, id: BridgeId) -> Option<&Bridge> {
        self.bridges.get(&id)
    }

    pub(crate) fn bridge_named(&self, name: &str) -> Result<&Bridge, BridgeError> {
        let id = self.names.get(name);
        id.and_then(|id| self.bridges.get(id)).ok_or_else(|| BridgeError::NoBridge { name: name.to_owned() })
    }

    pub(super) fn bridge_named_mut(&mut self, name: &str) -> Result<&mut Bridge, BridgeError> {
        let id = self.names.get(name);
        id.and_then(|id| self.bridges.get_mut(id))
            .ok_or_else(|| BridgeError::NoBridge { name: name.to_owned() })
    }

    /// The bridge and port a datapath number belongs to.
    pub(crate) fn port(&self, dp: PortNo) -> Option<(&Bridge, &BridgePort)> {
        let (id, ofport) = self.ports.get(&dp)?;
        let bridge = self.bridges.get(id)?;
        Some((bridge, bridge.ports.get(ofport)?))
    }

    /// Notes a change of a bridge.
    pub(super) fn touch(&mut self, id: BridgeId) {
        self.epoch += 1;
        if let Some(bridge) = self.bridges.get_mut(&id) {
            bridge.epoch = self.epoch;
        }
    }

    /// Notes that other ports of a bridge take part in floods than before.
    pub(super) fn touch_floods(&mut self, id: BridgeId) {
        self.epoch += 1;
        if let Some(bridge) = self.bridges.get_mut(&id) {
            bridge.floods_epoch = self.epoch;
        }
    }
}

//! Ports of bridges: joining, leaving, VLAN settings, names and numbers.

use flowtable::key::PortNo;
use flowtable::rules::OFPORT_LOCAL;

use super::bridges::Bridges;
use super::config::BridgePortConfig;
use super::error::BridgeError;
use super::state::{BridgePort, State};
use super::vlan::{PortVlans, VlanConfig};

/// A port of a bridge, for display.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortView {
    /// Name.
    pub name: String,
    /// OpenFlow number.
    pub ofport: u16,
    /// Datapath number.
    pub dp: PortNo,
    /// VLANs it carries.
    pub vlan: VlanConfig,
    /// Whether floods leave it out.
    pub no_flood: bool,
}

impl Bridges {
    /// Joins a port to a bridge and returns its OpenFlow number: the one requested if it is free, otherwise the
    /// lowest free one, or `LOCAL` for the bridge's own port.
    pub fn add_port(&self, bridge: &str, config: BridgePortConfig) -> Result<u16, BridgeError> {
        let BridgePortConfig { name: port, dp, ofport_request, local, vlan } = config;
        let vlans =
            PortVlans::new(&vlan).map_err(|source| BridgeError::Vlan { port: port.clone(), source })?;
        let mut state = self.write();
        check_free(&state, bridge, &port, dp)?;
        let home = state.bridge_named_mut(bridge)?;
        if local && let Some(holder) = home.ports.get(&OFPORT_LOCAL) {
            let (bridge, holder) = (bridge.to_owned(), holder.name.clone());
            return Err(BridgeError::LocalTaken { bridge, holder, port });
        }
        let Some(ofport) = home.choose_ofport(ofport_request, local) else {
            return Err(BridgeError::NoOfport { bridge: bridge.to_owned(), port });
        };
        let id = home.id;
        let name = port.clone();
        let joined =
            BridgePort { name, ofport, dp, vlan, vlans, no_flood: false, down: false, no_link: false };
        home.ports.insert(ofport, joined);
        state.ports.insert(dp, (id, ofport));
        state.port_names.insert(port, dp);
        state.touch(id);
        Ok(ofport)
    }

    /// Takes a port off its bridge and forgets what was learned on it.
    pub fn remove_port(&self, name: &str) -> Result<(), BridgeError> {
        let mut state = self.write();
        let dp = number(&state, name)?;
        state.port_names.remove(name);
        let Some((id, ofport)) = state.ports.remove(&dp) else { return Ok(()) };
        if let Some(bridge) = state.bridges.get_mut(&id) {
            bridge.ports.remove(&ofport);
            bridge.macs().flush_port(ofport);
        }
        state.touch(id);
        Ok(())
    }

    /// Changes the VLANs a port carries and forgets what was learned on it.
    pub fn set_port_vlan(&self, name: &str, vlan: VlanConfig) -> Result<(), BridgeError> {
        let vlans =
            PortVlans::new(&vlan).map_err(|source| BridgeError::Vlan { port: name.to_owned(), source })?;
        self.change_port(name, |port| {
            let changed = port.vlans != vlans;
            (port.vlan, port.vlans) = (vlan, vlans);
            Change { concerns: Concerns::all_if(changed), forget: changed }
        })
    }

    /// Forgets what was learned on a port: what is behind it is reached another way now.
    pub fn flush_port(&self, name: &str) -> Result<(), BridgeError> {
        self.change_port(name, |_| Change { concerns: Concerns::All, forget: true })
    }

    /// The operator has taken a port down, or up again. What was learned on one that goes down is forgotten, and what comes late of its last frames is not
    /// learned: whoever was behind it may be found elsewhere meanwhile.
    pub fn set_port_admin(&self, name: &str, up: bool) -> Result<(), BridgeError> {
        self.change_port(name, |port| {
            let changed = std::mem::replace(&mut port.down, !up) == up;
            Change { concerns: Concerns::all_if(changed), forget: changed && !up }
        })
    }

    /// The link of a port has come up or gone. Floods leave out a port without one: each packet sent there would be copied for nobody. What was
    /// learned on it stays, because a link that comes back mostly has the same hosts behind it.
    pub fn set_port_link(&self, name: &str, up: bool) -> Result<(), BridgeError> {
        self.change_port(name, |port| {
            let changed = std::mem::replace(&mut port.no_link, !up) == up;
            Change { concerns: Concerns::floods_if(changed), forget: false }
        })
    }

    /// Changes whether floods leave a port out.
    pub fn set_port_no_flood(&self, name: &str, no_flood: bool) -> Result<(), BridgeError> {
        self.change_port(name, |port| {
            let changed = std::mem::replace(&mut port.no_flood, no_flood) != no_flood;
            Change { concerns: Concerns::floods_if(changed), forget: false }
        })
    }

    fn change_port(
        &self,
        name: &str,
        change: impl FnOnce(&mut BridgePort) -> Change,
    ) -> Result<(), BridgeError> {
        let mut state = self.write();
        let dp = number(&state, name)?;
        let Some(&(id, ofport)) = state.ports.get(&dp) else { return Ok(()) };
        let Some(bridge) = state.bridges.get_mut(&id) else { return Ok(()) };
        let Some(port) = bridge.ports.get_mut(&ofport) else { return Ok(()) };
        let change = change(port);
        if change.forget {
            bridge.macs().flush_port(ofport);
        }
        match change.concerns {
            Concerns::Nothing => {}
            Concerns::Floods => state.touch_floods(id),
            Concerns::All => state.touch(id),
        }
        Ok(())
    }

    /// Ports of a bridge in order of their OpenFlow numbers.
    pub fn ports(&self, bridge: &str) -> Result<Vec<PortView>, BridgeError> {
        let state = self.read();
        let ports = state.bridge_named(bridge)?.ports.values();
        Ok(ports.map(view).collect())
    }

    /// A port by its name, and the name of its bridge.
    pub fn port(&self, name: &str) -> Option<(String, PortView)> {
        let state = self.read();
        let (bridge, port) = state.port(*state.port_names.get(name)?)?;
        Some((bridge.config.name.clone(), view(port)))
    }

    /// Name of the bridge a datapath port is on.
    pub fn bridge_of_port(&self, dp: PortNo) -> Option<String> {
        let state = self.read();
        state.port(dp).map(|(bridge, _)| bridge.config.name.clone())
    }
}

/// What a change of a port entails.
struct Change {
    concerns: Concerns,
    forget: bool,
}

/// Which translations a change may alter.
enum Concerns {
    Nothing,
    Floods,
    All,
}

impl Concerns {
    fn all_if(changed: bool) -> Concerns {
        if changed { Concerns::All } else { Concerns::Nothing }
    }

    fn floods_if(changed: bool) -> Concerns {
        if changed { Concerns::Floods } else { Concerns::Nothing }
    }
}

fn view(port: &BridgePort) -> PortView {
    PortView {
        name: port.name.clone(),
        ofport: port.ofport,
        dp: port.dp,
        vlan: port.vlan.clone(),
        no_flood: port.no_flood,
    }
}

fn number(state: &State, name: &str) -> Result<PortNo, BridgeError> {
    state.port_names.get(name).copied().ok_or_else(|| BridgeError::UnknownPort { port: name.to_owned() })
}

fn check_free(state: &State, bridge: &str, port: &str, dp: PortNo) -> Result<(), BridgeError> {
    if dp == PortNo::NONE {
        return Err(BridgeError::NoNumber { bridge: bridge.to_owned(), port: port.to_owned() });
    }
    if let Some((on, _)) = state.port_names.get(port).and_then(|&dp| state.port(dp)) {
        return Err(BridgeError::PortExists { port: port.to_owned(), on: on.config.name.clone() });
    }
    if let Some((on, holder)) = state.port(dp) {
        let (holder, on) = (holder.name.clone(), on.config.name.clone());
        return Err(BridgeError::NumberTaken { port: port.to_owned(), dp, holder, on });
    }
    Ok(())
}

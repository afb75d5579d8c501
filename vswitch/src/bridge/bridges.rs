//! All bridges behind one lock, and changes to them.

use std::fmt;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::clock::Clock;
use super::config::BridgeConfig;
use super::error::BridgeError;
use super::state::{Bridge, BridgeId, State};

/// The bridges of a switch. Shared by the slow path and management; every method may be called from any thread
/// and may wait for another, but for nothing else.
#[derive(Default)]
pub struct Bridges {
    state: RwLock<State>,
    clock: Clock,
}

impl Bridges {
    /// No bridges, on the switch's clock.
    pub fn new() -> Bridges {
        Bridges::default()
    }

    /// No bridges, on another clock.
    pub fn with_clock(clock: Clock) -> Bridges {
        Bridges { state: RwLock::default(), clock }
    }

    /// The clock of rules and learned addresses.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Counts the changes that can alter a translation. Learning an address is not one of them: see
    /// [`Bridges::take_mac_changes`].
    pub fn epoch(&self) -> u64 {
        self.read().epoch
    }

    /// Adds a bridge, or gives the one of that name new settings. A new bridge forwards by the rule
    /// `priority=0 actions=NORMAL`, unless its fail mode is secure.
    pub fn set_bridge(&self, config: BridgeConfig) -> Result<(), BridgeError> {
        let now_ms = self.clock.now_ms();
        let mut state = self.write();
        if let Some(&id) = state.names.get(&config.name) {
            let Some(bridge) = state.bridges.get_mut(&id).filter(|bridge| bridge.config != config) else {
                return Ok(());
            };
            bridge.configure(config)?;
            state.touch(id);
            return Ok(());
        }
        let id = BridgeId(state.next_id);
        let bridge = Bridge::new(id, config, now_ms)?;
        state.next_id += 1;
        state.names.insert(bridge.config.name.clone(), id);
        state.bridges.insert(id, bridge);
        state.touch(id);
        Ok(())
    }

    /// Removes a bridge; its ports are then on no bridge.
    pub fn remove_bridge(&self, name: &str) -> Result<(), BridgeError> {
        let mut state = self.write();
        let id = state.bridge_named(name)?.id;
        state.names.remove(name);
        if let Some(bridge) = state.bridges.remove(&id) {
            for port in bridge.ports.values() {
                state.ports.remove(&port.dp);
                state.port_names.remove(&port.name);
            }
        }
        state.touch(id);
        Ok(())
    }

    /// Names of all bridges, in order.
    pub fn names(&self) -> Vec<String> {
        self.read().names.keys().cloned().collect()
    }

    /// Settings of a bridge.
    pub fn config(&self, name: &str) -> Result<BridgeConfig, BridgeError> {
        Ok(self.read().bridge_named(name)?.config.clone())
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        // Every change is checked before it is made, so a panic elsewhere leaves a state that can be used.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Bridges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.read().bridges.values()).finish()
    }
}

#[cfg(test)]
mod tests;

//! Learned addresses of the bridges: noting, showing, forgetting them, and telling the slow path what changed.

use super::bridges::Bridges;
use super::error::BridgeError;
use super::mac_table::{Learned, MacChange, MacKey, MacStats};
use super::state::{Bridge, BridgeId};

/// What a translation found out about the sender of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Learn {
    /// The bridge the packet is on.
    pub bridge: BridgeId,
    /// Source address and VLAN.
    pub key: MacKey,
    /// OpenFlow number of the port of arrival.
    pub port: u16,
}

/// The answer to a MAC lookup changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BridgeMacChange {
    /// On which bridge.
    pub bridge: BridgeId,
    /// What changed.
    pub change: MacChange,
}

/// A learned address, for display.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FdbEntry {
    /// OpenFlow number of the port.
    pub ofport: u16,
    /// Name of the port.
    pub port: String,
    /// VLAN; zero for none.
    pub vlan: u16,
    /// The address.
    pub mac: [u8; 6],
    /// Seconds since it was last heard of.
    pub age_s: u64,
}

fn may_learn(bridge: &Bridge, learn: &Learn, epoch: u64) -> bool {
    bridge.epoch <= epoch && bridge.ports.get(&learn.port).is_none_or(|port| !port.down)
}

impl Bridges {
    /// Notes who sent a packet. `epoch` is that of the translation that said so; if the bridge has changed since, the
    /// port may be another one and nothing is noted; neither is it of a port that is down.
    pub(crate) fn learn(&self, learn: &Learn, epoch: u64, now_ms: u64) -> Option<Learned> {
        let state = self.read();
        let bridge = state.bridge(learn.bridge).filter(|bridge| may_learn(bridge, learn, epoch))?;
        Some(bridge.macs().learn(learn.key, learn.port, now_ms))
    }

    /// Notes that frames from a sender still came at `seen_ms`, as flow counters say.
    pub(crate) fn refresh(&self, learn: &Learn, epoch: u64, seen_ms: u64) {
        let state = self.read();
        if let Some(bridge) = state.bridge(learn.bridge).filter(|bridge| may_learn(bridge, learn, epoch)) {
            bridge.macs().refresh(learn.key, learn.port, seen_ms);
        }
    }

    /// Forgets addresses not heard of for too long.
    pub fn expire_macs(&self, now_ms: u64) {
        for bridge in self.read().bridges.values() {
            bridge.macs().expire(now_ms);
        }
    }

    /// Which lookups of learned addresses have another answer than at the last call.
    pub fn take_mac_changes(&self, changes: &mut Vec<BridgeMacChange>) {
        for bridge in self.read().bridges.values() {
            let of_bridge = bridge.macs().take_changes();
            changes.extend(of_bridge.into_iter().map(|change| BridgeMacChange { bridge: bridge.id, change }));
        }
    }

    /// Learned addresses of a bridge, the longest not heard of first.
    pub fn fdb(&self, bridge: &str) -> Result<Vec<FdbEntry>, BridgeError> {
        let now_ms = self.clock().now_ms();
        let state = self.read();
        let bridge = state.bridge_named(bridge)?;
        let entries = bridge.macs().entries(now_ms);
        Ok(entries
            .into_iter()
            .map(|entry| FdbEntry {
                ofport: entry.port,
                port: port_name(bridge, entry.port),
                vlan: entry.key.vlan,
                mac: entry.key.mac,
                age_s: entry.age_ms / 1000,
            })
            .collect())
    }

    /// Counts of a bridge's MAC table.
    pub fn fdb_stats(&self, bridge: &str) -> Result<MacStats, BridgeError> {
        Ok(self.read().bridge_named(bridge)?.macs().stats())
    }

    /// Forgets all learned addresses of a bridge; returns how many there were.
    pub fn fdb_flush(&self, bridge: &str) -> Result<usize, BridgeError> {
        let mut state = self.write();
        let bridge = state.bridge_named(bridge)?;
        let forgotten = bridge.macs().len();
        bridge.macs().flush();
        let id = bridge.id;
        state.touch(id);
        Ok(forgotten)
    }
}

fn port_name(bridge: &Bridge, ofport: u16) -> String {
    bridge.ports.get(&ofport).map(|port| port.name.clone()).unwrap_or_default()
}

//! What the operator asks of a bridge and of a port on it.

use flowtable::key::PortNo;

use super::vlan::VlanConfig;

/// Default of [`BridgeConfig::mac_ageing_s`].
pub const DEFAULT_MAC_AGEING_S: u32 = 300;

/// Default of [`BridgeConfig::mac_table_size`].
pub const DEFAULT_MAC_TABLE_SIZE: usize = 8192;

/// Whether a bridge without a controller forwards by itself (`Bridge.fail_mode`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum FailMode {
    /// It learns MACs and forwards: a new bridge has the rule `priority=0 actions=NORMAL`.
    #[default]
    Standalone,
    /// It forwards nothing that no rule asks for: a new bridge has no rules.
    Secure,
}

/// A bridge as the operator wants it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BridgeConfig {
    /// Unique name.
    pub name: String,
    /// OpenFlow datapath id, if one was asked for.
    pub datapath_id: Option<u64>,
    /// Seconds after which a MAC that was not heard of is forgotten (`mac-aging-time`). Zero counts as one.
    pub mac_ageing_s: u32,
    /// Most MACs remembered (`mac-table-size`). Zero counts as one.
    pub mac_table_size: usize,
    /// VLANs on which nothing is learned and everything is flooded (`flood_vlans`).
    pub flood_vlans: Vec<u16>,
    /// What a new bridge does without rules from elsewhere.
    pub fail_mode: FailMode,
    /// Whether `normal` forwards frames to 01:80:c2:00:00:0x (`forward-bpdu`).
    pub forward_bpdu: bool,
}

impl BridgeConfig {
    /// A bridge with the defaults.
    pub fn new(name: impl Into<String>) -> BridgeConfig {
        BridgeConfig {
            name: name.into(),
            datapath_id: None,
            mac_ageing_s: DEFAULT_MAC_AGEING_S,
            mac_table_size: DEFAULT_MAC_TABLE_SIZE,
            flood_vlans: Vec::new(),
            fail_mode: FailMode::Standalone,
            forward_bpdu: false,
        }
    }
}

/// A port of a bridge as the operator wants it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BridgePortConfig {
    /// Name, unique over all bridges.
    pub name: String,
    /// Its number on the datapath.
    pub dp: PortNo,
    /// OpenFlow number wanted; honoured when it is free and between 1 and 65279.
    pub ofport_request: Option<u16>,
    /// Whether it is the bridge's own port, which has the number `LOCAL`.
    pub local: bool,
    /// VLANs the port carries.
    pub vlan: VlanConfig,
}

impl BridgePortConfig {
    /// A trunk port for all VLANs, number chosen by the bridge.
    pub fn new(name: impl Into<String>, dp: PortNo) -> BridgePortConfig {
        BridgePortConfig {
            name: name.into(),
            dp,
            ofport_request: None,
            local: false,
            vlan: VlanConfig::default(),
        }
    }
}

//! The `Open_vSwitch` schema: the tables and columns every OVS tool knows, as a Rust table.
//!
//! Names and types follow schema 8.x, because the IDL in stock clients checks the columns it uses; what a
//! column means to this switch is `docs/`' business. Compact builders instead of JSON: a typo is a compile
//! error or a failing test, and one line is one column.

use std::sync::Arc;

use super::{BaseType, ColumnSchema, ColumnType, Constraint, DatabaseSchema, TableSchema};
use crate::OvsdbError;
use crate::value::{AtomType, Datum};

/// Type of set elements, map keys or values.
#[derive(Copy, Clone)]
pub(super) enum Key {
    Int(i64, i64),
    Bool,
    Str,
    Uuid,
    Enum(&'static [&'static str]),
    Strong(&'static str),
    Weak(&'static str),
}

/// One column's type and storage.
#[derive(Copy, Clone)]
pub(super) struct Spec {
    key: Key,
    value: Option<Key>,
    min: u32,
    max: u32,
    ephemeral: bool,
    fixed: bool,
}

/// One table.
#[derive(Copy, Clone)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) columns: &'static [(&'static str, Spec)],
    pub(super) root: bool,
    pub(super) max_rows: u64,
    pub(super) index: &'static [&'static str],
}

const MANY: u32 = ColumnType::UNLIMITED;
const U32: i64 = u32::MAX as i64;

const fn spec(key: Key, value: Option<Key>, min: u32, max: u32) -> Spec {
    Spec { key, value, min, max, ephemeral: false, fixed: false }
}
pub(super) const fn one(key: Key) -> Spec {
    spec(key, None, 1, 1)
}
pub(super) const fn opt(key: Key) -> Spec {
    spec(key, None, 0, 1)
}
const fn set(key: Key) -> Spec {
    spec(key, None, 0, MANY)
}
const fn some(key: Key) -> Spec {
    spec(key, None, 1, MANY)
}
const fn up_to(key: Key, max: u32) -> Spec {
    spec(key, None, 0, max)
}
const fn map(key: Key, value: Key) -> Spec {
    spec(key, Some(value), 0, MANY)
}
pub(super) const fn string() -> Spec {
    one(Key::Str)
}
pub(super) const fn boolean() -> Spec {
    one(Key::Bool)
}
pub(super) const fn int() -> Key {
    Key::Int(i64::MIN, i64::MAX)
}
const fn at_least(min: i64) -> Key {
    Key::Int(min, i64::MAX)
}
const fn strings() -> Spec {
    map(Key::Str, Key::Str)
}
const fn counters() -> Spec {
    map(Key::Str, int()).eph()
}
const VLAN: Key = Key::Int(0, 4095);
const UP_DOWN: Key = Key::Enum(&["up", "down"]);

impl Spec {
    /// Lost on restart.
    const fn eph(self) -> Spec {
        Spec { ephemeral: true, ..self }
    }

    /// Settable at insert only.
    const fn fixed(self) -> Spec {
        Spec { fixed: true, ..self }
    }
}

const OPEN_VSWITCH: &[(&str, Spec)] = &[
    ("datapaths", map(Key::Str, Key::Strong("Datapath"))),
    ("bridges", set(Key::Strong("Bridge"))),
    ("manager_options", set(Key::Strong("Manager"))),
    ("ssl", opt(Key::Strong("SSL"))),
    ("other_config", strings()),
    ("external_ids", strings()),
    ("next_cfg", one(int())),
    ("cur_cfg", one(int())),
    ("statistics", strings().eph()),
    ("ovs_version", opt(Key::Str)),
    ("db_version", opt(Key::Str)),
    ("system_type", opt(Key::Str)),
    ("system_version", opt(Key::Str)),
    ("datapath_types", set(Key::Str)),
    ("iface_types", set(Key::Str)),
    ("dpdk_initialized", boolean()),
    ("dpdk_version", opt(Key::Str)),
];

const PROTOCOLS: Key =
    Key::Enum(&["OpenFlow10", "OpenFlow11", "OpenFlow12", "OpenFlow13", "OpenFlow14", "OpenFlow15"]);

const BRIDGE: &[(&str, Spec)] = &[
    ("name", string().fixed()),
    ("datapath_type", string()),
    ("datapath_version", string()),
    ("datapath_id", opt(Key::Str).eph()),
    ("stp_enable", boolean()),
    ("rstp_enable", boolean()),
    ("mcast_snooping_enable", boolean()),
    ("ports", set(Key::Strong("Port"))),
    ("mirrors", set(Key::Strong("Mirror"))),
    ("netflow", opt(Key::Strong("NetFlow"))),
    ("sflow", opt(Key::Strong("sFlow"))),
    ("ipfix", opt(Key::Strong("IPFIX"))),
    ("controller", set(Key::Strong("Controller"))),
    ("protocols", set(PROTOCOLS)),
    ("fail_mode", opt(Key::Enum(&["standalone", "secure"]))),
    ("status", strings().eph()),
    ("rstp_status", strings().eph()),
    ("other_config", strings()),
    ("external_ids", strings()),
    ("flood_vlans", up_to(VLAN, 4096)),
    ("flow_tables", map(Key::Int(0, 254), Key::Strong("Flow_Table"))),
    ("auto_attach", opt(Key::Strong("AutoAttach"))),
];

const VLAN_MODE: Key = Key::Enum(&["trunk", "access", "native-tagged", "native-untagged", "dot1q-tunnel"]);

const PORT: &[(&str, Spec)] = &[
    ("name", string().fixed()),
    ("interfaces", some(Key::Strong("Interface"))),
    ("trunks", up_to(VLAN, 4096)),
    ("cvlans", up_to(VLAN, 4096)),
    ("tag", opt(VLAN)),
    ("vlan_mode", opt(VLAN_MODE)),
    ("qos", opt(Key::Strong("QoS"))),
    ("mac", opt(Key::Str)),
    ("bond_mode", opt(Key::Enum(&["balance-tcp", "balance-slb", "active-backup"]))),
    ("lacp", opt(Key::Enum(&["active", "passive", "off"]))),
    ("bond_updelay", one(int())),
    ("bond_downdelay", one(int())),
    ("bond_active_slave", opt(Key::Str)),
    ("bond_fake_iface", boolean()),
    ("fake_bridge", boolean()),
    ("status", strings().eph()),
    ("rstp_status", strings().eph()),
    ("rstp_statistics", counters()),
    ("statistics", counters()),
    ("protected", boolean()),
    ("other_config", strings()),
    ("external_ids", strings()),
];

const INTERFACE: &[(&str, Spec)] = &[
    ("name", string().fixed()),
    ("type", string()),
    ("options", strings()),
    ("ingress_policing_rate", one(at_least(0))),
    ("ingress_policing_burst", one(at_least(0))),
    ("ingress_policing_kpkts_rate", one(at_least(0))),
    ("ingress_policing_kpkts_burst", one(at_least(0))),
    ("mac_in_use", opt(Key::Str).eph()),
    ("mac", opt(Key::Str)),
    ("ifindex", opt(Key::Int(0, U32)).eph()),
    ("external_ids", strings()),
    ("ofport", opt(int())),
    ("ofport_request", opt(Key::Int(1, 65279))),
    ("bfd", strings()),
    ("bfd_status", strings().eph()),
    ("cfm_mpid", opt(int())),
    ("cfm_remote_mpids", set(int()).eph()),
    ("cfm_flap_count", opt(int())),
    ("cfm_fault", opt(Key::Bool).eph()),
    ("cfm_fault_status", set(Key::Str).eph()),
    ("cfm_remote_opstate", opt(UP_DOWN).eph()),
    ("cfm_health", opt(Key::Int(0, 100)).eph()),
    ("lacp_current", opt(Key::Bool).eph()),
    ("lldp", strings()),
    ("other_config", strings()),
    ("statistics", counters()),
    ("status", strings().eph()),
    ("admin_state", opt(UP_DOWN).eph()),
    ("link_state", opt(UP_DOWN).eph()),
    ("link_resets", opt(int()).eph()),
    ("link_speed", opt(int()).eph()),
    ("duplex", opt(Key::Enum(&["half", "full"])).eph()),
    ("mtu", opt(int()).eph()),
    ("mtu_request", opt(at_least(1))),
    ("error", opt(Key::Str)),
];

const FLOW_TABLE: &[(&str, Spec)] = &[
    ("name", opt(Key::Str)),
    ("flow_limit", opt(at_least(0))),
    ("overflow_policy", opt(Key::Enum(&["refuse", "evict"]))),
    ("groups", set(Key::Str)),
    ("prefixes", up_to(Key::Str, 4)),
    ("external_ids", strings()),
];

const QOS: &[(&str, Spec)] = &[
    ("type", string()),
    ("queues", map(Key::Int(0, U32), Key::Strong("Queue"))),
    ("other_config", strings()),
    ("external_ids", strings()),
];

const QUEUE: &[(&str, Spec)] =
    &[("dscp", opt(Key::Int(0, 63))), ("other_config", strings()), ("external_ids", strings())];

const MIRROR: &[(&str, Spec)] = &[
    ("name", string()),
    ("select_all", boolean()),
    ("select_src_port", set(Key::Weak("Port"))),
    ("select_dst_port", set(Key::Weak("Port"))),
    ("select_vlan", up_to(VLAN, 4096)),
    ("output_port", opt(Key::Weak("Port"))),
    ("output_vlan", opt(Key::Int(1, 4095))),
    ("snaplen", opt(Key::Int(14, 65535))),
    ("statistics", counters()),
    ("external_ids", strings()),
];

const NETFLOW: &[(&str, Spec)] = &[
    ("targets", some(Key::Str)),
    ("engine_type", opt(Key::Int(0, 255))),
    ("engine_id", opt(Key::Int(0, 255))),
    ("add_id_to_interface", boolean()),
    ("active_timeout", one(at_least(-1))),
    ("external_ids", strings()),
];

const SFLOW: &[(&str, Spec)] = &[
    ("targets", some(Key::Str)),
    ("sampling", opt(int())),
    ("polling", opt(int())),
    ("header", opt(int())),
    ("agent", opt(Key::Str)),
    ("external_ids", strings()),
];

const IPFIX: &[(&str, Spec)] = &[
    ("targets", set(Key::Str)),
    ("sampling", opt(Key::Int(1, U32))),
    ("obs_domain_id", opt(Key::Int(0, U32))),
    ("obs_point_id", opt(Key::Int(0, U32))),
    ("cache_active_timeout", opt(Key::Int(0, 4200))),
    ("cache_max_flows", opt(Key::Int(0, U32))),
    ("other_config", strings()),
    ("external_ids", strings()),
];

const SAMPLE_SET: &[(&str, Spec)] = &[
    ("id", one(Key::Int(0, U32))),
    ("bridge", one(Key::Strong("Bridge"))),
    ("ipfix", opt(Key::Strong("IPFIX"))),
    ("external_ids", strings()),
];

const IN_BAND: Key = Key::Enum(&["in-band", "out-of-band"]);

const CONTROLLER: &[(&str, Spec)] = &[
    ("type", opt(Key::Enum(&["primary", "service"]))),
    ("target", string()),
    ("max_backoff", opt(at_least(1000))),
    ("inactivity_probe", opt(int())),
    ("connection_mode", opt(IN_BAND)),
    ("local_ip", opt(Key::Str)),
    ("local_netmask", opt(Key::Str)),
    ("local_gateway", opt(Key::Str)),
    ("enable_async_messages", opt(Key::Bool)),
    ("controller_queue_size", opt(Key::Int(1, 512))),
    ("controller_rate_limit", opt(at_least(100))),
    ("controller_burst_limit", opt(at_least(25))),
    ("other_config", strings()),
    ("external_ids", strings()),
    ("is_connected", boolean().eph()),
    ("role", opt(Key::Enum(&["other", "master", "slave"])).eph()),
    ("status", strings().eph()),
];

const MANAGER: &[(&str, Spec)] = &[
    ("target", string()),
    ("max_backoff", opt(at_least(1000))),
    ("inactivity_probe", opt(int())),
    ("connection_mode", opt(IN_BAND)),
    ("other_config", strings()),
    ("external_ids", strings()),
    ("is_connected", boolean().eph()),
    ("status", strings().eph()),
];

const DATAPATH: &[(&str, Spec)] = &[
    ("datapath_version", string()),
    ("ct_zones", map(Key::Int(0, 65535), Key::Strong("CT_Zone"))),
    ("capabilities", strings()),
    ("external_ids", strings()),
];

const CT_ZONE: &[(&str, Spec)] =
    &[("timeout_policy", opt(Key::Strong("CT_Timeout_Policy"))), ("external_ids", strings())];

const CT_TIMEOUT: Key = Key::Enum(&[
    "tcp_syn_sent",
    "tcp_syn_recv",
    "tcp_established",
    "tcp_fin_wait",
    "tcp_close_wait",
    "tcp_last_ack",
    "tcp_time_wait",
    "tcp_close",
    "tcp_syn_sent2",
    "tcp_retransmit",
    "tcp_unack",
    "udp_first",
    "udp_single",
    "udp_multiple",
    "icmp_first",
    "icmp_reply",
]);

const CT_TIMEOUT_POLICY: &[(&str, Spec)] =
    &[("timeouts", map(CT_TIMEOUT, Key::Int(0, U32))), ("external_ids", strings())];

const SSL: &[(&str, Spec)] = &[
    ("private_key", string()),
    ("certificate", string()),
    ("ca_cert", string()),
    ("bootstrap_ca_cert", boolean()),
    ("external_ids", strings()),
];

const AUTO_ATTACH: &[(&str, Spec)] = &[
    ("system_name", string()),
    ("system_description", string()),
    ("mappings", map(Key::Int(0, 16_777_215), VLAN)),
];

const fn table(name: &'static str, columns: &'static [(&'static str, Spec)]) -> Table {
    Table { name, columns, root: false, max_rows: u64::MAX, index: &[] }
}

const TABLES: &[Table] = &[
    Table { root: true, max_rows: 1, ..table("Open_vSwitch", OPEN_VSWITCH) },
    Table { index: &["name"], ..table("Bridge", BRIDGE) },
    Table { index: &["name"], ..table("Port", PORT) },
    Table { index: &["name"], ..table("Interface", INTERFACE) },
    table("Flow_Table", FLOW_TABLE),
    Table { root: true, ..table("QoS", QOS) },
    Table { root: true, ..table("Queue", QUEUE) },
    table("Mirror", MIRROR),
    table("NetFlow", NETFLOW),
    table("sFlow", SFLOW),
    table("IPFIX", IPFIX),
    Table { root: true, index: &["id", "bridge"], ..table("Flow_Sample_Collector_Set", SAMPLE_SET) },
    table("Controller", CONTROLLER),
    Table { index: &["target"], ..table("Manager", MANAGER) },
    table("Datapath", DATAPATH),
    table("CT_Zone", CT_ZONE),
    table("CT_Timeout_Policy", CT_TIMEOUT_POLICY),
    Table { max_rows: 1, ..table("SSL", SSL) },
    table("AutoAttach", AUTO_ATTACH),
];

impl Key {
    fn base(self) -> BaseType {
        let reference = |table: &str, weak| Constraint::Reference { table: table.to_owned(), weak };
        let (atom, constraint) = match self {
            Key::Int(i64::MIN, i64::MAX) => (AtomType::Integer, Constraint::None),
            Key::Int(min, max) => (AtomType::Integer, Constraint::Integers(min, max)),
            Key::Bool => (AtomType::Boolean, Constraint::None),
            Key::Str => (AtomType::String, Constraint::None),
            Key::Uuid => (AtomType::Uuid, Constraint::None),
            Key::Enum(names) => (AtomType::String, Constraint::Enum(Datum::set(names.iter().copied()))),
            Key::Strong(table) => (AtomType::Uuid, reference(table, false)),
            Key::Weak(table) => (AtomType::Uuid, reference(table, true)),
        };
        BaseType { atom, constraint }
    }
}

impl Table {
    pub(super) fn schema(&self) -> Result<TableSchema, OvsdbError> {
        let columns = self.columns.iter().map(|(name, spec)| ColumnSchema {
            name: Arc::from(*name),
            kind: ColumnType {
                key: spec.key.base(),
                value: spec.value.map(Key::base),
                min: spec.min,
                max: spec.max,
            },
            ephemeral: spec.ephemeral,
            mutable: !spec.fixed,
        });
        let indexes: Vec<Vec<&str>> =
            if self.index.is_empty() { Vec::new() } else { vec![self.index.to_vec()] };
        TableSchema::new(self.name, columns.collect(), self.root, self.max_rows, &indexes)
    }
}

/// Puts built-in tables together. They are constants of this file and a test builds them, so the empty
/// schema given for a faulty one is never seen.
pub(super) fn build(name: &str, version: &str, tables: Vec<TableSchema>) -> DatabaseSchema {
    DatabaseSchema::new(name, version, tables).unwrap_or_else(|fault| {
        debug_assert!(false, "{name}: {fault}");
        DatabaseSchema::empty(name, version)
    })
}

/// The schema of the switch's database.
pub fn vswitch_schema() -> DatabaseSchema {
    build("Open_vSwitch", "8.3.1", TABLES.iter().filter_map(|table| table.schema().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_and_column_is_there() {
        let schema = vswitch_schema();
        assert_eq!(schema.tables.len(), TABLES.len());
        for table in TABLES {
            let built = schema.table(table.name).unwrap();
            assert_eq!(built.columns.len(), table.columns.len(), "{}", table.name);
        }
        assert_eq!(schema.table("Bridge").unwrap().indexes, vec![vec![0]]);
        assert!(schema.table("Open_vSwitch").unwrap().is_root);
        assert!(!schema.table("Bridge").unwrap().is_root);
    }
}

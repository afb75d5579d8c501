//! What can be wrong with a request to change or show a bridge.

use flowtable::key::PortNo;

/// A request about bridges that could not be done. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BridgeError {
    /// No bridge has this name.
    #[error(
        "there is no bridge named \"{name}\": create it with `vsctl add-br {name}`, or see `vsctl list-br`"
    )]
    NoBridge {
        /// The name asked for.
        name: String,
    },
    /// No bridge has a port of this name.
    #[error("no bridge has a port named \"{port}\": see `vsctl show`")]
    UnknownPort {
        /// The name asked for.
        port: String,
    },
    /// The bridge has its own port already.
    #[error(
        "bridge \"{bridge}\" has its own port already, \"{holder}\": remove that one before \"{port}\" can be it"
    )]
    LocalTaken {
        /// The bridge.
        bridge: String,
        /// Its own port.
        holder: String,
        /// The port to be added.
        port: String,
    },
    /// A port has this name already, here or on another bridge.
    #[error(
        "port \"{port}\" is on bridge \"{on}\" already: remove it there first with `vsctl del-port {on} {port}`"
    )]
    PortExists {
        /// The port's name.
        port: String,
        /// The bridge that has it.
        on: String,
    },
    /// Another port has this datapath number.
    #[error(
        "port \"{port}\" cannot have datapath number {dp}: port \"{holder}\" of bridge \"{on}\" has it; give each port a number of its own"
    )]
    NumberTaken {
        /// The port to be added.
        port: String,
        /// The number.
        dp: PortNo,
        /// Who has it.
        holder: String,
        /// The holder's bridge.
        on: String,
    },
    /// Zero is not a datapath port number.
    #[error(
        "port \"{port}\" has datapath number 0, which means no port: start the port before it joins bridge \"{bridge}\""
    )]
    NoNumber {
        /// The bridge.
        bridge: String,
        /// The port.
        port: String,
    },
    /// All OpenFlow port numbers are in use.
    #[error(
        "bridge \"{bridge}\" has no OpenFlow port number left for \"{port}\": remove ports it no longer needs"
    )]
    NoOfport {
        /// The bridge.
        bridge: String,
        /// The port.
        port: String,
    },
    /// A VLAN setting that means nothing.
    #[error("port \"{port}\": {source}")]
    Vlan {
        /// The port.
        port: String,
        /// What is wrong with it.
        source: super::vlan::VlanError,
    },
    /// A VLAN number out of range in a bridge's settings.
    #[error("bridge \"{bridge}\": flood_vlans has {vlan}, which is not a VLAN: use numbers from 0 to 4095")]
    FloodVlan {
        /// The bridge.
        bridge: String,
        /// The number.
        vlan: u16,
    },
    /// The text of a rule or match could not be read.
    #[error("bridge \"{bridge}\": {reason}")]
    Flow {
        /// The bridge.
        bridge: String,
        /// What is wrong and where, from the reader of the text.
        reason: String,
    },
    /// A rule for a table there is not.
    #[error("bridge \"{bridge}\" has one table, number 0: leave table={table} out of the flow")]
    Table {
        /// The bridge.
        bridge: String,
        /// The table asked for.
        table: u8,
    },
}

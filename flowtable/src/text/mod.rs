//! Matches, actions and rules as text, both ways, in the two syntaxes of Open vSwitch.
//!
//! - [`openflow`]: what `ovs-ofctl` reads and prints: rules, by OpenFlow port.
//! - [`datapath`]: what `ovs-appctl dpctl/dump-flows` prints: megaflows, by datapath port.
//!
//! Parsers take any bytes that are UTF-8, never panic, and say what was wrong and what would be right. Printing
//! and parsing are inverse up to bits that say nothing, such as a TTL mask on an ARP match.

pub mod datapath;
pub mod openflow;
mod packet_kind;
mod parse_error;
mod port_names;
mod scan;
mod value;

pub use parse_error::ParseError;
pub use port_names::{PortNames, PortNumbers};

//! What a rule says to do, in OpenFlow's terms; translation turns it into datapath actions.

use crate::actions::SetField;

/// OpenFlow number of a bridge's own port.
pub const OFPORT_LOCAL: u16 = 0xfffe;

/// One step of a rule. A rule without steps drops.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RuleAction {
    /// Sends out of an OpenFlow port, never back out of the port of arrival.
    Output {
        /// OpenFlow number of the port.
        port: u16,
        /// Cut the frame to this many bytes.
        max_len: Option<u32>,
    },
    /// Switches as a learning bridge does.
    Normal,
    /// Sends out of every port that takes part in flooding, except the port of arrival.
    Flood,
    /// Sends back out of the port of arrival.
    InPort,
    /// Sends out of every port except the port of arrival.
    All,
    /// Sends to the bridge's own port.
    Local,
    /// Changes a header field; nothing happens to a packet that does not have it.
    SetField(Box<SetField>),
    /// Pushes a tag of this EtherType with VLAN 0, priority 0.
    PushVlan(u16),
    /// Takes the outer tag away.
    PopVlan,
    /// Sets the VLAN id; an untagged packet gets a tag first.
    SetVlanVid(u16),
    /// Sets the VLAN priority; an untagged packet gets a tag first.
    SetVlanPcp(u8),
    /// Decrements TTL or hop limit; a packet with 1 or 0 left is not processed further.
    DecTtl,
}

const _: () = assert!(size_of::<RuleAction>() == 16);

impl RuleAction {
    /// A step that sets a field.
    pub fn set(set: SetField) -> RuleAction {
        RuleAction::SetField(Box::new(set))
    }

    /// Whether the step names `port` as a destination, as `out_port` in a delete request asks.
    pub fn outputs_to(&self, port: u16) -> bool {
        match self {
            RuleAction::Output { port: to, .. } => *to == port,
            RuleAction::Local => port == OFPORT_LOCAL,
            _ => false,
        }
    }
}

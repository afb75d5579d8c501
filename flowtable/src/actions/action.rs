//! The steps of the datapath.

use super::SetField;
use crate::key::PortNo;

/// One step of an [`ActionList`](super::ActionList), done in order on the packet as the steps before left it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Sends the packet as it is now out of a port; later steps do not change what was sent.
    Output(PortNo),
    /// Puts a tag in front of the EtherType.
    PushVlan {
        /// EtherType of the tag: 0x8100 or 0x88a8.
        tpid: u16,
        /// Priority and VLAN id; [`VLAN_PRESENT`](crate::key::VLAN_PRESENT) is ignored.
        tci: u16,
    },
    /// Takes the outer tag away; nothing happens to an untagged frame.
    PopVlan,
    /// Changes a header field. Boxed, for the list of a flow is mostly outputs.
    Set(Box<SetField>),
    /// Limits the next output, and only that one, to this many bytes.
    Truncate(u32),
}

const _: () = assert!(size_of::<Action>() == 16);

impl Action {
    /// A step that sets a field.
    pub fn set(set: SetField) -> Action {
        Action::Set(Box::new(set))
    }
}

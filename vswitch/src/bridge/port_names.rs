//! Names of ports for the text forms of rules and megaflows.

use flowtable::key::PortNo;
use flowtable::rules::OFPORT_LOCAL;
use flowtable::text::PortNames;

use super::bridges::Bridges;
use super::state::Bridge;

/// Names of one bridge's ports by OpenFlow number, for rules. The bridge's own port also answers to `LOCAL`.
pub(super) struct OpenflowNames<'a>(pub(super) &'a Bridge);

impl PortNames for OpenflowNames<'_> {
    fn name(&self, port: PortNo) -> Option<String> {
        let ofport = u16::try_from(port.0).ok()?;
        self.0.ports.get(&ofport).map(|port| port.name.clone())
    }

    fn number(&self, name: &str) -> Option<PortNo> {
        if let Some(port) = self.0.ports.values().find(|port| port.name == name) {
            return Some(PortNo(u32::from(port.ofport)));
        }
        name.eq_ignore_ascii_case("LOCAL").then_some(PortNo(u32::from(OFPORT_LOCAL)))
    }
}

/// Names of all bridges' ports by datapath number, for megaflows.
impl PortNames for Bridges {
    fn name(&self, port: PortNo) -> Option<String> {
        self.read().port(port).map(|(_, port)| port.name.clone())
    }

    fn number(&self, name: &str) -> Option<PortNo> {
        self.read().port_names.get(name).copied()
    }
}

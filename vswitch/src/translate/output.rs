//! Sending out of ports as a rule names them: no VLAN treatment.

use flowtable::actions::Action;
use flowtable::key::PortNo;

use super::walk::Walk;

impl Walk<'_> {
    /// Sends out of an OpenFlow port, but not out of the port of arrival.
    pub(super) fn output(&mut self, ofport: u16, max_len: Option<u32>) {
        if ofport == self.in_port.ofport {
            return;
        }
        let Some(dp) = self.bridge.ports.get(&ofport).map(|port| port.dp) else { return };
        self.commit();
        self.actions.extend(max_len.map(Action::Truncate));
        self.actions.push(Action::Output(dp));
    }

    /// Sends out of the port of arrival.
    pub(super) fn output_in_port(&mut self) {
        self.emit_output(self.in_port.dp);
    }

    /// Sends out of all ports with a link but the one of arrival, or of those that take part in floods.
    pub(super) fn output_all(&mut self, no_flood_too: bool) {
        self.floods = true;
        let bridge = self.bridge;
        for port in bridge.ports.values() {
            let wanted = !port.no_link && (no_flood_too || !port.no_flood);
            if wanted && port.ofport != self.in_port.ofport {
                self.emit_output(port.dp);
            }
        }
    }

    /// Brings the frame into its wanted form and sends it.
    pub(super) fn emit_output(&mut self, dp: PortNo) {
        self.commit();
        self.actions.push(Action::Output(dp));
    }

    fn commit(&mut self) {
        self.fields.commit(&self.mask, &mut self.actions);
        self.tags.commit(self.key, &mut self.mask, &mut self.actions);
    }
}

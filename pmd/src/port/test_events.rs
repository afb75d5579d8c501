//! A subscriber for tests: it passes on that something was told.

use std::sync::mpsc::Sender;

use super::PortEvents;

/// Sends for each change that a port tells of.
pub(crate) struct Told(pub(crate) Sender<()>);

impl PortEvents for Told {
    fn port_changed(&self) {
        let _ = self.0.send(());
    }
}

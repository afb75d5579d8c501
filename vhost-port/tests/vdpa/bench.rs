//! A port, two cards, and a switch's two queues.

use std::sync::Arc;

use pmd::packet::{BatchStorage, Span};
use pmd::pci::FunctionCounters;
use pmd::port::{Port, PortInfo, RxQueue, TxQueue};
use pmd::virtio::features::*;
use vhost_port::vdpa::fake::Fake;
use vhost_port::vdpa::{Capabilities, DeviceName, VdpaError, VdpaProblem};
use vhost_port::{Mode, VhostConfig, VhostPort};

use crate::guest::{Guest, MODERN, burst, wait_for};

/// What the devices of [`Bench`] are called.
pub(crate) const NAMES: [&str; 2] = ["/dev/vhost-vdpa-0", "/dev/vhost-vdpa-1"];
pub(crate) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
/// What a plain function has too.
pub(crate) const FITS: u64 = MODERN | VIRTIO_F_EVENT_IDX;

/// A port, two cards, and perhaps a guest.
pub(crate) struct Bench {
    pub(crate) port: Arc<dyn Port>,
    pub(crate) cards: [Fake; 2],
    rxq: Box<dyn RxQueue>,
    pub(crate) txq: Box<dyn TxQueue>,
    pub(crate) dir: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new(caps: fn(&str) -> Capabilities) -> Bench {
        let cards = NAMES.map(|name| Fake::new(caps(name)));
        let dir = tempfile::tempdir().unwrap();
        let mut config = VhostConfig::new("p", Mode::Listen(dir.path().join("p")));
        config.mac = Some(MAC);
        config.function_counters = |uplink| {
            assert_eq!((uplink.netdev.as_deref(), uplink.vf), (Some("fake0"), Some(0)));
            Some(FunctionCounters {
                rx_packets: 1,
                rx_bytes: 100,
                tx_packets: 2,
                tx_bytes: 200,
                ..Default::default()
            })
        };
        let open = cards.clone();
        config.open_device = Arc::new(move |name: &DeviceName| {
            let at = NAMES.iter().position(|known| *known == name.to_string());
            let card = at.and_then(|at| open.get(at));
            let missing = || VdpaError::new(VdpaProblem::Name, format!("{name} is missing"), "plug it in");
            card.map(|card| Box::new(card.open()) as _).ok_or_else(missing)
        });
        let port = VhostPort::open(config).unwrap();
        let (rxq, txq) = (port.rx_queue(0).unwrap(), port.tx_queue(0).unwrap());
        Bench { port, cards, rxq, txq, dir }
    }

    pub(crate) fn guest(&self, features: u64, rings: usize) -> Guest {
        Guest::connect(&self.dir.path().join("p"), features, rings)
    }

    pub(crate) fn want(&self, names: &[&str]) {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        self.port.set_vdpa(&names).unwrap();
    }

    pub(crate) fn say(&self, key: &str) -> Option<String> {
        say(&self.port.info(), key)
    }

    /// Waits for the rings to be run by this.
    pub(crate) fn wait_for_engine(&self, engine: &str) {
        wait_for(&self.port, |info| say(info, "vdpa-engine").as_deref() == Some(engine));
    }

    pub(crate) fn wait_for_device(&self, name: &str) {
        wait_for(&self.port, |info| say(info, "vdpa-device").is_some_and(|device| device.starts_with(name)));
    }

    /// The switch sends a frame to the guest.
    pub(crate) fn transmit(&mut self, frame: &[u8]) -> usize {
        let mut storage = BatchStorage::new();
        let mut batch = storage.begin();
        assert!(batch.receive(Span::from_slice(frame)));
        let sent = self.txq.tx_burst(&batch, &[0]);
        self.txq.notify();
        sent
    }

    /// What the switch gets of the guest, but for announcements.
    pub(crate) fn received(&mut self) -> Vec<Vec<u8>> {
        let frames = std::iter::repeat_with(|| burst(&mut *self.rxq)).take_while(|frames| !frames.is_empty());
        frames.flatten().filter(|frame| frame[12..14] != [0x80, 0x35]).collect()
    }
}

pub(crate) fn say(info: &PortInfo, key: &str) -> Option<String> {
    info.status.iter().find(|(k, _)| k == key).map(|(_, value)| value.clone())
}

pub(crate) fn frame(number: u8) -> Vec<u8> {
    vec![number; 60]
}

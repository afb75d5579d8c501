//! From a reset card to running rings.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::area::{self, Area, MOST_QUEUES, Wanted};
use super::registers::*;
use super::rx::{Layout, MOST_PARTS, VmxRx};
use super::stats;
use super::tx::VmxTx;
use crate::nic::{Card, CardInfo, Fault, Link, Queues, Settings};
use crate::pci::{Bar, PciFn};
use crate::port::PmdError;

/// Largest MTU the card takes (`VMXNET3_MAX_MTU`).
const MAX_MTU: u16 = 9000;

pub(super) struct Vmxnet3 {
    function: Arc<dyn PciFn>,
    /// Registers of the data path, and those of the control side.
    data: Arc<Bar>,
    control: Bar,
    info: CardInfo,
    /// While it runs.
    area: Option<Area>,
    /// Vector 0 has somebody to wake.
    has_event: bool,
}

impl Vmxnet3 {
    /// Finds out what the function is.
    pub(super) fn new(function: Arc<dyn PciFn>) -> Result<Vmxnet3, PmdError> {
        function.enable()?;
        let (data, control) = (Arc::new(function.bar(0)?), function.bar(1)?);
        let info = CardInfo { driver: "vmxnet3", mac: [0; 6], max_queues: MOST_QUEUES, max_mtu: MAX_MTU };
        let mut card = Vmxnet3 { function, data, control, info, area: None, has_event: false };
        for (register, what) in [(REVISIONS, "the card"), (DATA_PATH_REVISIONS, "its data path")] {
            if card.control.read32(register) & REVISION_1 == 0 {
                return Err(card.failed(&format!("{what} does not know revision 1 of its interface")));
            }
            card.control.write32(register, REVISION_1);
        }
        card.reset()?;
        let (low, high) = (card.ask(command::GET_MAC_LOW), card.ask(command::GET_MAC_HIGH));
        let (low, high) = (low.to_le_bytes(), high.to_le_bytes());
        card.info.mac = [low[0], low[1], low[2], low[3], high[0], high[1]];
        Ok(card)
    }

    fn failed(&self, what: &str) -> PmdError {
        PmdError::Config(format!("{}: {what} (vmxnet3)", self.function.address()))
    }

    fn ask(&self, command: u32) -> u32 {
        self.control.write32(COMMAND, command);
        self.control.read32(COMMAND)
    }

    fn reset(&mut self) -> Result<(), PmdError> {
        self.ask(command::QUIESCE);
        let answer = self.ask(command::RESET);
        self.area = None;
        if answer == 0 {
            return Ok(());
        }
        Err(self.failed("it does not come out of reset: power the virtual machine off and on"))
    }

    fn rx_ring(
        &self,
        area: &Area,
        index: u16,
        settings: &Settings,
        vector: Option<u8>,
        mute: u8,
    ) -> Result<VmxRx, PmdError> {
        let layout = Layout::new(settings.rx_descriptors, settings.max_frame());
        let arena = Arc::new(self.function.dma("vmxnet3 rx queue", layout.bytes())?);
        let (rings, sizes) = layout.describe(&arena);
        area.describe(area.rx_queue(index), rings, sizes, vector.unwrap_or(mute));
        let place = (index, settings.queues);
        Ok(VmxRx::new(arena, self.data.clone(), area.clone(), layout, place, vector))
    }

    fn tx_ring(&self, area: &Area, index: u16, settings: &Settings, mute: u8) -> Result<VmxTx, PmdError> {
        let size = settings.tx_descriptors;
        let arena = Arc::new(self.function.dma("vmxnet3 tx queue", VmxTx::bytes(size))?);
        let (rings, sizes) = VmxTx::describe(&arena, size);
        area.describe(area.tx_queue(index), rings, sizes, mute);
        Ok(VmxTx::new(arena, self.data.clone(), index, size, settings.max_frame()))
    }

    /// Gives the card its rings, and has it run.
    fn activate(&mut self, settings: &Settings, has_vectors: bool) -> Result<Queues<Self>, PmdError> {
        // Vector 0 is for events, then one for each receive queue. Completions of frames sent wake nobody: the last is never unmasked.
        let mute = 1 + settings.queues as u8;
        let wanted =
            Wanted { queues: settings.queues, mtu: settings.mtu, most_parts: MOST_PARTS, vectors: mute + 1 };
        let area = Area::new(self.function.dma("vmxnet3 area", area::BYTES)?, &wanted);
        let vector = |i: u16| has_vectors.then_some(1 + i as u8);
        let rx = (0..settings.queues).map(|i| self.rx_ring(&area, i, settings, vector(i), mute));
        let rx = rx.collect::<Result<Vec<_>, _>>()?;
        let tx = (0..settings.queues).map(|i| self.tx_ring(&area, i, settings, mute));
        let tx = tx.collect::<Result<Vec<_>, _>>()?;
        self.control.write32(AREA_LOW, area.iova() as u32);
        self.control.write32(AREA_HIGH, (area.iova() >> 32) as u32);
        self.area = Some(area);
        if self.ask(command::ACTIVATE) != 0 {
            // It may have begun to look at the memory that goes now.
            self.stop();
            return Err(self.failed("it does not accept its configuration: use fewer queues (n_rxq)"));
        }
        Ok(Queues { rx, tx })
    }
}

impl Card for Vmxnet3 {
    type Rx = VmxRx;
    type Tx = VmxTx;

    fn info(&self) -> &CardInfo {
        &self.info
    }

    fn start(&mut self, settings: &Settings, events: &[Arc<OwnedFd>]) -> Result<Queues<Self>, PmdError> {
        self.reset()?;
        self.function.enable()?;
        let has_vectors = events.len() > usize::from(settings.queues);
        let queues = self.activate(settings, has_vectors)?;
        let mac = self.info.mac;
        self.control.write32(MAC_LOW, u32::from_le_bytes([mac[0], mac[1], mac[2], mac[3]]));
        self.control.write32(MAC_HIGH, u32::from_le_bytes([mac[4], mac[5], 0, 0]));
        queues.rx.iter().for_each(VmxRx::show);
        self.control.write32(COMMAND, command::UPDATE_RX_MODE);
        // Those of the queues are unmasked when a worker sleeps, that of events by looking at the link.
        self.has_event = !events.is_empty();
        (0..usize::from(settings.queues) + 2).for_each(|vector| self.data.write32(IMR + vector * NEXT, 1));
        Ok(queues)
    }

    fn stop(&mut self) {
        if let Err(error) = self.reset() {
            // It may still write: the bus takes that right from it.
            self.function.silence();
            log::warn!("{error}");
        }
    }

    fn link(&mut self) -> Link {
        let Some(area) = &self.area else { return Link::default() };
        // Forgotten before it is looked at, so that a change meanwhile is reported anew.
        if area.events() & EVENT_LINK != 0 {
            self.control.write32(EVENTS, EVENT_LINK);
        }
        if self.has_event {
            self.data.write32(IMR, 0);
        }
        match self.ask(command::GET_LINK) {
            u32::MAX => Link::default(),
            link if link & LINK_UP == 0 => Link::default(),
            link => Link { up: true, speed: Some(link >> LINK_SPEED_SHIFT), full_duplex: Some(true) },
        }
    }

    fn fault(&mut self) -> Option<Fault> {
        // All ones from an empty slot; all zero, which no card says, where the kernel has taken the registers away.
        if matches!(self.control.read32(REVISIONS), 0 | u32::MAX) {
            return Some(Fault::Gone);
        }
        let area = self.area.as_ref()?;
        if area.events() & (EVENT_RX_ERROR | EVENT_TX_ERROR) == 0 {
            return None;
        }
        self.ask(command::GET_QUEUE_STATUS);
        let reason = area.stopped();
        log::warn!("{}: a queue has stopped, reason {reason:#x?} (vmxnet3)", self.function.address());
        Some(Fault::NeedsReset)
    }

    fn counters(&mut self) -> Vec<(&'static str, u64)> {
        let Some(area) = &self.area else { return Vec::new() };
        self.ask(command::GET_STATS);
        stats::counters(area)
    }
}

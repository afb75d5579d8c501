//! From a reset card to running rings (82576 datasheet, chapter 4.5).

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::functions::{Functions, MOST, OWN_POOL};
use super::mailbox::Mailboxes;
use super::registers::*;
use super::rx::{self, IgbRx};
use super::tx::{self, IgbTx};
use crate::nic::intel::{BUFFER, Gigabit, OVERHEAD, Places, RESET, wait};
use crate::nic::{Card, CardInfo, Fault, Filters, Link, NicConfig, Queues, Settings};
use crate::pci::{PciFn, VfSettings, VfState};
use crate::port::PmdError;

/// Queues in each direction.
const QUEUES: u16 = 8;
/// Longest frame on the wire that the card takes, with check sequence.
const MAX_WIRE_FRAME: u16 = 9242;
/// How long an access to the PHY may take.
const MDIO: Duration = Duration::from_millis(20);

pub(super) struct Igb {
    chip: Gigabit,
    info: CardInfo,
    filters: Filters,
    /// What the operator wants of virtual functions, by number.
    wanted: Vec<(u16, VfSettings)>,
    /// While there are virtual functions.
    mailboxes: Option<Mailboxes>,
    link: Link,
}

impl Igb {
    /// Finds out what the function is.
    pub(super) fn new(function: Arc<dyn PciFn>, config: &NicConfig) -> Result<Igb, PmdError> {
        let chip = Gigabit::new(function, "igb", Places { causes: ICR, mask_clear: IMC, queue: QUEUE })?;
        let info = CardInfo {
            driver: "igb",
            mac: chip.mac(),
            max_queues: QUEUES,
            max_mtu: MAX_WIRE_FRAME - OVERHEAD,
        };
        let (filters, wanted) = (config.filters.clone(), config.functions.clone());
        Ok(Igb { chip, info, filters, wanted, mailboxes: None, link: Link::default() })
    }

    /// The ring of the card that queue `index` is: behind those of virtual functions if there are any.
    fn ring(&self, index: u16) -> u16 {
        if self.mailboxes.is_some() { OWN_POOL as u16 } else { index }
    }

    /// Shares the card with its virtual functions, if it has any now.
    fn share(&mut self, settings: &Settings) -> Result<(), PmdError> {
        self.mailboxes = None;
        let count = usize::from(self.chip.function.virtual_functions()).min(MOST);
        if count == 0 {
            return Ok(());
        }
        if settings.queues > 1 {
            return Err(self.chip.failed(
                "with virtual functions it has one queue: set options:n_rxq=1, or `vsctl nic vfs` to 0",
            ));
        }
        let functions = Functions::new(count, self.info.mac, &self.filters, &self.wanted)
            .map_err(|why| self.chip.failed(&why))?;
        self.mailboxes = Some(Mailboxes::new(&self.chip.bar, functions, settings.max_frame() as u32 + 4));
        Ok(())
    }

    fn set_up_link_and_interrupts(&self, queues: u16, events: usize) {
        let bar = &*self.chip.bar;
        let ctrl = bar.read32(CTRL) & !CTRL_MASTER_DISABLE;
        bar.write32(CTRL, ctrl | CTRL_SET_LINK_UP);
        self.chip.set(CTRL_EXT, CTRL_EXT_DRIVER_LOADED);
        // The reset leaves a link as it was. Where there is none, nobody may have asked the PHY for one.
        if bar.read32(STATUS) & STATUS_LINK_UP == 0 {
            bar.write32(MDIC, MDIC_WRITE_CONTROL | PHY_NEGOTIATE);
            // It goes on by itself; a PHY that does not answer shows as no link.
            let _ = wait(MDIO, || bar.read32(MDIC) & MDIC_READY != 0);
        }
        if events == 0 {
            return;
        }
        bar.write32(GPIE, GPIE_MSI_X);
        // Vector 0 is for the link.
        bar.write32(IVAR_MISC, IVAR_VALID << 8);
        let mut automatic = 1;
        if events > usize::from(queues) {
            for queue in 0..queues {
                // A register holds queues n and n + 8, receive and transmit of each.
                let vector = 1 + u32::from(queue);
                bar.write32(IVAR + 4 * usize::from(self.ring(queue)), IVAR_VALID | vector);
                automatic |= 1 << vector;
            }
        }
        bar.write32(EIAC, automatic);
        bar.write32(IMS, CAUSE_LINK | CAUSE_MAILBOX);
        bar.write32(EIMS, 1);
    }

    fn rx_ring(&self, index: u16, settings: &Settings, has_vector: bool) -> Result<IgbRx, PmdError> {
        let (chip, size) = (&self.chip, settings.rx_descriptors);
        let arena = Arc::new(chip.function.dma("igb rx ring", IgbRx::bytes(size))?);
        let ring = self.ring(index);
        chip.place_ring([RX_BASE, RX_LEN, RX_HEAD, RX_TAIL], ring, size, arena.iova(0));
        let at = usize::from(ring) * QUEUE;
        // Buffers in units of a KiB. With one queue, a card that drops and one that waits are the same.
        let drop = if settings.queues > 1 || self.mailboxes.is_some() { SRRCTL_DROP } else { 0 };
        chip.bar.write32(SRRCTL + at, SRRCTL_ADVANCED | drop | (BUFFER >> 10) as u32);
        self.enable_ring(RXDCTL + at)?;
        let interrupt = has_vector.then(|| rx::interrupt(index));
        Ok(IgbRx::new(arena, chip.bar.clone(), rx::tail(ring), size, interrupt))
    }

    fn tx_ring(&self, index: u16, settings: &Settings) -> Result<IgbTx, PmdError> {
        let (chip, size) = (&self.chip, settings.tx_descriptors);
        let arena = Arc::new(chip.function.dma("igb tx ring", IgbTx::bytes(size))?);
        let ring = self.ring(index);
        chip.place_ring([TX_BASE, TX_LEN, TX_HEAD, TX_TAIL], ring, size, arena.iova(0));
        self.enable_ring(TXDCTL + usize::from(ring) * QUEUE)?;
        Ok(IgbTx::new(arena, chip.bar.clone(), tx::tail(ring), size, settings.max_frame()))
    }

    /// Enables a ring and waits until it is (4.5.9, 4.5.10).
    fn enable_ring(&self, control: usize) -> Result<(), PmdError> {
        self.chip.bar.write32(control, DCTL_THRESHOLDS | DCTL_ENABLE);
        if wait(RESET, || self.chip.bar.read32(control) & DCTL_ENABLE != 0) {
            return Ok(());
        }
        Err(self.chip.failed("a ring does not start: reset the machine"))
    }

    /// Spreads flows over the queues (7.1.1.7). With one queue it is left off.
    fn spread(&self, queues: u16) {
        if queues >= 2 {
            let entry = |i: usize| (i % usize::from(queues)) as u8;
            let entries = |word| u32::from_le_bytes([0, 1, 2, 3].map(|i| entry(4 * word + i)));
            self.chip.spread(entries, MRQC_RSS);
        }
    }
}

impl Card for Igb {
    type Rx = IgbRx;
    type Tx = IgbTx;

    fn info(&self) -> &CardInfo {
        &self.info
    }

    fn start(&mut self, settings: &Settings, events: &[Arc<OwnedFd>]) -> Result<Queues<Self>, PmdError> {
        self.chip.reset()?;
        self.chip.function.enable()?;
        self.share(settings)?;
        self.set_up_link_and_interrupts(settings.queues, events.len());
        let has_vectors = events.len() > usize::from(settings.queues);
        let rx = (0..settings.queues).map(|i| self.rx_ring(i, settings, has_vectors));
        let rx = rx.collect::<Result<Vec<_>, _>>()?;
        let tx = (0..settings.queues).map(|i| self.tx_ring(i, settings)).collect::<Result<Vec<_>, _>>()?;
        let bar = &*self.chip.bar;
        bar.write32(RXCSUM, RXCSUM_IP | RXCSUM_TCP_UDP | RXCSUM_NO_PACKET_SUM);
        // With virtual functions each pool has its own limit.
        let longest = if self.mailboxes.is_some() {
            u32::from(MAX_WIRE_FRAME)
        } else {
            settings.max_frame() as u32 + 4
        };
        bar.write32(RLPML, longest);
        self.spread(settings.queues);
        bar.write32(TCTL, TCTL_ENABLE | TCTL_PAD | TCTL_COLLISIONS);
        self.chip.receive_all();
        rx.iter().for_each(IgbRx::kick);
        if let Some(mailboxes) = &mut self.mailboxes {
            self.chip.set(RCTL, RCTL_VLANS);
            mailboxes.open(bar);
        }
        Ok(Queues { rx, tx })
    }

    fn stop(&mut self) {
        self.chip.stop();
    }

    fn link(&mut self) -> Link {
        // Whatever the cause was, it is looked after now.
        let bar = &*self.chip.bar;
        bar.write32(ICR, CAUSE_LINK | CAUSE_MAILBOX);
        let listens = self.mailboxes.as_mut().is_none_or(|mailboxes| mailboxes.serve(bar));
        bar.write32(IMC, if listens { 0 } else { CAUSE_MAILBOX });
        bar.write32(IMS, CAUSE_LINK | if listens { CAUSE_MAILBOX } else { 0 });
        bar.write32(EIMS, 1);
        let link = self.chip.link();
        if std::mem::replace(&mut self.link, link) != link
            && let Some(mailboxes) = &mut self.mailboxes
        {
            mailboxes.notify(bar);
        }
        link
    }

    fn fault(&mut self) -> Option<Fault> {
        self.chip.fault().or_else(|| {
            let count = self.mailboxes.as_ref().map_or(0, Mailboxes::count);
            let now = usize::from(self.chip.function.virtual_functions()).min(MOST);
            (now != count).then_some(Fault::Functions)
        })
    }

    fn virtual_functions(&self) -> Vec<VfState> {
        self.mailboxes.as_ref().map(Mailboxes::states).unwrap_or_default()
    }

    fn counters(&mut self) -> Vec<(&'static str, u64)> {
        self.chip.counters()
    }
}

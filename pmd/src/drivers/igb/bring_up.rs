//! From a reset card to running rings (82576 datasheet, chapter 4.5).

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::registers::*;
use super::rx::{self, IgbRx};
use super::tx::{self, IgbTx};
use crate::nic::intel::{BUFFER, Gigabit, OVERHEAD, Places, RESET, wait};
use crate::nic::{Card, CardInfo, Fault, Link, Queues, Settings};
use crate::pci::PciFn;
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
}

impl Igb {
    /// Finds out what the function is.
    pub(super) fn new(function: Arc<dyn PciFn>) -> Result<Igb, PmdError> {
        let chip = Gigabit::new(function, "igb", Places { causes: ICR, mask_clear: IMC, queue: QUEUE })?;
        let info = CardInfo {
            driver: "igb",
            mac: chip.mac(),
            max_queues: QUEUES,
            max_mtu: MAX_WIRE_FRAME - OVERHEAD,
        };
        Ok(Igb { chip, info })
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
                bar.write32(IVAR + 4 * usize::from(queue), IVAR_VALID | vector);
                automatic |= 1 << vector;
            }
        }
        bar.write32(EIAC, automatic);
        bar.write32(IMS, CAUSE_LINK);
        bar.write32(EIMS, 1);
    }

    fn rx_ring(&self, index: u16, settings: &Settings, has_vector: bool) -> Result<IgbRx, PmdError> {
        let (chip, size) = (&self.chip, settings.rx_descriptors);
        let arena = Arc::new(chip.function.dma("igb rx ring", IgbRx::bytes(size))?);
        chip.place_ring([RX_BASE, RX_LEN, RX_HEAD, RX_TAIL], index, size, arena.iova(0));
        let at = usize::from(index) * QUEUE;
        // Buffers in units of a KiB. With one queue, a card that drops and one that waits are the same.
        let drop = if settings.queues > 1 { SRRCTL_DROP } else { 0 };
        chip.bar.write32(SRRCTL + at, SRRCTL_ADVANCED | drop | (BUFFER >> 10) as u32);
        self.enable_ring(RXDCTL + at)?;
        let interrupt = has_vector.then(|| rx::interrupt(index));
        Ok(IgbRx::new(arena, chip.bar.clone(), rx::tail(index), size, interrupt))
    }

    fn tx_ring(&self, index: u16, settings: &Settings) -> Result<IgbTx, PmdError> {
        let (chip, size) = (&self.chip, settings.tx_descriptors);
        let arena = Arc::new(chip.function.dma("igb tx ring", IgbTx::bytes(size))?);
        chip.place_ring([TX_BASE, TX_LEN, TX_HEAD, TX_TAIL], index, size, arena.iova(0));
        self.enable_ring(TXDCTL + usize::from(index) * QUEUE)?;
        Ok(IgbTx::new(arena, chip.bar.clone(), tx::tail(index), size, settings.max_frame()))
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
        self.set_up_link_and_interrupts(settings.queues, events.len());
        let has_vectors = events.len() > usize::from(settings.queues);
        let rx = (0..settings.queues).map(|i| self.rx_ring(i, settings, has_vectors));
        let rx = rx.collect::<Result<Vec<_>, _>>()?;
        let tx = (0..settings.queues).map(|i| self.tx_ring(i, settings)).collect::<Result<Vec<_>, _>>()?;
        let bar = &*self.chip.bar;
        bar.write32(RXCSUM, RXCSUM_IP | RXCSUM_TCP_UDP | RXCSUM_NO_PACKET_SUM);
        bar.write32(RLPML, settings.max_frame() as u32 + 4);
        self.spread(settings.queues);
        bar.write32(TCTL, TCTL_ENABLE | TCTL_PAD | TCTL_COLLISIONS);
        self.chip.receive_all();
        rx.iter().for_each(IgbRx::kick);
        Ok(Queues { rx, tx })
    }

    fn stop(&mut self) {
        self.chip.stop();
    }

    fn link(&mut self) -> Link {
        // Whatever the cause was, it is looked after now.
        self.chip.bar.write32(ICR, CAUSE_LINK);
        self.chip.bar.write32(IMS, CAUSE_LINK);
        self.chip.bar.write32(EIMS, 1);
        self.chip.link()
    }

    fn fault(&mut self) -> Option<Fault> {
        self.chip.fault()
    }

    fn counters(&mut self) -> Vec<(&'static str, u64)> {
        self.chip.counters()
    }
}

//! From a reset card to running rings (82574 datasheet, chapter 4.6).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::registers::*;
use super::rx::{self, E1000eRx};
use super::tx::{self, E1000eTx};
use crate::nic::intel::{Gigabit, OVERHEAD, Places};
use crate::nic::{Card, CardInfo, Fault, Link, Queues, Settings};
use crate::pci::PciFn;
use crate::port::PmdError;

/// Queues in each direction.
const QUEUES: u16 = 2;
/// Longest frame on the wire that the card takes, with check sequence.
const MAX_WIRE_FRAME: u16 = 9234;

pub(super) struct E1000e {
    chip: Gigabit,
    info: CardInfo,
}

impl E1000e {
    /// Finds out what the function is.
    pub(super) fn new(function: Arc<dyn PciFn>) -> Result<E1000e, PmdError> {
        let chip = Gigabit::new(function, "e1000e", Places { causes: ICR, mask_clear: IMC, queue: QUEUE })?;
        let info = CardInfo {
            driver: "e1000e",
            mac: chip.mac(),
            max_queues: QUEUES,
            max_mtu: MAX_WIRE_FRAME - OVERHEAD,
        };
        Ok(E1000e { chip, info })
    }

    fn set_up_link_and_interrupts(&self, queues: u16, events: usize) {
        let bar = &*self.chip.bar;
        let ctrl = bar.read32(CTRL) & !(CTRL_RESERVED | CTRL_MASTER_DISABLE);
        bar.write32(CTRL, ctrl | CTRL_SET_LINK_UP);
        self.chip.set(CTRL_EXT, CTRL_EXT_DRIVER_LOADED);
        if events == 0 {
            return;
        }
        let mut ivar = IVAR_VALID << IVAR_OTHER_SHIFT;
        let mut automatic = CAUSE_OTHER;
        if events > usize::from(queues) {
            for queue in 0..u32::from(queues) {
                ivar |= (IVAR_VALID | (1 + queue)) << (4 * queue);
                automatic |= CAUSE_RX_QUEUE_0 << queue;
            }
        }
        bar.write32(IVAR, ivar);
        bar.write32(EIAC, automatic);
        bar.write32(IMS, CAUSE_LINK | CAUSE_OTHER);
    }

    fn rx_ring(&self, index: u16, settings: &Settings, has_vector: bool) -> Result<E1000eRx, PmdError> {
        let (chip, size) = (&self.chip, settings.rx_descriptors);
        let arena = Arc::new(chip.function.dma("e1000e rx ring", E1000eRx::bytes(size))?);
        chip.place_ring([RX_BASE, RX_LEN, RX_HEAD, RX_TAIL], index, size, arena.iova(0));
        chip.bar.write32(RXDCTL + usize::from(index) * QUEUE, DCTL_DESCRIPTORS);
        let interrupt = has_vector.then(|| rx::interrupt(index));
        Ok(E1000eRx::new(arena, chip.bar.clone(), rx::tail(index), size, interrupt))
    }

    fn tx_ring(&self, index: u16, settings: &Settings) -> Result<E1000eTx, PmdError> {
        let (chip, size) = (&self.chip, settings.tx_descriptors);
        let arena = Arc::new(chip.function.dma("e1000e tx ring", E1000eTx::bytes(size))?);
        chip.place_ring([TX_BASE, TX_LEN, TX_HEAD, TX_TAIL], index, size, arena.iova(0));
        chip.bar.write32(TXDCTL + usize::from(index) * QUEUE, DCTL_DESCRIPTORS | TXDCTL_RESERVED);
        Ok(E1000eTx::new(arena, chip.bar.clone(), tx::tail(index), size, settings.max_frame()))
    }

    /// Spreads flows over two queues (7.1.11). With one queue it is left off.
    fn spread(&self, queues: u16) {
        if queues >= 2 {
            // Bit 7 of each of the 128 entries is the queue: in turn.
            self.chip.spread(|_| 0x8000_8000, MRQC_RSS);
        }
    }
}

impl Card for E1000e {
    type Rx = E1000eRx;
    type Tx = E1000eTx;

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
        bar.write32(RFCTL, RFCTL_EXTENDED);
        self.spread(settings.queues);
        bar.write32(TIPG, TIPG_STANDARD);
        bar.write32(TCTL, TCTL_ENABLE | TCTL_PAD | TCTL_COLLISIONS);
        self.chip.receive_all();
        rx.iter().for_each(E1000eRx::kick);
        Ok(Queues { rx, tx })
    }

    fn stop(&mut self) {
        self.chip.stop();
    }

    fn link(&mut self) -> Link {
        // Whatever the cause was, it is looked after now.
        self.chip.bar.write32(ICR, CAUSE_LINK | CAUSE_OTHER);
        self.chip.bar.write32(IMS, CAUSE_LINK | CAUSE_OTHER);
        self.chip.link()
    }

    fn fault(&mut self) -> Option<Fault> {
        self.chip.fault()
    }

    fn counters(&mut self) -> Vec<(&'static str, u64)> {
        self.chip.counters()
    }
}

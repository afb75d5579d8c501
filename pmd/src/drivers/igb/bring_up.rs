//! From a reset card to running rings (82576 datasheet, chapter 4.5).

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::registers::*;
use super::rx::{self, IgbRx};
use super::stats::Stats;
use super::tx::{self, IgbTx};
use crate::nic::intel::{BUFFER, DESCRIPTOR};
use crate::nic::{Card, CardInfo, Fault, Link, Queues, Settings};
use crate::pci::{Bar, PciFn};
use crate::port::PmdError;

/// Queues in each direction.
const QUEUES: u16 = 8;
/// Longest frame on the wire that the card takes, with check sequence.
const MAX_WIRE_FRAME: u16 = 9242;
/// Of that, what is not payload: Ethernet header, two tags, check sequence.
const OVERHEAD: u16 = 14 + 8 + 4;
/// How long a reset may take.
const RESET: Duration = Duration::from_secs(1);
/// How long accesses that are under way may take to end.
const MASTER: Duration = Duration::from_millis(80);
/// How long an access to the PHY may take.
const MDIO: Duration = Duration::from_millis(20);
/// How long the card needs to be left alone after a reset (4.3.1).
const SETTLE: Duration = Duration::from_millis(1);

/// The key that spreads flows: a pattern of 16 bits, so that both directions of a flow meet in one queue.
const RSS_PATTERN: u32 = 0x5a6d_5a6d;

pub(super) struct Igb {
    function: Arc<dyn PciFn>,
    bar: Arc<Bar>,
    info: CardInfo,
    stats: Stats,
}

impl Igb {
    /// Finds out what the function is.
    pub(super) fn new(function: Arc<dyn PciFn>) -> Result<Igb, PmdError> {
        function.enable()?;
        let bar = Arc::new(function.bar(0)?);
        let mut card = Igb {
            info: CardInfo {
                driver: "igb",
                mac: [0; 6],
                max_queues: QUEUES,
                max_mtu: MAX_WIRE_FRAME - OVERHEAD,
            },
            stats: Stats::default(),
            function,
            bar,
        };
        card.reset()?;
        let (low, high) = (card.bar.read32(RAL).to_le_bytes(), card.bar.read32(RAH).to_le_bytes());
        card.info.mac = [low[0], low[1], low[2], low[3], high[0], high[1]];
        Ok(card)
    }

    fn set(&self, register: usize, bits: u32) {
        self.bar.write32(register, self.bar.read32(register) | bits);
    }

    fn failed(&self, what: &str) -> PmdError {
        PmdError::Config(format!("{}: {what} (igb)", self.function.address()))
    }

    /// Waits until `done`. False when it takes too long.
    fn wait(patience: Duration, done: impl Fn() -> bool) -> bool {
        let deadline = Instant::now() + patience;
        while !done() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }

    /// Silences the card and resets it (4.3).
    fn reset(&mut self) -> Result<(), PmdError> {
        let bar = &*self.bar;
        bar.write32(IMC, u32::MAX);
        bar.write32(RCTL, 0);
        bar.write32(TCTL, TCTL_PAD);
        self.set(CTRL, CTRL_MASTER_DISABLE);
        // One that goes on is stopped by the reset all the same.
        let _ = Self::wait(MASTER, || bar.read32(STATUS) & STATUS_MASTER_ENABLED == 0);
        self.set(CTRL, CTRL_RESET);
        std::thread::sleep(SETTLE);
        let alive = || bar.read32(STATUS) != u32::MAX && bar.read32(CTRL) & CTRL_RESET == 0;
        if !Self::wait(RESET, alive) {
            return Err(self.failed("it does not come out of reset: power the machine off and on"));
        }
        bar.write32(IMC, u32::MAX);
        bar.write32(ICR, u32::MAX);
        Ok(())
    }

    fn set_up_link_and_interrupts(&self, queues: u16, events: usize) {
        let bar = &*self.bar;
        let ctrl = bar.read32(CTRL) & !CTRL_MASTER_DISABLE;
        bar.write32(CTRL, ctrl | CTRL_SET_LINK_UP);
        self.set(CTRL_EXT, CTRL_EXT_DRIVER_LOADED);
        // The reset leaves a link as it was. Where there is none, nobody may have asked the PHY for one.
        if bar.read32(STATUS) & STATUS_LINK_UP == 0 {
            bar.write32(MDIC, MDIC_WRITE_CONTROL | PHY_NEGOTIATE);
            // It goes on by itself; a PHY that does not answer shows as no link.
            let _ = Self::wait(MDIO, || bar.read32(MDIC) & MDIC_READY != 0);
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
        let size = settings.rx_descriptors;
        let arena = Arc::new(self.function.dma("igb rx ring", IgbRx::bytes(size))?);
        self.place_ring([RX_BASE, RX_LEN, RX_HEAD, RX_TAIL], index, size, arena.iova(0));
        let at = usize::from(index) * QUEUE;
        // Buffers in units of a KiB. With one queue, a card that drops and one that waits are the same.
        let drop = if settings.queues > 1 { SRRCTL_DROP } else { 0 };
        self.bar.write32(SRRCTL + at, SRRCTL_ADVANCED | drop | (BUFFER >> 10) as u32);
        self.enable_ring(RXDCTL + at)?;
        let interrupt = has_vector.then(|| rx::interrupt(index));
        Ok(IgbRx::new(arena, self.bar.clone(), rx::tail(index), size, interrupt))
    }

    fn tx_ring(&self, index: u16, settings: &Settings) -> Result<IgbTx, PmdError> {
        let size = settings.tx_descriptors;
        let arena = Arc::new(self.function.dma("igb tx ring", IgbTx::bytes(size))?);
        self.place_ring([TX_BASE, TX_LEN, TX_HEAD, TX_TAIL], index, size, arena.iova(0));
        self.enable_ring(TXDCTL + usize::from(index) * QUEUE)?;
        Ok(IgbTx::new(arena, self.bar.clone(), tx::tail(index), size, settings.max_frame()))
    }

    fn place_ring(&self, [base, len, head, tail]: [usize; 4], index: u16, size: u16, iova: u64) {
        let at = usize::from(index) * QUEUE;
        self.bar.write32(base + at, iova as u32);
        self.bar.write32(base + at + 4, (iova >> 32) as u32);
        self.bar.write32(len + at, u32::from(size) * DESCRIPTOR as u32);
        self.bar.write32(head + at, 0);
        self.bar.write32(tail + at, 0);
    }

    /// Enables a ring and waits until it is (4.5.9, 4.5.10).
    fn enable_ring(&self, control: usize) -> Result<(), PmdError> {
        self.bar.write32(control, DCTL_THRESHOLDS | DCTL_ENABLE);
        if Self::wait(RESET, || self.bar.read32(control) & DCTL_ENABLE != 0) {
            return Ok(());
        }
        Err(self.failed("a ring does not start: reset the machine"))
    }

    /// Spreads flows over the queues (7.1.1.7). With one queue it is left off.
    fn spread(&self, queues: u16) {
        if queues < 2 {
            return;
        }
        for word in 0..10 {
            self.bar.write32(RSS_KEY + 4 * word, RSS_PATTERN);
        }
        for word in 0..32 {
            let entries = [0, 1, 2, 3].map(|i| ((4 * word + i) % usize::from(queues)) as u8);
            self.bar.write32(RETA + 4 * word, u32::from_le_bytes(entries));
        }
        self.bar.write32(MRQC, MRQC_RSS | MRQC_FIELDS);
    }
}

impl Card for Igb {
    type Rx = IgbRx;
    type Tx = IgbTx;

    fn info(&self) -> &CardInfo {
        &self.info
    }

    fn start(&mut self, settings: &Settings, events: &[Arc<OwnedFd>]) -> Result<Queues<Self>, PmdError> {
        self.reset()?;
        self.function.enable()?;
        self.set_up_link_and_interrupts(settings.queues, events.len());
        let has_vectors = events.len() > usize::from(settings.queues);
        let rx = (0..settings.queues).map(|i| self.rx_ring(i, settings, has_vectors));
        let rx = rx.collect::<Result<Vec<_>, _>>()?;
        let tx = (0..settings.queues).map(|i| self.tx_ring(i, settings)).collect::<Result<Vec<_>, _>>()?;
        let bar = &*self.bar;
        bar.write32(RXCSUM, RXCSUM_IP | RXCSUM_TCP_UDP | RXCSUM_NO_PACKET_SUM);
        bar.write32(RLPML, settings.max_frame() as u32 + 4);
        self.spread(settings.queues);
        bar.write32(TCTL, TCTL_ENABLE | TCTL_PAD | TCTL_COLLISIONS);
        // Two tags make even a frame of the standard MTU a long one.
        let all = RCTL_ALL_UNICAST | RCTL_ALL_MULTICAST | RCTL_BROADCAST | RCTL_LONG_PACKETS;
        bar.write32(RCTL, RCTL_ENABLE | all | RCTL_STRIP_CRC);
        rx.iter().for_each(IgbRx::kick);
        Ok(Queues { rx, tx })
    }

    fn stop(&mut self) {
        if let Err(error) = self.reset() {
            // It may still write: the bus takes that right from it.
            self.function.silence();
            log::warn!("{error}");
        }
    }

    fn link(&mut self) -> Link {
        // Whatever the cause was, it is looked after now.
        self.bar.write32(ICR, CAUSE_LINK);
        self.bar.write32(IMS, CAUSE_LINK);
        self.bar.write32(EIMS, 1);
        let status = self.bar.read32(STATUS);
        if status == u32::MAX || status & STATUS_LINK_UP == 0 {
            return Link::default();
        }
        let speed = match status >> STATUS_SPEED_SHIFT & 3 {
            0 => 10,
            1 => 100,
            _ => 1000,
        };
        Link { up: true, speed: Some(speed), full_duplex: Some(status & STATUS_FULL_DUPLEX != 0) }
    }

    fn fault(&mut self) -> Option<Fault> {
        // All ones from an empty slot; all zero, which a running card never is, where the kernel has taken the registers away.
        match (self.bar.read32(STATUS), self.bar.read32(RCTL)) {
            (u32::MAX, _) | (_, 0) => Some(Fault::Gone),
            _ => None,
        }
    }

    fn counters(&mut self) -> Vec<(&'static str, u64)> {
        self.stats.read(&self.bar)
    }
}

//! From a reset virtual function to running rings (82576 datasheet, 4.5 and 7.10.2).

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::mailbox::{self, Answer, Mailbox, Peer};
use super::registers::*;
use super::rx::{self, IgbvfRx};
use super::stats::Stats;
use super::tx::IgbvfTx;
use crate::nic::intel::{BUFFER, OVERHEAD, RESET, link, place_ring, wait};
use crate::nic::{Card, CardInfo, Fault, Filters, Link, Queues, Settings, is_station};
use crate::pci::{Bar, PciFn};
use crate::port::PmdError;

/// Queues in each direction. The card has two for each function; the second needs hashing that only the physical function can turn on.
const QUEUES: u16 = 1;
/// Longest frame on the wire that the card takes, with check sequence.
const MAX_WIRE_FRAME: u16 = 9242;
/// How long the card needs to be left alone after a reset (4.3.1).
const SETTLE: Duration = Duration::from_millis(1);
/// How long the card may be in a reset of the physical function. One that lasts is a physical function that is down.
const CARD_RESET: Duration = Duration::from_millis(200);

/// Groups received where the physical function does not give us all: those of IPv6 nodes and routers, and of IPv4 hosts.
const GROUPS: [[u8; 6]; 3] = [[0x33, 0x33, 0, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 2], [0x01, 0, 0x5e, 0, 0, 1]];

pub(super) struct Igbvf {
    function: Arc<dyn PciFn>,
    bar: Arc<Bar>,
    mailbox: Mailbox,
    info: CardInfo,
    filters: Filters,
    stats: Stats,
    running: bool,
}

impl Igbvf {
    /// Finds out what the function is.
    pub(super) fn new(function: Arc<dyn PciFn>, filters: Filters) -> Result<Igbvf, PmdError> {
        function.enable()?;
        let bar = Arc::new(function.bar(0)?);
        let info = CardInfo {
            driver: "igbvf",
            mac: local_address(),
            max_queues: QUEUES,
            max_mtu: MAX_WIRE_FRAME - OVERHEAD,
        };
        let mailbox = Mailbox::new(bar.clone());
        let stats = Stats::default();
        let mut card = Igbvf { function, bar, mailbox, info, filters, stats, running: false };
        card.reset()?;
        Ok(card)
    }

    fn failed(&self, what: &str) -> PmdError {
        PmdError::Config(format!("{}: {what} (igbvf)", self.function.address()))
    }

    /// Silences the function: no interrupts, rings off.
    fn quiet(&self) {
        self.bar.write32(EIMC, VECTORS);
        self.bar.write32(RXDCTL, 0);
        self.bar.write32(TXDCTL, 0);
        self.bar.write32(CTRL, self.bar.read32(CTRL) | CTRL_RESET);
        std::thread::sleep(SETTLE);
    }

    /// Resets the function and introduces it to the physical function (4.5.11.2.2), which says what its address is.
    fn reset(&mut self) -> Result<(), PmdError> {
        self.quiet();
        if self.bar.read32(STATUS) == u32::MAX {
            return Err(self.failed("its registers are gone"));
        }
        if !wait(CARD_RESET, || !self.mailbox.is_in_reset()) {
            return Err(self.failed(
                "its physical function is down or being reset: `ip link set DEVICE up` for the network device of that",
            ));
        }
        self.mailbox.begin();
        match self.mailbox.ask(&[mailbox::RESET]) {
            Answer::Yes([_, low, high, ..]) => {
                let ([a, b, c, d], [e, f, ..]) = (low.to_le_bytes(), high.to_le_bytes());
                self.info.mac = [a, b, c, d, e, f];
                if is_station(self.info.mac) { Ok(()) } else { self.choose_address() }
            }
            // It knows us now, but nobody has given us an address.
            Answer::No => self.choose_address(),
            Answer::Nothing => Err(self.failed(
                "its physical function does not answer: it must be up, with a driver that knows virtual functions",
            )),
        }
    }

    fn choose_address(&mut self) -> Result<(), PmdError> {
        if !is_station(self.info.mac) {
            self.info.mac = local_address();
        }
        self.set_address(mailbox::SET_ADDRESS, self.info.mac, "the address it chose for itself")
    }

    fn set_address(&mut self, first: u32, mac: [u8; 6], what: &str) -> Result<(), PmdError> {
        let [a, b, c, d, e, f] = mac;
        let question = [first, u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, 0, 0])];
        self.want(
            &question,
            what,
            "give it one with `vsctl nic set-vf ADDRESS mac=MAC`, or trust it with `vsctl nic set-vf ADDRESS trust=on`",
        )
    }

    /// Asks for what must be.
    fn want(&mut self, question: &[u32], what: &str, remedy: &str) -> Result<(), PmdError> {
        match self.mailbox.ask(question) {
            Answer::Yes(_) => Ok(()),
            Answer::No => Err(self.failed(&format!("its physical function refuses {what}: {remedy}"))),
            Answer::Nothing => Err(self.failed("its physical function has stopped answering")),
        }
    }

    /// Asks for everything that the physical function forgets with a reset.
    fn ask_for_filters(&mut self, settings: &Settings) -> Result<(), PmdError> {
        let longest = settings.max_frame() as u32 + 4;
        self.want(
            &[mailbox::SET_LONGEST, longest],
            &format!("frames of {longest} bytes"),
            "set a smaller mtu_request",
        )?;
        if !self.filters.addresses.is_empty() {
            // What we asked for in an earlier life is still there, and there is no room to have it twice.
            // The address says nothing here, but Linux wants one that could be.
            let clear = mailbox::SET_ADDRESS | mailbox::CLEAR_ADDRESSES;
            self.set_address(clear, self.info.mac, "another list of addresses")?;
        }
        for mac in self.filters.addresses.clone() {
            let shown = mac.map(|byte| format!("{byte:02x}")).join(":");
            self.set_address(mailbox::SET_ADDRESS | mailbox::ADD_ADDRESS, mac, &format!("address {shown}"))?;
        }
        for vlan in self.filters.vlans.clone() {
            let remedy = "it may have been put into a VLAN by the host: `vsctl nic vfs PF`";
            self.want(
                &[mailbox::SET_VLAN | mailbox::ADD_VLAN, vlan.into()],
                &format!("VLAN {vlan}"),
                remedy,
            )?;
        }
        if !matches!(self.mailbox.ask(&[mailbox::SET_PROMISCUOUS | mailbox::ALL_MULTICAST]), Answer::Yes(_)) {
            let mut question = [0; mailbox::WORDS];
            question[0] = mailbox::SET_MULTICAST | (GROUPS.len() as u32) << mailbox::ARGUMENT_SHIFT;
            for (i, group) in GROUPS.iter().enumerate() {
                // Two to a word.
                question[1 + i / 2] |= group_hash(*group) << (16 * (i % 2));
            }
            self.want(&question, "multicast", "its driver is too old")?;
        }
        Ok(())
    }

    fn set_up_interrupts(&self, events: usize) {
        if events == 0 {
            return;
        }
        let bar = &*self.bar;
        let has_queue = events > usize::from(QUEUES);
        bar.write32(EIAC, if has_queue { 1 | 1 << rx::VECTOR } else { 1 });
        if has_queue {
            bar.write32(IVAR, IVAR_VALID | rx::VECTOR);
        }
        // Vector 0 is for the mailbox.
        bar.write32(IVAR_MISC, IVAR_VALID);
        bar.write32(EIMS, 1);
    }

    fn rx_ring(&self, settings: &Settings, has_vector: bool) -> Result<IgbvfRx, PmdError> {
        let size = settings.rx_descriptors;
        let arena = Arc::new(self.function.dma("igbvf rx ring", IgbvfRx::bytes(size))?);
        place_ring(&self.bar, [RX_BASE, RX_LEN, RX_HEAD, RX_TAIL], size, arena.iova(0));
        // Buffers in units of a KiB.
        self.bar.write32(SRRCTL, SRRCTL_ADVANCED | SRRCTL_DROP | (BUFFER >> 10) as u32);
        self.enable_ring(RXDCTL)?;
        let ring = IgbvfRx::new(arena, self.bar.clone(), RX_TAIL, size, has_vector.then(rx::interrupt));
        // Whether tags are taken out is the physical function's to say, and Linux has them taken out.
        Ok(ring.put_tags_back())
    }

    fn tx_ring(&self, settings: &Settings) -> Result<IgbvfTx, PmdError> {
        let size = settings.tx_descriptors;
        let arena = Arc::new(self.function.dma("igbvf tx ring", IgbvfTx::bytes(size))?);
        place_ring(&self.bar, [TX_BASE, TX_LEN, TX_HEAD, TX_TAIL], size, arena.iova(0));
        self.enable_ring(TXDCTL)?;
        Ok(IgbvfTx::new(arena, self.bar.clone(), TX_TAIL, size, settings.max_frame()))
    }

    fn enable_ring(&self, control: usize) -> Result<(), PmdError> {
        self.bar.write32(control, DCTL_THRESHOLDS | DCTL_ENABLE);
        if wait(RESET, || self.bar.read32(control) & DCTL_ENABLE != 0) {
            return Ok(());
        }
        Err(self.failed("a ring does not start"))
    }
}

impl Card for Igbvf {
    type Rx = IgbvfRx;
    type Tx = IgbvfTx;

    fn info(&self) -> &CardInfo {
        &self.info
    }

    fn start(&mut self, settings: &Settings, events: &[Arc<OwnedFd>]) -> Result<Queues<Self>, PmdError> {
        self.reset()?;
        self.function.enable()?;
        self.set_up_interrupts(events.len());
        self.ask_for_filters(settings)?;
        let rx = self.rx_ring(settings, events.len() > usize::from(QUEUES))?;
        let tx = self.tx_ring(settings)?;
        rx.kick();
        self.stats.begin(&self.bar);
        self.running = true;
        Ok(Queues { rx: vec![rx], tx: vec![tx] })
    }

    fn stop(&mut self) {
        self.running = false;
        self.quiet();
        // Whether it obeyed, only the physical function could tell.
        self.function.silence();
    }

    fn link(&mut self) -> Link {
        // Whatever the mailbox had to say, it is looked after now.
        self.bar.write32(EIMS, 1);
        self.stats.look(&self.bar);
        if !self.running || self.mailbox.is_in_reset() {
            return Link::default();
        }
        link(self.bar.read32(STATUS))
    }

    fn fault(&mut self) -> Option<Fault> {
        if !self.running {
            return None;
        }
        if self.bar.read32(STATUS) == u32::MAX {
            return Some(Fault::Gone);
        }
        // A reset from outside, of the function or of the whole card, takes the ring's registers with it.
        let lost = self.bar.read32(RX_LEN) == 0;
        (lost || self.mailbox.peer() != Peer::Same).then_some(Fault::NeedsReset)
    }

    fn counters(&mut self) -> Vec<(&'static str, u64)> {
        self.stats.look(&self.bar);
        self.stats.named()
    }
}

/// A locally administered address that nobody else has, by chance.
fn local_address() -> [u8; 6] {
    let [a, b, c, d, e, f, ..] = RandomState::new().build_hasher().finish().to_ne_bytes();
    [a & 0xfc | 2, b, c, d, e, f]
}

/// Which of the 4096 bits of the card's table is for a group (8.10.19): bits 36 to 47 of the address, as it is usually set up.
fn group_hash(group: [u8; 6]) -> u32 {
    u32::from(group[4]) >> 4 | u32::from(group[5]) << 4
}

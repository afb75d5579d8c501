//! From a reset function to running rings (VIRTIO 1.2, section 3.1.1).

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::control::{self, Control};
use super::descriptors::{Ring, Shape};
use super::registers::{NO_VECTOR, Registers, common, net, status};
use super::rx::VirtioRx;
use super::tx::VirtioTx;
use crate::nic::{Card, CardInfo, Fault, Link, Queues, Settings};
use crate::packet::OffloadCaps;
use crate::pci::PciFn;
use crate::port::PmdError;
use crate::virtio::NetHeader;
use crate::virtio::burst_driver::Direction;
use crate::virtio::features::{
    self, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_EVENT_IDX, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1,
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ,
    VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU, VIRTIO_NET_F_SPEED_DUPLEX, VIRTIO_NET_F_STATUS,
};
use crate::virtio::net_driver::device_offloads;

/// What we take if it is offered, whatever else.
const WANTED: u64 = VIRTIO_F_VERSION_1
    | VIRTIO_F_ACCESS_PLATFORM
    | VIRTIO_F_RING_PACKED
    | VIRTIO_F_EVENT_IDX
    | VIRTIO_NET_F_CSUM
    | VIRTIO_NET_F_GUEST_CSUM
    | VIRTIO_NET_F_MTU
    | VIRTIO_NET_F_MAC
    | VIRTIO_NET_F_HOST_TSO4
    | VIRTIO_NET_F_HOST_TSO6
    | VIRTIO_NET_F_HOST_ECN
    | VIRTIO_NET_F_MRG_RXBUF
    | VIRTIO_NET_F_STATUS
    | VIRTIO_NET_F_CTRL_VQ
    | VIRTIO_NET_F_CTRL_RX
    | VIRTIO_NET_F_MQ
    | VIRTIO_NET_F_SPEED_DUPLEX;

/// What we take only with mergeable buffers: segments of 64 KiB, for which else every buffer would have to be that long.
const WANTED_IF_MERGEABLE: u64 = VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_GUEST_TSO6 | VIRTIO_NET_F_GUEST_ECN;

/// Bytes of a mergeable receive buffer: 2 KiB less the room that puts the frame on a cache line.
const MERGEABLE_BUFFER: usize = 2048 - 52;
/// Longest frame with segmentation: 64 KiB of IP packet, Ethernet header and two tags.
const LONGEST_SEGMENT: usize = 65_535 + 22;
/// Transmit buffers, when each is as long as that.
const LONG_BUFFERS: u16 = 128;
/// Largest MTU when the device names none.
const MAX_MTU: u16 = 9216;
/// How long a reset may take.
const RESET: Duration = Duration::from_secs(2);

pub(super) struct VirtioNet {
    function: Arc<dyn PciFn>,
    registers: Registers,
    info: CardInfo,
    /// Features of the running device.
    features: u64,
    control: Option<Control>,
}

impl VirtioNet {
    /// Finds out what the function is.
    pub(super) fn new(function: Arc<dyn PciFn>) -> Result<VirtioNet, PmdError> {
        function.enable()?;
        let registers = Registers::find(&*function)?;
        let mut card = VirtioNet {
            registers,
            info: CardInfo { driver: "virtio-net", mac: [0; 6], max_queues: 1, max_mtu: MAX_MTU },
            features: 0,
            control: None,
            function,
        };
        card.reset()?;
        let offered = card.offered();
        if offered & VIRTIO_F_VERSION_1 == 0 {
            return Err(card.failed("it is no VIRTIO 1 device"));
        }
        card.info.mac = core::array::from_fn(|i| card.registers.device.read8(net::MAC + i));
        if offered & VIRTIO_NET_F_MQ != 0 && offered & VIRTIO_NET_F_CTRL_VQ != 0 {
            card.info.max_queues = card.registers.device.read16(net::MAX_PAIRS).clamp(1, 256);
        }
        if offered & VIRTIO_NET_F_MTU != 0 {
            card.info.max_mtu = card.registers.device.read16(net::MTU).max(68);
        }
        Ok(card)
    }

    fn failed(&self, what: &str) -> PmdError {
        PmdError::Config(format!("{}: {what} (virtio-net)", self.function.address()))
    }

    fn set_status(&self, bits: u8) {
        let old = self.registers.common.read8(common::STATUS);
        self.registers.common.write8(common::STATUS, old | bits);
    }

    /// Writes zero and waits until it is zero: the device then has let go of its rings.
    fn reset(&mut self) -> Result<(), PmdError> {
        self.control = None;
        self.registers.common.write8(common::STATUS, 0);
        let deadline = Instant::now() + RESET;
        while self.registers.common.read8(common::STATUS) != 0 {
            if Instant::now() > deadline {
                return Err(self.failed("it does not come out of reset: unplug it, or restart its host"));
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    fn offered(&self) -> u64 {
        let half = |select: u32| {
            self.registers.common.write32(common::DEVICE_FEATURE_SELECT, select);
            u64::from(self.registers.common.read32(common::DEVICE_FEATURE))
        };
        half(0) | half(1) << 32
    }

    fn negotiate(&mut self) -> Result<(), PmdError> {
        self.set_status(status::ACKNOWLEDGE);
        self.set_status(status::DRIVER);
        let offered = self.offered();
        let mut wanted = offered & WANTED;
        if wanted & VIRTIO_NET_F_MRG_RXBUF != 0 && wanted & VIRTIO_NET_F_GUEST_CSUM != 0 {
            wanted |= offered & WANTED_IF_MERGEABLE;
        }
        if wanted & VIRTIO_NET_F_CTRL_VQ == 0 {
            wanted &= !(VIRTIO_NET_F_CTRL_RX | VIRTIO_NET_F_MQ);
        }
        for (select, half) in [(0, wanted as u32), (1, (wanted >> 32) as u32)] {
            self.registers.common.write32(common::DRIVER_FEATURE_SELECT, select);
            self.registers.common.write32(common::DRIVER_FEATURE, half);
        }
        self.set_status(status::FEATURES_OK);
        if self.registers.common.read8(common::STATUS) & status::FEATURES_OK == 0 {
            let names = features::names(wanted).collect::<Vec<_>>().join(" ");
            return Err(self.failed(&format!("it does not accept its own features: {names}")));
        }
        self.features = wanted;
        Ok(())
    }

    fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// Most descriptors queue `index` can have, a power of two, at most `wanted`.
    fn queue_size(&self, index: u16, wanted: u16) -> Result<u16, PmdError> {
        self.registers.common.write16(common::QUEUE_SELECT, index);
        let offered = self.registers.common.read16(common::QUEUE_SIZE);
        if offered == 0 || offered == u16::MAX {
            return Err(self.failed(&format!("it has no queue {index}")));
        }
        Ok(wanted.min(1 << offered.ilog2()))
    }

    /// Says where the selected queue lies, and lets it run. Returns its doorbell.
    fn set_up_queue(
        &self,
        index: u16,
        size: u16,
        parts: [u64; 3],
        vector: u16,
    ) -> Result<super::registers::Window, PmdError> {
        let registers = &self.registers.common;
        registers.write16(common::QUEUE_SELECT, index);
        registers.write16(common::QUEUE_SIZE, size);
        registers.write16(common::QUEUE_VECTOR, vector);
        if vector != NO_VECTOR && registers.read16(common::QUEUE_VECTOR) != vector {
            return Err(self.failed(&format!("it has no interrupt for queue {index}: give it more vectors")));
        }
        for (at, address) in
            [common::QUEUE_DESC, common::QUEUE_DRIVER, common::QUEUE_DEVICE].into_iter().zip(parts)
        {
            registers.write64(at, address);
        }
        let doorbell =
            usize::from(registers.read16(common::QUEUE_NOTIFY_OFF)) * self.registers.notify_multiplier;
        registers.write16(common::QUEUE_ENABLE, 1);
        Ok(self.registers.notify.at(doorbell))
    }

    fn ring(&self, index: u16, shape: Shape, vector: u16) -> Result<Ring, PmdError> {
        let arena = self.function.dma("virtio-net ring", shape.bytes())?;
        let doorbell = self.set_up_queue(index, shape.size, shape.addresses(&arena), vector)?;
        Ring::new(shape, arena, doorbell, index).ok_or_else(|| self.failed(&format!("{shape:?} is no ring")))
    }

    fn shape(&self, size: u16, direction: Direction) -> Shape {
        Shape {
            size,
            count: size,
            capacity: 0,
            direction,
            packed: self.has(VIRTIO_F_RING_PACKED),
            event_idx: self.has(VIRTIO_F_EVENT_IDX),
        }
    }

    fn rx_ring(&self, pair: u16, settings: &Settings, has_vector: bool) -> Result<VirtioRx, PmdError> {
        let size = self.queue_size(2 * pair, settings.rx_descriptors)?;
        let mergeable = self.has(VIRTIO_NET_F_MRG_RXBUF);
        let capacity = if mergeable { MERGEABLE_BUFFER } else { NetHeader::LEN + settings.max_frame() };
        let shape = Shape { capacity, ..self.shape(size, Direction::FromDevice) };
        let vector = if has_vector { 1 + pair } else { NO_VECTOR };
        Ok(VirtioRx::new(self.ring(2 * pair, shape, vector)?, capacity, mergeable))
    }

    fn tx_ring(&self, pair: u16, settings: &Settings) -> Result<VirtioTx, PmdError> {
        let size = self.queue_size(2 * pair + 1, settings.tx_descriptors)?;
        let caps = device_offloads(self.features);
        // A device that offers segmentation without checksums is not asked for it.
        let caps = if caps.csum { caps } else { OffloadCaps::default() };
        let long = caps.tso4 || caps.tso6;
        let longest = if long { LONGEST_SEGMENT } else { settings.max_frame() };
        let shape = Shape {
            count: if long { size.min(LONG_BUFFERS) } else { size },
            capacity: NetHeader::LEN + longest,
            ..self.shape(size, Direction::ToDevice)
        };
        Ok(VirtioTx::new(self.ring(2 * pair + 1, shape, NO_VECTOR)?, caps, longest))
    }

    fn control_queue(&self) -> Result<Option<Control>, PmdError> {
        if !self.has(VIRTIO_NET_F_CTRL_VQ) {
            return Ok(None);
        }
        let pairs = if self.has(VIRTIO_NET_F_MQ) { self.info.max_queues } else { 1 };
        let (index, packed) = (2 * pairs, self.has(VIRTIO_F_RING_PACKED));
        let size = self.queue_size(index, control::SIZE)?;
        let arena = self.function.dma("virtio-net control", control::BYTES)?;
        let (second, third) = control::parts(packed, size);
        let addresses = [arena.iova(0), arena.iova(second), arena.iova(third)];
        let doorbell = self.set_up_queue(index, size, addresses, NO_VECTOR)?;
        Ok(Control::new(packed, size, arena, doorbell, index))
    }

    /// What is said to the running device: how many queues, and which addresses to receive.
    fn configure(&mut self, pairs: u16) -> Result<(), PmdError> {
        let (has_rx, has_mq) = (self.has(VIRTIO_NET_F_CTRL_RX), self.has(VIRTIO_NET_F_MQ));
        let Some(control) = &mut self.control else { return Ok(()) };
        let pairs_taken = !has_mq || control.command(control::MQ, control::MQ_PAIRS, &pairs.to_le_bytes());
        if !pairs_taken {
            return Err(self.failed(&format!("it does not take {pairs} queue pairs: use a smaller n_rxq")));
        }
        // A device that does not know the modes receives everything.
        if has_rx {
            for mode in [control::RX_PROMISC, control::RX_ALL_MULTICAST] {
                if !control.command(control::RX, mode, &[1]) {
                    return Err(
                        self.failed("it does not take all addresses: it cannot be a port of a switch")
                    );
                }
            }
        }
        Ok(())
    }
}

impl Card for VirtioNet {
    type Rx = VirtioRx;
    type Tx = VirtioTx;

    fn info(&self) -> &CardInfo {
        &self.info
    }

    fn start(&mut self, settings: &Settings, events: &[Arc<OwnedFd>]) -> Result<Queues<Self>, PmdError> {
        self.reset()?;
        self.negotiate()?;
        if !events.is_empty() {
            self.registers.common.write16(common::CONFIG_VECTOR, 0);
        }
        let queues = self.start_queues(settings, events);
        if queues.is_err() {
            self.set_status(status::FAILED);
        }
        queues
    }

    fn stop(&mut self) {
        if let Err(error) = self.reset() {
            // It may still write: the bus takes that right from it.
            self.function.silence();
            log::warn!("{error}");
        }
    }

    fn link(&mut self) -> Link {
        let bits = self.registers.device.read16(net::STATUS);
        let up = !self.has(VIRTIO_NET_F_STATUS) || (bits & 1 != 0 && bits != u16::MAX);
        let (mut speed, mut full_duplex) = (None, None);
        if self.has(VIRTIO_NET_F_SPEED_DUPLEX) {
            speed = Some(self.registers.device.read32(net::SPEED))
                .filter(|&speed| speed <= i32::MAX as u32 && speed != 0);
            full_duplex = Some(self.registers.device.read8(net::DUPLEX)).filter(|&d| d <= 1).map(|d| d == 1);
        }
        Link { up, speed, full_duplex }
    }

    fn fault(&mut self) -> Option<Fault> {
        let bits = self.registers.common.read8(common::STATUS);
        // All ones from an empty slot; zero where the kernel has taken the registers away, or from a device somebody reset.
        match bits {
            0xff => Some(Fault::Gone),
            bits if bits & status::NEEDS_RESET != 0 => Some(Fault::NeedsReset),
            bits if bits & status::DRIVER_OK == 0 => Some(Fault::Gone),
            _ => None,
        }
    }

    fn counters(&mut self) -> Vec<(&'static str, u64)> {
        super::stats::counters()
    }
}

impl VirtioNet {
    fn start_queues(
        &mut self,
        settings: &Settings,
        events: &[Arc<OwnedFd>],
    ) -> Result<Queues<Self>, PmdError> {
        let (mut rx, mut tx) = (Vec::new(), Vec::new());
        for pair in 0..settings.queues {
            let has_vector = events.len() > 1 + usize::from(pair);
            rx.push(self.rx_ring(pair, settings, has_vector)?);
            tx.push(self.tx_ring(pair, settings)?);
        }
        self.control = self.control_queue()?;
        // Before the device may look for anything.
        self.function.enable()?;
        self.set_status(status::DRIVER_OK);
        self.configure(settings.queues)?;
        rx.iter_mut().for_each(VirtioRx::kick);
        Ok(Queues { rx, tx })
    }
}

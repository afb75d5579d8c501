//! From a reset function to running rings (VIRTIO 1.2, section 3.1.1).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::descriptors::{Doorbell, Ring, Shape};
use super::rx::VirtioRx;
use super::tx::VirtioTx;
use crate::nic::{Card, CardInfo, Fault, Link, Queues, RxRing as _, Settings};
use crate::packet::{MAX_FRAME, OffloadCaps};
use crate::pci::PciFn;
use crate::port::PmdError;
use crate::virtio::NetHeader;
use crate::virtio::burst_driver::Direction;
use crate::virtio::features::{
    VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_EVENT_IDX, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1,
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ,
    VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU, VIRTIO_NET_F_SPEED_DUPLEX, VIRTIO_NET_F_STATUS,
};
use crate::virtio::net_driver::{self, device_offloads};
use crate::virtio::pci::{Control, NO_VECTOR, Transport, net, status};

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
const MERGEABLE_BUFFER: u32 = 2048 - net_driver::HEADROOM;
/// Transmit buffers, when each is as long as a frame that the device segments.
const LONG_BUFFERS: u16 = 128;
/// Largest MTU when the device names none.
const MAX_MTU: u16 = 9216;

/// Bytes of a buffer for a frame of `len` bytes.
const fn buffer_for(len: usize) -> u32 {
    (NetHeader::LEN + len) as u32
}

pub(super) struct VirtioNet {
    transport: Transport,
    info: CardInfo,
    /// Features of the running device.
    features: u64,
    control: Option<Control>,
}

impl VirtioNet {
    /// Finds out what the function is.
    pub(super) fn new(function: Arc<dyn PciFn>) -> Result<VirtioNet, PmdError> {
        let info = CardInfo { driver: "virtio-net", mac: [0; 6], max_queues: 1, max_mtu: MAX_MTU };
        let mut card = VirtioNet { transport: Transport::new(function)?, info, features: 0, control: None };
        let (offered, config) = (card.transport.offered(), card.transport.config());
        card.info.mac = core::array::from_fn(|i| config.read8(net::MAC + i));
        if offered & VIRTIO_NET_F_MQ != 0 && offered & VIRTIO_NET_F_CTRL_VQ != 0 {
            card.info.max_queues = config.read16(net::MAX_PAIRS).clamp(1, 256);
        }
        if offered & VIRTIO_NET_F_MTU != 0 {
            card.info.max_mtu = config.read16(net::MTU).max(68);
        }
        Ok(card)
    }

    fn reset(&mut self) -> Result<(), PmdError> {
        self.control = None;
        self.transport.reset()
    }

    fn negotiate(&mut self) -> Result<(), PmdError> {
        let offered = self.transport.offered();
        let mut wanted = offered & WANTED;
        if wanted & VIRTIO_NET_F_MRG_RXBUF != 0 && wanted & VIRTIO_NET_F_GUEST_CSUM != 0 {
            wanted |= offered & WANTED_IF_MERGEABLE;
        }
        if wanted & VIRTIO_NET_F_CTRL_VQ == 0 {
            wanted &= !(VIRTIO_NET_F_CTRL_RX | VIRTIO_NET_F_MQ);
        }
        self.transport.accept(wanted)?;
        self.features = wanted;
        Ok(())
    }

    fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// Descriptors of queue `index`: as many as it can have, at most `wanted`.
    fn queue_size(&self, index: u16, wanted: u16) -> Result<u16, PmdError> {
        Ok(self.transport.queue_size(index)?.min(wanted))
    }

    fn ring(&self, index: u16, shape: Shape, vector: u16) -> Result<Ring, PmdError> {
        let arena = self.transport.function().dma("virtio-net ring", shape.bytes())?;
        let register = self.transport.set_up_queue(index, shape.size, shape.addresses(&arena), vector)?;
        Ring::new(shape, arena, Doorbell { register, queue: index })
            .ok_or_else(|| self.transport.failed(&format!("{shape:?} is no ring")))
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
        let capacity = if mergeable { MERGEABLE_BUFFER } else { buffer_for(settings.max_frame()) };
        let shape = Shape { capacity, ..self.shape(size, Direction::FromDevice) };
        let vector = if has_vector { 1 + pair } else { NO_VECTOR };
        Ok(VirtioRx::new(self.ring(2 * pair, shape, vector)?, mergeable))
    }

    fn tx_ring(&self, pair: u16, settings: &Settings) -> Result<VirtioTx, PmdError> {
        let size = self.queue_size(2 * pair + 1, settings.tx_descriptors)?;
        let caps = device_offloads(self.features);
        // A device that offers segmentation without checksums is not asked for it.
        let caps = if caps.csum { caps } else { OffloadCaps::default() };
        let long = caps.tso4 || caps.tso6;
        let longest = if long { MAX_FRAME } else { settings.max_frame() };
        let shape = Shape {
            count: if long { size.min(LONG_BUFFERS) } else { size },
            capacity: buffer_for(longest),
            ..self.shape(size, Direction::ToDevice)
        };
        Ok(VirtioTx::new(self.ring(2 * pair + 1, shape, NO_VECTOR)?, caps))
    }

    fn control_queue(&self) -> Result<Option<Control>, PmdError> {
        if !self.has(VIRTIO_NET_F_CTRL_VQ) {
            return Ok(None);
        }
        let pairs = if self.has(VIRTIO_NET_F_MQ) { self.info.max_queues } else { 1 };
        self.transport.control_queue(self.features, 2 * pairs)
    }

    /// What is said to the running device: how many queues, and which addresses to receive.
    fn configure(&mut self, pairs: u16) -> Result<(), PmdError> {
        let (has_rx, has_mq) = (self.has(VIRTIO_NET_F_CTRL_RX), self.has(VIRTIO_NET_F_MQ));
        let Some(control) = &mut self.control else { return Ok(()) };
        let pairs_taken = !has_mq || control.set_pairs(pairs);
        if !pairs_taken {
            return Err(self
                .transport
                .failed(&format!("it does not take {pairs} queue pairs: use a smaller n_rxq")));
        }
        // A device that does not know the modes receives everything.
        if has_rx && !(control.set_promiscuous() && control.set_all_multicast()) {
            return Err(self
                .transport
                .failed("it does not take all addresses: it cannot be a port of a switch"));
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
            self.transport.set_config_vector(0)?;
        }
        let queues = self.start_queues(settings, events);
        if queues.is_err() {
            self.transport.set_status(status::FAILED);
        }
        queues
    }

    fn stop(&mut self) {
        self.control = None;
        if let Err(error) = self.transport.silence() {
            log::warn!("{error}");
        }
    }

    fn link(&mut self) -> Link {
        let bits = self.transport.config().read16(net::STATUS);
        let up = !self.has(VIRTIO_NET_F_STATUS) || (bits & 1 != 0 && bits != u16::MAX);
        let (mut speed, mut full_duplex) = (None, None);
        if self.has(VIRTIO_NET_F_SPEED_DUPLEX) {
            speed = Some(self.transport.config().read32(net::SPEED))
                .filter(|&speed| speed <= i32::MAX as u32 && speed != 0);
            full_duplex =
                Some(self.transport.config().read8(net::DUPLEX)).filter(|&d| d <= 1).map(|d| d == 1);
        }
        Link { up, speed, full_duplex }
    }

    fn fault(&mut self) -> Option<Fault> {
        let bits = self.transport.status();
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
        self.transport.function().enable()?;
        self.transport.set_status(status::DRIVER_OK);
        self.configure(settings.queues)?;
        for ring in &mut rx {
            ring.settle();
        }
        Ok(Queues { rx, tx })
    }
}

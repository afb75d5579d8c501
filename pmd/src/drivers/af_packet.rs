//! Any network device of the kernel as a port, by packet sockets (packet(7)): `type=system`.
//!
//! ```text
//!   rx queue i   socket with a ring the kernel fills; several share the device's frames by a hash of the flow (fanout)
//!   tx queue     a socket of its own per worker, a burst per system call
//! ```
//!
//! Every frame has a virtio-net header before it, so checksums stay partial and TCP stays in 64 KiB frames in both directions,
//! as with TAP: between two namespaces joined by veth pairs nobody cuts anything.
//!
//! The kernel goes on using the device, and sees every frame that we see: an address on it answers, and `tcpdump` works. What the
//! host itself sends by the device is not received.
//!
//! Cost: receiving is a look at a word of shared memory and a copy of the head, no system call; the kernel has copied the
//! frame once. A frame longer than a slot (one that the kernel has not cut) costs one call. Sending costs a call per burst, in
//! which the kernel copies each frame. Why not a ring for sending, and why rings of version 2: `docs/decisions/0012-kernel-devices.md`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use super::link_watch::{LinkWatch, Watched};
use super::netdev::{LINK_OVERHEAD, NetDevice};
use super::parked::{Parked, Taken};
use crate::offload::{Finisher, Takes};
use crate::packet::{Batch, Frame, OffloadCaps, SlotId};
use crate::port::{
    Armed, DropReason, OffloadSwitches, Offloads, PmdError, Port, PortEvents, PortInfo, QueueCounters,
    RxQueue, TxQueue, Waker, offload_status,
};
use crate::sys::gather;
use crate::sys::packet_socket::PacketSocket;
use crate::sys::send_many::SendMany;
use crate::virtio::NetHeader;
use receiver::Receiver;

mod receiver;

/// Most receive queues; the kernel could do more, no worker could use them.
const MOST_QUEUES: u16 = 64;

/// Bytes of frames that may wait in a socket: for those longer than a slot of the ring, and for those on their way out.
const SOCKET_BUFFER: i32 = 8 << 20;

/// What to open.
#[derive(Clone, Debug)]
pub struct AfPacketConfig {
    /// Name of the device.
    pub name: String,
    /// Receive queues.
    pub queues: u16,
    /// Send past queueing disciplines and taps.
    pub bypass_qdisc: bool,
}

struct AfPacketPort {
    device: Arc<NetDevice>,
    receivers: Parked<Receiver>,
    bypass_qdisc: bool,
    /// What of the kernel's offloads the operator wants.
    offloads: Arc<OffloadSwitches>,
    watch: LinkWatch,
}

/// Opens the device. It is put into promiscuous mode as long as the port is open; whether it is up is left to the operator.
pub fn open(config: &AfPacketConfig) -> Result<Arc<dyn Port>, PmdError> {
    if config.queues == 0 || config.queues > MOST_QUEUES {
        return Err(PmdError::Config(format!("{}: use 1 to {MOST_QUEUES} receive queues", config.name)));
    }
    let mut device = NetDevice::find(&config.name)?;
    device.set_queues(config.queues);
    let device = Arc::new(device);
    let mut receivers = Vec::new();
    let mut group = None;
    for _ in 0..config.queues {
        let receiver = Receiver::open(&device)?;
        if config.queues > 1 {
            let joined = receiver.socket().join_fanout(group);
            group = Some(joined.map_err(|e| fault(&device, "sharing the device among queues", e))?);
        }
        receivers.push(receiver);
    }
    if let Some(first) = receivers.first() {
        let promiscuous = first.socket().promiscuous(device.index());
        promiscuous.map_err(|e| fault(&device, "making the device promiscuous", e))?;
    }
    let watch = LinkWatch::start(device.clone()).map_err(|e| fault(&device, "watching its link", e))?;
    let bypass_qdisc = config.bypass_qdisc;
    Ok(Arc::new(AfPacketPort {
        device,
        receivers: Parked::new(receivers),
        bypass_qdisc,
        offloads: Arc::default(),
        watch,
    }))
}

/// Text of a kernel error while opening.
fn fault(device: &NetDevice, what: &str, error: io::Error) -> PmdError {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => "it needs CAP_NET_RAW: run as root",
        io::ErrorKind::OutOfMemory => "use fewer queues, or free some memory",
        _ => "",
    };
    PmdError::system(format!("{}: {what}", device.name().as_str()), remedy, error)
}

impl Port for AfPacketPort {
    fn driver(&self) -> &'static str {
        "system"
    }

    fn info(&self) -> PortInfo {
        let mut info = self.watch.info();
        info.status.extend(offload_status(self.offloads.get().limit(CAPS)));
        info
    }

    fn rx_queue(&self, index: u16) -> Result<Box<dyn RxQueue>, PmdError> {
        let mut receiver = self.receivers.take(self.device.name().as_str(), index)?;
        let fd = receiver.get().map(|receiver| receiver.socket().fd().clone());
        Ok(Box::new(AfPacketRx { receiver, fd, counters: Arc::default() }))
    }

    fn tx_queue(&self, _worker: u16) -> Result<Box<dyn TxQueue>, PmdError> {
        let error = |e| fault(&self.device, "opening a socket to send by", e);
        let socket = PacketSocket::open().map_err(error)?;
        socket.use_net_header().map_err(error)?;
        if self.bypass_qdisc {
            socket.bypass_qdisc().map_err(error)?;
        }
        // Without the right to more it has what the system allows.
        let _ = socket.set_buffers(SOCKET_BUFFER);
        socket.bind(self.device.index(), false).map_err(error)?;
        Ok(Box::new(AfPacketTx {
            socket,
            mtu: self.device.mtu().clone(),
            offloads: self.offloads.clone(),
            sender: SendMany::default(),
            finisher: Finisher::new(),
            counters: Arc::default(),
        }))
    }

    fn set_mtu(&self, mtu: u16) -> Result<(), PmdError> {
        self.device.set_mtu(mtu)
    }

    /// What comes in is as the device and the kernel make it: `ethtool -K` says of that.
    fn set_offloads(&self, offloads: Offloads) -> Result<(), PmdError> {
        self.offloads.set(offloads);
        self.device.subscriber().notify();
        Ok(())
    }

    fn subscribe(&self, events: Arc<dyn PortEvents>) {
        self.device.subscriber().set(events);
    }
}

struct AfPacketRx {
    receiver: Taken<Receiver>,
    fd: Option<Arc<OwnedFd>>,
    counters: Arc<QueueCounters>,
}

impl RxQueue for AfPacketRx {
    #[inline]
    fn rx_burst<'q>(&'q mut self, batch: &mut Batch<'q>) -> usize {
        let Some(receiver) = self.receiver.get() else { return 0 };
        receiver.receive(batch, &self.counters)
    }

    fn rx_done(&mut self) {
        if let Some(receiver) = self.receiver.get() {
            receiver.give_back();
        }
    }

    /// The kernel always notifies; what is left is the look.
    fn arm(&mut self) -> Armed {
        match self.receiver.get() {
            Some(receiver) if receiver.waits() => Armed::Work,
            _ => Armed::Idle,
        }
    }

    fn wait_fd(&self) -> Option<Arc<OwnedFd>> {
        self.fd.clone()
    }

    fn notifies_unasked(&self) -> bool {
        true
    }

    fn set_waker(&mut self, _waker: Waker) {}

    fn counters(&self) -> Arc<QueueCounters> {
        self.counters.clone()
    }
}

struct AfPacketTx {
    socket: PacketSocket,
    mtu: Arc<AtomicU16>,
    offloads: Arc<OffloadSwitches>,
    sender: SendMany<{ NetHeader::LEGACY_LEN }>,
    finisher: Finisher,
    counters: Arc<QueueCounters>,
}

/// What the kernel does for us: all but the old UDP fragmentation.
const CAPS: OffloadCaps =
    OffloadCaps { csum: true, tso4: true, tso6: true, ecn: true, ufo: false, uso: true };

fn header(frame: &Frame<'_>) -> [u8; NetHeader::LEGACY_LEN] {
    let [header @ .., _, _] = NetHeader::from_offload(&frame.offload).to_bytes();
    header
}

fn reason(error: &io::Error) -> DropReason {
    use rustix::io::Errno;
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::AGAIN | Errno::NOBUFS) => DropReason::TxRingFull,
        Some(Errno::NETDOWN | Errno::NXIO | Errno::NODEV) => DropReason::TxLinkDown,
        Some(Errno::MSGSIZE) => DropReason::TxTooLong,
        _ => DropReason::TxSystem,
    }
}

impl TxQueue for AfPacketTx {
    fn tx_burst(&mut self, batch: &Batch<'_>, slots: &[SlotId]) -> usize {
        let Takes { caps, max_frame } = self.takes();
        // Frames as they are go together; one to be finished, or in many pieces, goes alone, in its turn.
        let plain = |slot: &&SlotId| {
            let frame = batch.frame(**slot);
            let fits = frame.offload.gso != crate::packet::Gso::None || frame.len() <= max_frame;
            fits && caps.takes(&frame.offload) && SendMany::<{ NetHeader::LEGACY_LEN }>::takes(&frame)
        };
        let (mut rest, mut sent, mut bytes) = (slots, 0, 0);
        while let Some((&first, others)) = rest.split_first() {
            let run = rest.iter().take_while(plain).count();
            let (run, _) = rest.split_at(run);
            if run.is_empty() {
                match self.send_alone(batch.frame(first), caps, max_frame) {
                    Ok(()) => {
                        sent += 1;
                        bytes += batch.frame(first).len();
                    }
                    Err(reason) => self.counters.drops.add(reason, 1),
                }
                rest = others;
                continue;
            }
            let frames = run.iter().map(|&slot| batch.frame(slot));
            match self.sender.send(self.socket.as_fd(), frames, header) {
                Ok(taken) => {
                    sent += taken;
                    bytes += run.iter().take(taken).map(|&slot| batch.packet(slot).len()).sum::<usize>();
                    rest = rest.get(taken..).unwrap_or_default();
                }
                Err(error) if reason(&error) == DropReason::TxTooLong => {
                    self.counters.drops.add(DropReason::TxTooLong, 1);
                    rest = others;
                }
                // What stops one frame stops those behind it.
                Err(error) => {
                    self.counters.drops.add(reason(&error), run.len() as u64);
                    rest = rest.get(run.len()..).unwrap_or_default();
                }
            }
        }
        if sent != 0 {
            self.counters.add_burst(sent as u64, bytes as u64);
        }
        sent
    }

    fn takes(&self) -> Takes {
        let max_frame = usize::from(self.mtu.load(Ordering::Relaxed)) + LINK_OVERHEAD;
        Takes { caps: self.offloads.get().limit(CAPS), max_frame }
    }

    fn counters(&self) -> Arc<QueueCounters> {
        self.counters.clone()
    }
}

impl AfPacketTx {
    fn send_alone(
        &mut self,
        frame: Frame<'_>,
        caps: OffloadCaps,
        max_frame: usize,
    ) -> Result<(), DropReason> {
        let done = self.finisher.send(frame, caps, max_frame, |piece| {
            let sent = gather::write_frame(self.socket.as_fd(), &header(piece), piece);
            sent.map(|_| ()).map_err(|error| reason(&error))
        })?;
        self.counters.add_finished(done);
        Ok(())
    }
}

#[cfg(test)]
mod tests;

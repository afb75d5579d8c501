//! A kernel TAP device as a port.
//!
//! Every queue is a descriptor of `/dev/net/tun` with a 12-byte virtio-net header before each frame, so checksums stay
//! partial and TCP stays in 64 KiB frames across the port, in both directions: the kernel and a guest exchange large frames
//! without either cutting them.
//!
//! Cost: one system call per frame and direction; the kernel has no batch interface for TAP. A received frame lies in a buffer of the
//! queue, of which pages are touched only as far as frames are long. A look that finds nothing is a system call too, so a quiet
//! device is looked at less often (`pace.rs`) while its worker is busy with other queues, and one without a link not at all: it has no
//! queues to poll then. What the kernel sends when the link is back waits in the device's own ring until its queue is polled again.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::link_watch::{LinkWatch, Watched};
use super::queue_slots::{QueueSlots, Taken};
use crate::offload::{Finisher, Takes};
use crate::packet::{BURST, Batch, Frame, MAX_FRAME, OffloadCaps, SlotId, Span};
use crate::port::{
    Armed, DropReason, LinkState, OffloadSwitches, Offloads, PmdError, Port, PortEvents, PortInfo,
    QueueCounters, RxQueue, SentBurst, TxQueue, Waker, offload_status,
};
use crate::sys::netif::{Control, InterfaceName};
use crate::sys::{gather, tun};
use crate::virtio::NetHeader;
use device::Device;
use pace::Pace;

mod device;
mod pace;

/// Bytes a frame may have beyond the MTU: Ethernet header and two tags.
const LINK_OVERHEAD: usize = 14 + 8;

/// What to open.
#[derive(Clone, Debug)]
pub struct TapConfig {
    /// Name of the device; it is made if absent, and goes with the port unless it was persistent before.
    pub name: String,
    /// Queue pairs.
    pub queues: u16,
    /// Whether to bring it up. If not, it is as the operator has it.
    pub bring_up: bool,
}

impl Default for TapConfig {
    fn default() -> Self {
        TapConfig { name: String::new(), queues: 1, bring_up: true }
    }
}

struct TapPort {
    name: InterfaceName,
    device: Arc<Device>,
    fds: Vec<Arc<OwnedFd>>,
    slots: QueueSlots,
    /// What the kernel takes from us.
    caps: OffloadCaps,
    /// What of it the operator wants.
    offloads: Arc<OffloadSwitches>,
    /// Buffers of queues that are not polled now, kept for the next worker.
    spare: Arc<Mutex<Vec<Buffers>>>,
    /// Ends when the port is dropped.
    watch: LinkWatch,
}

/// One buffer of [`STRIDE`] bytes for each packet of a burst: header and frame.
type Buffers = Box<[u8]>;

/// Bytes from one buffer to the next. One allocation of all is large enough that its pages are mapped only when touched.
const STRIDE: usize = (NetHeader::LEN + MAX_FRAME).next_multiple_of(64);

/// Opens the device, makes it if need be, and brings it up if told to.
pub fn open(config: &TapConfig) -> Result<Arc<dyn Port>, PmdError> {
    let name = InterfaceName::new(&config.name).map_err(PmdError::Config)?;
    if config.queues == 0 || config.queues > 256 {
        return Err(PmdError::Config(format!("{}: a TAP device has 1 to 256 queues", config.name)));
    }
    let control = Control::open().map_err(|e| PmdError::system("opening a socket", "", e))?;
    let mut fds = Vec::new();
    let mut uso = true;
    for _ in 0..config.queues {
        let fd = open_queue(&name, config.queues)?;
        let tell = |what: &str, e| PmdError::system(format!("{}: setting {what}", config.name), "", e);
        tun::set_header_len(&fd, NetHeader::LEN as i32).map_err(|e| tell("the header length", e))?;
        // A kernel before 6.2 has no UDP segmentation.
        uso = uso && tun::set_offload(&fd, from_kernel(Offloads::default(), true)).is_ok();
        if !uso {
            tun::set_offload(&fd, from_kernel(Offloads::default(), false))
                .map_err(|e| tell("offloads", e))?;
        }
        fds.push(Arc::new(fd));
    }
    // One that somebody with the right has made and brought up needs no right of ours.
    if config.bring_up && !control.is_up(&name).is_ok_and(|(up, _)| up) {
        control.set_up(&name).map_err(|e| {
            let remedy = "it needs CAP_NET_ADMIN: run as root, or bring it up with `ip link set up`";
            PmdError::system(format!("bringing {} up", config.name), remedy, e)
        })?;
    }
    let mtu = control.mtu(&name).ok().and_then(|mtu| u16::try_from(mtu).ok()).unwrap_or(1500);
    let device = Arc::new(Device::new(control, fds[0].clone(), config, mtu));
    let watch = LinkWatch::start(device.clone())
        .map_err(|e| PmdError::system(format!("{}: watching its link", config.name), "", e))?;
    Ok(Arc::new(TapPort {
        slots: QueueSlots::new(config.queues),
        fds,
        caps: OffloadCaps { csum: true, tso4: true, tso6: true, ecn: true, ufo: true, uso },
        offloads: Arc::default(),
        device,
        spare: Arc::default(),
        watch,
        name,
    }))
}

/// Offloads that frames from the kernel may need. UDP fragmentation is not among them: the kernel takes it and never asks for it.
fn from_kernel(offloads: Offloads, uso: bool) -> u32 {
    let all = OffloadCaps { csum: true, tso4: true, tso6: true, ecn: true, ufo: true, uso };
    let caps = offloads.limit(all);
    let bits = [
        (caps.csum, tun::offload::CSUM),
        (caps.tso4, tun::offload::TSO4 | tun::offload::TSO6 | tun::offload::TSO_ECN),
        (caps.uso, tun::offload::USO4 | tun::offload::USO6),
    ];
    bits.iter().filter(|(is_on, _)| *is_on).map(|(_, bits)| bits).sum()
}

fn open_queue(name: &InterfaceName, queues: u16) -> Result<OwnedFd, PmdError> {
    // A device made by hand with a single queue does not take the multi-queue flag, and the other way round.
    let result = match tun::open_queue(name, queues > 1) {
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) && queues == 1 => {
            tun::open_queue(name, true)
        }
        other => other,
    };
    result.map_err(|e| {
        let remedy = match e.kind() {
            io::ErrorKind::PermissionDenied => {
                "it needs CAP_NET_ADMIN: run as root, or make the device with `ip tuntap add`"
            }
            io::ErrorKind::NotFound => "load the tun module, or make /dev/net/tun available here",
            io::ErrorKind::ResourceBusy => "another program uses this device",
            io::ErrorKind::InvalidInput => {
                "a device of that name exists and is no TAP, or has other flags: `ip -d link show`"
            }
            _ => "",
        };
        PmdError::system(format!("opening TAP device {} through /dev/net/tun", name.as_str()), remedy, e)
    })
}

impl Port for TapPort {
    fn driver(&self) -> &'static str {
        "tap"
    }

    fn info(&self) -> PortInfo {
        let mut info = self.watch.info();
        if info.link == LinkState::Down {
            info.rx_queues = 0;
        }
        info.status.extend(offload_status(self.offloads.get().limit(self.caps)));
        info
    }

    fn rx_queue(&self, index: u16) -> Result<Box<dyn RxQueue>, PmdError> {
        let taken = self.slots.take(self.name.as_str(), index)?;
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let fresh = || vec![0; BURST * STRIDE].into_boxed_slice();
        Ok(Box::new(TapRx {
            fd: self.fds[usize::from(index)].clone(),
            buffers: spare.unwrap_or_else(fresh),
            spare: self.spare.clone(),
            device: self.device.clone(),
            pace: Pace::new(),
            counters: Arc::default(),
            _taken: taken,
        }))
    }

    fn tx_queue(&self, worker: u16) -> Result<Box<dyn TxQueue>, PmdError> {
        Ok(Box::new(TapTx {
            fd: self.fds[usize::from(worker) % self.fds.len()].clone(),
            caps: self.caps,
            offloads: self.offloads.clone(),
            mtu: self.device.mtu.clone(),
            finisher: Finisher::new(),
            counters: Arc::default(),
        }))
    }

    fn set_mtu(&self, mtu: u16) -> Result<(), PmdError> {
        self.device.set_mtu(mtu).map_err(|e| {
            let what = format!("setting MTU {mtu} on {}", self.name.as_str());
            PmdError::system(what, "it needs CAP_NET_ADMIN, and the device in this network namespace", e)
        })
    }

    /// The kernel sees a device without carrier, as of a cable that is not plugged in.
    fn set_admin(&self, up: bool) {
        if let Err(e) = self.device.set_carrier(up) {
            log::warn!(
                "{}: its carrier cannot be switched, frames are dropped all the same: {e}",
                self.name.as_str()
            );
        }
    }

    /// The kernel is told too: it goes on, without a gap, with frames that ask for no more than is on.
    fn set_offloads(&self, offloads: Offloads) -> Result<(), PmdError> {
        self.offloads.set(offloads);
        for fd in &self.fds {
            tun::set_offload(fd, from_kernel(offloads, self.caps.uso)).map_err(|e| {
                PmdError::system(format!("setting offloads of {}", self.name.as_str()), "", e)
            })?;
        }
        self.device.subscriber().notify();
        Ok(())
    }

    fn subscribe(&self, events: Arc<dyn PortEvents>) {
        self.device.subscriber().set(events);
    }
}

struct TapRx {
    fd: Arc<OwnedFd>,
    buffers: Buffers,
    spare: Arc<Mutex<Vec<Buffers>>>,
    device: Arc<Device>,
    pace: Pace,
    counters: Arc<QueueCounters>,
    _taken: Taken,
}

impl RxQueue for TapRx {
    fn rx_burst<'q>(&'q mut self, batch: &mut Batch<'q>) -> usize {
        if !self.pace.is_due() {
            return 0;
        }
        let mut total = 0;
        for buffer in self.buffers.chunks_exact_mut(STRIDE) {
            // Any error, end of the device included, means that nothing comes now.
            let Ok(read) = rustix::io::read(&*self.fd, &mut buffer[..]) else { break };
            let Some((header, frame)) = buffer[..read].split_first_chunk() else { continue };
            match NetHeader::from_bytes(header).to_offload(frame.len()) {
                Ok(offload) if batch.receive(Span::from_slice(frame)) => {
                    let slot = (batch.len() - 1) as SlotId;
                    batch.packet_mut(slot).offload = offload;
                    total += frame.len() as u64;
                }
                Ok(_) => {
                    self.counters.drops.add(DropReason::RxNoBuffer, 1);
                    break;
                }
                Err(_) => self.counters.drops.add(DropReason::RxBadOffload, 1),
            }
        }
        if batch.is_empty() {
            self.pace.found_nothing();
        } else {
            self.pace.look_at_once();
            self.counters.add_burst(batch.len() as u64, total);
        }
        batch.len()
    }

    fn rx_done(&mut self) {}

    /// The worker is awake again, maybe because of us.
    fn disarm(&mut self) {
        self.pace.look_at_once();
    }

    /// The kernel always notifies; what is left is the look. A device that is gone is no work: only frames are.
    fn arm(&mut self) -> Armed {
        let mut fds = [PollFd::new(&*self.fd, PollFlags::IN)];
        let looked = poll(&mut fds, Some(&Timespec::default()));
        let readable = looked.is_ok() && fds[0].revents().contains(PollFlags::IN);
        if readable && !fds[0].revents().contains(PollFlags::ERR) { Armed::Work } else { Armed::Idle }
    }

    fn wait_fd(&self) -> Option<Arc<OwnedFd>> {
        Some(self.fd.clone())
    }

    fn notifies_unasked(&self) -> bool {
        true
    }

    fn set_waker(&mut self, _waker: Waker) {}

    fn counters(&self) -> Arc<QueueCounters> {
        self.counters.clone()
    }
}

impl Drop for TapRx {
    /// Frames that the host sent before it took the device down, and nobody has read, would come out when it brings it up again, however
    /// much later. While the link is down none are added, so these are all older.
    fn drop(&mut self) {
        while self.device.link() == LinkState::Down
            && rustix::io::read(&*self.fd, &mut self.buffers[..]).is_ok()
        {
            self.counters.drops.add(DropReason::RxDisabled, 1);
        }
        let buffers = std::mem::take(&mut self.buffers);
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(buffers);
    }
}

struct TapTx {
    fd: Arc<OwnedFd>,
    caps: OffloadCaps,
    offloads: Arc<OffloadSwitches>,
    mtu: Arc<AtomicU16>,
    finisher: Finisher,
    counters: Arc<QueueCounters>,
}

impl TxQueue for TapTx {
    fn tx_burst(&mut self, batch: &Batch<'_>, slots: &[SlotId]) -> usize {
        let Takes { caps, max_frame } = self.takes();
        let mut sent = SentBurst::default();
        for &slot in slots {
            let frame = batch.frame(slot);
            let len = frame.len() as u64;
            let outcome = self.finisher.send(frame, caps, max_frame, |piece| write(&self.fd, piece));
            sent.add_outcome(len, outcome, &self.counters);
        }
        self.counters.add_sent(sent)
    }

    fn takes(&self) -> Takes {
        let max_frame = usize::from(self.mtu.load(Ordering::Relaxed)) + LINK_OVERHEAD;
        Takes { caps: self.offloads.get().limit(self.caps), max_frame }
    }

    fn counters(&self) -> Arc<QueueCounters> {
        self.counters.clone()
    }
}

fn write(fd: &OwnedFd, frame: &Frame<'_>) -> Result<(), DropReason> {
    let header = NetHeader::from_offload(&frame.offload).to_bytes();
    match gather::write_frame(fd.as_fd(), &header, frame) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(DropReason::TxRingFull),
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
            Err(DropReason::TxLinkDown)
        }
        Err(_) => Err(DropReason::TxSystem),
    }
}

#[cfg(test)]
mod tests;

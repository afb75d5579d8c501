//! Queues of a network device, taken before the kernel's stack by AF_XDP sockets: `type=afxdp`.
//!
//! ```text
//!   device queue i ─▶ XDP program ─┬─ the filter takes it ─▶ socket i ─▶ our arena ─▶ rx queue i
//!                                  └─ the rest            ─▶ the kernel's stack: ip, ping, ethtool as ever
//! ```
//!
//! A program, made of the filter at run time, runs for every frame in the driver (native) or, where the driver has no place for it, at
//! the door of the stack (generic). It and its map live as long as the descriptor that attaches it: they go with the port, or with the
//! process however that ends.
//!
//! The sockets' memory (UMEM) is a part of one arena per port. A driver that can writes frames there itself (zero-copy); else the
//! kernel copies. A received frame is lent to the batch where it lies; a frame to send is copied into a chunk once.
//!
//! There is no offload on this path: checksums and segments are made in software on the way out, and what comes in must be
//! complete. A veth peer leaves checksums undone unless told to (`ethtool -K PEER tx off`), and tags that it keeps beside the frame are lost
//! (`ethtool -K PEER txvlan off`).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use rustix::io::Errno;

use super::link_watch::{LinkWatch, Watched};
use super::netdev::{LINK_OVERHEAD, NetDevice};
use super::parked::Parked;
use crate::memory::Arena;
use crate::port::{PmdError, Port, PortEvents, PortInfo, RxQueue, TxQueue};
use crate::sys::bpf::{self, XdpMode as Attach};
use program::Take;
use rx::{AfXdpRx, Receiver};
use socket::{Copies, Socket};
use tx::{AfXdpTx, Sender, Shared};
use umem::{ONE_CHUNK, Umem};

mod assembler;
mod filter;
mod program;
mod rings;
mod rx;
mod socket;
mod tx;
mod umem;

pub use filter::{Filter, Term};

/// Most queues of a port: each has 8 MiB of memory.
const MOST_QUEUES: u16 = 64;

/// How to get at the device's queues: `options:xdp-mode`, as in Open vSwitch.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Mode {
    /// The best of the following that works.
    #[default]
    BestEffort,
    /// In the driver, which uses our memory itself.
    NativeZeroCopy,
    /// In the driver; the kernel copies.
    Native,
    /// At the door of the stack; the kernel copies.
    Generic,
}

impl Mode {
    /// Modes by their names.
    pub const NAMES: [(&'static str, Mode); 4] = [
        ("best-effort", Mode::BestEffort),
        ("native-with-zerocopy", Mode::NativeZeroCopy),
        ("native", Mode::Native),
        ("generic", Mode::Generic),
    ];

    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, mode)| *mode == self).map_or("", |(name, _)| name)
    }
}

/// What to open.
#[derive(Clone, Debug)]
pub struct AfXdpConfig {
    /// Name of the device.
    pub name: String,
    /// Queues, from the first on; all that the device has if absent.
    pub queues: Option<u16>,
    /// How.
    pub mode: Mode,
    /// What to take.
    pub filter: Filter,
}

struct AfXdpPort {
    /// The program runs as long as this is open. First, so that it ends before its sockets do.
    _attached: OwnedFd,
    device: Arc<NetDevice>,
    /// The driver uses our memory itself, and knows no frames of several chunks.
    one_chunk: bool,
    receivers: Parked<Receiver>,
    senders: Vec<Arc<Shared>>,
    _map: OwnedFd,
    watch: LinkWatch,
}

/// Opens the device's queues. The device is left as it is, but for its frames: whether it is up, and receives frames for
/// other addresses, is left to the operator.
pub fn open(config: &AfXdpConfig) -> Result<Arc<dyn Port>, PmdError> {
    let mut device = NetDevice::find(&config.name)?;
    let hardware = device.hardware_queues();
    let queues = config.queues.unwrap_or_else(|| hardware.min(MOST_QUEUES));
    if queues == 0 || queues > hardware.min(MOST_QUEUES) {
        return Err(PmdError::Config(format!(
            "{0}: n_rxq={queues} cannot be: the device has {hardware} receive queues (`ethtool -L {0} combined N`), a port at most \
             {MOST_QUEUES}",
            config.name
        )));
    }
    let map =
        bpf::socket_map(queues.into()).map_err(|e| fault(&config.name, "making a map of sockets", e))?;
    let take = Take::Redirect { map: map.as_raw_fd() };
    let program = program::program(&config.filter, take)
        .ok_or_else(|| PmdError::Config(format!("xdp-filter={} is too long", config.filter)))?;
    let program = bpf::load_xdp(&program).map_err(|e| fault(&config.name, "loading the XDP program", e))?;
    let mut notes = Vec::new();
    let (attached, attach) = attach(&program, &device, config.mode, &mut notes)?;
    let sockets = bind_queues(&device, queues, config.mode, attach, &mut notes)?;
    for (queue, (socket, _)) in (0u32..).zip(&sockets) {
        let put = bpf::put_socket(&map, queue, &socket.fd);
        put.map_err(|e| fault(&config.name, "giving a socket to the XDP program", e))?;
    }
    describe(&mut device, config, attach, &sockets, &notes);
    device.set_queues(queues);
    if queues < hardware {
        device.set_error(format!(
            "frames of {} of the device's {hardware} receive queues stay with the kernel: set n_rxq={hardware}, or `ethtool -L {} combined \
             {queues}`",
            hardware - queues,
            config.name
        ));
    }
    let one_chunk = sockets.iter().any(|(socket, _)| socket.takes_one_chunk());
    let (mut receivers, mut senders) = (Vec::new(), Vec::new());
    for (socket, umem) in sockets {
        let Socket { fd, fill, rx, tx, completion, multi_buffer, .. } = socket;
        receivers.push(Receiver::new(fd.clone(), fill, rx, umem.clone()));
        let sender = Mutex::new(Sender::new(tx, completion, umem, multi_buffer));
        senders.push(Arc::new(Shared { sender, fd }));
    }
    let device = Arc::new(device);
    let watch = LinkWatch::start(device.clone()).map_err(|e| fault(&config.name, "watching its link", e))?;
    Ok(Arc::new(AfXdpPort {
        _attached: attached,
        device,
        one_chunk,
        receivers: Parked::new(receivers),
        senders,
        _map: map,
        watch,
    }))
}

/// Text of a kernel error while opening.
fn fault(name: &str, what: &str, error: io::Error) -> PmdError {
    let remedy = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::PERM | Errno::ACCESS) => "it needs CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF: run as root",
        Some(Errno::NOBUFS | Errno::NOMEM) => {
            "allow more locked memory: `ulimit -l unlimited`, LimitMEMLOCK=infinity"
        }
        Some(Errno::BUSY) => {
            "another program has this queue or device: `ip link show` names an XDP program, `ss --xdp` sockets"
        }
        Some(Errno::INVAL) if what.contains("attaching") => {
            "Linux 5.9 is needed; the MTU may be too large for the driver's XDP"
        }
        _ => "",
    };
    PmdError::system(format!("{name}: {what}"), remedy, error)
}

/// Attaches the program as the mode says. Why a better way was not to be had goes into `notes`.
fn attach(
    program: &OwnedFd,
    device: &NetDevice,
    mode: Mode,
    notes: &mut Vec<String>,
) -> Result<(OwnedFd, Attach), PmdError> {
    let name = device.name().as_str();
    let try_one = |attach| bpf::attach_xdp(program, device.index(), attach);
    if mode != Mode::Generic {
        match try_one(Attach::Native) {
            Ok(attached) => return Ok((attached, Attach::Native)),
            Err(error) => {
                let refused = matches!(
                    error.raw_os_error().map(Errno::from_raw_os_error),
                    Some(Errno::BUSY | Errno::PERM | Errno::ACCESS | Errno::NODEV)
                );
                if mode != Mode::BestEffort || refused {
                    return Err(fault(name, "attaching the XDP program to the driver", error));
                }
                notes.push(format!("native: {error}"));
            }
        }
    }
    let attached = try_one(Attach::Generic);
    let attached = attached.map_err(|e| fault(name, "attaching the XDP program to the stack", e))?;
    Ok((attached, Attach::Generic))
}

/// Largest MTU of a driver whose zero-copy knows no frames of several chunks.
const ONE_CHUNK_MTU: u16 = (ONE_CHUNK - LINK_OVERHEAD) as u16;

fn too_long_for_one_chunk(name: &str, mtu: u16) -> PmdError {
    PmdError::Config(format!(
        "{name}: MTU {mtu} cannot be with xdp-mode=native-with-zerocopy, in which this driver takes frames of one chunk: at most \
         {ONE_CHUNK_MTU}, or options:xdp-mode=native"
    ))
}

/// Binds a socket to each queue, in one arena. All copy, or none does.
fn bind_queues(
    device: &NetDevice,
    queues: u16,
    mode: Mode,
    attach: Attach,
    notes: &mut Vec<String>,
) -> Result<Vec<(Socket, Umem)>, PmdError> {
    let name = device.name().as_str();
    let arena = Arc::new(Arena::create(&format!("xdp-{name}"), usize::from(queues) * Umem::LEN)?);
    let mut copies = match (mode, attach) {
        (Mode::BestEffort | Mode::NativeZeroCopy, Attach::Native) => Copies::No,
        _ => Copies::Yes,
    };
    let mut sockets = Vec::new();
    for queue in 0..queues {
        let umem = Umem::of(&arena, queue.into());
        let umem = umem.ok_or_else(|| PmdError::Config(format!("{name}: no memory for queue {queue}")))?;
        let open = |copies| {
            socket::open(device.index(), queue.into(), &umem, copies)
                .map_err(|e| fault(name, &format!("binding an AF_XDP socket to queue {queue}"), e))
        };
        let mut socket = open(copies);
        if copies == Copies::No && queue == 0 {
            let mtu = device.mtu().load(Relaxed);
            if mtu > ONE_CHUNK_MTU && socket.as_ref().is_ok_and(Socket::takes_one_chunk) {
                socket = Err(too_long_for_one_chunk(name, mtu));
            }
            // Its queue is free again by now, or is waited for.
            if let (Mode::BestEffort, Err(error)) = (mode, &socket) {
                notes.push(format!("zero-copy: {error}"));
                copies = Copies::Yes;
                socket = open(copies);
            }
        }
        sockets.push((socket?, umem));
    }
    Ok(sockets)
}

/// What came of the wishes, for the operator.
fn describe(
    device: &mut NetDevice,
    config: &AfXdpConfig,
    attach: Attach,
    sockets: &[(Socket, Umem)],
    notes: &[String],
) {
    let zero_copy = sockets.iter().all(|(socket, _)| socket.zero_copy);
    let in_use = match attach {
        Attach::Native if zero_copy => Mode::NativeZeroCopy,
        Attach::Native => Mode::Native,
        Attach::Generic => Mode::Generic,
    };
    device.add_status("xdp-mode", config.mode.name().into());
    device.add_status("xdp-mode-in-use", in_use.name().into());
    device.add_status("xdp-filter", config.filter.to_string());
    let multi_buffer = sockets.iter().all(|(socket, _)| socket.multi_buffer);
    device.add_status("xdp-multi-buffer", multi_buffer.to_string());
    if !notes.is_empty() {
        device.add_status("xdp-fallback", notes.join("; "));
    }
}

impl Port for AfXdpPort {
    fn driver(&self) -> &'static str {
        "afxdp"
    }

    fn info(&self) -> PortInfo {
        self.watch.info()
    }

    fn rx_queue(&self, index: u16) -> Result<Box<dyn RxQueue>, PmdError> {
        let mut receiver = self.receivers.take(self.device.name().as_str(), index)?;
        let fd = receiver.get().map(|receiver| receiver.fd.clone());
        Ok(Box::new(AfXdpRx { receiver, fd, counters: Arc::default() }))
    }

    fn tx_queue(&self, worker: u16) -> Result<Box<dyn TxQueue>, PmdError> {
        let shared = self.senders.get(usize::from(worker) % self.senders.len().max(1));
        let error = || PmdError::Queue {
            port: self.device.name().as_str().into(),
            index: worker,
            problem: "does not exist",
        };
        let shared = shared.ok_or_else(error)?.clone();
        Ok(Box::new(AfXdpTx::new(shared, self.device.mtu().clone())))
    }

    fn set_mtu(&self, mtu: u16) -> Result<(), PmdError> {
        if self.one_chunk && mtu > ONE_CHUNK_MTU {
            return Err(too_long_for_one_chunk(self.device.name().as_str(), mtu));
        }
        self.device.set_mtu(mtu)
    }

    fn subscribe(&self, events: Arc<dyn PortEvents>) {
        self.device.subscriber().set(events);
    }
}

#[cfg(test)]
mod tests;

//! Making an AF_XDP socket and binding it to one queue of a device.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{
    set_xdp_rx_ring_size, set_xdp_tx_ring_size, set_xdp_umem_completion_ring_size,
    set_xdp_umem_fill_ring_size, set_xdp_umem_reg, xdp_mmap_offsets, xdp_options,
};
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags as BindFlags, XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING,
    XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_PGOFF_FILL_RING, XdpOptionsFlags, XdpRingOffset, XdpUmemReg,
    XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

use super::rings::{Consumer, Producer};
use super::umem::{CHUNK, CHUNKS, Umem};
use crate::sys::ring_map::RingMap;

/// How long a queue may stay busy after another socket on it was closed: the kernel lets it go when the last user of its
/// memory has.
const BUSY: Duration = Duration::from_secs(2);

/// A bound socket and its rings.
pub(super) struct Socket {
    pub(super) fd: Arc<OwnedFd>,
    pub(super) fill: Producer,
    pub(super) rx: Consumer,
    pub(super) tx: Producer,
    pub(super) completion: Consumer,
    /// The device reads and writes the memory itself.
    pub(super) zero_copy: bool,
    /// Frames may lie in several chunks.
    pub(super) multi_buffer: bool,
}

impl Socket {
    /// Whether a frame longer than a chunk cannot come: the device writes into our memory, and knows no frames in several chunks.
    pub(super) fn takes_one_chunk(&self) -> bool {
        self.zero_copy && !self.multi_buffer
    }
}

/// Whether the kernel copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Copies {
    Yes,
    No,
}

/// Makes a socket on queue `queue` of device `ifindex`, in `umem`. Kernels without frames in several chunks get one without.
pub(super) fn open(ifindex: u32, queue: u32, umem: &Umem, copies: Copies) -> io::Result<Socket> {
    match attempt(ifindex, queue, umem, copies, true) {
        Err(error) if matches!(errno(&error), Some(Errno::INVAL | Errno::OPNOTSUPP)) => {
            attempt(ifindex, queue, umem, copies, false)
        }
        other => other,
    }
}

fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw_os_error)
}

fn attempt(ifindex: u32, queue: u32, umem: &Umem, copies: Copies, multi_buffer: bool) -> io::Result<Socket> {
    let fd = socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let memory = XdpUmemReg {
        addr: umem.address(),
        len: Umem::LEN as u64,
        chunk_size: CHUNK as u32,
        headroom: 0,
        flags: XdpUmemRegFlags::empty(),
        tx_metadata_len: 0,
    };
    set_xdp_umem_reg(&fd, memory)?;
    set_xdp_umem_fill_ring_size(&fd, CHUNKS)?;
    set_xdp_umem_completion_ring_size(&fd, CHUNKS)?;
    set_xdp_rx_ring_size(&fd, CHUNKS)?;
    set_xdp_tx_ring_size(&fd, CHUNKS)?;
    let offsets = xdp_mmap_offsets(&fd)?;
    let map = |at: u64, ring: &XdpRingOffset, entry: usize| {
        let entries = usize::try_from(ring.desc).unwrap_or(usize::MAX);
        RingMap::of(&fd, at, entries.saturating_add(CHUNKS as usize * entry))
    };
    let fill = map(XDP_UMEM_PGOFF_FILL_RING, &offsets.fr, 8)?;
    let completion = map(XDP_UMEM_PGOFF_COMPLETION_RING, &offsets.cr, 8)?;
    let rx = map(XDP_PGOFF_RX_RING, &offsets.rx, 16)?;
    let tx = map(XDP_PGOFF_TX_RING, &offsets.tx, 16)?;
    let mut fill = Producer::new(fill, &offsets.fr, CHUNKS);
    // Before it is bound: a device without buffers would have to be called for the first ones.
    Umem::to_receive().for_each(|chunk| fill.put_chunk(chunk));
    fill.publish();

    let mut flags = BindFlags::XDP_USE_NEED_WAKEUP;
    flags |= if copies == Copies::Yes { BindFlags::XDP_COPY } else { BindFlags::XDP_ZEROCOPY };
    if multi_buffer {
        flags |= BindFlags::XDP_USE_SG;
    }
    bind_patiently(&fd, &SocketAddrXdp::new(flags, ifindex, queue))?;
    let zero_copy = xdp_options(&fd)?.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY);
    Ok(Socket {
        fd: Arc::new(fd),
        fill,
        rx: Consumer::new(rx, &offsets.rx, CHUNKS),
        tx: Producer::new(tx, &offsets.tx, CHUNKS),
        completion: Consumer::new(completion, &offsets.cr, CHUNKS),
        zero_copy,
        multi_buffer,
    })
}

fn bind_patiently(fd: &OwnedFd, address: &SocketAddrXdp) -> io::Result<()> {
    let deadline = Instant::now() + BUSY;
    loop {
        match bind(fd, address) {
            // There is nothing to wait on: the kernel tells nobody when it has let go.
            Err(Errno::BUSY) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
            other => return Ok(other?),
        }
    }
}

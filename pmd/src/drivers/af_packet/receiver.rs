//! A receive ring of version 2 (packet(7), Linux `Documentation/networking/packet_mmap.rst`).
//!
//! ```text
//!   slots     … │ kernel's │ received, lent to the batch │ ready │ kernel's …
//!                          └ next - lent                 └ next
//! ```
//!
//! A slot's first word says whose it is. The kernel takes slots in order and gives up, counting a loss, at the first that is not
//! its own; so we give them back in order too, after the burst.
//!
//! A frame longer than a slot lies there cut off; the socket has it whole, in the same order.

use core::sync::atomic::Ordering;

use super::fault;
use crate::drivers::netdev::NetDevice;
use crate::packet::{BURST, Batch, MAX_FRAME, SlotId, Span};
use crate::port::{DropReason, PmdError, QueueCounters};
use crate::prefetch::LINE;
use crate::sys::packet_socket::{PacketSocket, RingShape};
use crate::sys::ring_map::RingMap;
use crate::virtio::NetHeader;

/// Bytes of a queue's ring.
const RING: usize = 4 << 20;

/// What precedes a frame in its slot: the kernel's header, an address, ours.
const SLOT_OVERHEAD: usize = 128;

/// Bytes from one buffer for a long frame to the next: its header, and the frame.
const STRIDE: usize = (NetHeader::LEGACY_LEN + MAX_FRAME).next_multiple_of(64);

/// `TP_STATUS_*`: whose a slot is, and what is to be said of its frame.
mod status {
    /// The kernel's.
    pub(super) const KERNEL: u32 = 0;
    /// Ours.
    pub(super) const USER: u32 = 1;
    /// Cut off here, whole in the socket.
    pub(super) const COPY: u32 = 1 << 1;
    /// Frames have been lost.
    pub(super) const LOSING: u32 = 1 << 2;
    /// The tag's value is valid.
    pub(super) const VLAN_VALID: u32 = 1 << 4;
    /// The tag's type is valid.
    pub(super) const VLAN_TPID_VALID: u32 = 1 << 6;
}

/// Type of a VLAN tag where the kernel does not tell.
const TPID: u16 = 0x8100;

/// `sll_pkttype` of a frame the host sends.
const PACKET_OUTGOING: u8 = 4;

/// A slot's header: `tpacket2_hdr`, and of the address behind it the kind of frame.
struct Header {
    status: u32,
    len: u32,
    captured: u32,
    mac: u16,
    tag: Option<(u16, u16)>,
    outgoing: bool,
}

impl Header {
    const KIND_AT: usize = 32 + 10;

    #[inline]
    fn read(map: &RingMap, at: usize, status: u32) -> Header {
        let word = |offset| map.word(at + offset).load(Ordering::Relaxed);
        let (offsets, tag) = (word(12), word(24));
        let tag = (status & status::VLAN_VALID != 0).then(|| {
            let known = status & status::VLAN_TPID_VALID != 0;
            (if known { (tag >> 16) as u16 } else { TPID }, tag as u16)
        });
        let [kind] = map.read(at + Self::KIND_AT);
        Header {
            status,
            len: word(4),
            captured: word(8),
            mac: offsets as u16,
            tag,
            outgoing: kind == PACKET_OUTGOING,
        }
    }
}

/// A socket and its ring.
pub(super) struct Receiver {
    socket: PacketSocket,
    ring: Ring,
    /// Where long frames go: one buffer for each packet of a burst, whose pages are mapped only when touched.
    long: Box<[u8]>,
}

struct Ring {
    map: RingMap,
    shape: RingShape,
    /// Slot to look at.
    next: usize,
    /// Slots before it that are still lent.
    lent: usize,
}

impl Receiver {
    pub(super) fn open(device: &NetDevice) -> Result<Receiver, PmdError> {
        let error = |what| move |e| fault(device, what, e);
        let socket = PacketSocket::open().map_err(error("opening a packet socket"))?;
        socket.use_net_header().map_err(error("asking for offload headers"))?;
        // Older kernels cannot, and what the host sends is then passed over here.
        let _ = socket.ignore_outgoing();
        // Without the right to more it has what the system allows.
        let _ = socket.set_buffers(super::SOCKET_BUFFER);
        let mtu = device.mtu().load(Ordering::Relaxed);
        let shape = shape_for(usize::from(mtu) + super::LINK_OVERHEAD);
        let map = socket.receive_ring(shape).map_err(error("making its receive ring"))?;
        socket.bind(device.index(), true).map_err(error("binding to the device"))?;
        let ring = Ring { map, shape, next: 0, lent: 0 };
        Ok(Receiver { socket, ring, long: vec![0; BURST * STRIDE].into_boxed_slice() })
    }

    pub(super) fn socket(&self) -> &PacketSocket {
        &self.socket
    }

    /// Whether a frame is there.
    pub(super) fn waits(&self) -> bool {
        self.ring.status(self.ring.next) & status::USER != 0
    }

    /// Receives a burst. Its slots are lent until [`Receiver::give_back`].
    #[inline]
    pub(super) fn receive<'q>(&'q mut self, batch: &mut Batch<'q>, counters: &QueueCounters) -> usize {
        let Receiver { socket, ring, long } = self;
        let mut long = long.chunks_exact_mut(STRIDE);
        let mut losing = false;
        let mut bytes = 0;
        // Slots that bring no packet count too, so that a burst ends.
        for _ in 0..ring.ready() {
            let status = ring.status(ring.next);
            let at = ring.next * ring.shape.slot;
            ring.next = (ring.next + 1) & (ring.shape.count - 1);
            ring.lent += 1;
            losing |= status & status::LOSING != 0;
            // Shared from here on: until the batch is gone nobody can get at the ring but by it.
            let header = Header::read(&ring.map, at, status);
            let received = if header.captured < header.len {
                receive_long(socket, &header, long.next(), batch)
            } else if header.outgoing {
                continue;
            } else {
                let mac = usize::from(header.mac);
                let fits = mac >= NetHeader::LEGACY_LEN && mac + header.captured as usize <= ring.shape.slot;
                if !fits {
                    counters.drops.add(DropReason::RxBadDescriptor, 1);
                    continue;
                }
                let net = ring.map.read(at + mac - NetHeader::LEGACY_LEN);
                accept(net, ring.map.span(at + mac, header.captured), header.tag, batch)
            };
            match received {
                Ok(len) => bytes += len as u64,
                Err(Some(reason)) => counters.drops.add(reason, 1),
                Err(None) => {}
            }
        }
        if losing {
            counters.drops.add(DropReason::RxRingFull, socket.take_drops().into());
        }
        if !batch.is_empty() {
            counters.add_burst(batch.len() as u64, bytes);
        }
        batch.len()
    }

    /// Gives the slots of the last burst back to the kernel.
    #[inline]
    pub(super) fn give_back(&mut self) {
        let ring = &mut self.ring;
        for back in (1..=std::mem::take(&mut ring.lent)).rev() {
            let slot = ring.next.wrapping_sub(back) & (ring.shape.count - 1);
            ring.map.word(slot * ring.shape.slot).store(status::KERNEL, Ordering::Release);
        }
    }
}

impl Ring {
    /// Slots that are ours, a burst at most. The kernel wrote them on another CPU: all lines of a burst are asked for before the first is read,
    /// those of the frames by name, those of the headers because nothing here waits for one before it looks at the next.
    #[inline]
    fn ready(&self) -> usize {
        for ready in 0..BURST {
            let slot = (self.next + ready) & (self.shape.count - 1);
            if self.status(slot) & status::USER == 0 {
                return ready;
            }
            // Where a short frame lies, behind the kernel's header.
            self.map.prefetch(slot * self.shape.slot + LINE);
            self.map.prefetch(slot * self.shape.slot + 2 * LINE);
        }
        BURST
    }

    #[inline]
    fn status(&self, slot: usize) -> u32 {
        self.map.word(slot * self.shape.slot).load(Ordering::Acquire)
    }
}

/// Slots that hold frames of `frame` bytes; longer ones are read from the socket.
fn shape_for(frame: usize) -> RingShape {
    let slot = (frame + SLOT_OVERHEAD).next_power_of_two().clamp(2048, RingShape::BLOCK);
    RingShape { slot, count: RING / slot }
}

/// Reads the frame that its slot has only in part. `Err(None)` for one that is passed over.
#[cold]
fn receive_long<'q>(
    socket: &PacketSocket,
    header: &Header,
    buffer: Option<&'q mut [u8]>,
    batch: &mut Batch<'q>,
) -> Result<usize, Option<DropReason>> {
    if header.status & status::COPY == 0 {
        // The socket had no room for it.
        return Err((!header.outgoing).then_some(DropReason::RxRingFull));
    }
    let buffer = buffer.ok_or(DropReason::RxNoBuffer)?;
    let read = read_frame(socket, buffer).ok_or(DropReason::RxNoBuffer)?;
    if header.outgoing {
        return Err(None);
    }
    if read != NetHeader::LEGACY_LEN + header.len as usize {
        return Err(Some(DropReason::RxTooLong));
    }
    let frame = buffer.get(..read).and_then(|bytes| bytes.split_first_chunk());
    let (&net, frame) = frame.ok_or(DropReason::RxTooShort)?;
    accept(net, Span::from_slice(frame), header.tag, batch)
}

/// The next frame the socket has. An error that waits in it, for example that the device has been down, comes first.
fn read_frame(socket: &PacketSocket, buffer: &mut [u8]) -> Option<usize> {
    let mut read = || rustix::net::recv(socket, &mut *buffer, rustix::net::RecvFlags::DONTWAIT);
    read().or_else(|_| read()).ok().map(|(read, _)| read)
}

/// Puts a frame into the batch, with the tag that the kernel took off it. Returns its length.
#[inline]
fn accept<'q>(
    net: [u8; NetHeader::LEGACY_LEN],
    frame: Span<'q>,
    tag: Option<(u16, u16)>,
    batch: &mut Batch<'q>,
) -> Result<usize, Option<DropReason>> {
    let mut header = [0; NetHeader::LEN];
    if let Some(bytes) = header.first_chunk_mut() {
        *bytes = net;
    }
    let offload = NetHeader::from_bytes(&header).to_offload(frame.len());
    let offload = offload.map_err(|_| DropReason::RxBadOffload)?;
    if frame.len() < 14 {
        return Err(Some(DropReason::RxTooShort));
    }
    if !batch.receive(frame) {
        return Err(Some(DropReason::RxNoBuffer));
    }
    let packet = batch.packet_mut((batch.len() - 1) as SlotId);
    packet.offload = offload;
    if let Some((tpid, tci)) = tag {
        packet.insert_tag(tpid, tci);
    }
    Ok(packet.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_hold_what_the_mtu_allows_and_fill_the_ring() {
        for (mtu, slot) in
            [(68, 2048), (1500, 2048), (1898, 2048), (1899, 4096), (9000, 16384), (65535, 65536)]
        {
            let shape = shape_for(mtu + 22);
            assert_eq!((shape.slot, shape.slot * shape.count), (slot, RING), "{mtu}");
            assert!(shape.count.is_power_of_two() && RingShape::BLOCK.is_multiple_of(slot));
        }
    }
}

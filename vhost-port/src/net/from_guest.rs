//! Receiving from a guest: its transmit ring, one burst at a time.
//!
//! The head of each frame (all of a small one) is copied into the batch; the rest stays in guest memory, named by
//! spans. The ring's lock is kept from [`RxQueue::rx_burst`] to [`RxQueue::rx_done`], so that memory stays mapped while it
//! is named, and the guest gets its buffers back only after that.
#![expect(unsafe_code, reason = "names guest memory in spans")]

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use pmd::packet::{BURST, Batch, HEAD_CAPACITY, HEAD_SPLIT, MAX_FRAME, MIN_FRAME, Offload, Span};
use pmd::port::{Armed, DropReason, QueueCounters, RxQueue, Waker};
use pmd::virtio::NetHeader;

use super::announce::announcement;
use super::rules::NetRules;
use crate::ring::{Chain, DeviceRing, Direction, Ring, RingFault, RingState, Segment, Vring};

/// A receive queue: one transmit ring of the guest.
pub(crate) struct VhostRx {
    vring: Arc<Vring>,
    counters: Arc<QueueCounters>,
    /// The ring's lock is kept for a burst.
    holding: bool,
    /// The guest has not been told yet of the buffers it got back.
    owing: bool,
}

impl VhostRx {
    /// A queue on `vring`, which the caller has marked taken.
    pub(crate) fn new(vring: Arc<Vring>, counters: Arc<QueueCounters>) -> VhostRx {
        VhostRx { vring, counters, holding: false, owing: false }
    }
}

impl VhostRx {
    /// Receives what is to be said in the guest's name, if that is why the ring is not merely usable.
    #[cold]
    fn announce(&mut self, batch: &mut Batch<'_>) -> usize {
        if batch.len() >= BURST {
            return 0;
        }
        let Some(frame) = self.vring.take_announced().map(announcement) else { return 0 };
        let Some(packet) = batch.start_packet() else { return 0 };
        packet.receive_head(frame.len()).copy_from_slice(&frame);
        self.counters.add_burst(1, frame.len() as u64);
        1
    }
}

impl RxQueue for VhostRx {
    fn rx_burst<'q>(&'q mut self, batch: &mut Batch<'q>) -> usize {
        self.rx_done();
        if !self.vring.merely_usable() {
            return self.announce(batch);
        }
        let Some(mut guard) = self.vring.try_lock() else { return 0 };
        if !self.vring.usable() {
            return 0;
        }
        let RingState { ring: Some(ring), net, .. } = &mut *guard else { return 0 };
        settle(&mut self.owing, ring, &self.counters);
        let before = batch.len();
        let taken = ring.next_avail();
        let mut outcome = match ring {
            DeviceRing::Split(ring) => receive(ring, net, batch, &self.counters),
            DeviceRing::Packed(ring) => receive(ring, net, batch, &self.counters),
        };
        if self.vring.memory_gone() {
            // Some of what was read may be the zeros that replaced the file.
            while batch.len() > before {
                batch.cancel_packet();
            }
            outcome = Err(RingFault::MemoryGone);
        }
        if let Err(fault) = outcome {
            if fault != RingFault::Untranslated {
                self.counters.drops.add(DropReason::RxBadDescriptor, 1);
            }
            self.vring.break_down(fault);
        }
        if ring.next_avail() != taken {
            guard.hold();
            self.holding = true;
        }
        batch.len() - before
    }

    fn rx_done(&mut self) {
        if !self.holding {
            return;
        }
        self.holding = false;
        // SAFETY: `rx_burst` kept the lock and set `holding`, which was cleared just now.
        let mut guard = unsafe { self.vring.resume() };
        // Told in the next round, which every receive queue has: by then the fence costs little.
        self.owing |= guard.ring.as_mut().is_some_and(DeviceRing::publish);
    }

    fn arm(&mut self) -> Armed {
        self.rx_done();
        if !self.vring.usable() {
            return Armed::Idle;
        }
        let Some(mut guard) = self.vring.try_lock() else { return Armed::Work };
        let Some(ring) = &mut guard.ring else { return Armed::Idle };
        settle(&mut self.owing, ring, &self.counters);
        // Without a kick descriptor nobody would wake us.
        if !self.vring.usable() {
            Armed::Idle
        } else if ring.arm() || self.vring.announces() || !self.vring.has_kick() {
            Armed::Work
        } else {
            Armed::Idle
        }
    }

    fn disarm(&mut self) {
        if self.vring.usable()
            && let Some(mut guard) = self.vring.try_lock()
            && let Some(ring) = &mut guard.ring
        {
            ring.disarm();
        }
    }

    fn wait_fd(&self) -> Option<Arc<OwnedFd>> {
        self.vring.kick()
    }

    fn set_waker(&mut self, waker: Waker) {
        self.vring.set_waker(Some(waker));
    }

    fn counters(&self) -> Arc<QueueCounters> {
        Arc::clone(&self.counters)
    }
}

impl Drop for VhostRx {
    fn drop(&mut self) {
        self.rx_done();
        if self.owing
            && let Some(mut guard) = self.vring.try_lock()
            && let Some(ring) = &mut guard.ring
        {
            settle(&mut self.owing, ring, &self.counters);
        }
        self.vring.set_waker(None);
        self.vring.taken.store(false, Ordering::Release);
    }
}

/// Tells the guest of buffers it got back earlier, unless that has been done.
#[inline]
fn settle(owing: &mut bool, ring: &mut DeviceRing, counters: &QueueCounters) {
    if std::mem::take(owing) {
        counters.add_notification(ring.interrupt());
    }
}

/// What became of a chain.
enum Taken {
    /// A packet of so many bytes.
    Packet(usize),
    /// Nothing: dropped and to be counted.
    Dropped(DropReason),
    /// Nothing: the batch is full, the chain stays in the ring.
    NoRoom,
}

/// Fills the batch from the ring. What was received before a fault stays received.
///
/// Never inlined: as arguments, ring and batch are known to be apart, and their fields stay in registers.
#[inline(never)]
fn receive<'q, R: Ring>(
    ring: &mut R,
    net: &NetRules,
    batch: &mut Batch<'q>,
    counters: &QueueCounters,
) -> Result<(), RingFault> {
    let room = BURST - batch.len().min(BURST);
    let first_read = if net.header_matters() { 0 } else { net.header_len };
    let (ready, fault) = ring.ready(Direction::Read, first_read, room as u16);
    let mut outcome = fault.map_or(Ok(()), Err);
    let (mut packets, mut bytes, mut done) = (0, 0, 0);
    while done < ready {
        let chain = ring.chain(done);
        // By itself, because of its shortness: a jump and no result to take apart.
        if let Some(frame) = plain_frame(&chain, net)
            && batch.receive(frame)
        {
            packets += 1;
            bytes += frame.len() as u64;
            done += 1;
            continue;
        }
        let taken = match chain.start {
            Some(start) => take_single(Segment { start, len: chain.len }, net, batch),
            None => walk_and_take(ring, done, net, batch),
        };
        match taken {
            Ok(Taken::Packet(len)) => {
                packets += 1;
                bytes += len as u64;
            }
            Ok(Taken::Dropped(reason)) => counters.drops.add(reason, 1),
            Ok(Taken::NoRoom) => {
                outcome = Ok(());
                break;
            }
            Err(fault) => {
                outcome = Err(fault);
                break;
            }
        }
        done += 1;
    }
    ring.complete_unwritten(done);
    ring.look_ahead(Direction::Read, first_read);
    if packets > 0 {
        counters.add_burst(packets, bytes);
    }
    outcome
}

#[inline(never)]
fn walk_and_take<R: Ring>(
    ring: &mut R,
    ahead: u16,
    net: &NetRules,
    batch: &mut Batch<'_>,
) -> Result<Taken, RingFault> {
    ring.forget_segments();
    let bytes = ring.walk(ring.extent(ahead), Direction::Read)?;
    take_chain(ring.segments(), bytes as usize, net, batch)
}

/// Checks a header against its frame's length and the negotiated features. In line, so that what it finds stays in registers.
#[inline(always)]
fn checked(header: &[u8; NetHeader::LEGACY_LEN], len: usize, net: &NetRules) -> Result<Offload, DropReason> {
    if len < MIN_FRAME {
        return Err(DropReason::RxTooShort);
    }
    if len > MAX_FRAME {
        return Err(DropReason::RxTooLong);
    }
    let [flags, gso_type, ..] = *header;
    if NetHeader::asks_nothing([flags, gso_type]) {
        return Ok(Offload::default());
    }
    // `num_buffers` means nothing in this direction.
    let mut whole = [0; NetHeader::LEN];
    whole[..NetHeader::LEGACY_LEN].copy_from_slice(header);
    let offload = NetHeader::from_bytes(&whole).to_offload(len).map_err(|_| DropReason::RxBadOffload)?;
    if net.allows(&offload) { Ok(offload) } else { Err(DropReason::RxBadOffload) }
}

/// The frame in a chain of one piece, if it is short and its header asks for nothing: most are so, and there is nothing
/// to check but that. Another one is looked at again from the start by [`take_single`].
#[inline(always)]
fn plain_frame<'q>(chain: &Chain, net: &NetRules) -> Option<Span<'q>> {
    let start = chain.start?;
    let len = chain.len.checked_sub(net.header_len as u32)?;
    // SAFETY: the piece is mapped and at least header_len long, and stays mapped while the ring's lock is kept.
    let (header, frame) = unsafe {
        let header = if net.header_matters() { start.read_bytes() } else { [0; 2] };
        (header, Span::new(start.add(net.header_len).as_non_null(), len))
    };
    let short = (MIN_FRAME..=HEAD_CAPACITY).contains(&(len as usize));
    (short && NetHeader::asks_nothing(header)).then_some(frame)
}

/// Receives a chain of one piece.
#[inline(never)]
fn take_single(segment: Segment, net: &NetRules, batch: &mut Batch<'_>) -> Result<Taken, RingFault> {
    let Some(len) = segment.len.checked_sub(net.header_len as u32) else {
        return Err(RingFault::NoHeader);
    };
    // SAFETY: the piece is mapped and at least header_len >= LEGACY_LEN long.
    let (header, frame) = unsafe {
        let header =
            if net.header_matters() { segment.start.read_bytes() } else { [0; NetHeader::LEGACY_LEN] };
        (header, Span::new(segment.start.add(net.header_len).as_non_null(), len))
    };
    let offload = match checked(&header, len as usize, net) {
        Ok(offload) => offload,
        Err(reason) => return Ok(Taken::Dropped(reason)),
    };
    let slot = batch.len() as u16;
    if !batch.receive(frame) {
        return Ok(Taken::NoRoom);
    }
    if !offload.is_none() {
        batch.packet_mut(slot).offload = offload;
    }
    Ok(Taken::Packet(len as usize))
}

/// Receives a chain of several pieces, cut anywhere: the header may be alone, split, or share a piece with data.
fn take_chain(
    segments: &[Segment],
    bytes: usize,
    net: &NetRules,
    batch: &mut Batch<'_>,
) -> Result<Taken, RingFault> {
    let Some(len) = bytes.checked_sub(net.header_len) else { return Err(RingFault::NoHeader) };
    let mut reader = Reader { segments, offset: 0 };
    let mut header = [0; NetHeader::LEN];
    reader.copy_out(&mut header[..net.header_len]);
    let mut legacy = [0; NetHeader::LEGACY_LEN];
    legacy.copy_from_slice(&header[..NetHeader::LEGACY_LEN]);
    let offload = match checked(&legacy, len, net) {
        Ok(offload) => offload,
        Err(reason) => return Ok(Taken::Dropped(reason)),
    };
    if !batch.has_room(segments.len()) {
        return Ok(Taken::NoRoom);
    }
    let Some(packet) = batch.start_packet() else { return Ok(Taken::NoRoom) };
    packet.offload = offload;
    let head = if len <= HEAD_CAPACITY { len } else { HEAD_SPLIT };
    reader.copy_out(packet.receive_head(head));
    while let Some(piece) = reader.rest() {
        if !batch.add_span(piece) {
            batch.cancel_packet();
            return Ok(Taken::Dropped(DropReason::RxNoBuffer));
        }
    }
    Ok(Taken::Packet(len))
}

/// Reads the pieces of a chain one after the other.
struct Reader<'a> {
    segments: &'a [Segment],
    /// Bytes of the first piece already read.
    offset: u32,
}

impl Reader<'_> {
    fn copy_out(&mut self, mut dst: &mut [u8]) {
        while let (Some(segment), false) = (self.segments.first(), dst.is_empty()) {
            let n = ((segment.len - self.offset) as usize).min(dst.len());
            let (now, later) = dst.split_at_mut(n);
            // SAFETY: offset + n <= len, and the piece is mapped.
            unsafe { segment.start.add(self.offset as usize).copy_out(now) };
            dst = later;
            self.advance(n as u32);
        }
    }

    fn advance(&mut self, n: u32) {
        self.offset += n;
        if self.segments.first().is_some_and(|segment| self.offset == segment.len) {
            self.segments = &self.segments[1..];
            self.offset = 0;
        }
    }

    /// The rest of the current piece, or the next whole one.
    fn rest<'q>(&mut self) -> Option<Span<'q>> {
        let (segment, later) = self.segments.split_first()?;
        // SAFETY: offset < len, the piece is mapped, and the ring's lock, kept until the batch is gone, keeps it so.
        let span = unsafe {
            Span::new(segment.start.add(self.offset as usize).as_non_null(), segment.len - self.offset)
        };
        self.segments = later;
        self.offset = 0;
        Some(span)
    }
}

//! The card itself: rings on mapped memory, frames in and out.
#![expect(unsafe_code, reason = "does DMA as a card would")]

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use pmd::pci::FunctionCounters;
use pmd::sys::sigbus::Alarm;
use pmd::virtio::NetHeader;
use pmd::virtio::features::{VIRTIO_F_RING_PACKED, VIRTIO_NET_F_MRG_RXBUF};
use pmd::virtio::packed::Position;

use super::Faults;
use crate::memory::MemTable;
use crate::ring::{
    Cursor, DeviceRing, Direction, Extent, Kept, Resume, Ring, RingAddresses, RingConfig, RingFault,
    RingFile, RingRules, Segment,
};
use crate::vdpa::device::{Capabilities, DoorbellPage, RingStart, Start, StartIndex};
use crate::vdpa::error::{VdpaError, VdpaProblem};
use crate::vdpa::memory::DmaMapping;

/// In which the record is kept.
pub(super) const PAGE: u64 = 4096;
/// Bytes before each frame.
const HEADER: usize = NetHeader::LEN;

struct CardRing {
    config: RingConfig,
    ring: DeviceRing,
}

struct Running {
    features: u64,
    rings: Vec<CardRing>,
}

/// See the parent module.
pub(super) struct Card {
    pub(super) caps: Capabilities,
    pub(super) events: Arc<OwnedFd>,
    pub(super) mappings: Vec<DmaMapping>,
    pub(super) faults: Faults,
    pub(super) dead: bool,
    pub(super) works_when_kicked: bool,
    pub(super) watches_kicks: bool,
    pub(super) page: Option<DoorbellPage>,
    pub(super) kicks: u64,
    pub(super) opened: u64,
    pub(super) pairs: u16,
    pub(super) started_with: Option<(u64, u16, Option<[u8; 6]>)>,
    pub(super) arrived: VecDeque<Vec<u8>>,
    pub(super) sent: Vec<Vec<u8>>,
    pub(super) keeps_record: bool,
    /// I/O addresses of pages that were written, while that is recorded.
    pub(super) record: Option<BTreeSet<u64>>,
    pub(super) counts: bool,
    pub(super) statistics: FunctionCounters,
    alarm: Arc<Alarm>,
    running: Option<Running>,
}

/// A chain as the card reads it.
type Taken = (Extent, Vec<Segment>);

impl Card {
    #[expect(clippy::expect_used, reason = "a test can do nothing else")]
    pub(super) fn new(caps: Capabilities, events: OwnedFd) -> Card {
        Card {
            caps,
            events: Arc::new(events),
            mappings: Vec::new(),
            faults: Faults::default(),
            dead: false,
            works_when_kicked: false,
            watches_kicks: false,
            page: None,
            kicks: 0,
            opened: 0,
            pairs: 0,
            started_with: None,
            arrived: VecDeque::new(),
            sent: Vec::new(),
            keeps_record: false,
            record: None,
            counts: true,
            statistics: FunctionCounters::default(),
            alarm: Alarm::new().expect("an eventfd"),
            running: None,
        }
    }

    pub(super) fn close(&mut self) {
        self.running = None;
        self.record = None;
        self.mappings.clear();
    }

    pub(super) fn runs(&self) -> bool {
        self.running.is_some()
    }

    /// Makes the descriptor for events readable.
    pub(super) fn tell(&self) {
        // Non-blocking; full means told already.
        let _ = rustix::io::write(&self.events, &1u64.to_ne_bytes());
    }

    fn memory(&self) -> Arc<MemTable> {
        Arc::new(MemTable::of_device(&self.mappings, &self.alarm))
    }

    /// After mappings came or went: rings see the new ones.
    pub(super) fn remap(&mut self) {
        let memory = self.memory();
        let Some(running) = &mut self.running else { return };
        let rules = RingRules::new(running.features);
        running.rings.retain_mut(|ring| {
            ring.config.base = ring.ring.next_avail();
            let made = activate(&ring.config, &memory, rules);
            made.is_some_and(|made| {
                ring.ring = made;
                true
            })
        });
    }

    pub(super) fn start(&mut self, start: &Start<'_>) -> Result<(), VdpaError> {
        let refused = |what: String| VdpaError::new(VdpaProblem::Refused, format!("fake: {what}"), "");
        let Start { features, rings, queue_pairs, mac } = start;
        if self.running.is_some() || features & !self.caps.features != 0 || rings.len() % 2 != 0 {
            return Err(refused(format!("start while running, or with features {features:#x}")));
        }
        let first = if features & VIRTIO_F_RING_PACKED != 0 { Position::START.bits() } else { 0 };
        let misplaced = |ring: &RingStart| ring.index != first;
        if self.caps.start_index == StartIndex::Zero && rings.iter().any(misplaced) {
            return Err(refused("a ring that does not begin at zero".into()));
        }
        let memory = self.memory();
        let rules = RingRules::new(*features);
        let made = rings.iter().map(|ring| {
            let RingStart { size, descriptors, driver, device, index, call, kick } = ring.clone();
            let config = RingConfig {
                size: Some(size),
                addresses: Some(RingAddresses { descriptors, avail: driver, used: device }),
                base: index,
                call,
                kick,
                started: true,
                ..RingConfig::default()
            };
            let ring = activate(&config, &memory, rules)?;
            Some(CardRing { config, ring })
        });
        let rings: Option<Vec<_>> = made.collect();
        let rings = rings.ok_or_else(|| refused("a ring that it cannot reach".into()))?;
        self.running = Some(Running { features: *features, rings });
        self.pairs = *queue_pairs;
        self.started_with = Some((*features, *queue_pairs, *mac));
        self.statistics = FunctionCounters::default();
        Ok(())
    }

    /// Ends all rings. Returns where they stand.
    pub(super) fn stop(&mut self) -> Vec<u16> {
        let running = self.running.take();
        running.into_iter().flat_map(|running| running.rings).map(|ring| ring.ring.next_avail()).collect()
    }

    pub(super) fn set_call(&mut self, ring: u16, call: Option<Arc<OwnedFd>>) {
        let ring = self.running.as_mut().and_then(|running| running.rings.get_mut(usize::from(ring)));
        if let Some(ring) = ring {
            ring.config.call.clone_from(&call);
            ring.ring.set_call(call);
        }
    }

    pub(super) fn set_kick(&mut self, ring: u16, kick: Option<Arc<OwnedFd>>) {
        let ring = self.running.as_mut().and_then(|running| running.rings.get_mut(usize::from(ring)));
        if let Some(ring) = ring {
            ring.config.kick = kick;
        }
    }

    /// What a ring is kicked by, if it is looked at.
    pub(super) fn kick(&self, ring: u16) -> Option<Arc<OwnedFd>> {
        let ring = self.running.as_ref()?.rings.get(usize::from(ring))?;
        ring.config.kick.clone().filter(|_| self.watches_kicks)
    }

    /// Works on up to so many chains. Returns how many there were.
    pub(super) fn work(&mut self, chains: usize) -> usize {
        let mut done = 0;
        while done < chains && !self.dead {
            let before = done;
            done += self.transmit() + if done < chains { self.receive() } else { 0 };
            if done == before {
                break;
            }
        }
        done
    }

    /// Counts a chain against its life. False when it is over: the chain is not completed.
    fn lives(&mut self) -> bool {
        match &mut self.faults.dies_after {
            Some(0) => {
                self.dead = true;
                self.tell();
            }
            Some(left) => *left -= 1,
            None => {}
        }
        !self.dead
    }

    /// A frame from each transmit ring.
    fn transmit(&mut self) -> usize {
        let Some(mut running) = self.running.take() else { return 0 };
        let mut done = 0;
        for ring in running.rings.iter_mut().skip(1).step_by(2) {
            let Some((chain, pieces)) = next_chain(&mut ring.ring, Direction::Read, 1).pop() else {
                continue;
            };
            if !self.lives() {
                break;
            }
            let mut frame = gather(&pieces);
            let frame = frame.split_off(HEADER.min(frame.len()));
            self.statistics.tx_packets += 1;
            self.statistics.tx_bytes += frame.len() as u64;
            self.sent.push(frame);
            complete(&mut ring.ring, &[(chain, 0)], self.faults.interrupts);
            note_ring(&mut self.record, &ring.config);
            done += 1;
        }
        self.running = Some(running);
        done
    }

    /// A frame into the first receive ring.
    fn receive(&mut self) -> usize {
        let Some(mut running) = self.running.take() else { return 0 };
        let done = self.receive_into(&mut running);
        self.running = Some(running);
        done
    }

    fn receive_into(&mut self, running: &mut Running) -> usize {
        let Some(frame) = self.arrived.front() else { return 0 };
        let mergeable = running.features & VIRTIO_NET_F_MRG_RXBUF != 0;
        let Some(ring) = running.rings.first_mut() else { return 0 };
        let need = HEADER + frame.len();
        let mut chains = next_chain(&mut ring.ring, Direction::Write, if mergeable { 64 } else { 1 });
        let (mut room, mut count) = (0, 0);
        while room < need {
            let Some((_, pieces)) = chains.get(count) else { return 0 };
            room += pieces.iter().map(|piece| piece.len as usize).sum::<usize>();
            count += 1;
        }
        chains.truncate(count);
        let header = NetHeader { num_buffers: count as u16, ..NetHeader::default() };
        let bytes = [&header.to_bytes()[..], frame].concat();
        if !self.lives() {
            return 0;
        }
        let len = bytes.len() - HEADER;
        let mut rest = &bytes[..];
        let used: Vec<_> = chains
            .iter()
            .map(|(chain, pieces)| {
                let before = rest.len();
                rest = scatter(rest, pieces);
                note_pieces(&mut self.record, &self.mappings, pieces);
                (*chain, (before - rest.len()) as u32)
            })
            .collect();
        complete(&mut ring.ring, &used, self.faults.interrupts);
        note_ring(&mut self.record, &ring.config);
        self.arrived.pop_front();
        self.statistics.rx_packets += 1;
        self.statistics.rx_bytes += len as u64;
        count
    }
}

fn note(record: &mut Option<BTreeSet<u64>>, iova: u64, len: u64) {
    if let Some(pages) = record {
        pages.extend((iova / PAGE..=(iova + len - 1) / PAGE).map(|page| page * PAGE));
    }
}

/// What a card may have written of a ring: what it used, and when it wants to be kicked.
fn note_ring(record: &mut Option<BTreeSet<u64>>, config: &RingConfig) {
    let Some((places, size)) = config.addresses.zip(config.size) else { return };
    note(record, places.descriptors, 16 * u64::from(size));
    note(record, places.used, 6 + 8 * u64::from(size));
}

fn note_pieces(record: &mut Option<BTreeSet<u64>>, mappings: &[DmaMapping], pieces: &[Segment]) {
    for piece in pieces {
        let of = |mapping: &DmaMapping| {
            let offset = piece.start.addr().checked_sub(mapping.memory.addr())? as u64;
            (offset < mapping.memory.len()).then(|| mapping.iova + offset)
        };
        if let Some(iova) = mappings.iter().find_map(of) {
            note(record, iova, piece.len.into());
        }
    }
}

#[expect(clippy::unwrap_used, reason = "a test can do nothing else without a memfd")]
fn activate(config: &RingConfig, memory: &Arc<MemTable>, rules: RingRules) -> Option<DeviceRing> {
    let file = Arc::new(RingFile::anonymous(1).unwrap());
    let kept = Kept { file: &file, inflight: None, index: 0 };
    let made = config.activate(memory, rules, kept, Resume::AtBase).ok()??;
    let mut ring = made.ring;
    ring.arm();
    Some(ring)
}

/// Looks at up to `most` chains that wait. A bad one ends the look.
fn next_chain(ring: &mut DeviceRing, direction: Direction, most: usize) -> Vec<Taken> {
    fn look<R: Ring>(ring: &mut R, direction: Direction, most: usize) -> Result<Vec<Taken>, RingFault> {
        let (mut cursor, mut chains) = (Cursor::default(), Vec::new());
        while chains.len() < most
            && let Some(chain) = ring.peek(&mut cursor)?
        {
            ring.forget_segments();
            ring.walk(chain, direction)?;
            chains.push((chain, ring.segments().to_vec()));
        }
        Ok(chains)
    }
    let looked = match ring {
        DeviceRing::Split(ring) => look(ring, direction, most),
        DeviceRing::Packed(ring) => look(ring, direction, most),
    };
    looked.unwrap_or_default()
}

/// Gives chains back, all at once, and interrupts unless told not to.
fn complete(ring: &mut DeviceRing, used: &[(Extent, u32)], silent: bool) {
    fn write<R: Ring>(ring: &mut R, used: &[(Extent, u32)]) {
        ring.make_room(used.len() as u16);
        used.iter().for_each(|(chain, len)| ring.complete(*chain, *len));
    }
    match ring {
        DeviceRing::Split(ring) => write(ring, used),
        DeviceRing::Packed(ring) => write(ring, used),
    }
    if ring.publish() && !silent {
        ring.interrupt();
    }
    ring.arm();
}

fn gather(pieces: &[Segment]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        let at = bytes.len();
        bytes.resize(at + piece.len as usize, 0);
        // SAFETY: the walk found the piece in memory that the ring's table keeps mapped.
        unsafe { piece.start.copy_out(&mut bytes[at..]) };
    }
    bytes
}

/// Fills the pieces as far as the bytes go, and returns those that did not fit.
fn scatter<'a>(mut bytes: &'a [u8], pieces: &[Segment]) -> &'a [u8] {
    for piece in pieces {
        let (now, rest) = bytes.split_at(bytes.len().min(piece.len as usize));
        // SAFETY: as in `gather`.
        unsafe { piece.start.copy_in(now) };
        bytes = rest;
    }
    bytes
}

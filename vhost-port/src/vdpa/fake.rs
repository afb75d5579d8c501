//! A device in software that runs rings as a card would, and fails when it is told to. For tests; not part of the API.
//!
//! ```text
//!   port ──VdpaDev──▶ FakeVf ─┐
//!                             ├─ the card: mappings, rings (our own device side), what it has sent
//!   test ───────────▶ Fake ───┘
//! ```
//!
//! Nothing happens by itself: the test says when the card works ([`Fake::work`]), or that it is to work at every kick
//! ([`Fake::work_when_kicked`]). It reaches memory only by what was mapped for it, and at I/O addresses.

mod card;

use std::collections::{BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pmd::pci::FunctionCounters;
use pmd::virtio::features::*;
use rustix::event::{EventfdFlags, eventfd};

use super::device::{
    Capabilities, DeviceEvents, DirtyTracking, Doorbell, DoorbellPage, RingStart, Start, StartIndex,
    StartedRing, StoppedRing, Uplink, VdpaDev,
};
use super::error::{VdpaError, VdpaProblem};
use super::memory::DmaMapping;
use card::{Card, PAGE};

/// What a virtio function of a card can do that has nothing beyond the specification: rings begin at zero, and nobody knows where they
/// stop.
pub fn plain_function(name: &str) -> Capabilities {
    Capabilities {
        kind: "fake",
        name: name.to_owned(),
        features: VIRTIO_F_VERSION_1
            | VIRTIO_F_ACCESS_PLATFORM
            | VIRTIO_F_INDIRECT_DESC
            | VIRTIO_F_EVENT_IDX
            | VIRTIO_NET_F_MRG_RXBUF
            | VIRTIO_NET_F_CSUM
            | VIRTIO_NET_F_GUEST_CSUM
            | VIRTIO_NET_F_HOST_TSO4
            | VIRTIO_NET_F_GUEST_TSO4
            | VIRTIO_NET_F_CTRL_VQ
            | VIRTIO_NET_F_MQ,
        max_queue_pairs: 4,
        max_ring_size: 1024,
        start_index: StartIndex::Zero,
        reports_index: false,
        iova: vec![0..=0xfedf_ffff, 0xfef0_0000..=0xff_ffff_ffff],
        granule: 4096,
        mac: Some([2, 0, 0, 0, 0, 0x10]),
    }
}

/// What a device can do that starts anywhere and knows where it stopped, with rings of either kind.
pub fn able_device(name: &str) -> Capabilities {
    let plain = plain_function(name);
    let features = plain.features | VIRTIO_F_RING_PACKED | VIRTIO_F_IN_ORDER;
    Capabilities { features, start_index: StartIndex::Any, reports_index: true, ..plain }
}

/// What fails, each until it is set otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Faults {
    /// [`VdpaDev::map`].
    pub map: bool,
    /// [`VdpaDev::unmap`].
    pub unmap: bool,
    /// [`VdpaDev::start`].
    pub start: bool,
    /// [`VdpaDev::set_call`].
    pub set_call: bool,
    /// [`VdpaDev::set_kick`].
    pub set_kick: bool,
    /// [`VdpaDev::set_queue_pairs`].
    pub set_queue_pairs: bool,
    /// [`DirtyTracking::track`].
    pub track: bool,
    /// [`DirtyTracking::collect`].
    pub collect: bool,
    /// [`VdpaDev::stop`]; the rings are stopped all the same.
    pub stop: bool,
    /// [`VdpaDev::reset`]; the rings are stopped all the same.
    pub reset: bool,
    /// Guests are not interrupted.
    pub interrupts: bool,
    /// It breaks after so many more chains: works no more, says that it needs a reset, and refuses everything.
    pub dies_after: Option<u64>,
    /// It says that somebody wants it back.
    pub removed: bool,
    /// It does not tell where rings stand, whatever its capabilities say.
    pub position: bool,
}

/// The test's side of the card. Clones are the same card.
#[derive(Clone)]
pub struct Fake(Arc<Mutex<Card>>);

/// The port's side of it.
pub struct FakeVf {
    card: Fake,
    caps: Capabilities,
}

struct Bell(Fake);

impl Doorbell for Bell {
    fn ring(&self) {
        let mut card = self.0.card();
        card.kicks += 1;
        if card.works_when_kicked {
            card.work(usize::MAX);
        }
    }
}

impl Fake {
    /// A card that can do this. Panics where there is no eventfd.
    #[expect(clippy::expect_used, reason = "a test can do nothing else")]
    pub fn new(caps: Capabilities) -> Fake {
        let events = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd");
        Fake(Arc::new(Mutex::new(Card::new(caps, events))))
    }

    /// Opens it as a port does: whatever it was in the middle of is over.
    pub fn open(&self) -> FakeVf {
        let mut card = self.card();
        card.close();
        card.opened += 1;
        FakeVf { caps: card.caps.clone(), card: self.clone() }
    }

    fn card(&self) -> MutexGuard<'_, Card> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets what fails.
    pub fn set_faults(&self, faults: Faults) {
        let mut card = self.card();
        card.faults = faults;
        if faults.removed {
            card.tell();
        }
    }

    /// A new card in its slot: faults and death are over.
    pub fn replace(&self) {
        let mut card = self.card();
        card.faults = Faults::default();
        card.dead = false;
    }

    /// Has it work at every kick and at every frame that arrives.
    pub fn work_when_kicked(&self) {
        self.card().works_when_kicked = true;
    }

    /// Has it keep a record of what it writes, when that is asked for.
    pub fn keep_record(&self) {
        self.card().keeps_record = true;
    }

    /// Has it tell no counters, as virtio functions.
    pub fn count_nothing(&self) {
        self.card().counts = false;
    }

    /// Has it say, from its next start on, that each ring can be kicked by this page.
    pub fn offer_page(&self, page: DoorbellPage) {
        self.card().page = Some(page);
    }

    /// Has it say, from its next start on, that it watches the guest's kicks: the test plays the kernel, see [`Fake::watched`].
    pub fn watch_kicks(&self) {
        self.card().watches_kicks = true;
    }

    /// The eventfd that it watches for kicks of a ring.
    pub fn watched(&self, ring: u16) -> Option<Arc<OwnedFd>> {
        self.card().kick(ring)
    }

    /// Lets it work on up to so many chains, and returns how many there were.
    pub fn work(&self, chains: usize) -> usize {
        self.card().work(chains)
    }

    /// A frame arrives for the guest. It waits in the card until there is room.
    pub fn arrive(&self, frame: &[u8]) {
        let mut card = self.card();
        card.arrived.push_back(frame.to_vec());
        if card.works_when_kicked {
            card.work(usize::MAX);
        }
    }

    /// What guests have sent by it since this was asked last.
    pub fn sent(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.card().sent)
    }

    /// Frames that wait in the card.
    pub fn waiting(&self) -> usize {
        self.card().arrived.len()
    }

    /// Takes out the frames that wait in the card: it is about to lose them.
    pub fn lose_waiting(&self) -> VecDeque<Vec<u8>> {
        std::mem::take(&mut self.card().arrived)
    }

    /// Kicks it has had, times it was opened, and whether it runs.
    pub fn seen(&self) -> (u64, u64, bool) {
        let card = self.card();
        (card.kicks, card.opened, card.runs())
    }

    /// With what it was started last.
    pub fn started_with(&self) -> Option<(u64, u16, Option<[u8; 6]>)> {
        self.card().started_with
    }

    /// Queue pairs it uses.
    pub fn pairs(&self) -> u16 {
        self.card().pairs
    }

    /// I/O addresses and bytes it reaches.
    pub fn reaches(&self) -> Vec<(u64, u64)> {
        self.card().mappings.iter().map(|m| (m.iova, m.memory.len())).collect()
    }
}

impl FakeVf {
    fn card(&self) -> MutexGuard<'_, Card> {
        self.card.card()
    }

    /// Fails if told to, and if the card is dead.
    fn ask(&self, what: &str, fails: fn(&Faults) -> bool) -> Result<MutexGuard<'_, Card>, VdpaError> {
        let card = self.card();
        let name = &self.caps.name;
        if card.dead {
            return Err(VdpaError::new(VdpaProblem::Gone, format!("{name}: {what}: it is dead"), ""));
        }
        if fails(&card.faults) {
            return Err(VdpaError::new(VdpaProblem::Refused, format!("{name}: {what}: told to fail"), ""));
        }
        Ok(card)
    }
}

impl VdpaDev for FakeVf {
    fn capabilities(&self) -> &Capabilities {
        &self.caps
    }

    fn read_config(&mut self, offset: u32, into: &mut [u8]) -> Result<(), VdpaError> {
        let mac = self.caps.mac.unwrap_or_default();
        let bytes = mac.into_iter().chain([1, 0]).chain(self.caps.max_queue_pairs.to_le_bytes());
        let bytes = bytes.chain(std::iter::repeat(0)).skip(offset as usize);
        into.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        Ok(())
    }

    fn write_config(&mut self, _: u32, _: &[u8]) -> Result<(), VdpaError> {
        Ok(())
    }

    fn map(&mut self, mapping: DmaMapping) -> Result<(), VdpaError> {
        let mut card = self.ask("map", |faults| faults.map)?;
        let overlaps = |other: &DmaMapping| other.iova <= mapping.last() && mapping.iova <= other.last();
        if card.mappings.iter().any(overlaps) {
            return Err(VdpaError::new(VdpaProblem::Memory, "mapped twice", ""));
        }
        card.mappings.push(mapping);
        card.remap();
        Ok(())
    }

    fn unmap(&mut self, iova: u64) -> Result<(), VdpaError> {
        {
            let mut card = self.card();
            card.mappings.retain(|mapping| mapping.iova != iova);
            card.remap();
        }
        self.ask("unmap", |faults| faults.unmap).map(|_| ())
    }

    fn start(&mut self, start: Start<'_>) -> Result<Vec<StartedRing>, VdpaError> {
        let mut card = self.ask("start", |faults| faults.start)?;
        card.start(&start)?;
        let page = card.page.clone();
        let ring = |_: &RingStart| StartedRing {
            doorbell: Arc::new(Bell(self.card.clone())) as Arc<dyn Doorbell>,
            watches_kick: card.watches_kicks,
            page: page.clone(),
        };
        let rings = start.rings.iter().map(ring).collect();
        if card.works_when_kicked {
            card.work(usize::MAX);
        }
        Ok(rings)
    }

    fn set_call(&mut self, ring: u16, call: Option<Arc<OwnedFd>>) -> Result<(), VdpaError> {
        self.ask("set_call", |faults| faults.set_call)?.set_call(ring, call);
        Ok(())
    }

    fn set_kick(&mut self, ring: u16, kick: Option<Arc<OwnedFd>>) -> Result<(), VdpaError> {
        self.ask("set_kick", |faults| faults.set_kick)?.set_kick(ring, kick);
        Ok(())
    }

    fn set_queue_pairs(&mut self, pairs: u16) -> Result<(), VdpaError> {
        self.ask("set_queue_pairs", |faults| faults.set_queue_pairs)?.pairs = pairs;
        Ok(())
    }

    fn stop(&mut self) -> Result<Vec<StoppedRing>, VdpaError> {
        let (stopped, tells) = {
            let mut card = self.card();
            (card.stop(), self.caps.reports_index && !card.faults.position)
        };
        drop(self.ask("stop", |faults| faults.stop)?);
        let told = |at| if tells { StoppedRing::At(at) } else { StoppedRing::Unknown };
        Ok(stopped.into_iter().map(told).collect())
    }

    fn reset(&mut self) -> Result<(), VdpaError> {
        self.card().stop();
        self.ask("reset", |faults| faults.reset).map(|_| ())
    }

    fn event_fd(&self) -> Option<Arc<OwnedFd>> {
        Some(Arc::clone(&self.card().events))
    }

    fn poll(&mut self) -> DeviceEvents {
        let card = self.card();
        // Non-blocking.
        let _ = rustix::io::read(&card.events, &mut [0; 8]);
        DeviceEvents { config_changed: false, failed: card.dead, removed: card.faults.removed }
    }

    fn statistics(&mut self) -> Option<FunctionCounters> {
        let card = self.card();
        card.counts.then_some(card.statistics)
    }

    fn dirty_tracking(&mut self) -> Option<&mut dyn DirtyTracking> {
        let keeps = self.card().keeps_record;
        keeps.then_some(self)
    }

    fn uplink(&self) -> Uplink {
        Uplink { parent: Some("0000:03:00.0".into()), netdev: Some("fake0".into()), vf: Some(0) }
    }
}

impl DirtyTracking for FakeVf {
    fn track(&mut self, on: bool) -> Result<(), VdpaError> {
        self.ask("track", |faults| faults.track)?.record = on.then(BTreeSet::new);
        Ok(())
    }

    fn collect(
        &mut self,
        range: RangeInclusive<u64>,
        written: &mut dyn FnMut(u64, u64),
    ) -> Result<(), VdpaError> {
        let mut card = self.ask("collect", |faults| faults.collect)?;
        let pages = card.record.as_mut().map(std::mem::take).unwrap_or_default();
        let (told, rest): (BTreeSet<_>, _) = pages.into_iter().partition(|page| range.contains(page));
        card.record = card.record.is_some().then_some(rest);
        told.into_iter().for_each(|page| written(page, PAGE));
        Ok(())
    }
}

impl Drop for FakeVf {
    fn drop(&mut self) {
        self.card().close();
    }
}

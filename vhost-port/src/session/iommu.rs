//! A guest with an IOMMU: translations in, misses out (vhost-user, "IOMMU support"; feature ACCESS_PLATFORM).
//!
//! Ring addresses and descriptors are then I/O addresses. The front-end tells what they mean, mostly when asked, and takes it
//! back whenever the guest unmaps something. Three things follow:
//!
//! **A worker never waits.** A burst ends before the chain that cannot be found, the ring is set aside ([`Vring::awaiting`]),
//! and the worker goes on with others or sleeps. The memory table has reported the miss; this thread asks for it, and sets the ring
//! going again when the answer is published. What a burst has looked at ahead is asked for as well, so a guest that maps every
//! packet anew costs a wait per burst, not per packet.
//!
//! **An invalidation is acknowledged when nobody can use what it takes back.** Each ring gets the new table under its lock, and
//! forgets what it knows. A ring that lies in what was taken back is closed as if it were stopped, and opened at the same index when its
//! address is back. An invalidation of what was never used here is answered at once.
//!
//! **Nothing is asked for twice**, until [`PATIENCE`] is over. Then everything still wanted is asked for again: messages can be lost
//! (a channel that is full, a table of misses that is) and a guest may map late what it gave us early.
//!
//! [`Vring::awaiting`]: crate::ring::Vring::awaiting

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pmd::port::DropReason;

use super::backend_channel::{BackendRequest, SendError};
use super::machine::Session;
use crate::memory::{Access, Iotlb, MemTable, Miss, MissQueue, PAGE, Translation, TranslationError};
use crate::net::LateSender;
use crate::ring::{Direction, RingConfigError, RingRules};

/// Bytes of the protocol's `struct vhost_iotlb_msg`, and those of them that say something.
const MESSAGE: usize = 32;
const FIELDS: usize = 26;
const TYPE_MISS: u8 = 1;
const TYPE_UPDATE: u8 = 2;
const TYPE_INVALIDATE: u8 = 3;
/// Most misses asked for and not answered. More are left for later.
const MAX_ASKED: usize = 1024;
/// Shortest and longest time that an answer may take before everything is asked for again.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A front-end's IOTLB message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum IotlbMessage {
    Update(Translation),
    Invalidate { iova: u64, len: u64 },
}

impl IotlbMessage {
    /// Reads a message's body.
    pub(super) fn parse(body: &[u8]) -> Result<IotlbMessage, String> {
        let fields: &[u8; FIELDS] = match body.first_chunk() {
            Some(fields) if body.len() <= MESSAGE => fields,
            _ => return Err(format!("IOTLB_MSG with a body of {} bytes", body.len())),
        };
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&fields[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let (iova, len, uva) = (word(0), word(8), word(16));
        match (fields[25], Access::from_bits(fields[24])) {
            (TYPE_UPDATE, Some(access)) => Ok(IotlbMessage::Update(Translation { iova, len, uva, access })),
            (TYPE_UPDATE, None) => Err(format!("IOTLB update of {iova:#x} with permissions {}", fields[24])),
            (TYPE_INVALIDATE, _) => Ok(IotlbMessage::Invalidate { iova, len }),
            (other, _) => Err(format!("IOTLB_MSG of type {other}, which front-ends do not send")),
        }
    }
}

/// The body of a message that asks for a page.
fn ask_for(miss: Miss) -> [u8; MESSAGE] {
    let mut body = [0; MESSAGE];
    body[..8].copy_from_slice(&miss.page.to_le_bytes());
    body[8..16].copy_from_slice(&PAGE.to_le_bytes());
    body[24] = miss.access.bits();
    body[25] = TYPE_MISS;
    body
}

/// A miss that the front-end was asked about.
struct Asked {
    miss: Miss,
    at: Instant,
}

/// The state of a session whose guest has an IOMMU.
pub(super) struct Iommu {
    iotlb: Iotlb,
    misses: Arc<MissQueue>,
    asked: Vec<Asked>,
    /// How long an answer may take, and since when there was none that was wanted.
    pause: Duration,
    since: Instant,
    late: LateSender,
    /// There is no IOMMU: these are the pages of memory that have arrived.
    pages: bool,
}

impl Iommu {
    pub(super) fn new(session: &Session) -> Iommu {
        Iommu {
            iotlb: Iotlb::default(),
            misses: Arc::new(MissQueue::new(Arc::clone(&session.shared.alarm))),
            asked: Vec::new(),
            pause: PATIENCE.0,
            since: Instant::now(),
            late: LateSender::new(),
            pages: session.paging(),
        }
    }

    /// The table for rings, over the guest's memory, in which everything is found anew.
    pub(super) fn rebase(&mut self, memory: &MemTable, arriving: bool) -> MemTable {
        self.iotlb.rebase(memory);
        self.table(memory, arriving)
    }

    /// Nothing can be found while memory is `arriving`, and not found by pages.
    fn table(&self, memory: &MemTable, arriving: bool) -> MemTable {
        let entries = if arriving && !self.pages { &[] } else { self.iotlb.entries() };
        memory.translated(entries, &self.misses, self.pages)
    }

    /// Pages that rings have missed and that have not arrived.
    pub(super) fn missing(&self) -> Vec<u64> {
        let pages = self.misses.drain().map(|miss| miss.page);
        pages.filter(|&page| !self.iotlb.has(page, Access::BOTH)).collect()
    }

    /// A page has arrived.
    pub(super) fn know(&mut self, page: Translation, memory: &MemTable) -> Result<(), TranslationError> {
        (self.pause, self.since) = (PATIENCE.0, Instant::now());
        self.iotlb.update(page, memory).map(drop)
    }

    /// Pages are gone.
    pub(super) fn forget(&mut self, gpa: u64, len: u64) {
        self.iotlb.invalidate(gpa, len);
    }

    /// Applies a message. Whether it changed anything.
    fn apply(&mut self, message: IotlbMessage, memory: &MemTable) -> Result<bool, String> {
        match message {
            IotlbMessage::Update(told) => {
                let changed = self.iotlb.update(told, memory).map_err(|e| e.to_string())?;
                let end = told.iova.saturating_add(told.len);
                self.asked.retain(|asked| {
                    let page = asked.miss.page;
                    page.saturating_add(PAGE) <= told.iova || page >= end
                });
                (self.pause, self.since) = (PATIENCE.0, Instant::now());
                Ok(changed)
            }
            IotlbMessage::Invalidate { iova, len } => Ok(self.iotlb.invalidate(iova, len)),
        }
    }
}

/// What the device does with the buffers of a ring.
pub(super) fn direction(at: usize) -> Direction {
    if at.is_multiple_of(2) { Direction::Write } else { Direction::Read }
}

impl Session {
    /// An IOTLB message.
    pub(super) fn translate(&mut self, message: IotlbMessage) -> Result<(), String> {
        let (counters, arriving) = (&self.shared.iotlb, self.arriving());
        let Some(iommu) = self.iommu.as_mut().filter(|iommu| !iommu.pages) else {
            return match message {
                // Nothing was known.
                IotlbMessage::Invalidate { .. } => Ok(()),
                IotlbMessage::Update(_) => Err("IOTLB update without VIRTIO_F_ACCESS_PLATFORM".to_owned()),
            };
        };
        let changed = iommu.apply(message, &self.memory)?;
        let (kind, taken_back) = match message {
            IotlbMessage::Update(_) => (&counters.updates, false),
            IotlbMessage::Invalidate { .. } => (&counters.invalidations, true),
        };
        kind.fetch_add(1, Ordering::Relaxed);
        counters.entries.store(iommu.iotlb.entries().len() as u64, Ordering::Relaxed);
        counters.evicted.store(iommu.iotlb.evicted(), Ordering::Relaxed);
        if changed {
            self.addresses = Arc::new(iommu.table(&self.memory, arriving));
            self.readdress_rings(taken_back)?;
            self.ask();
        }
        Ok(())
    }

    /// Gives all rings the new addresses. With `survey`, what they will need next is looked for in them.
    pub(super) fn readdress_rings(&mut self, survey: bool) -> Result<(), String> {
        (0..self.rings.len())
            .filter(|&at| self.rings[at].started)
            .collect::<Vec<_>>()
            .into_iter()
            .try_for_each(|at| self.readdress_ring(at, survey).map_err(|e| self.explain(&e)))
    }

    /// Gives a ring the new addresses: without interrupting it if it lies where it did, else by building it anew.
    fn readdress_ring(&mut self, at: usize, survey: bool) -> vhost::vhost_user::Result<()> {
        let rules = RingRules::new(self.features);
        let config = &self.rings[at];
        // A window is made when the ring is built; here it is only to be recognised.
        let placed = config.place(&self.addresses, rules, &|pieces| {
            let window = config.windows.iter().find(|window| window.shows(pieces));
            window.cloned().ok_or_else(|| std::io::ErrorKind::NotFound.into())
        });
        let vring = &self.shared.rings[at];
        let mut guard = vring.lock();
        let awaited = vring.awaiting();
        let lost = matches!(placed, Err(RingConfigError::Untranslated { .. }));
        if lost && awaited && guard.ring.is_none() {
            return Ok(());
        }
        if let (Ok(Some(placed)), Some(ring)) = (placed, &mut guard.ring)
            && ring.readdress(placed.parts, &self.addresses)
        {
            if (survey || awaited) && vring.live() {
                ring.survey(direction(at));
            }
            let held = !guard.held.is_empty();
            if awaited && !held {
                vring.set_usable(true);
                vring.set_awaiting(false);
            }
            drop(guard);
            if held {
                self.send_late(at);
            } else if awaited {
                vring.wake();
            }
            return Ok(());
        }
        drop(guard);
        let live = vring.live();
        self.rebuild_ring(at)?;
        self.changed |= live != self.shared.rings[at].live();
        Ok(())
    }

    /// Sends what workers have left with a ring that was set aside. The ring is usable when nothing is left, and waits on otherwise.
    pub(super) fn send_late(&mut self, at: usize) {
        let Some(iommu) = &mut self.iommu else { return };
        let vring = &self.shared.rings[at];
        // A burst at a time, so that a worker that adds to it never finds the lock taken for long.
        loop {
            let mut guard = vring.lock();
            if guard.ring.is_none() || !vring.awaiting() {
                return;
            }
            vring.set_awaiting(false);
            iommu.late.send(vring, &mut guard, self.shared.limits(), &self.shared.late_tx);
            if vring.awaiting() {
                return;
            }
            if vring.fault().is_some() {
                self.shared.late_tx.drops.add(DropReason::TxBadRing, guard.held.clear());
                return;
            }
            if guard.held.is_empty() {
                return vring.set_usable(true);
            }
            vring.set_awaiting(true);
        }
    }

    /// Asks the front-end for what rings have missed.
    pub(super) fn ask(&mut self) {
        if self.paging() {
            // If the pager has ended, its socket tells.
            let _ = self.ask_pager();
            return;
        }
        let Some(iommu) = &mut self.iommu else { return };
        let Some(channel) = &self.channel else { return };
        let mut broken = None;
        for miss in iommu.misses.drain() {
            let asked = iommu.asked.iter().any(|asked| asked.miss == miss);
            let known = asked || iommu.iotlb.has(miss.page, miss.access);
            if known || iommu.asked.len() >= MAX_ASKED {
                continue;
            }
            match channel.send(BackendRequest::Iotlb, &ask_for(miss)) {
                Ok(()) => {
                    iommu.asked.push(Asked { miss, at: Instant::now() });
                    self.shared.iotlb.misses.fetch_add(1, Ordering::Relaxed);
                }
                // Asked for again when patience is over.
                Err(SendError::Full) => break,
                Err(SendError::Broken(e)) => broken = Some(e),
            }
        }
        if let Some(e) = broken {
            log::error!("{}: cannot ask for translations any more: {e}", self.shared.config.name);
            self.channel = None;
        }
    }

    /// How long to wait for the front-end before [`Session::ask_again`]; `None` while nothing is wanted of it.
    pub(super) fn patience(&self) -> Option<Duration> {
        let iommu = self.iommu.as_ref()?;
        let waits = || self.shared.rings.iter().any(|ring| ring.awaiting());
        let oldest =
            iommu.asked.iter().map(|asked| asked.at).min().or_else(|| waits().then_some(iommu.since))?;
        Some(iommu.pause.saturating_sub(oldest.elapsed()))
    }

    /// If patience is over: forgets what was asked so long ago, and has the rings that wait try again, so that what is still wanted is
    /// asked for again.
    pub(super) fn ask_again(&mut self) {
        if self.patience() != Some(Duration::ZERO) {
            return;
        }
        let Some(iommu) = &mut self.iommu else { return };
        let pause = iommu.pause;
        iommu.asked.retain(|asked| asked.at.elapsed() < pause);
        (iommu.pause, iommu.since) = ((pause * 2).min(PATIENCE.1), Instant::now());
        let waiting = (0..self.rings.len()).filter(|&at| self.shared.rings[at].awaiting());
        for at in waiting.collect::<Vec<_>>() {
            if let Err(e) = self.readdress_ring(at, true) {
                // It was placed before; what is wrong with it now, the next message tells.
                log::error!("{}: {}", self.shared.config.name, self.explain(&e));
            }
        }
        self.ask();
    }
}

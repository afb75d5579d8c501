//! Handing the rings of a port to a device: whether it suits the guest, taking them from our own engine, starting it.

use std::os::fd::OwnedFd;
use std::time::Instant;

use pmd::port::DropReason;
use pmd::virtio::features::{VHOST_F_LOG_ALL, VIRTIO_F_EVENT_IDX, VIRTIO_F_RING_PACKED};
use pmd::virtio::packed::Position;

use super::machine::{Session, starts_enabled};
use super::offload::lines;
use super::rings::retire;
use super::tracking::track;
use crate::memory::MemTable;
use crate::ring::{RingAddresses, RingConfig, RingRules};
use crate::vdpa::{
    Between, KickRelay, LOOK, OffloadedRing, Progress, RingStart, Running, Start, StartedRing, Unit,
    VdpaError, VdpaProblem, Wants, Way, fit,
};

/// What a device is started with.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    pub(super) features: u64,
    pub(super) pairs: u16,
    /// Rings.
    pub(super) count: usize,
}

/// Rings that were started, and what stands between them and the guest.
pub(super) type Taken = (Vec<OffloadedRing>, Between);

/// A device that was started.
struct Engaged {
    features: u64,
    pairs: u16,
    tracked: bool,
    rings: Vec<OffloadedRing>,
    between: Between,
}

/// Writes an eventfd that does not block; a full one has been written already.
pub(super) fn signal(fd: &OwnedFd) {
    let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
}

impl Session {
    /// Tries the devices, best first. True when one runs the rings.
    pub(super) fn engage_any(&mut self) -> bool {
        let runs = (0..self.offloadable(u16::MAX)).any(|at| self.runs_enabled(at));
        if !runs || self.arriving() {
            return false;
        }
        while let Some(at) = self.offload.target() {
            match self.engage(at) {
                Ok(()) => return true,
                Err(e) => {
                    log::warn!("{}: {e}", self.shared.config.name);
                    let closes = matches!(e.problem(), VdpaProblem::Refused | VdpaProblem::Gone);
                    if let Some(slot) = self.offload.slots.get_mut(at) {
                        slot.set_aside(e.to_string(), closes);
                    }
                }
            }
        }
        false
    }

    /// Hands the rings to a device. After an error nobody may have them.
    fn engage(&mut self, at: usize) -> Result<(), VdpaError> {
        let Some(slot) = self.offload.slots.get_mut(at) else { return Ok(()) };
        let name = slot.name.clone();
        let Some(mut unit) = slot.unit.take() else {
            return Err(VdpaError::new(VdpaProblem::Gone, format!("{name} is not open"), ""));
        };
        match self.engage_unit(&mut unit) {
            Ok(Engaged { features, pairs, rings, between, tracked }) => {
                let look_at = Instant::now() + LOOK;
                let engine = between.engine();
                log::info!("{}: {name} runs the rings ({})", self.shared.config.name, engine.name());
                let (lost, outdated) = (0, None);
                self.shared.vdpa.status().statistics = unit.dev.statistics();
                self.offload.running = Some(Running {
                    name,
                    unit,
                    features,
                    pairs,
                    rings,
                    between,
                    look_at,
                    tracked,
                    lost,
                    outdated,
                });
                self.offload.between = false;
                self.hand_out_doorbells();
                self.note_switch_over(engine);
                Ok(())
            }
            Err(e) => {
                // What did not start writes no memory.
                track(&mut *unit.dev, false);
                if let Some(slot) = self.offload.slots.get_mut(at) {
                    slot.unit = Some(unit);
                }
                Err(e)
            }
        }
    }

    /// Directly if it can be, else by a relay.
    fn engage_unit(&mut self, unit: &mut Unit) -> Result<Engaged, VdpaError> {
        let caps = unit.dev.capabilities().clone();
        let wants = self.wants(caps.max_queue_pairs);
        let direct = fit(&caps, wants, Way::Direct).ok();
        // A relay sees what the device writes; a device that runs the guest's rings has to record it.
        let logs = self.features & VHOST_F_LOG_ALL != 0;
        let tracked = logs && direct.is_some() && track(&mut *unit.dev, true);
        let unseen = self.migration.active_log(self.features).is_some() && !tracked;
        let direct = direct.filter(|_| !unseen);
        let features = direct.map_or_else(|| fit(&caps, wants, Way::Shadow), Ok)?;
        if let Err(e) = unit.reach(&self.memory) {
            // It is better off without any; if that fails too, it is closed when it is used next.
            let _ = unit.reach(&MemTable::default());
            return Err(e);
        }
        self.note_refused();
        let plan = Plan { features, pairs: wants.pairs, count: self.offloadable(caps.max_queue_pairs) };
        let (rings, between) =
            if direct.is_some() { self.engage_directly(unit, plan) } else { self.engage_shadow(unit, plan) }?;
        Ok(Engaged { features, pairs: wants.pairs, rings, between, tracked })
    }

    fn engage_directly(&mut self, unit: &mut Unit, plan: Plan) -> Result<Taken, VdpaError> {
        for at in 0..self.rings.len() {
            if self.rings[at].started {
                self.take_ring(at);
            }
        }
        let starts = self.guest_rings(unit, plan.count)?;
        let started = self.start_device(unit, &plan, &starts)?;
        let rings = starts.into_iter().zip(started).enumerate();
        let rings: Vec<_> = rings
            .map(|(at, (guest, started))| OffloadedRing { guest, started, progress: self.progress(at) })
            .collect();
        let kicks = KickRelay::start(&self.shared.config.name, lines(&rings)).map_err(|e| {
            // The device runs already.
            let stopped = unit.dev.stop().or_else(|_| unit.dev.reset().map(|()| Vec::new()));
            self.settle_bases(&stopped.unwrap_or_default(), plan.count);
            VdpaError::system(VdpaProblem::Unfit, "thread for kicks", "raise the limit of threads", e)
        })?;
        // What was offered, or used, between the two engines may not have been told.
        rings.iter().for_each(|ring| ring.started.doorbell.ring());
        rings.iter().filter_map(|ring| ring.guest.call.as_ref()).for_each(|call| signal(call));
        Ok((rings, Between::Direct { kicks }))
    }

    /// The first `count` rings as a device may be told of them.
    pub(super) fn guest_rings(&self, unit: &Unit, count: usize) -> Result<Vec<RingStart>, VdpaError> {
        let starts = (0..count).map(|at| self.ring_start(at)).collect::<Option<Vec<_>>>();
        starts.ok_or_else(|| {
            let what = format!("{}: rings that are not where memory is", unit.dev.capabilities().name);
            VdpaError::new(VdpaProblem::Unfit, what, "restart the guest's driver")
        })
    }

    pub(super) fn start_device(
        &self,
        unit: &mut Unit,
        plan: &Plan,
        rings: &[RingStart],
    ) -> Result<Vec<StartedRing>, VdpaError> {
        let mac = self.shared.peer().mac.or(self.shared.config.mac);
        let start = Start { features: plan.features, rings, queue_pairs: plan.pairs, mac };
        let started = unit.dev.start(start)?;
        if started.len() == rings.len() {
            return Ok(started);
        }
        let what = format!(
            "{}: it started {} of {} rings",
            unit.dev.capabilities().name,
            started.len(),
            rings.len()
        );
        // What it does next, its next user finds out.
        let _ = unit.dev.reset();
        Err(VdpaError::new(VdpaProblem::Refused, what, "this is a bug of its driver"))
    }

    /// What the guest wants of a device with so many queue pairs.
    pub(super) fn wants(&self, most: u16) -> Wants {
        let count = self.offloadable(u16::MAX).max(2);
        let enabled = |at: &usize| self.runs_enabled(*at);
        let used = (0..count).rev().find(enabled).map_or(1, |at| at as u16 / 2 + 1);
        let count = self.offloadable(most);
        let sizes = self.rings.iter().take(count).filter_map(|ring| ring.size);
        let first = self.first_base();
        let fresh = (0..count).all(|at| self.base_of(at) == first);
        Wants { features: self.features, pairs: used, ring_size: sizes.max().unwrap_or(0), fresh }
    }

    pub(super) fn runs_enabled(&self, at: usize) -> bool {
        let ring = &self.rings[at];
        ring.started && (ring.enabled || starts_enabled(self.features))
    }

    /// Where a ring stands that nobody has used.
    pub(super) fn first_base(&self) -> u16 {
        if self.features & VIRTIO_F_RING_PACKED != 0 { Position::START.bits() } else { 0 }
    }

    /// Where a ring stands.
    fn base_of(&self, at: usize) -> u16 {
        let guard = self.shared.rings[at].lock();
        guard.ring.as_ref().map_or(self.rings[at].base, |ring| ring.next_avail())
    }

    /// Rings, from the first one on, of pairs that are complete, no more than so many.
    pub(super) fn offloadable(&self, most: u16) -> usize {
        let pairs = self.rings.chunks(2).take_while(|pair| pair.len() == 2 && pair.iter().all(complete));
        pairs.take(usize::from(most)).count() * 2
    }

    /// Takes a ring away from our own engine, between bursts.
    fn take_ring(&mut self, at: usize) {
        let vring = &self.shared.rings[at];
        let mut guard = vring.lock();
        vring.set_usable(false);
        vring.set_awaiting(false);
        vring.set_offloaded(true);
        self.shared.late_tx.drops.add(DropReason::TxOffloaded, guard.held.clear());
        if let Some(mut ring) = guard.ring.take() {
            // The device may say so only later, and the driver is to kick from now on.
            ring.arm();
            self.rings[at].base = retire(ring);
        }
        guard.written = None;
        drop(guard);
        // What is kept of it says where it was, not where the device will have brought it.
        self.shared.ring_file.forget(at);
        if let Some(region) = self.rings[at].inflight.take() {
            region.forget();
        }
        vring.set_kick(None);
        vring.wake();
    }

    /// What a device is told of a ring.
    pub(super) fn ring_start(&self, at: usize) -> Option<RingStart> {
        let RingConfig { size, addresses, base, call, kick, .. } = &self.rings[at];
        let RingAddresses { descriptors, avail, used } = (*addresses)?;
        let memory = &self.memory;
        let config = &self.rings[at];
        // The checks that our own engine makes.
        let rules = RingRules::new(self.features);
        config.place(memory, rules, &|_| Err(std::io::ErrorKind::Unsupported.into())).ok()??;
        Some(RingStart {
            size: (*size)?,
            descriptors: memory.gpa_of_uva(descriptors, 1)?,
            driver: memory.gpa_of_uva(avail, 1)?,
            device: memory.gpa_of_uva(used, 1)?,
            index: *base,
            call: call.clone(),
            kick: kick.clone(),
        })
    }

    /// What can be seen of a ring that a device runs.
    #[expect(unsafe_code, reason = "ring memory is shared with guest and device")]
    pub(super) fn progress(&self, at: usize) -> Option<Progress> {
        if self.features & VIRTIO_F_RING_PACKED != 0 {
            return None;
        }
        let config = &self.rings[at];
        let rules = RingRules::new(self.features);
        let placed = config.place(&self.memory, rules, &|_| Err(std::io::ErrorKind::Unsupported.into()));
        let parts = placed.ok()??.parts;
        let event_idx = self.features & VIRTIO_F_EVENT_IDX != 0;
        // SAFETY: `place` found both parts whole in this memory, aligned.
        Some(unsafe { Progress::new((parts.avail, parts.used), config.size?, event_idx, &self.memory) })
    }
}

/// Whether all that a device needs of a ring has been said.
fn complete(ring: &RingConfig) -> bool {
    ring.started && ring.size.is_some() && ring.addresses.is_some()
}

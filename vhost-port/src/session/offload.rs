//! One port, two engines: the guest's rings go to a device and come back.
//!
//! ```text
//!                 ┌──── driver starts, device fits: held ──── quiet: engage ────┐
//!   software ◀────┤                                                             ▼
//!      ▲          └──── running ring, device can start there: engage ────▶   device
//!      └── option taken away, device fails, migration, front-end changes ──────┘
//! ```
//!
//! [`Session::settle_engine`] is called after every message and every wake of the control thread. It compares what is with what should be, and
//! moves all rings of the port together; a port is never split between engines.
//!
//! # Moving rings
//!
//! To the device: each ring is taken under its lock, at the end of a burst. All that we took of it is completed, so one index
//! says where it stands, and the device goes on there. If it does not start, we do. Back: a device that is stopped has completed whatever it
//! completed; a split ring's used index in the guest's memory says how far that is, and buffers beyond it are simply taken again. So nothing that
//! was used is done twice, and nothing that was acknowledged is lost, whatever the device did and however it ended.
//!
//! In between, workers find the ring [offloaded](crate::ring::Vring::offloaded): they count and drop frames for it.
//!
//! # Holding rings back
//!
//! Most devices can start a ring only at zero, so it must not have been touched. A driver that starts says so in a dozen messages
//! per ring pair, and no message says that this was all. So its rings wait until the front-end has been quiet for [`QUIET`](crate::vdpa::QUIET), and go
//! to the device untouched. Only drivers of ports with a device that fits wait for that.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pmd::port::DropReason;
use pmd::virtio::features::{VIRTIO_F_EVENT_IDX, VIRTIO_F_RING_PACKED};
use pmd::virtio::packed::Position;
use vhost::vhost_user::Result as VhostResult;

use super::machine::Session;
use super::rings::retire;
use crate::memory::MemTable;
use crate::ring::{RingAddresses, RingConfig, RingRules};
use crate::vdpa::{
    Engine, KickRelay, LOOK, Line, MOST_LOST, OffloadedRing, Progress, RingStart, Running, Start,
    StartedRing, StoppedRing, Unit, VdpaError, VdpaProblem, Wants, Way, fit,
};

/// Writes an eventfd that does not block; a full one has been written already.
fn signal(fd: &OwnedFd) {
    let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
}

impl Session {
    /// Makes the engine what it should be. Tells the operator when something changed.
    pub(super) fn settle_engine(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut changed = self.offload.follow(&shared.vdpa);
        let trouble = self.offload.trouble();
        self.look_at_device();
        self.look_after_kicks();
        if let Some(why) = self.reason_to_leave() {
            self.take_back(&why);
            self.offload.retry = true;
        }
        let released = self.offload.release();
        if self.offload.running.is_none() && !self.offload.holds() {
            let engaged = std::mem::take(&mut self.offload.retry) && self.engage_any();
            if !engaged && (released || self.rings_wait()) {
                self.run_rings();
            }
        }
        changed |= self.offload.trouble() != trouble;
        if changed {
            self.tell_of_devices();
        }
    }

    /// Started rings that no engine has.
    fn rings_wait(&self) -> bool {
        let waits = |at: usize| self.rings[at].started && self.shared.rings[at].offloaded();
        self.offload.running.is_none() && (0..self.rings.len()).any(waits)
    }

    /// Has our own engine run all rings.
    fn run_rings(&mut self) {
        let retry = self.offload.retry;
        if let Err(e) = self.refresh_rings() {
            let what = self.explain(&e);
            log::error!("{}: {what}", self.shared.config.name);
            self.shared.peer().error = Some(what);
        }
        // Nothing has changed for a device.
        self.offload.retry = retry;
        if std::mem::take(&mut self.offload.between) {
            self.note_switch_over(Engine::Software);
        }
        self.changed = true;
    }

    /// Why the device that runs the rings has to give them back, if it has.
    fn reason_to_leave(&mut self) -> Option<String> {
        let running = self.offload.running.as_ref()?;
        if let Some(why) = running.outdated {
            return Some(why.to_owned());
        }
        if self.shared.alarm.tripped() {
            return Some("the guest's memory has gone".to_owned());
        }
        if self.migration.active_log(self.features).is_some() {
            return Some("the guest is being moved, and the device does not log what it writes".to_owned());
        }
        let wanted =
            self.offload.slots.iter().find(|slot| slot.name == running.name || slot.trouble.is_none());
        match wanted {
            Some(slot) if slot.name == running.name => None,
            Some(slot) => Some(format!("{} comes before it", slot.name)),
            None => Some("options:vdpa was taken away".to_owned()),
        }
    }

    /// Tries the devices, best first. True when one runs the rings.
    fn engage_any(&mut self) -> bool {
        let runs = (0..self.offloadable(u16::MAX)).any(|at| self.runs_enabled(at));
        if !runs || self.migration.active_log(self.features).is_some() {
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

    /// Hands the rings to a device. After an error our own engine has them.
    fn engage(&mut self, at: usize) -> Result<(), VdpaError> {
        let Some(slot) = self.offload.slots.get_mut(at) else { return Ok(()) };
        let name = slot.name.clone();
        let Some(mut unit) = slot.unit.take() else {
            return Err(VdpaError::new(VdpaProblem::Gone, format!("{name} is not open"), ""));
        };
        let result = self.engage_unit(&mut unit);
        match result {
            Ok((features, pairs, rings, kicks)) => {
                let engine = Engine::Direct;
                let look_at = Instant::now() + LOOK;
                let (lost, outdated) = (0, None);
                self.offload.running = Some(Running {
                    name,
                    unit,
                    engine,
                    features,
                    pairs,
                    rings,
                    kicks,
                    look_at,
                    lost,
                    outdated,
                });
                self.offload.between = false;
                self.hand_out_doorbells();
                self.note_switch_over(engine);
                Ok(())
            }
            Err(e) => {
                // If it did not even start, it writes no memory.
                if let Some(slot) = self.offload.slots.get_mut(at) {
                    slot.unit = Some(unit);
                }
                Err(e)
            }
        }
    }

    fn engage_unit(&mut self, unit: &mut Unit) -> Result<Engaged, VdpaError> {
        let caps = unit.dev.capabilities().clone();
        let wants = self.wants(caps.max_queue_pairs);
        let features = fit(&caps, wants, Way::Direct)?;
        if let Err(e) = unit.reach(&self.memory) {
            // As it is better off without any; if that fails too it is closed when it is used next.
            let _ = unit.reach(&MemTable::default());
            return Err(e);
        }
        self.note_refused();
        let count = self.offloadable(caps.max_queue_pairs);
        let started = self.start_device(unit, features, wants.pairs, count);
        if started.is_err() {
            self.run_rings();
        }
        let (starts, started) = started?;
        let lines: Vec<Line> = starts
            .iter()
            .zip(&started)
            .filter(|(_, started)| !started.watches_kick)
            .filter_map(|(start, started)| Some((start.kick.clone()?, Arc::clone(&started.doorbell))))
            .collect();
        let kicks =
            (!lines.is_empty()).then(|| KickRelay::start(&self.shared.config.name, lines)).transpose();
        let kicks = kicks.map_err(|e| {
            // The device runs already.
            let stopped = unit.dev.stop().or_else(|_| unit.dev.reset().map(|()| Vec::new()));
            self.settle_bases(&stopped.unwrap_or_default(), count);
            self.run_rings();
            VdpaError::system(VdpaProblem::Unfit, "thread for kicks", "raise the limit of threads", e)
        })?;
        // What was offered, or used, between the two engines may not have been told.
        started.iter().for_each(|ring| ring.doorbell.ring());
        starts.iter().filter_map(|start| start.call.as_ref()).for_each(|call| signal(call));
        let progress = |at: usize| self.progress(at);
        let rings = starts.into_iter().zip(started).enumerate().map(|(at, (start, started))| OffloadedRing {
            start,
            started,
            progress: progress(at),
        });
        Ok((features, wants.pairs, rings.collect(), kicks))
    }

    /// Takes the rings from our own engine and starts the device on them.
    fn start_device(
        &mut self,
        unit: &mut Unit,
        features: u64,
        queue_pairs: u16,
        count: usize,
    ) -> Result<(Vec<RingStart>, Vec<StartedRing>), VdpaError> {
        for at in 0..self.rings.len() {
            if self.rings[at].started {
                self.take_ring(at);
            }
        }
        let starts = (0..count).map(|at| self.ring_start(at)).collect::<Option<Vec<_>>>();
        let Some(starts) = starts else {
            let what = format!("{}: rings that are not where memory is", unit.dev.capabilities().name);
            return Err(VdpaError::new(VdpaProblem::Unfit, what, "restart the guest's driver"));
        };
        let mac = self.shared.peer().mac.or(self.shared.config.mac);
        let start = Start { features, rings: &starts, queue_pairs, mac };
        let started = unit.dev.start(start)?;
        if started.len() != starts.len() {
            let what = format!("{}: {} of {count} rings", unit.dev.capabilities().name, started.len());
            let _ = unit.dev.reset();
            return Err(VdpaError::new(VdpaProblem::Refused, what, "this is a bug of its driver"));
        }
        Ok((starts, started))
    }

    /// What the guest wants of a device with so many queue pairs.
    fn wants(&self, most: u16) -> Wants {
        let count = self.offloadable(u16::MAX).max(2);
        let enabled = |at: &usize| self.runs_enabled(*at);
        let used = (0..count).rev().find(enabled).map_or(1, |at| at as u16 / 2 + 1);
        let count = self.offloadable(most);
        let sizes = self.rings.iter().take(count).filter_map(|ring| ring.size);
        let first = self.first_base();
        let fresh = (0..count).all(|at| self.base_of(at) == first);
        Wants { features: self.features, pairs: used, ring_size: sizes.max().unwrap_or(0), fresh }
    }

    fn runs_enabled(&self, at: usize) -> bool {
        let ring = &self.rings[at];
        ring.started && (ring.enabled || super::machine::starts_enabled(self.features))
    }

    /// Where a ring stands that nobody has used.
    fn first_base(&self) -> u16 {
        if self.features & VIRTIO_F_RING_PACKED != 0 { Position::START.bits() } else { 0 }
    }

    /// Where a ring stands.
    fn base_of(&self, at: usize) -> u16 {
        let guard = self.shared.rings[at].lock();
        guard.ring.as_ref().map_or(self.rings[at].base, |ring| ring.next_avail())
    }

    /// Rings, from the first one on, of pairs that are complete, no more than so many.
    fn offloadable(&self, most: u16) -> usize {
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
        vring.set_kick(None);
        vring.wake();
    }

    /// What a device is told of a ring.
    fn ring_start(&self, at: usize) -> Option<RingStart> {
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
    fn progress(&self, at: usize) -> Option<Progress> {
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

    /// Stops the device, and has every ring stand where it brought it. Nobody runs the rings then.
    pub(super) fn take_back(&mut self, why: &str) {
        let Some(mut running) = self.offload.running.take() else { return };
        self.note_refused();
        let name = &self.shared.config.name;
        log::info!("{name}: {} gives the rings back: {why}", running.name);
        // First, so that nobody rings a device that is stopping.
        running.kicks = None;
        let mut failed = None;
        let stopped = running.unit.dev.stop().unwrap_or_else(|e| {
            failed = Some(e.to_string());
            Vec::new()
        });
        if failed.is_some()
            && let Err(e) = running.unit.dev.reset()
        {
            log::error!("{name}: {e}");
        }
        self.settle_bases(&stopped, running.rings.len());
        self.count_progress(&mut running);
        let slot = self.offload.slots.iter_mut().find(|slot| slot.name == running.name);
        if let Some(slot) = slot {
            match failed {
                // One that failed before is closed, and what it failed at first is what counts.
                _ if slot.trouble.is_some() => {}
                Some(why) => slot.set_aside(why, true),
                None => slot.unit = Some(running.unit),
            }
        }
        self.offload.between = true;
        self.take_doorbells_back();
    }

    /// Remembers how many frames had been refused when the rings were taken from an engine.
    fn note_refused(&mut self) {
        if !self.rings_wait() {
            self.offload.refused_before = self.shared.vdpa.refused.load(Ordering::Relaxed);
        }
    }

    /// Sets where rings stand after a device: as it says, or as the used index says.
    fn settle_bases(&mut self, stopped: &[StoppedRing], count: usize) {
        for at in 0..count {
            let told = match stopped.get(at) {
                Some(StoppedRing::At(base)) => Some(*base),
                _ => None,
            };
            match told.or_else(|| self.progress(at).map(|ring| ring.used_index())) {
                Some(base) => self.rings[at].base = base,
                None => {
                    let what = format!(
                        "ring {at}: the device did not tell where it left it; restart the guest's driver"
                    );
                    log::error!("{}: {what}", self.shared.config.name);
                    self.shared.peer().error = Some(what);
                }
            }
        }
    }

    /// A ring is stopped: a device cannot stop one of them alone. The others are held, since the front-end is going to stop
    /// them too.
    pub(super) fn leave_for_stop(&mut self) {
        if self.offload.running.is_some() {
            self.take_back("the front-end stops the rings");
            // Not a change of engines.
            self.offload.between = false;
            self.tell_of_devices();
            self.offload.hold();
            self.offload.retry = true;
        }
    }

    /// A ring was started.
    pub(super) fn consider_hold(&mut self, at: usize) {
        if self.offload.slots.is_empty() {
            return;
        }
        if let Some(running) = &mut self.offload.running {
            running.outdated = Some("the front-end started a ring");
            return;
        }
        let first = self.rings[at].base == self.first_base();
        let others = self.rings.iter().enumerate().any(|(i, ring)| i != at && ring.started);
        if first && !others {
            self.offload.forgive();
            self.offload.follow(&self.shared.vdpa);
        }
        self.offload.retry = true;
        let Some(caps) = self.offload.target_capabilities() else { return };
        let wants = Wants { features: self.features, pairs: 1, ring_size: 0, fresh: first };
        if fit(caps, wants, Way::Direct).is_ok() {
            self.offload.hold();
        }
    }

    /// The settings of a ring that a device runs have changed.
    pub(super) fn compare_ring(&mut self, at: usize) -> VhostResult<()> {
        let now = self.ring_start(at);
        let pairs = self.wants(u16::MAX).pairs;
        let Some(running) = &mut self.offload.running else { return Ok(()) };
        let place = |start: &RingStart| (start.size, start.descriptors, start.driver, start.device);
        match (running.rings.get(at), now) {
            (Some(ring), Some(now)) if place(&ring.start) == place(&now) => {}
            (None, _) if usize::from(pairs) * 2 <= running.rings.len() => {}
            _ => running.outdated = Some("the front-end moved a ring"),
        }
        if pairs != running.pairs {
            running.pairs = pairs;
            let set = running.unit.dev.set_queue_pairs(pairs);
            if let Err(e) = set {
                self.blame(e.to_string());
            }
        }
        Ok(())
    }

    /// Another interrupt descriptor for a ring that a device runs.
    pub(super) fn redirect_call(&mut self, at: usize, call: Option<&Arc<OwnedFd>>) {
        let Some(running) = &mut self.offload.running else { return };
        let Some(ring) = running.rings.get_mut(at) else { return };
        ring.start.call = call.cloned();
        if let Err(e) = running.unit.dev.set_call(at as u16, call.cloned()) {
            self.blame(e.to_string());
        }
        call.into_iter().for_each(|call| signal(call));
    }

    /// Other memory, or features, while a device runs the rings.
    pub(super) fn carry_over(&mut self) -> VhostResult<()> {
        let wants = self.wants(u16::MAX);
        let Some(running) = &mut self.offload.running else { return Ok(()) };
        let caps = running.unit.dev.capabilities();
        if fit(caps, Wants { fresh: true, ..wants }, Way::Direct).ok() != Some(running.features) {
            running.outdated = Some("the guest negotiated other features");
        }
        (0..self.rings.len())
            .filter(|&at| self.rings[at].started)
            .collect::<Vec<_>>()
            .into_iter()
            .try_for_each(|at| self.compare_ring(at))
    }

    /// Lets devices reach the memory there is now.
    pub(super) fn carry_memory(&mut self) {
        for slot in &mut self.offload.slots {
            if let Some(unit) = slot.unit.as_mut().filter(|unit| unit.reaches())
                && let Err(e) = unit.reach(&self.memory)
            {
                slot.set_aside(e.to_string(), true);
            }
        }
        let reached = self.offload.running.as_mut().map(|running| running.unit.reach(&self.memory));
        if let Some(Err(e)) = reached {
            self.blame(e.to_string());
        }
    }

    /// The device that runs the rings is not to be used any more.
    fn blame(&mut self, why: String) {
        let Some(running) = &mut self.offload.running else { return };
        log::error!("{}: {why}", self.shared.config.name);
        running.outdated = Some("it failed");
        let name = running.name.clone();
        if let Some(slot) = self.offload.slots.iter_mut().find(|slot| slot.name == name) {
            slot.set_aside(why, true);
        }
    }

    /// Looks after the device: what it says of itself, how far its rings have come, whether guests are interrupted.
    fn look_at_device(&mut self) {
        let Some(running) = &mut self.offload.running else { return };
        let events = running.unit.dev.poll();
        if !events.usable() {
            let what = if events.removed { "was removed" } else { "has failed and wants to be reset" };
            let why = format!("{} {what}; set options:vdpa again when it is well", running.name);
            return self.blame(why);
        }
        if running.look_at > Instant::now() {
            return;
        }
        running.look_at = Instant::now() + LOOK;
        let Some(mut running) = self.offload.running.take() else { return };
        self.count_progress(&mut running);
        let lost = running.lost;
        let name = running.name.clone();
        self.offload.running = Some(running);
        if lost >= MOST_LOST {
            self.blame(format!(
                "{name} does not interrupt the guest; look at its interrupts in /proc/interrupts"
            ));
        }
    }

    /// Counts what the device has done since this was done last, and interrupts for it where it may have failed to.
    fn count_progress(&self, running: &mut Running) {
        let mut status = self.shared.vdpa.status();
        for (at, ring) in running.rings.iter_mut().enumerate() {
            let Some(seen) = ring.progress.as_mut().map(Progress::look) else { continue };
            let count = if at % 2 == 0 { &mut status.seen.0 } else { &mut status.seen.1 };
            *count += u64::from(seen.used);
            if seen.owed
                && let Some(call) = &ring.start.call
            {
                signal(call);
            }
            if seen.was_lost {
                status.lost_interrupts += 1;
                running.lost += u32::from(at % 2 == 0);
            } else if seen.healthy {
                running.lost = 0;
            }
        }
        status.statistics = running.unit.dev.statistics();
    }

    /// Another engine has taken over.
    fn note_switch_over(&mut self, engine: Engine) {
        let lost = self.shared.vdpa.refused.load(Ordering::Relaxed).wrapping_sub(self.offload.refused_before);
        {
            let mut status = self.shared.vdpa.status();
            status.switch_overs += 1;
            status.lost_last = lost;
        }
        if engine == Engine::Software
            && let Some(mac) = self.shared.peer().mac.or(self.shared.config.mac)
        {
            // The network is to find the guest here again, not by the device.
            self.shared.rings[1].announce(Some(mac));
        }
        self.changed = true;
        self.tell_of_devices();
    }

    /// Lets the operator see what is the matter with the devices.
    fn tell_of_devices(&mut self) {
        let mut status = self.shared.vdpa.status();
        let running = self.offload.running.as_ref();
        status.error = self.offload.trouble();
        self.changed = true;
        if self.offload.between {
            return;
        }
        status.engine = running.map_or(Engine::Software, |running| running.engine);
        status.device =
            running.map(|running| (running.name.to_string(), running.unit.dev.capabilities().kind));
        status.uplink = running.map(|running| running.unit.dev.uplink()).unwrap_or_default();
    }

    /// When to look again.
    pub(super) fn offload_patience(&self) -> Option<Duration> {
        self.offload.patience()
    }

    /// The session ends: devices keep nothing of its memory.
    pub(super) fn park_devices(&mut self) {
        self.take_back("the front-end has gone");
        self.offload.between = false;
        self.tell_of_devices();
        let nothing = MemTable::default();
        for slot in &mut self.offload.slots {
            if let Some(unit) = &mut slot.unit
                && let Err(e) = unit.reach(&nothing)
            {
                slot.set_aside(e.to_string(), true);
            }
        }
        self.offload.park(&self.shared.vdpa);
    }
}

/// Features, queue pairs, rings, and what passes their kicks on.
type Engaged = (u64, u16, Vec<OffloadedRing>, Option<KickRelay>);

/// Whether all that a device needs of a ring has been said.
fn complete(ring: &RingConfig) -> bool {
    ring.started && ring.size.is_some() && ring.addresses.is_some()
}

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

use vhost::vhost_user::Result as VhostResult;

use super::engage::signal;
use super::machine::Session;
use super::shadow::relayed;
use super::tracking::{UNSEEN, collect};
use crate::memory::MemTable;
use crate::net::Shared;
use crate::ring::RingFault;
use crate::vdpa::{
    Between, Engine, KickRelay, LOOK, Line, MOST_LOST, OffloadedRing, Progress, RelayCounters, RingStart,
    Running, StoppedRing, Wants, Way, fit,
};

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
    pub(super) fn run_rings(&mut self) {
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
        if self.arriving() {
            return Some("the guest's memory has not arrived".to_owned());
        }
        let logs = self.migration.active_log(self.features).is_some();
        if logs && running.writes_unseen() {
            return Some(UNSEEN.to_owned());
        }
        let wanted =
            self.offload.slots.iter().find(|slot| slot.name == running.name || slot.trouble.is_none());
        match wanted {
            Some(slot) if slot.name == running.name => {
                let caps = running.unit.dev.capabilities();
                let wants = Wants { fresh: false, ..self.wants(caps.max_queue_pairs) };
                let direct = running.between.engine() == Engine::Direct;
                let better = !direct && !logs && fit(caps, wants, Way::Direct).is_ok();
                better.then(|| "it can run the guest's own rings now".to_owned())
            }
            Some(slot) => Some(format!("{} comes before it", slot.name)),
            None => Some("options:vdpa was taken away".to_owned()),
        }
    }

    /// Stops the device, and has every ring stand where it brought it. Nobody runs the rings then.
    pub(super) fn take_back(&mut self, why: &str) {
        let Some(running) = self.offload.running.take() else { return };
        let Running { name: device, mut unit, mut rings, between, tracked, .. } = running;
        self.note_refused();
        let name = &self.shared.config.name;
        log::info!("{name}: {} gives the rings back: {why}", device);
        let mut failed = None;
        let relay = match between {
            // Ended first, so that nobody rings a device that is stopping.
            Between::Direct { kicks } => {
                drop(kicks);
                None
            }
            Between::Shadow { relay, iova, counters, counted } => Some((relay, iova, counters, counted)),
        };
        let stopped = unit.dev.stop().unwrap_or_else(|e| {
            failed = Some(e.to_string());
            Vec::new()
        });
        if failed.is_some()
            && let Err(e) = unit.dev.reset()
        {
            log::error!("{name}: {e}");
        }
        if tracked {
            self.end_record(&mut *unit.dev);
        }
        match relay {
            None => self.settle_bases(&stopped, rings.len()),
            Some((relay, iova, counters, mut counted)) => {
                self.end_shadow(&mut unit, relay, iova);
                count_relayed(&self.shared, &counters, &mut counted);
            }
        }
        count_progress(&self.shared, &mut rings);
        self.shared.vdpa.status().statistics = unit.dev.statistics();
        let slot = self.offload.slots.iter_mut().find(|slot| slot.name == device);
        if let Some(slot) = slot {
            match failed {
                // One that failed before is closed, and what it failed at first is what counts.
                _ if slot.trouble.is_some() => {}
                Some(why) => slot.set_aside(why, true),
                None => slot.unit = Some(unit),
            }
        }
        self.offload.between = true;
        self.take_doorbells_back();
    }

    /// Remembers how many frames had been refused when the rings were taken from an engine.
    pub(super) fn note_refused(&mut self) {
        if !self.rings_wait() {
            self.offload.refused_before = self.shared.vdpa.refused.load(Ordering::Relaxed);
        }
    }

    /// Sets where rings stand after a device: as it says, or as the used index says.
    pub(super) fn settle_bases(&mut self, stopped: &[StoppedRing], count: usize) {
        for at in 0..count {
            let told = match stopped.get(at) {
                Some(StoppedRing::At(base)) => Some(*base),
                _ => None,
            };
            match told.or_else(|| self.progress(at).map(|ring| ring.used_index())) {
                Some(base) => self.rings[at].base = base,
                None => self.shared.rings[at].break_down(RingFault::PositionLost),
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
        if fit(caps, wants, Way::Shadow).is_ok() {
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
            (Some(ring), Some(now)) if place(&ring.guest) == place(&now) => {}
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
        if self.offload.shadowing { self.renew_shadow(at) } else { Ok(()) }
    }

    /// Another interrupt descriptor for a ring that a device runs.
    pub(super) fn redirect_call(&mut self, at: usize, call: Option<&Arc<OwnedFd>>) {
        let Some(running) = &mut self.offload.running else { return };
        let Some(ring) = running.rings.get_mut(at) else { return };
        ring.guest.call = call.cloned();
        if let Between::Shadow { .. } = running.between {
            // The ring itself is told, as in software.
            return;
        }
        if let Err(e) = running.unit.dev.set_call(at as u16, call.cloned()) {
            self.blame(e.to_string());
        }
        call.into_iter().for_each(|call| signal(call));
    }

    /// Another kick descriptor for a ring that a device runs. False when none runs it.
    pub(super) fn redirect_kick(&mut self, at: usize) -> bool {
        let kick = self.rings[at].kick.clone();
        let Some(running) = &mut self.offload.running else { return false };
        let Running { unit, rings, between, .. } = running;
        let Some(ring) = rings.get_mut(at) else { return false };
        ring.guest.kick.clone_from(&kick);
        let (watches, doorbell) = (ring.started.watches_kick, Arc::clone(&ring.started.doorbell));
        let followed = match between {
            Between::Shadow { relay, .. } => relay.set_kick(at, kick.as_ref()).map_err(|e| e.to_string()),
            Between::Direct { .. } if watches => {
                unit.dev.set_kick(at as u16, kick).map_err(|e| e.to_string())
            }
            Between::Direct { kicks } => {
                *kicks = None;
                KickRelay::start(&self.shared.config.name, lines(rings))
                    .map(|started| *kicks = started)
                    .map_err(|e| format!("thread for kicks: {e}"))
            }
        };
        // What was offered between the old descriptor and the new may not have been told.
        doorbell.ring();
        if let Err(why) = followed {
            self.blame(why);
        }
        true
    }

    /// Other memory, or features, while a device runs the rings.
    pub(super) fn carry_over(&mut self) -> VhostResult<()> {
        let wants = self.wants(u16::MAX);
        let Some(running) = &mut self.offload.running else { return Ok(()) };
        let caps = running.unit.dev.capabilities();
        let way = running.between.way();
        if fit(caps, Wants { fresh: true, ..wants }, way).ok() != Some(running.features) {
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
        let none = Arc::default();
        // A device would have all of it there at once.
        let memory = if self.arriving() { &none } else { &self.memory };
        for slot in &mut self.offload.slots {
            if let Some(unit) = slot.unit.as_mut().filter(|unit| unit.reaches())
                && let Err(e) = unit.reach(memory)
            {
                slot.set_aside(e.to_string(), true);
            }
        }
        let reached = self.offload.running.as_mut().map(|running| running.unit.reach(memory));
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
        let faulty = matches!(&running.between, Between::Shadow { relay, .. } if relay.fault().is_some());
        if running.look_at > Instant::now() && !faulty {
            return;
        }
        running.look_at = Instant::now() + LOOK;
        let statistics = running.unit.dev.statistics();
        let log = self.migration.active_log(self.features).filter(|_| running.tracked);
        let recorded = log.map_or(Ok(()), |log| collect(&mut *running.unit.dev, &self.memory, log));
        let why = match &mut running.between {
            Between::Direct { .. } => {
                let (lost, healthy) = count_progress(&self.shared, &mut running.rings);
                running.lost = if lost == 0 && healthy { 0 } else { running.lost + lost };
                (running.lost >= MOST_LOST).then(|| {
                    let name = &running.name;
                    format!("{name} does not interrupt the guest; look at its interrupts in /proc/interrupts")
                })
            }
            Between::Shadow { relay, counters, counted, .. } => {
                count_relayed(&self.shared, counters, counted);
                relay.fault().map(|fault| {
                    format!("{}: {fault}; update its firmware, or take another device", running.name)
                })
            }
        };
        self.shared.vdpa.status().statistics = statistics;
        if let Some(why) = why.or_else(|| recorded.err().map(|e| e.to_string())) {
            self.blame(why);
        }
    }

    /// Another engine has taken over.
    pub(super) fn note_switch_over(&mut self, engine: Engine) {
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
        status.engine = running.map_or(Engine::Software, |running| running.between.engine());
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

/// The rings whose kicks have to be passed on.
pub(super) fn lines(rings: &[OffloadedRing]) -> Vec<Line> {
    let unheard = rings.iter().filter(|ring| !ring.started.watches_kick);
    unheard.filter_map(|ring| Some((ring.guest.kick.clone()?, Arc::clone(&ring.started.doorbell)))).collect()
}

/// Counts what a device has done of the guest's own rings since this was done last, and interrupts for it where it may have failed to.
/// Returns how many interrupts were lost for certain, and whether the guest follows the device by itself.
fn count_progress(shared: &Shared, rings: &mut [OffloadedRing]) -> (u32, bool) {
    let mut status = shared.vdpa.status();
    let (mut lost, mut healthy) = (0, false);
    for (at, ring) in rings.iter_mut().enumerate() {
        let Some(seen) = ring.progress.as_mut().map(Progress::look) else { continue };
        let received = at.is_multiple_of(2);
        let count = if received { &mut status.seen.0 } else { &mut status.seen.1 };
        *count += u64::from(seen.used);
        if seen.owed {
            ring.guest.call.iter().for_each(|call| signal(call));
        }
        // A driver may not care to be told of frames sent, and then moves when it sends the next.
        if received {
            lost += u32::from(seen.was_lost);
            healthy |= seen.healthy;
        }
    }
    status.lost_interrupts += u64::from(lost);
    (lost, healthy)
}

/// Adds what a relay has counted since this was done last.
fn count_relayed(shared: &Shared, counters: &RelayCounters, counted: &mut [u64; 3]) {
    let now = relayed(counters);
    let [received, sent, lost] = std::array::from_fn(|i| now[i].wrapping_sub(counted[i]));
    *counted = now;
    let mut status = shared.vdpa.status();
    status.seen.0 += received;
    status.seen.1 += sent;
    status.lost_interrupts += lost;
}

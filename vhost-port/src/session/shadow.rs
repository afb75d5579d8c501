//! A device behind a relay: for rings that it cannot begin, or that it must not write unseen.
//!
//! The guest's rings stay what they are in software, at the same index and with the same journal; only that the relay has them, not
//! workers. The device runs rings of ours ([`ShadowRings`]), in memory of its own beside the guest's.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::engage::{Plan, Taken};
use super::iommu::direction;
use super::machine::Session;
use crate::vdpa::{
    Between, GuestRing, OffloadedRing, Relay, RelayCounters, ShadowRings, Unit, VdpaError, VdpaProblem,
};

impl Session {
    /// Has a device run the rings behind a relay. After an error nobody has them.
    pub(super) fn engage_shadow(&mut self, unit: &mut Unit, plan: Plan) -> Result<Taken, VdpaError> {
        self.offload.shadowing = true;
        let taken = self.start_shadow(unit, plan);
        if taken.is_err() {
            self.offload.shadowing = false;
        }
        taken
    }

    fn start_shadow(&mut self, unit: &mut Unit, plan: Plan) -> Result<Taken, VdpaError> {
        for at in 0..self.rings.len() {
            if self.rings[at].started {
                self.rebuild_ring(at).map_err(|e| {
                    VdpaError::new(VdpaProblem::Unfit, self.explain(&e), "restart the guest's driver")
                })?;
            }
        }
        let guests = self.guest_rings(unit, plan.count)?;
        let rings = guests.iter().enumerate().map(|(at, guest)| GuestRing {
            vring: Arc::clone(&self.shared.rings[at]),
            direction: direction(at),
            size: guest.size,
            kick: guest.kick.clone(),
        });
        let caps = unit.dev.capabilities().clone();
        let rings = ShadowRings::prepare(rings.collect(), plan.features, &caps, &self.memory)?;
        let iova = rings.mapping().iova;
        unit.dev.map(rings.mapping().clone())?;
        let started = self.start_device(unit, &plan, &rings.starts());
        let started = started.inspect_err(|_| forget(unit, iova))?;
        let doorbells = started.iter().map(|ring| Arc::clone(&ring.doorbell)).collect();
        let counters = Arc::<RelayCounters>::default();
        let name = &self.shared.config.name;
        let relay = Relay::start(name, rings, doorbells, Arc::clone(&counters), &self.shared.alarm);
        let relay = relay.map_err(|e| {
            // It has been given no buffer yet.
            let _ = unit.dev.reset();
            forget(unit, iova);
            VdpaError::system(VdpaProblem::Unfit, "thread of the relay", "raise the limit of threads", e)
        })?;
        let rings = guests.into_iter().zip(started);
        // A guest that wrote to a page would kick a ring that is not its own.
        let rings = rings.map(|(guest, mut started)| {
            started.page = None;
            OffloadedRing { guest, started, progress: None }
        });
        Ok((rings.collect(), Between::Shadow { relay, iova, counters, counted: [0; 3] }))
    }

    /// The device has stopped: the relay gives back what it had used, and each ring goes on where the rest begins.
    pub(super) fn end_shadow(&mut self, unit: &mut Unit, relay: Relay, iova: u64) {
        let settled = relay.stop();
        self.offload.shadowing = false;
        forget(unit, iova);
        self.shared.vdpa.status().sent_again += settled.sent_again;
    }

    /// The guest's side of a ring has changed, not its place: it is built anew where it is, and the relay goes on with it.
    pub(super) fn renew_shadow(&mut self, at: usize) -> vhost::vhost_user::Result<()> {
        self.rebuild_ring(at)?;
        if let Some(running) = &self.offload.running
            && let Between::Shadow { relay, .. } = &running.between
        {
            relay.wake();
        }
        Ok(())
    }
}

/// Takes the memory of the rings away from a device. If that fails, the device is closed when it is used next.
fn forget(unit: &mut Unit, iova: u64) {
    if let Err(e) = unit.dev.unmap(iova) {
        log::warn!("{}: {e}", unit.dev.capabilities().name);
    }
}

/// What a relay has counted: buffers received, buffers sent, interrupts lost.
pub(super) fn relayed(counters: &RelayCounters) -> [u64; 3] {
    [&counters.received, &counters.sent, &counters.lost_interrupts].map(|n| n.load(Ordering::Relaxed))
}

//! The devices of a port as its control thread has them: which there are, which one runs the guest's rings, and when to try.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::desk::{Desk, Engine};
use super::device::{Capabilities, RingStart, StartedRing};
use super::fit::{self, Way};
use super::kicks::KickRelay;
use super::name::DeviceName;
use super::progress::Progress;
use super::shadow::{Relay, RelayCounters};
use super::unit::{Slot, Unit};

/// A guest's driver that starts says so ring by ring. This long after the last word all have been said.
pub(crate) const QUIET: Duration = Duration::from_millis(20);
/// Longest that rings are held back for a device while the front-end goes on talking.
const LONGEST_HOLD: Duration = Duration::from_millis(500);
/// Time between looks at a device that runs, and at the rings it runs.
pub(crate) const LOOK: Duration = Duration::from_millis(100);
/// So many interrupts in a row that were lost for certain, and the device is not to be trusted with them.
pub(crate) const MOST_LOST: u32 = 5;

/// A ring that a device runs.
pub(crate) struct OffloadedRing {
    /// The guest's ring as it was then.
    pub(crate) guest: RingStart,
    pub(crate) started: StartedRing,
    /// What can be seen of it; nothing of a packed ring, nor of one behind a relay.
    pub(crate) progress: Option<Progress>,
}

/// What stands between guest and device.
pub(crate) enum Between {
    /// Nothing but kicks, if the device does not hear them.
    Direct {
        /// Passes them on.
        kicks: Option<KickRelay>,
    },
    /// A relay, and rings of ours at these I/O addresses of the device.
    Shadow {
        /// The relay.
        relay: Relay,
        /// First of the addresses.
        iova: u64,
        /// What it counts: buffers received, sent, interrupts lost.
        counters: Arc<RelayCounters>,
        /// What of that has been added to the port's numbers.
        counted: [u64; 3],
    },
}

impl Between {
    /// Which engine that is.
    pub(crate) fn engine(&self) -> Engine {
        match self {
            Between::Direct { .. } => Engine::Direct,
            Between::Shadow { .. } => Engine::Shadow,
        }
    }

    /// How the device was chosen for that.
    pub(crate) fn way(&self) -> Way {
        match self {
            Between::Direct { .. } => Way::Direct,
            Between::Shadow { .. } => Way::Shadow,
        }
    }
}

/// A device that runs the guest's rings.
pub(crate) struct Running {
    pub(crate) name: DeviceName,
    pub(crate) unit: Unit,
    /// Features acknowledged to the device.
    pub(crate) features: u64,
    pub(crate) pairs: u16,
    pub(crate) rings: Vec<OffloadedRing>,
    pub(crate) between: Between,
    /// When to look at it next.
    pub(crate) look_at: Instant,
    /// The device records what it writes.
    pub(crate) tracked: bool,
    /// Interrupts lost for certain, in a row.
    pub(crate) lost: u32,
    /// What the front-end has changed since, so that the rings have to be taken back.
    pub(crate) outdated: Option<&'static str>,
}

impl Running {
    /// Whether it writes the guest's memory, and nobody knows where: a relay knows, and so does a device with a record.
    pub(crate) fn writes_unseen(&self) -> bool {
        self.between.engine() == Engine::Direct && !self.tracked
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Offload {
    /// The operator's devices, best first. The one that runs has no [`Slot::unit`].
    pub(crate) slots: Vec<Slot>,
    pub(crate) running: Option<Running>,
    serial: u64,
    /// Since when rings are held back, and until when.
    hold: Option<(Instant, Instant)>,
    /// Something has changed since a device was tried last.
    pub(crate) retry: bool,
    /// Rings whose kicks may still go to the page of a device that has them no more, and since when.
    pub(crate) nudges: Vec<(usize, Instant)>,
    pub(crate) nudge_at: Option<Instant>,
    /// Rings whose pages the front-end was given.
    pub(crate) given: Vec<usize>,
    /// Frames that had found no engine when the rings were taken from one.
    pub(crate) refused_before: u64,
    /// A device has given the rings back, and nobody runs them yet.
    pub(crate) between: bool,
    /// Rings are made, but not for workers: a relay has them, or is about to.
    pub(crate) shadowing: bool,
}

impl Offload {
    /// Takes over what was left when the last front-end went.
    pub(crate) fn resume(desk: &Desk) -> Offload {
        let slots = std::mem::take(&mut *desk.parked());
        Offload { slots, serial: desk.parked_serial(), ..Offload::default() }
    }

    /// The same, for a new front-end: everything is tried again.
    pub(crate) fn begin(desk: &Desk) -> Offload {
        let mut offload = Offload::resume(desk);
        offload.forgive();
        offload.follow(desk);
        offload
    }

    /// Leaves the devices to the next front-end. None runs.
    pub(crate) fn park(&mut self, desk: &Desk) {
        *desk.parked() = std::mem::take(&mut self.slots);
        desk.set_parked_serial(self.serial);
    }

    /// Makes the devices those that the operator wants, opens them, and tries again to open those that could not be. Returns whether
    /// anything changed.
    pub(crate) fn follow(&mut self, desk: &Desk) -> bool {
        let mut changed = false;
        if let Some((names, serial)) = desk.wish_after(self.serial) {
            changed = true;
            self.serial = serial;
            let mut old = std::mem::take(&mut self.slots);
            self.slots = names
                .into_iter()
                .map(|name| {
                    let at = old.iter().position(|slot| slot.name == name);
                    let mut slot = at.map_or_else(|| Slot::new(name), |at| old.swap_remove(at));
                    slot.forgive();
                    slot
                })
                .collect();
            self.retry = true;
            desk.status().wanted = self.slots.iter().map(|slot| slot.name.to_string()).collect();
        }
        let running = self.running.as_ref().map(|running| running.name.clone());
        for slot in &mut self.slots {
            let due = slot.retry_at().is_none_or(|at| at <= Instant::now());
            if due && running.as_ref() != Some(&slot.name) && slot.open(&desk.open) {
                changed = true;
                self.retry = true;
            }
        }
        changed
    }

    /// The best device that nothing is wrong with.
    pub(crate) fn target(&self) -> Option<usize> {
        self.slots.iter().position(|slot| slot.trouble.is_none())
    }

    /// What that one can do.
    pub(crate) fn target_capabilities(&self) -> Option<&Capabilities> {
        self.slots.get(self.target()?)?.unit.as_ref().map(|unit| unit.dev.capabilities())
    }

    /// What of our own offer the guest is to be offered, so that the device fits.
    pub(crate) fn offer(&self) -> u64 {
        let running = self.running.as_ref().map(|running| running.unit.dev.capabilities());
        running.or_else(|| self.target_capabilities()).map_or(u64::MAX, fit::offer)
    }

    /// Whether rings are held back.
    pub(crate) fn holds(&self) -> bool {
        self.hold.is_some()
    }

    /// Holds rings back until the front-end has been quiet for a while.
    pub(crate) fn hold(&mut self) {
        let now = Instant::now();
        let (since, _) = self.hold.unwrap_or((now, now));
        self.hold = Some((since, (now + QUIET).min(since + LONGEST_HOLD)));
    }

    /// Holds them longer, if they are held: the front-end has said something.
    pub(crate) fn hold_on(&mut self) {
        if self.hold.is_some() {
            self.hold();
        }
    }

    /// Whether holding is over, because the time is or because no device is left to hold for. It is then.
    pub(crate) fn release(&mut self) -> bool {
        let none = self.target().is_none();
        let over = self.hold.is_some_and(|(_, until)| none || until <= Instant::now());
        if over {
            self.hold = None;
        }
        over
    }

    /// Gives every device another chance: the guest's driver starts.
    pub(crate) fn forgive(&mut self) {
        self.slots.iter_mut().for_each(Slot::forgive);
        self.retry = true;
    }

    /// How long the control thread may sleep.
    pub(crate) fn patience(&self) -> Option<Duration> {
        let retry = self.slots.iter().filter_map(Slot::retry_at);
        let look = self.running.as_ref().map(|running| running.look_at);
        let nudge = (!self.nudges.is_empty()).then_some(self.nudge_at).flatten();
        let until = retry.chain(look).chain(nudge).chain(self.hold.map(|(_, until)| until)).min()?;
        // A millisecond more, as poll counts in those and rounds down.
        Some(until.saturating_duration_since(Instant::now()) + Duration::from_millis(1))
    }

    /// What wakes the control thread: the device that runs has something to say.
    pub(crate) fn event_fd(&self) -> Option<Arc<std::os::fd::OwnedFd>> {
        self.running.as_ref()?.unit.dev.event_fd()
    }

    /// Why the first choice, or any, is not in use.
    pub(crate) fn trouble(&self) -> Option<String> {
        let running = self.running.as_ref().map(|running| &running.name);
        let before = self.slots.iter().take_while(|slot| Some(&slot.name) != running);
        let troubles: Vec<_> = before.filter_map(|slot| slot.trouble.as_deref()).collect();
        (!troubles.is_empty()).then(|| troubles.join("; "))
    }
}

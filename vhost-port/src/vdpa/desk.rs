//! Where operator and control thread of a port meet: what is wanted of devices, and what has become of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pmd::pci::FunctionCounters;

use super::device::{Uplink, VdpaDev};
use super::error::VdpaError;
use super::name::DeviceName;
use super::unit::Slot;

/// Opens a device by its name: [`open`](super::open), or a model of one.
pub type OpenDevice = Arc<dyn Fn(&DeviceName) -> Result<Box<dyn VdpaDev>, VdpaError> + Send + Sync>;

/// Who runs a guest's rings.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Engine {
    /// We do.
    #[default]
    Software,
    /// A device does.
    Direct,
    /// A device runs rings of ours, and we relay descriptors.
    Shadow,
}

impl Engine {
    /// The word for it in `status:vdpa-engine`.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Software => "software",
            Engine::Direct => "direct",
            Engine::Shadow => "shadow",
        }
    }
}

/// What has become of the operator's wish.
#[derive(Clone, Default, Debug)]
pub(crate) struct VdpaStatus {
    /// Devices wanted, best first.
    pub(crate) wanted: Vec<String>,
    pub(crate) engine: Engine,
    /// The device that runs the rings: its name and kind.
    pub(crate) device: Option<(String, &'static str)>,
    pub(crate) uplink: Uplink,
    /// The doorbells that the front-end was given: pages of the device.
    pub(crate) doorbells: u16,
    /// Why the first choice, or any, is not in use.
    pub(crate) error: Option<String>,
    /// Times another engine took over.
    pub(crate) switch_overs: u64,
    /// Frames for the guest that found no engine at the last of them.
    pub(crate) lost_last: u64,
    /// Frames that a relay knows to have been sent twice, because a device used buffers out of order.
    pub(crate) sent_again: u64,
    /// Interrupts that the device owed the guest and that were sent for it.
    pub(crate) lost_interrupts: u64,
    /// Buffers that devices have returned to the guest, frames received and sent, as far as could be seen.
    pub(crate) seen: (u64, u64),
    /// What the device itself has counted since it started.
    pub(crate) statistics: Option<FunctionCounters>,
}

impl VdpaStatus {
    /// Adds what there is to say to a port's status. Nothing for a port that never had a device.
    pub(crate) fn say(&self, status: &mut Vec<(String, String)>) {
        if self.wanted.is_empty() && self.switch_overs == 0 {
            return;
        }
        let mut say = |key: &str, value: String| status.push((key.to_owned(), value));
        say("vdpa", self.wanted.join(" "));
        say("vdpa-engine", self.engine.name().to_owned());
        if let Some((name, kind)) = &self.device {
            say("vdpa-device", format!("{name} ({kind})"));
            let Uplink { parent, netdev, vf } = &self.uplink;
            let vf = vf.map(|vf| format!("vf {vf} of "));
            let parent = parent.as_deref().unwrap_or("unknown");
            let netdev = netdev.as_ref().map(|netdev| format!(" ({netdev})"));
            say(
                "vdpa-uplink",
                [vf.as_deref().unwrap_or(""), parent, netdev.as_deref().unwrap_or("")].concat(),
            );
            say("vdpa-doorbells", self.doorbells.to_string());
        }
        say("vdpa-switch-overs", self.switch_overs.to_string());
        say("vdpa-lost-at-switch-over", self.lost_last.to_string());
        if let Some(error) = &self.error {
            say("vdpa-error", error.clone());
        }
    }

    /// Where frames are counted, if the device itself does not.
    pub(crate) fn counted_by(&self) -> Option<&Uplink> {
        (self.device.is_some() && self.statistics.is_none()).then_some(&self.uplink)
    }

    /// Counters beside those of queues: what went by devices.
    pub(crate) fn counters(&self) -> Vec<(&'static str, u64)> {
        if self.switch_overs == 0 {
            return Vec::new();
        }
        let mut counters = vec![
            ("vdpa_rx_buffers", self.seen.1),
            ("vdpa_tx_buffers", self.seen.0),
            ("vdpa_lost_interrupts", self.lost_interrupts),
            ("vdpa_sent_again", self.sent_again),
        ];
        counters.extend(self.statistics.into_iter().flat_map(named));
        counters
    }
}

/// Names for what a device, or its card, has counted. Seen from the switch: what the guest receives is what the port would send.
pub(crate) fn named(device: FunctionCounters) -> [(&'static str, u64); 6] {
    [
        ("vdpa_rx_packets", device.tx_packets),
        ("vdpa_rx_bytes", device.tx_bytes),
        ("vdpa_rx_dropped", device.tx_dropped),
        ("vdpa_tx_packets", device.rx_packets),
        ("vdpa_tx_bytes", device.rx_bytes),
        ("vdpa_tx_dropped", device.rx_dropped),
    ]
}

#[derive(Default)]
struct Wanted {
    names: Vec<DeviceName>,
    /// Grows with every wish.
    serial: u64,
}

/// See the module.
pub(crate) struct Desk {
    pub(crate) open: OpenDevice,
    wanted: Mutex<Wanted>,
    status: Mutex<VdpaStatus>,
    /// Devices while no front-end is connected.
    parked: Mutex<Vec<Slot>>,
    /// The wish they are of.
    parked_serial: AtomicU64,
    /// Frames that found their ring with a device, or between two engines.
    pub(crate) refused: AtomicU64,
    /// The last front-end hung up when it was offered only what the device has.
    offer_all: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    pub(crate) fn new(open: OpenDevice) -> Desk {
        Desk {
            open,
            wanted: Mutex::default(),
            status: Mutex::default(),
            parked: Mutex::default(),
            parked_serial: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            offer_all: AtomicBool::new(false),
        }
    }

    /// The operator's wish. The control thread is to be woken if it is a new one.
    pub(crate) fn want(&self, names: Vec<DeviceName>) -> bool {
        let mut wanted = locked(&self.wanted);
        let new = wanted.names != names;
        if new {
            *wanted = Wanted { names, serial: wanted.serial + 1 };
            self.offer_all.store(false, Ordering::Relaxed);
        }
        new
    }

    /// The wish, if it is newer than `serial`.
    pub(crate) fn wish_after(&self, serial: u64) -> Option<(Vec<DeviceName>, u64)> {
        let wanted = locked(&self.wanted);
        (wanted.serial != serial).then(|| (wanted.names.clone(), wanted.serial))
    }

    /// A connection ended; `hasty` if the front-end hung up on an offer cut down to a device. QEMU does that when it reconnects for a guest that has
    /// negotiated more: it would never come back to us, so the next one is offered everything.
    pub(crate) fn note_end(&self, hasty: bool) {
        if hasty {
            self.offer_all.store(true, Ordering::Relaxed);
        }
    }

    /// Whether guests are offered everything, whatever the device has.
    pub(crate) fn offers_all(&self) -> bool {
        self.offer_all.load(Ordering::Relaxed)
    }

    /// What has become of it.
    pub(crate) fn status(&self) -> MutexGuard<'_, VdpaStatus> {
        locked(&self.status)
    }

    /// The wish that parked devices are of.
    pub(crate) fn parked_serial(&self) -> u64 {
        self.parked_serial.load(Ordering::Relaxed)
    }

    /// Sets it.
    pub(crate) fn set_parked_serial(&self, serial: u64) {
        self.parked_serial.store(serial, Ordering::Relaxed);
    }

    /// Devices without a front-end.
    pub(crate) fn parked(&self) -> MutexGuard<'_, Vec<Slot>> {
        locked(&self.parked)
    }
}

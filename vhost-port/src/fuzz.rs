//! A port without a thread, for fuzz targets and the replay of what they found.
//!
//! A [`Bench`] is the inside of a port, driven by its caller: a session runs on the calling thread until the front-end
//! hangs up, or a ring is started by hand over any memory. So one input always does the same thing. Not part of the API.

mod shadow;

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use pmd::port::{PmdError, PortEvents, RxQueue, TxQueue};
use pmd::sys::sigbus::Alarm;

pub use crate::front_end::bench::Bench as FrontBench;

use crate::config::VhostConfig;
use crate::memory::{MemTable, Region, RegionSpec};
use crate::net::{NetRules, Shared, VhostRx, VhostTx};
use crate::ring::{Kept, Resume, RingAddresses, RingConfig, RingFile, RingRules, checked_size};

pub use shadow::{Setting, ShadowBench};

/// The inside of a port.
pub struct Bench {
    shared: Arc<Shared>,
    memory: Arc<MemTable>,
}

/// A ring to start by hand.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    /// Even: the guest receives. Odd: the guest sends.
    pub index: usize,
    /// Descriptors, as a front-end would say it.
    pub size: u32,
    /// Guest address of the descriptor table.
    pub descriptors: u64,
    /// Guest address of the avail ring, or of a packed ring's driver event area.
    pub avail: u64,
    /// Guest address of the used ring, or of a packed ring's device event area.
    pub used: u64,
    /// Next avail index; in a packed ring the bits of a position.
    pub base: u16,
}

impl Bench {
    /// A port with no guest.
    pub fn new(config: VhostConfig) -> Result<Bench, PmdError> {
        let system = |e| PmdError::system("eventfd or memfd", "raise the limit of open files", e);
        let alarm = Alarm::new().map_err(system)?;
        let rings = RingFile::anonymous(usize::from(config.max_queue_pairs) * 2).map_err(system)?;
        Ok(Bench { shared: Arc::new(Shared::new(config, alarm, rings)), memory: Arc::default() })
    }

    /// Who is told, on the calling thread, when a message changed something.
    pub fn subscribe(&self, events: Arc<dyn PortEvents>) {
        self.shared.subscribe(events);
    }

    /// Serves a front-end until it hangs up or errs.
    pub fn serve(&self, stream: UnixStream) {
        crate::session::serve(&self.shared, stream);
    }

    /// What the port says is wrong.
    pub fn error(&self) -> Option<String> {
        self.shared.peer().error.clone()
    }

    /// Adds a region to the memory of rings started by hand; guest and front-end addresses are the same.
    pub fn map(&mut self, file: &File, gpa: u64, offset: u64, len: u64) -> Result<(), String> {
        let spec = RegionSpec { gpa, len, uva: gpa, offset };
        let region = Region::map(spec, file, &self.shared.alarm).map_err(|e| e.to_string())?;
        self.memory = Arc::new(self.memory.with(region).map_err(|e| e.to_string())?);
        Ok(())
    }

    /// Starts a ring under these features, as if a front-end had said so, and forgets its past faults.
    pub fn start(&self, ring: Ring, features: u64) -> Result<(), String> {
        let vring = self.shared.rings.get(ring.index).ok_or("no such ring")?;
        let rules = RingRules::new(features);
        let config = RingConfig {
            size: Some(checked_size(ring.size, rules.packed).map_err(|e| e.to_string())?),
            addresses: Some(RingAddresses {
                descriptors: ring.descriptors,
                avail: ring.avail,
                used: ring.used,
            }),
            base: ring.base,
            started: true,
            enabled: true,
            ..RingConfig::default()
        };
        let mut guard = vring.lock();
        let place = Kept { file: &self.shared.ring_file, inflight: None, index: ring.index };
        let made = config.activate(&self.memory, rules, place, Resume::AtBase).map_err(|e| e.to_string())?;
        guard.ring = made.map(|made| made.ring);
        guard.net = NetRules::new(features);
        vring.clear_fault();
        vring.set_usable(guard.ring.is_some());
        drop(guard);
        self.shared.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// What broke a ring, in words.
    pub fn fault(&self, index: usize) -> Option<String> {
        Some(self.shared.rings.get(index)?.fault()?.to_string())
    }

    /// The queue that receives from ring `pair * 2 + 1`. The caller takes no two of one pair.
    pub fn rx_queue(&self, pair: usize) -> Option<Box<dyn RxQueue>> {
        let vring = Arc::clone(self.shared.rings.get(pair * 2 + 1)?);
        Some(Box::new(VhostRx::new(vring, Arc::clone(self.shared.rx_counters.get(pair)?))))
    }

    /// A queue that sends.
    pub fn tx_queue(&self) -> Box<dyn TxQueue> {
        Box::new(VhostTx::new(Arc::clone(&self.shared), 0))
    }
}

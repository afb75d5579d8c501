//! A shadow without threads: a guest that keeps to the rules, the relay, and the memory of the device's ring, into which the caller writes
//! what a device would. For the fuzz target and for counting instructions. Not part of the API.
#![expect(unsafe_code, reason = "guest and device write memory that they share")]

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use pmd::memory::Arena;
use pmd::sys::map::SharedMap;
use pmd::sys::sigbus::Alarm;
use pmd::virtio::SharedPtr;
use pmd::virtio::driver_ring::{Buffer, ChainRing, DriverRing, RingMemory};
use pmd::virtio::packed_driver_ring::PackedDriverRing;

use crate::memory::{MemTable, Region, RegionSpec};
use crate::ring::{DeviceRing, Direction, Kept, Resume, RingAddresses, RingConfig, RingFile, RingRules};
use crate::vdpa::shadow::{DeviceQueue, DeviceRingAddresses, DeviceRingSpec, RingSpace, Shadow};

/// Bytes of guest memory, where buffers begin, and bytes of one.
const MEMORY: usize = 4 << 20;
const BUFFERS: u64 = 2 << 20;
const PIECE: u64 = 64;
/// Most chains taken in one call.
const BUDGET: u16 = 64;

/// What is to be run.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Descriptors of the guest's ring, and its features.
    pub guest_size: u16,
    /// Acknowledged features of the guest.
    pub guest_features: u64,
    /// Descriptors of the device's ring.
    pub device_size: u16,
    /// Acknowledged features of the device.
    pub device_features: u64,
    /// The guest receives.
    pub receives: bool,
    /// Frames fill several buffers.
    pub mergeable: bool,
}

/// See the module.
pub struct ShadowBench {
    driver: Box<dyn ChainRing>,
    ring: DeviceRing,
    /// None once it was stopped.
    shadow: Option<Shadow>,
    addresses: DeviceRingAddresses,
    arena: Arc<Arena>,
    offered: u64,
    receives: bool,
    _memory: SharedMap,
}

impl ShadowBench {
    /// A guest and its shadow. `None` when a ring of that size cannot be.
    pub fn new(setting: Setting) -> Option<ShadowBench> {
        let memory = SharedMap::create("shadow-bench", MEMORY, false).ok()?;
        let file: File = memory.as_fd().try_clone_to_owned().ok()?.into();
        let spec = RegionSpec { gpa: 0, len: MEMORY as u64, uva: 0, offset: 0 };
        let region = Region::map(spec, &file, &Alarm::new().ok()?).ok()?;
        let table = Arc::new(MemTable::default().with(region).ok()?);
        let rules = RingRules::new(setting.guest_features);
        let size = setting.guest_size;
        let (len, avail, used) =
            if rules.packed { PackedDriverRing::layout(size) } else { DriverRing::layout(size) };
        if len as u64 > BUFFERS {
            return None;
        }
        // SAFETY: the ring lies in the guest's memory, which lives as long as this.
        let driver: Box<dyn ChainRing> = unsafe {
            let start = SharedPtr::new(memory.start());
            let parts = RingMemory { descriptors: start, avail: start.add(avail), used: start.add(used) };
            if rules.packed {
                Box::new(PackedDriverRing::new(parts, size, rules.event_idx, rules.in_order)?)
            } else {
                Box::new(DriverRing::new(parts, size, rules.event_idx)?)
            }
        };
        let addresses = RingAddresses { descriptors: 0, avail: avail as u64, used: used as u64 };
        let base = if rules.packed { 0x8000 } else { 0 };
        let config = RingConfig {
            size: Some(size),
            addresses: Some(addresses),
            base,
            started: true,
            ..RingConfig::default()
        };
        let kept = Arc::new(RingFile::anonymous(1).ok()?);
        let kept = Kept { file: &kept, inflight: None, index: 0 };
        let ring = config.activate(&table, rules, kept, Resume::AtBase).ok()??.ring;
        let spec = DeviceRingSpec::new(setting.device_size, setting.device_features);
        let arena = Arc::new(Arena::create("shadow-bench", spec.bytes()).ok()?);
        let space = RingSpace { arena: Arc::clone(&arena), offset: 0, iova: 0 };
        let queue = DeviceQueue::new(spec, space)?;
        let direction = if setting.receives { Direction::Write } else { Direction::Read };
        let addresses = queue.addresses();
        let shadow = Some(Shadow::new(direction, setting.mergeable, queue));
        let receives = setting.receives;
        Some(ShadowBench { driver, ring, shadow, addresses, arena, offered: 0, receives, _memory: memory })
    }

    /// The guest offers a chain of so many pieces of 64 bytes. Its name, if there is room; it is published by [`ShadowBench::publish`].
    pub fn offer(&mut self, pieces: u16) -> Option<u16> {
        let mut chain = [Buffer { addr: 0, len: PIECE as u32, write: self.receives }; 32];
        let chain = chain.get_mut(..usize::from(pieces))?;
        for piece in chain.iter_mut() {
            piece.addr = BUFFERS + self.offered % (BUFFERS / PIECE) * PIECE;
            self.offered += 1;
        }
        self.driver.add(chain)
    }

    /// The guest shows what it has offered.
    pub fn publish(&mut self) {
        let _ = self.driver.publish();
    }

    /// What the guest gets back next: the name of a chain and the bytes written. An error when it has no such chain.
    pub fn collect(&mut self) -> Result<Option<(u16, u32)>, String> {
        self.driver.poll_used().map_err(|e| e.to_string())
    }

    /// Relays once. Chains given back and taken, or what the guest or the device did wrong.
    pub fn relay(&mut self) -> Result<(u16, u16), String> {
        let Some(shadow) = &mut self.shadow else { return Ok((0, 0)) };
        let relayed = shadow.relay(&mut self.ring, None, BUDGET);
        match relayed.fault {
            Some(fault) => Err(fault.to_string()),
            None => Ok((relayed.returned, relayed.taken)),
        }
    }

    /// Ends the shadow, and has software give back all that is left.
    pub fn finish(&mut self) -> Result<(), String> {
        if let Some(shadow) = self.shadow.take() {
            shadow.stop(&mut self.ring, None);
        }
        self.ring.discard().map_err(|e| e.to_string())?;
        self.ring.publish();
        Ok(())
    }

    /// Offsets in the device's memory of the ring's parts: descriptors, avail and used, or the driver's and the device's event area.
    pub fn parts(&self) -> [usize; 3] {
        let DeviceRingAddresses { descriptors, avail, used } = self.addresses;
        [descriptors, avail, used].map(|at| at as usize)
    }

    /// Bytes of the device's memory.
    pub fn device_len(&self) -> usize {
        self.arena.len()
    }

    fn device(&self, offset: usize, len: usize) -> Option<SharedPtr> {
        let inside = offset.checked_add(len)? <= self.arena.len();
        // SAFETY: inside the arena.
        inside.then(|| unsafe { SharedPtr::new(self.arena.start()).add(offset) })
    }

    /// The device reads its memory; nothing beyond its end.
    pub fn device_read(&self, offset: usize, into: &mut [u8]) {
        if let Some(at) = self.device(offset, into.len()) {
            // SAFETY: checked.
            unsafe { at.copy_out(into) };
        }
    }

    /// The device writes its memory; nothing beyond its end.
    pub fn device_write(&self, offset: usize, bytes: &[u8]) {
        if let Some(at) = self.device(offset, bytes.len()) {
            // SAFETY: checked.
            unsafe { at.copy_in(bytes) };
        }
    }
}

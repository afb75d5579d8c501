//! A guest's memory and driver, for unit tests of devices.
#![expect(unsafe_code, reason = "names memory of a test")]

use std::os::fd::OwnedFd;
use std::sync::Arc;

use pmd::memory::Arena;
use pmd::virtio::SharedPtr;
use pmd::virtio::driver_ring::{Buffer, DriverRing, RingMemory};
use rustix::event::{EventfdFlags, eventfd};

use super::device::RingStart;
use super::memory::{DmaMapping, HostMemory};

/// Where the guest's memory begins for the guest, and for the device.
pub(super) const GUEST: u64 = 0x1_0000_0000;
/// Bytes of it.
pub(super) const MEMORY: u64 = 2 << 20;
pub(super) const RING: u16 = 64;
/// Guest memory per ring: its parts, and behind them a buffer.
pub(super) const PER_RING: usize = 0x1_0000;
pub(super) const BUFFER: usize = 0x8000;

pub(super) fn event() -> Arc<OwnedFd> {
    Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap())
}

/// Whether it was written since it was looked at last.
pub(super) fn fired(event: &OwnedFd) -> bool {
    rustix::io::read(event, &mut [0; 8]).is_ok()
}

/// All of the memory, as a device is given it.
pub(super) fn mapping(memory: &Arc<Arena>) -> DmaMapping {
    // SAFETY: the arena is mapped as long as it lives, and reached by raw copies only.
    let memory = unsafe { HostMemory::new(SharedPtr::new(memory.start()), MEMORY, memory.clone()) };
    DmaMapping { iova: GUEST, memory }
}

/// A ring at this place in the memory, and what the guest's driver holds of it.
pub(super) fn ring(memory: &Arc<Arena>, at: usize) -> (RingStart, DriverRing) {
    let (_, second, third) = DriverRing::layout(RING);
    // SAFETY: inside the arena.
    let start = SharedPtr::new(unsafe { memory.start().add(at) });
    // SAFETY: likewise; a ring of this size ends before the buffer. The arena outlives the ring.
    let ring = unsafe {
        let memory = RingMemory { descriptors: start, avail: start.add(second), used: start.add(third) };
        DriverRing::new(memory, RING, false).unwrap()
    };
    let iova = GUEST + at as u64;
    let started = RingStart {
        size: RING,
        descriptors: iova,
        driver: iova + second as u64,
        device: iova + third as u64,
        index: 0,
        call: Some(event()),
        kick: None,
    };
    (started, ring)
}

/// The buffer of the ring at this place.
pub(super) fn buffer(at: usize, len: u32, write: bool) -> Buffer {
    Buffer { addr: GUEST + (at + BUFFER) as u64, len, write }
}

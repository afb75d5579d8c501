//! All rings of a port's shadow: their memory, where the device sees it, and how the device is to start them.
#![expect(unsafe_code, reason = "names the arena's memory")]

use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use pmd::memory::Arena;
use pmd::virtio::SharedPtr;
use pmd::virtio::features::{VIRTIO_F_RING_PACKED, VIRTIO_NET_F_MRG_RXBUF};
use rustix::event::{EventfdFlags, eventfd};

use super::super::{Capabilities, DmaMapping, HostMemory, RingStart, VdpaError, VdpaProblem};
use super::queue::{DeviceQueue, DeviceRingAddresses, DeviceRingSpec, RingSpace};
use super::relay::Shadow;
use crate::memory::MemTable;
use crate::ring::{Direction, Vring};

/// I/O addresses from here on are not used: what is wider than that some bus or kernel cuts off.
const ADDRESS_END: u64 = 1 << 47;

/// A ring of the guest that is to have a shadow.
pub(crate) struct GuestRing {
    /// The ring. It runs, is at the end of a burst, and no worker uses it.
    pub(crate) vring: Arc<Vring>,
    pub(crate) direction: Direction,
    /// Descriptors.
    pub(crate) size: u16,
    /// What the guest kicks. Without it the ring is polled.
    pub(crate) kick: Option<Arc<OwnedFd>>,
}

/// A ring with its shadow.
pub(super) struct Line {
    pub(super) guest: GuestRing,
    pub(super) shadow: Shadow,
    /// The device's interrupt.
    pub(super) call: Arc<OwnedFd>,
}

/// See the module. The device is given [`ShadowRings::mapping`] and then started with [`ShadowRings::starts`].
pub(crate) struct ShadowRings {
    pub(super) lines: Vec<Line>,
    mapping: DmaMapping,
}

impl ShadowRings {
    /// Makes shadows of these rings for a device that is to have these features; `memory` is what it sees of the guest.
    pub(crate) fn prepare(
        rings: Vec<GuestRing>,
        features: u64,
        caps: &Capabilities,
        memory: &MemTable,
    ) -> Result<ShadowRings, VdpaError> {
        let specs: Vec<_> = rings
            .iter()
            .map(|ring| DeviceRingSpec::new(device_size(ring.size, caps.max_ring_size, features), features))
            .collect();
        let granule = usize::try_from(caps.granule).unwrap_or(usize::MAX).max(4096);
        let len = specs.iter().map(DeviceRingSpec::bytes).sum::<usize>();
        let len = len.checked_next_multiple_of(granule).ok_or_else(|| no_room(caps, len as u64))?;
        let guest: Vec<_> =
            memory.regions().iter().map(|region| (region.spec.gpa, region.spec.len)).collect();
        let iova = gap(&caps.iova, &guest, len as u64, caps.granule.max(4096))
            .ok_or_else(|| no_room(caps, len as u64))?;
        let arena = Arc::new(Arena::create("vdpa-shadow", len).map_err(|e| {
            VdpaError::new(VdpaProblem::Memory, format!("{}: rings of the shadow: {e}", caps.name), "")
        })?);
        let mergeable = features & VIRTIO_NET_F_MRG_RXBUF != 0;
        let mut offset = 0;
        let mut lines = Vec::with_capacity(rings.len());
        for (guest, spec) in rings.into_iter().zip(specs) {
            let space = RingSpace { arena: Arc::clone(&arena), offset, iova: iova + offset as u64 };
            offset += spec.bytes();
            let queue = DeviceQueue::new(spec, space).ok_or_else(|| {
                let what = format!("{}: no ring of {} descriptors can be made", caps.name, spec.size);
                VdpaError::new(VdpaProblem::Unfit, what, "take another device")
            })?;
            let call = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| {
                let what = format!("{}: eventfd for an interrupt", caps.name);
                VdpaError::system(VdpaProblem::Unfit, what, "raise the limit of open files", e)
            })?;
            let shadow = Shadow::new(guest.direction, mergeable, queue);
            lines.push(Line { guest, shadow, call: Arc::new(call) });
        }
        let start = SharedPtr::new(arena.start());
        // SAFETY: an arena is at least as long as asked for, and stays mapped as long as it lives.
        let memory = unsafe { HostMemory::new(start, len as u64, arena) };
        Ok(ShadowRings { lines, mapping: DmaMapping { iova, memory } })
    }

    /// The memory of the rings, which the device has to see beside the guest's.
    pub(crate) fn mapping(&self) -> &DmaMapping {
        &self.mapping
    }

    /// How the device is to start its rings, in the order in which they were given.
    pub(crate) fn starts(&self) -> Vec<RingStart> {
        let start = |line: &Line| {
            let queue = line.shadow.queue();
            let DeviceRingAddresses { descriptors, avail, used } = queue.addresses();
            let spec = queue.spec();
            let index = if spec.packed { 0x8000 } else { 0 };
            let call = Some(Arc::clone(&line.call));
            RingStart { size: spec.size, descriptors, driver: avail, device: used, index, call, kick: None }
        };
        self.lines.iter().map(start).collect()
    }
}

/// Descriptors of the device's ring: as many as the guest's has, if the device can.
fn device_size(guest: u16, most: u16, features: u64) -> u16 {
    let most = most.clamp(1, 1 << 15);
    if features & VIRTIO_F_RING_PACKED != 0 {
        return guest.min(most);
    }
    // The largest power of two that the device can, and no more than the guest's or the next.
    let largest = 1 << most.ilog2();
    guest.checked_next_power_of_two().unwrap_or(largest).min(largest)
}

/// The highest `len` free I/O addresses: far from where memory is plugged into a guest.
fn gap(ranges: &[RangeInclusive<u64>], guest: &[(u64, u64)], len: u64, granule: u64) -> Option<u64> {
    ranges.iter().rev().find_map(|range| {
        let (first, mut end) = (*range.start(), range.end().saturating_add(1).min(ADDRESS_END));
        loop {
            let at = end.checked_sub(len)? & !(granule - 1);
            if at < first {
                return None;
            }
            let taken = |&(start, size): &(u64, u64)| start < at + len && at < start.saturating_add(size);
            match guest.iter().find(|part| taken(part)) {
                None => return Some(at),
                Some(&(start, _)) => end = start,
            }
        }
    })
}

fn no_room(caps: &Capabilities, len: u64) -> VdpaError {
    let what = format!(
        "{}: no {len:#x} I/O addresses are left beside the guest's memory ({:#x?})",
        caps.name, caps.iova
    );
    VdpaError::new(
        VdpaProblem::Memory,
        what,
        "give the guest less memory, or the host an IOMMU with a wider reach",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_lie_where_neither_guest_nor_anybody_else_is() {
        let find = |ranges: &[RangeInclusive<u64>], guest: &[(u64, u64)]| gap(ranges, guest, 0x3000, 0x1000);
        let reach = [0..=0xfedf_ffff, 0xfef0_0000..=(1 << 39) - 1];
        assert_eq!(find(&reach, &[(0, 1 << 31)]), Some((1 << 39) - 0x3000));
        assert_eq!(find(&reach, &[(0, 1 << 31), (0xfef0_0000, 1 << 39)]), Some(0xfedf_d000));
        assert_eq!(find(&reach, &[((1 << 39) - 0x2000, 0x2000)]), Some((1 << 39) - 0x5000));
        assert_eq!(find(&[0..=0x2fff], &[]), Some(0));
        assert_eq!(find(&[0..=0x2fff], &[(0x1000, 1)]), None);
        assert_eq!(find(&[0..=u64::MAX], &[]), Some(ADDRESS_END - 0x3000));
        assert_eq!(find(&[], &[]), None);
    }

    #[test]
    fn device_has_rings_like_the_guests_if_it_can() {
        for (guest, most, packed, size) in [
            (256, 1024, false, 256),
            (256, 128, false, 128),
            (1000, 1024, false, 1024),
            (1000, 1023, false, 512),
            (1000, 700, true, 700),
            (32768, u16::MAX, false, 32768),
            (1, 256, false, 1),
            (256, 0, false, 1),
        ] {
            let features = if packed { VIRTIO_F_RING_PACKED } else { 0 };
            assert_eq!(device_size(guest, most, features), size, "{guest} {most}");
        }
    }
}

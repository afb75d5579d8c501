//! What the front-end said of a ring, and the checks before it may run.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use pmd::virtio::features::{
    VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED,
};
use pmd::virtio::packed::{self, Position};
use pmd::virtio::{SharedPtr, split};

use super::device::DeviceRing;
use super::inflight::{InflightBuffer, InflightRegion};
use super::journal::{BadRecord, Identity, Journal};
use super::packed::PackedRing;
use super::ring_file::RingFile;
use super::split::{RingParts, RingRules, SplitRing};
use crate::memory::{Access, MemTable, Piece, RingPart, Unplaced, Window};

/// Addresses of a ring's parts in the front-end's address space, or the device's if the guest has an IOMMU. In a packed ring, avail is the driver's event area and
/// used the device's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RingAddresses {
    pub(crate) descriptors: u64,
    pub(crate) avail: u64,
    pub(crate) used: u64,
}

/// A ring's settings, collected message by message.
#[derive(Default, Debug)]
pub(crate) struct RingConfig {
    pub(crate) size: Option<u16>,
    pub(crate) addresses: Option<RingAddresses>,
    /// Guest address at which the front-end wants the used ring logged, if it said so.
    pub(crate) used_log: Option<u64>,
    /// Next avail index when the ring starts; in a packed ring the bits of a position.
    pub(crate) base: u16,
    /// Eventfd the guest kicks; none when the front-end wants the ring polled.
    pub(crate) kick: Option<Arc<OwnedFd>>,
    /// Eventfd that interrupts the guest.
    pub(crate) call: Option<Arc<OwnedFd>>,
    /// Eventfd that tells the front-end of a broken ring.
    pub(crate) err: Option<Arc<OwnedFd>>,
    /// Started by a kick descriptor, until its base is asked for.
    pub(crate) started: bool,
    pub(crate) enabled: bool,
    /// It has been enabled on this connection. Before that, what waits in a ring that is just being started is not for
    /// dropping: after a restart of the switch it is what the guest sent meanwhile.
    pub(crate) was_enabled: bool,
    /// What the ring is seen through now, to be recognised when translations change.
    pub(crate) windows: Vec<Arc<Window>>,
    /// Where the front-end wants to have kept what is in flight in the ring that runs now.
    pub(crate) inflight: Option<InflightRegion>,
}

/// Why a ring cannot start.
#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
pub(crate) enum RingConfigError {
    #[error("ring size {0} is not a power of two up to 32768")]
    Size(u32),
    #[error("ring size {0} is not between 1 and 32768")]
    PackedSize(u32),
    #[error("base {base:#x} is no position in a packed ring of {size}")]
    Base { base: u16, size: u16 },
    #[error("the {part} at front-end address {addr:#x}, {len:#x} bytes, is not inside one memory region")]
    Outside { part: &'static str, addr: u64, len: usize },
    #[error("the {part} at front-end address {addr:#x} is not aligned")]
    Unaligned { part: &'static str, addr: u64 },
    /// Not an error: the ring can start when the front-end has told where it is.
    #[error("the {part} at I/O address {addr:#x} is not translated yet")]
    Untranslated { part: &'static str, addr: u64 },
    #[error(
        "the {part} at I/O address {addr:#x}, {len:#x} bytes, lies in pieces that cannot be mapped side by side: {why}"
    )]
    Scattered { part: &'static str, addr: u64, len: usize, why: String },
}

/// Where a ring that starts goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Resume {
    /// At the base in its settings: it ran until now.
    AtBase,
    /// Where the record of the last device says, if that is of this ring; else at the base.
    ByRecord,
}

/// Where what outlives a device is kept of a ring.
#[derive(Clone, Copy)]
pub(crate) struct Kept<'a> {
    pub(crate) file: &'a Arc<RingFile>,
    /// The front-end's buffer, if it has handed one over.
    pub(crate) inflight: Option<&'a Arc<InflightBuffer>>,
    /// The ring's number in its port.
    pub(crate) index: usize,
}

/// A ring that was started.
pub(crate) struct Activated {
    pub(crate) ring: DeviceRing,
    /// Where it keeps what is in flight.
    pub(crate) inflight: Option<InflightRegion>,
    /// Why the record of it was not believed.
    pub(crate) bad_record: Option<BadRecord>,
}

/// Checks a ring size as the front-end sends it, for a packed or a split ring.
pub(crate) fn checked_size(size: u32, packed: bool) -> Result<u16, RingConfigError> {
    let number = u16::try_from(size).ok();
    if packed {
        number.filter(|&n| packed::valid_size(n)).ok_or(RingConfigError::PackedSize(size))
    } else {
        number.filter(|&n| split::valid_size(n)).ok_or(RingConfigError::Size(size))
    }
}

impl RingRules {
    /// Rules for a set of acknowledged features.
    pub(crate) fn new(features: u64) -> RingRules {
        RingRules {
            event_idx: features & VIRTIO_F_EVENT_IDX != 0,
            indirect: features & VIRTIO_F_INDIRECT_DESC != 0,
            packed: features & VIRTIO_F_RING_PACKED != 0,
            in_order: features & VIRTIO_F_IN_ORDER != 0,
        }
    }
}

/// Where a ring is.
pub(crate) struct Placed {
    size: u16,
    pub(crate) parts: RingParts,
    /// What holds parts together that are in pieces.
    pub(crate) windows: Vec<Arc<Window>>,
}

impl Placed {
    /// What tells a packed ring from others. Its parts lie in `memory`.
    fn identity(&self, memory: &MemTable, rules: RingRules) -> Identity {
        let RingParts { descriptors, avail, used } = self.parts;
        let places = [descriptors, avail, used].map(|part| {
            let window = self.windows.iter().find(|window| window.start() == part);
            let first = window.and_then(|window| window.pieces().first());
            memory.file_place(first.map_or(part, |piece| piece.0)).unwrap_or_default()
        });
        let [(file, _), ..] = places;
        Identity::new(file, places.map(|(_, offset)| offset), self.size, rules)
    }
}

/// Finds a window on pieces of memory, or makes it.
pub(crate) type Show<'a> = &'a dyn Fn(&[Piece]) -> std::io::Result<Arc<Window>>;

impl RingConfig {
    /// Makes the ring, if all that it needs has been said.
    pub(crate) fn activate(
        &self,
        memory: &Arc<MemTable>,
        rules: RingRules,
        Kept { file, inflight, index }: Kept<'_>,
        resume: Resume,
    ) -> Result<Option<Activated>, RingConfigError> {
        let placed = self.place(memory, rules, &|pieces| memory.window(pieces).map(Arc::new))?;
        let Some(placed) = placed else { return Ok(None) };
        let record = file.record(index);
        let identity = placed.identity(memory, rules);
        let Placed { size, parts, windows } = placed;
        let (memory, call) = (Arc::clone(memory), self.call.clone());
        let mut inflight = inflight.and_then(|buffer| buffer.region(index, rules.packed, size));
        let mut bad_record = None;
        let region = inflight.as_mut().filter(|_| resume == Resume::ByRecord);
        let mut believe = |recorded: Result<Option<Position>, BadRecord>| {
            recorded.unwrap_or_else(|bad| {
                bad_record = Some(bad);
                None
            })
        };
        let mut ring = if rules.packed {
            // What the front-end has of the ring counts before what we have: it belongs to this very ring.
            let recorded = region.and_then(|region| believe(region.resubmit_packed(parts)));
            let recorded = recorded.or_else(|| match resume {
                Resume::ByRecord => believe(record.recover(&identity, parts, size)),
                Resume::AtBase => None,
            });
            let base = recorded.unwrap_or_else(|| Position::from_bits(self.base));
            if base.slot() >= size {
                return Err(RingConfigError::Base { base: self.base, size });
            }
            let journal = Journal::begin(file, index, &identity, base);
            if let Some(region) = &inflight {
                region.begin_packed(base);
            }
            DeviceRing::Packed(PackedRing::new(memory, parts, size, (base, journal), rules, call))
        } else {
            record.forget();
            if let Some(region) = region {
                believe(region.resubmit_split(parts).map(|()| None));
            }
            let ring = SplitRing::new(memory, parts, size, self.base, rules, call);
            if let Some(region) = &inflight {
                region.begin_split(ring.next_used());
            }
            DeviceRing::Split(ring)
        };
        ring.keep(windows);
        ring.keep_inflight(inflight.clone());
        Ok(Some(Activated { ring, inflight, bad_record }))
    }

    /// Where the ring is, if all that it needs has been said.
    pub(crate) fn place(
        &self,
        memory: &MemTable,
        rules: RingRules,
        show: Show<'_>,
    ) -> Result<Option<Placed>, RingConfigError> {
        let (Some(size), Some(addresses), true) = (self.size, self.addresses, self.started) else {
            return Ok(None);
        };
        if memory.is_empty() {
            return Ok(None);
        }
        // Features may have come after the size.
        checked_size(size.into(), rules.packed)?;
        let RingAddresses { descriptors, avail, used } = addresses;
        let mut windows = Vec::new();
        let mut part = |part, addr, len, align, access| {
            let place = PartPlace { part, addr, len, align };
            place.find(memory, access, show, &mut windows)
        };
        // All three before the first error, so that all that is not translated is asked for at once.
        let (descriptors, avail, used) = if rules.packed {
            use packed::{ALIGN, EVENT_LEN, descriptors_len};
            (
                part("descriptor ring", descriptors, descriptors_len(size), ALIGN.0, Access::BOTH),
                part("driver event area", avail, EVENT_LEN, ALIGN.1, Access::READ),
                part("device event area", used, EVENT_LEN, ALIGN.2, Access::WRITE),
            )
        } else {
            use split::{ALIGN, avail_len, descriptors_len, used_len};
            (
                part("descriptor table", descriptors, descriptors_len(size), ALIGN.0, Access::READ),
                part("avail ring", avail, avail_len(size), ALIGN.1, Access::READ),
                // Read too, for where it has come to when the ring starts.
                part("used ring", used, used_len(size), ALIGN.2, Access::BOTH),
            )
        };
        let parts = RingParts { descriptors: descriptors?, avail: avail?, used: used? };
        Ok(Some(Placed { size, parts, windows }))
    }
}

/// A part of a ring as it is to be found.
struct PartPlace {
    part: &'static str,
    addr: u64,
    len: usize,
    align: usize,
}

impl PartPlace {
    fn find(
        self,
        memory: &MemTable,
        access: Access,
        show: Show<'_>,
        windows: &mut Vec<Arc<Window>>,
    ) -> Result<SharedPtr, RingConfigError> {
        let PartPlace { part, addr, len, align } = self;
        let host = match memory.ring_part(addr, len as u64, access) {
            Ok(RingPart::Whole(start)) => start,
            Ok(RingPart::Pieces(pieces)) => {
                let window = show(&pieces).map_err(|e| {
                    let why = e.to_string(); // tidy: once per ring
                    RingConfigError::Scattered { part, addr, len, why }
                })?;
                let start = window.start();
                windows.push(window);
                start
            }
            Err(Unplaced::Outside) => return Err(RingConfigError::Outside { part, addr, len }),
            Err(Unplaced::Untranslated) => return Err(RingConfigError::Untranslated { part, addr }),
        };
        if host.addr().is_multiple_of(align) {
            Ok(host)
        } else {
            Err(RingConfigError::Unaligned { part, addr })
        }
    }
}

#[cfg(test)]
impl RingConfig {
    /// A ring of these settings that nobody has run before.
    pub(crate) fn started_for_test(&self, memory: &Arc<MemTable>, rules: RingRules) -> DeviceRing {
        let file = Arc::new(RingFile::anonymous(1).unwrap());
        let kept = Kept { file: &file, inflight: None, index: 0 };
        self.activate(memory, rules, kept, Resume::ByRecord).unwrap().unwrap().ring
    }
}

//! A device of a port, and what of the guest's memory it reaches.

use std::time::{Duration, Instant};

use super::desk::OpenDevice;
use super::device::VdpaDev;
use super::error::{VdpaError, VdpaProblem};
use super::memory::{DmaMapping, HostMemory};
use super::name::DeviceName;
use crate::memory::{MemTable, Region, RegionSpec};

/// Time between attempts to open a device that could not be opened: it may be bound to its driver, or plugged in, any time.
const RETRY: Duration = Duration::from_secs(10);

/// What tells a region from others, however often it is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    gpa: u64,
    len: u64,
    file: (u64, u64),
    offset: u64,
}

impl Place {
    fn of(region: &Region) -> Place {
        let RegionSpec { gpa, len, offset, .. } = region.spec;
        Place { gpa, len, file: region.file(), offset }
    }
}

/// An open device.
pub(crate) struct Unit {
    pub(crate) dev: Box<dyn VdpaDev>,
    mapped: Vec<Place>,
}

impl Unit {
    /// Lets the device reach exactly this memory. A region that it reaches already, seen through whichever mapping, is left alone, so that
    /// a device that runs is not disturbed when a front-end tells all of its memory again to add a little. After an
    /// error it reaches some of it.
    pub(crate) fn reach(&mut self, memory: &MemTable) -> Result<(), VdpaError> {
        let wanted: Vec<Place> = memory.regions().iter().map(|region| Place::of(region)).collect();
        let mut unmapped = Ok(());
        let dev = &mut self.dev;
        self.mapped.retain(|place| {
            let keep = wanted.contains(place);
            if !keep && let Err(e) = dev.unmap(place.gpa) {
                unmapped = Err(e);
            }
            keep
        });
        unmapped?;
        for (region, place) in memory.regions().iter().zip(wanted) {
            if self.mapped.contains(&place) {
                continue;
            }
            let memory = HostMemory::of_region(region).ok_or_else(|| self.unreachable(&place, "is empty"))?;
            self.check(&place)?;
            self.dev.map(DmaMapping { iova: place.gpa, memory })?;
            self.mapped.push(place);
        }
        Ok(())
    }

    /// Whether it reaches any memory.
    pub(crate) fn reaches(&self) -> bool {
        !self.mapped.is_empty()
    }

    fn check(&self, place: &Place) -> Result<(), VdpaError> {
        let caps = self.dev.capabilities();
        let last = place.gpa.saturating_add(place.len - 1);
        if !caps.iova.iter().any(|range| range.contains(&place.gpa) && range.contains(&last)) {
            return Err(self.unreachable(place, "lies beyond what the device's IOMMU can map"));
        }
        if (place.gpa | place.len) & (caps.granule - 1) != 0 {
            return Err(self.unreachable(place, "does not consist of whole pages of the device's IOMMU"));
        }
        Ok(())
    }

    fn unreachable(&self, place: &Place, why: &str) -> VdpaError {
        let caps = self.dev.capabilities();
        VdpaError::new(
            VdpaProblem::Memory,
            format!(
                "{}: guest memory at {:#x}, {:#x} bytes, {why} ({:#x?})",
                caps.name, place.gpa, place.len, caps.iova
            ),
            "give the guest less memory, or the host an IOMMU with a wider reach",
        )
    }
}

/// A device that the operator wants for a port.
pub(crate) struct Slot {
    pub(crate) name: DeviceName,
    /// The device, if it is open and does not run.
    pub(crate) unit: Option<Unit>,
    /// Why it is not used; until the operator says something else or the guest's driver starts anew.
    pub(crate) trouble: Option<String>,
    /// When to try to open it again.
    retry_at: Option<Instant>,
}

impl Slot {
    pub(crate) fn new(name: DeviceName) -> Slot {
        Slot { name, unit: None, trouble: None, retry_at: None }
    }

    /// Opens the device if it is not open. Returns whether that changed anything the operator sees.
    pub(crate) fn open(&mut self, open: &OpenDevice) -> bool {
        if self.unit.is_some() || self.trouble.is_some() && self.retry_at.is_none() {
            return false;
        }
        let before = self.trouble.take();
        match open(&self.name) {
            Ok(dev) => {
                self.retry_at = None;
                self.unit = Some(Unit { dev, mapped: Vec::new() });
                true
            }
            Err(e) => {
                let trouble = e.to_string();
                let changed = before.as_ref() != Some(&trouble);
                self.retry_at = Some(Instant::now() + RETRY);
                self.trouble = Some(trouble);
                changed
            }
        }
    }

    /// When [`Slot::open`] is worth another try.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// It is not to be used for now. A device that cannot be trusted is closed.
    pub(crate) fn set_aside(&mut self, why: String, close: bool) {
        self.trouble = Some(why);
        self.retry_at = None;
        if close {
            self.unit = None;
        }
    }

    /// Gives it another chance.
    pub(crate) fn forgive(&mut self) {
        self.trouble = None;
        self.retry_at = None;
    }
}

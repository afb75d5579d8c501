//! One region of guest memory, mapped from the file the front-end sent.

use std::fs::File;
use std::sync::Arc;

use pmd::sys::sigbus::Alarm;
use pmd::virtio::SharedPtr;

use super::MemoryError;
use super::mapping::{MapError, Mapping};

/// A region as the front-end describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RegionSpec {
    /// Guest physical address.
    pub(crate) gpa: u64,
    /// Bytes.
    pub(crate) len: u64,
    /// Address in the front-end's process: ring addresses come in this space.
    pub(crate) uva: u64,
    /// Where the region starts in its file.
    pub(crate) offset: u64,
}

/// A mapped region. Unmapped when dropped.
pub(crate) struct Region {
    pub(crate) spec: RegionSpec,
    mapping: Mapping,
}

impl Region {
    /// Checks and maps a region. `alarm` goes off when its file shrinks under us.
    pub(crate) fn map(spec: RegionSpec, file: &File, alarm: &Arc<Alarm>) -> Result<Region, MemoryError> {
        let RegionSpec { gpa, len, uva, offset } = spec;
        let refused = |problem| MemoryError::Refused { gpa, problem };
        if gpa.checked_add(len).is_none() || uva.checked_add(len).is_none() {
            return Err(refused(MapError::Wraps { len, offset }));
        }
        let mapping = Mapping::new(file, offset, len, alarm).map_err(refused)?;
        Ok(Region { spec, mapping })
    }

    /// Device and inode number of its file.
    pub(crate) fn file(&self) -> (u64, u64) {
        self.mapping.file
    }

    /// Host address of the byte `offset` into the region, if `len` bytes from there lie inside.
    pub(crate) fn host(&self, offset: u64, len: u64) -> Option<SharedPtr> {
        self.mapping.at(offset, len)
    }
}

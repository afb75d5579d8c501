//! Guest memory: mapped on the control thread, published to the rings as an immutable table.
//!
//! The front-end names regions (file, offset, length, guest physical address, its own virtual address). Each is
//! checked once in [`Region::map`] and [`MemTable::with`]: no overflow, no overlap, the file really that long. What
//! follows may rely on it. A file that shrinks later is caught by the SIGBUS guard each mapping carries.
//!
//! A guest with an IOMMU gives addresses that the front-end must translate: [`Iotlb`] holds what it told, a translated table
//! carries it to the rings, and [`MissQueue`] carries back what they did not find.
//!
//! Lifetime: a ring holds an `Arc<MemTable>`, so memory is unmapped when the last ring that can reach it has been
//! stopped or moved to a newer table, never under a worker.
//!
//! While a guest is being migrated, what is written into its memory is noted in a [`DirtyLog`], by way of a
//! [`PageLog`] where frames go in, and by the rings themselves where they write.

mod dirty;
mod iotlb;
#[cfg(test)]
mod iotlb_tests;
mod mapping;
mod misses;
mod page_log;
mod region;
mod table;
mod window;

pub(crate) use dirty::{DirtyLog, Pages};
pub(crate) use iotlb::{Access, Iotlb, IotlbCounters, Translation, TranslationError};
pub(crate) use misses::{Miss, MissQueue, PAGE};
pub(crate) use page_log::{HostRange, Marks, NoMarks, PageLog};
pub(crate) use region::{Region, RegionSpec};
pub(crate) use table::{MAX_REGIONS, MemTable, RegionCache, RingPart, Unplaced};
pub(crate) use window::{Piece, Window};

pub(crate) use mapping::{MapError, Mapping};

/// Why a region was refused.
#[derive(thiserror::Error, Debug)]
pub(crate) enum MemoryError {
    #[error("memory region at guest address {gpa:#x} {problem}")]
    Refused { gpa: u64, problem: MapError },
    #[error("memory region at guest address {gpa:#x} overlaps another")]
    Overlaps { gpa: u64 },
    #[error("more than {MAX_REGIONS} memory regions")]
    TooMany,
    #[error("no memory region at guest address {gpa:#x}, front-end address {uva:#x}, length {len:#x}")]
    Unknown { gpa: u64, uva: u64, len: u64 },
}

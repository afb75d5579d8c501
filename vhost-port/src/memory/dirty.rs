//! The dirty log of a migration: a bit per page of guest memory, in a file of the front-end's.
//!
//! The front-end copies a running guest's memory, page by page and again and again, and has to know which pages changed
//! behind its back. It hands over a bitmap (SET_LOG_BASE) and turns logging on and off (VHOST_F_LOG_ALL); while it is on, we set the
//! bit of every page we write. The front-end takes bits and clears them at any time, then copies their pages.
//!
//! # Order
//!
//! A bit is set after its page was written. The other way round, the front-end might take the bit, copy the page, and never
//! hear of what was written after that. Between writing and looking at the bit there is a full fence, so that a bit
//! which is found set need not be set again: whoever clears it later copies the page later still. So a page that is
//! written all the time costs a load, and the log's lines move only when bits change.
//!
//! # Trust
//!
//! The log's size is the front-end's word, checked against its file; the guest's pages are then checked against the log, each
//! time. What lies beyond is counted, reported, and not written. A file that shrinks is caught like guest memory's.
#![expect(unsafe_code, reason = "writes a mapping shared with the front-end")]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use arc_swap::ArcSwapOption;
use pmd::sys::sigbus::Alarm;

use super::MemTable;
use super::mapping::{MapError, Mapping};

/// Bytes of guest memory for which there is a bit, by the protocol's definition.
const PAGE: u64 = 4096;

/// Why a log was refused.
#[derive(thiserror::Error, Debug)]
pub(crate) enum DirtyLogError {
    #[error("the dirty log {0}")]
    Refused(#[from] MapError),
    #[error("the dirty log of {len:#x} bytes ends before guest memory, which needs {needed:#x}")]
    TooSmall { len: u64, needed: u64 },
}

/// Pages in a row, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pages {
    first: u64,
    last: u64,
}

impl Pages {
    /// The pages of `len` bytes, at least one, at guest address `gpa`.
    #[inline]
    pub(crate) fn of(gpa: u64, len: u64) -> Pages {
        Pages { first: gpa / PAGE, last: gpa.saturating_add(len.saturating_sub(1)) / PAGE }
    }

    /// Takes `next` in, if that leaves no gap. False when it would.
    #[inline]
    pub(crate) fn join(&mut self, next: Pages) -> bool {
        let joins = self.first <= next.first && next.first <= self.last.saturating_add(1);
        if joins {
            self.last = self.last.max(next.last);
        }
        joins
    }
}

/// A mapped dirty log. Unmapped when the last ring that writes to it has gone.
pub(crate) struct DirtyLog {
    bits: Mapping,
    len: u64,
    /// Pages written for which there is no bit.
    outside: AtomicU64,
    /// Eventfd of a front-end that wants to hear of bits set (SET_LOG_FD).
    event: ArcSwapOption<OwnedFd>,
    alarm: Arc<Alarm>,
}

impl DirtyLog {
    /// Maps `len` bytes from `offset` of the front-end's file, as a log of this memory. `alarm` goes off when the file
    /// shrinks, and is rung when a page has no bit.
    pub(crate) fn map(
        file: &File,
        offset: u64,
        len: u64,
        memory: &MemTable,
        alarm: &Arc<Alarm>,
    ) -> Result<DirtyLog, DirtyLogError> {
        let needed = memory.end().div_ceil(PAGE * 8);
        if len < needed {
            return Err(DirtyLogError::TooSmall { len, needed });
        }
        let bits = Mapping::new(file, offset, len, alarm)?;
        Ok(DirtyLog {
            bits,
            len,
            outside: AtomicU64::new(0),
            event: ArcSwapOption::empty(),
            alarm: Arc::clone(alarm),
        })
    }

    /// From now on tells of bits set by this eventfd, which does not block.
    pub(crate) fn tell_by(&self, event: &Arc<OwnedFd>) {
        self.event.store(Some(Arc::clone(event)));
    }

    /// Sets the bits of pages that have been written.
    pub(crate) fn mark(&self, written: impl IntoIterator<Item = Pages>) {
        fence(Ordering::SeqCst);
        let mut changed = false;
        for pages in written {
            for page in pages.first..=pages.last {
                match self.bits.at(page / 8, 1) {
                    // SAFETY: the byte lies inside the mapping.
                    Some(byte) => changed |= unsafe { byte.set_bits(1 << (page % 8)) },
                    None => self.note_outside(),
                }
            }
        }
        if changed {
            self.tell();
        }
    }

    /// Sets the bits of all pages of this memory.
    pub(crate) fn mark_all(&self, memory: &MemTable) {
        // A byte of bits at a time where all eight pages are in the region.
        let whole = |first: u64, last: u64| first.is_multiple_of(8) && last - first >= 7;
        fence(Ordering::SeqCst);
        for pages in memory.ranges().map(|(gpa, len)| Pages::of(gpa, len)) {
            let mut page = pages.first;
            while page <= pages.last {
                let (bits, count) = if whole(page, pages.last) { (0xff, 8) } else { (1 << (page % 8), 1) };
                match self.bits.at(page / 8, 1) {
                    // SAFETY: the byte lies inside the mapping.
                    Some(byte) => _ = unsafe { byte.set_bits(bits) },
                    None => return self.note_outside(),
                }
                page += count;
            }
        }
        self.tell();
    }

    /// Tells who wants to hear of bits set.
    fn tell(&self) {
        if let Some(event) = self.event.load().as_ref() {
            // Full means told already.
            let _ = rustix::io::write(event, &1u64.to_ne_bytes());
        }
    }

    /// Counts a page for which there is no bit.
    #[cold]
    pub(crate) fn note_outside(&self) {
        if self.outside.fetch_add(1, Ordering::Relaxed) == 0 {
            self.alarm.ring();
        }
    }

    /// Pages written for which there was no bit.
    pub(crate) fn outside(&self) -> u64 {
        self.outside.load(Ordering::Relaxed)
    }

    /// Pages it has bits for.
    pub(crate) fn pages(&self) -> u64 {
        self.len.saturating_mul(8)
    }
}

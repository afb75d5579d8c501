//! Noting where frames were written, a burst at a time.
//!
//! Whoever writes frames is generic over [`Marks`]: [`NoMarks`] is nothing at all, so a port that is not being migrated
//! pays one test per burst, for the choice. A [`PageLog`] finds the guest address of what was written by the region that
//! the host address lies in; so it does not matter by which addresses the guest named its buffers. It keeps the burst's pages
//! until [`PageLog::flush`], with those of buffers side by side as one entry: a fence per burst, not per frame.

use std::sync::Arc;

use pmd::virtio::SharedPtr;

use super::MemTable;
use super::dirty::{DirtyLog, Pages};

/// Entries kept before the log is written: a burst of frames, each in a buffer somewhere else.
const PENDING: usize = 64;

/// Takes note of what was written into guest memory.
pub(crate) trait Marks {
    /// `len` bytes, at least one, were written from `start`, all in one region.
    fn wrote(&mut self, start: SharedPtr, len: usize);
}

/// Nobody wants to know.
pub(crate) struct NoMarks;

impl Marks for NoMarks {
    #[inline(always)]
    fn wrote(&mut self, _: SharedPtr, _: usize) {}
}

/// A region by its host address.
#[derive(Clone, Copy, Default)]
pub(crate) struct HostRange {
    pub(crate) host: usize,
    pub(crate) len: usize,
    pub(crate) gpa: u64,
}

impl HostRange {
    /// Guest address of a host address in the range.
    #[inline]
    pub(crate) fn gpa(&self, addr: usize) -> Option<u64> {
        let offset = addr.wrapping_sub(self.host);
        (offset < self.len).then(|| self.gpa + offset as u64)
    }
}

/// A ring's notes for the dirty log.
pub(crate) struct PageLog {
    log: Arc<DirtyLog>,
    memory: Arc<MemTable>,
    /// The region written last.
    near: HostRange,
    pending: Vec<Pages>,
}

impl PageLog {
    /// No notes yet.
    pub(crate) fn new(log: &Arc<DirtyLog>, memory: &Arc<MemTable>) -> PageLog {
        PageLog {
            log: Arc::clone(log),
            memory: Arc::clone(memory),
            near: HostRange::default(),
            pending: Vec::with_capacity(PENDING),
        }
    }

    /// Guest address of a host address.
    #[inline]
    fn gpa(&mut self, addr: usize) -> Option<u64> {
        let near = self.near.gpa(addr);
        if near.is_some() {
            return near;
        }
        self.near = self.memory.by_host(addr)?;
        self.near.gpa(addr)
    }

    /// `len` bytes, at least one, were written at this guest address.
    #[inline]
    pub(crate) fn wrote_at(&mut self, gpa: u64, len: u64) {
        let pages = Pages::of(gpa, len);
        if self.pending.last_mut().is_some_and(|last| last.join(pages)) {
            return;
        }
        if self.pending.len() == PENDING {
            self.flush();
        }
        self.pending.push(pages);
    }

    /// Writes the notes to the log. To be done before the guest is shown what was written.
    pub(crate) fn flush(&mut self) {
        if !self.pending.is_empty() {
            self.log.mark(self.pending.drain(..));
        }
    }
}

impl Marks for PageLog {
    fn wrote(&mut self, start: SharedPtr, len: usize) {
        let Some(gpa) = self.gpa(start.addr()) else {
            self.log.note_outside();
            return;
        };
        self.wrote_at(gpa, len as u64);
    }
}

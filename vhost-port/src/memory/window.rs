//! A part of a ring that lies in several pieces of the guest's memory, seen in one piece.
//!
//! A guest allocates its rings by pages behind its IOMMU, so one that is longer than a page is mostly in pieces here. Rings want their
//! parts whole: an index is an offset. So the pieces are mapped a second time, side by side. That takes pieces that begin and end at
//! page borders, all but the first's beginning and the last's end, and memory in small pages; what is otherwise cannot be seen so.
#![expect(unsafe_code, reason = "maps guest memory a second time")]

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use pmd::sys::sigbus::{Alarm, Guard};
use pmd::virtio::SharedPtr;
use rustix::mm::{MapFlags, MremapFlags, ProtFlags, mmap_anonymous, mremap_fixed, munmap};

use super::misses::PAGE;

/// Host address and length of a piece.
pub(crate) type Piece = (SharedPtr, u64);

/// Pieces of guest memory, mapped side by side. Unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Window {
    pieces: Vec<Piece>,
    map: NonNull<u8>,
    map_len: usize,
    start: SharedPtr,
    /// Dropped before the mapping goes, see `Drop`.
    guard: Option<Guard>,
}

// SAFETY: a mapping is an address range; it may be used and unmapped from any thread.
unsafe impl Send for Window {}
// SAFETY: as above; nothing in it changes after construction.
unsafe impl Sync for Window {}

impl Window {
    /// Maps pieces of guest memory, which are mapped as shared files. `alarm` goes off when one of them loses its file.
    pub(crate) fn new(pieces: &[Piece], alarm: &Arc<Alarm>) -> io::Result<Window> {
        let page = PAGE as usize;
        let unfit = || io::Error::other("its pieces do not begin and end at borders of pages");
        let &(first, _) = pieces.first().ok_or_else(unfit)?;
        let inner = first.addr() % page;
        let (mut end, mut parts) = (inner, Vec::new());
        for &(start, len) in pieces {
            let len = usize::try_from(len).map_err(io::Error::other)?;
            if start.addr() % page != end % page || (end % page != 0 && end != inner) {
                return Err(unfit());
            }
            parts.push((end - end % page, start.addr() % page + len));
            end = end.checked_add(len).ok_or_else(unfit)?;
        }
        let map_len = end.next_multiple_of(page);
        // SAFETY: a new mapping at an address of the kernel's choice; it aliases nothing of ours. It only reserves the range.
        let map =
            unsafe { mmap_anonymous(std::ptr::null_mut(), map_len, ProtFlags::empty(), MapFlags::PRIVATE) }?;
        let map = NonNull::new(map.cast::<u8>()).ok_or(rustix::io::Errno::FAULT)?;
        // SAFETY: inner < page <= map_len.
        let start = SharedPtr::new(unsafe { map.add(inner) });
        let mut window = Window { pieces: pieces.to_vec(), map, map_len, start, guard: None };
        for (&(piece, _), (at, len)) in pieces.iter().zip(parts) {
            // SAFETY: the first page of the piece, which is mapped, to a place inside the range reserved above. An old length of zero
            // leaves the old mapping as it is and maps what it maps once more (mremap(2)), which the kernel refuses for
            // anything but a shared mapping.
            unsafe {
                let old = piece.as_non_null().as_ptr().map_addr(|addr| addr & !(page - 1));
                let new = map.add(at).as_ptr().cast();
                mremap_fixed(old.cast(), 0, len.next_multiple_of(page), MremapFlags::MAYMOVE, new)?;
            }
        }
        window.guard = Some(Guard::new(map.as_ptr().expose_provenance(), map_len, alarm)?);
        Ok(window)
    }

    /// Whether these are its pieces.
    pub(crate) fn shows(&self, pieces: &[Piece]) -> bool {
        self.pieces == pieces
    }

    /// Its first byte.
    pub(crate) fn start(&self) -> SharedPtr {
        self.start
    }

    /// What it shows, in order.
    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.guard = None;
        // SAFETY: the range was mapped in `new`, and whoever could reach it held this window.
        let _ = unsafe { munmap(self.map.as_ptr().cast(), self.map_len) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::super::{Region, RegionSpec};
    use super::*;

    #[test]
    fn pieces_are_seen_side_by_side_and_are_the_same_memory() {
        let file: File = memfd_create("window", MemfdFlags::CLOEXEC).unwrap().into();
        ftruncate(&file, 8 * PAGE).unwrap();
        let alarm = Alarm::new().unwrap();
        let spec = RegionSpec { gpa: 0, len: 8 * PAGE, uva: 0, offset: 0 };
        let region = Region::map(spec, &file, &alarm).unwrap();
        let at = |offset, len| (region.host(offset, len).unwrap(), len);
        let window =
            Window::new(&[at(5 * PAGE - 8, 8), at(2 * PAGE, PAGE), at(7 * PAGE, 100)], &alarm).unwrap();
        for (seen, offset) in
            [(0, 5 * PAGE - 8), (8, 2 * PAGE), (PAGE + 6, 3 * PAGE - 2), (PAGE + 8, 7 * PAGE)]
        {
            // SAFETY: inside the window, and the region.
            unsafe {
                window.start().add(seen as usize).copy_in(&[0xab, seen as u8]);
                let mut there = [0; 2];
                at(offset, 2).0.copy_out(&mut there);
                assert_eq!(there, [0xab, seen as u8]);
            }
        }
        // A gap in the middle of a page cannot be seen over.
        assert!(Window::new(&[at(0, 100), at(PAGE, 100)], &alarm).is_err());
        assert!(Window::new(&[at(0, PAGE), at(PAGE + 8, 100)], &alarm).is_err());
        assert!(Window::new(&[], &alarm).is_err());
    }
}

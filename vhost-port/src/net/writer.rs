//! Writes the pieces of chains one after the other, wherever they are cut.
#![expect(unsafe_code, reason = "writes guest memory")]

use pmd::prefetch::prefetch_bulk_to_write;

use crate::ring::Segment;

/// See the module.
pub(super) struct Writer<'a> {
    segments: &'a [Segment],
    /// Bytes of the first piece already written.
    offset: u32,
}

impl<'a> Writer<'a> {
    /// From the first byte of the first piece on.
    pub(super) fn new(segments: &'a [Segment]) -> Writer<'a> {
        Writer { segments, offset: 0 }
    }

    /// Copies `len` bytes from `from`, as far as the pieces reach.
    pub(super) fn write(&mut self, mut from: *const u8, mut len: usize) {
        while let (Some(segment), true) = (self.segments.first(), len > 0) {
            let n = ((segment.len - self.offset) as usize).min(len);
            prefetch_bulk_to_write(segment.start.addr() + self.offset as usize, n);
            // SAFETY: `from` has `len` readable bytes (a slice or a span); offset + n <= segment.len, which is mapped.
            // Source and target may overlap when a guest lies about its memory, which `copy` allows.
            unsafe {
                let to = segment.start.add(self.offset as usize).as_non_null().as_ptr();
                std::ptr::copy(from, to, n);
                from = from.add(n);
            }
            len -= n;
            self.offset += n as u32;
            if self.offset == segment.len {
                self.segments = &self.segments[1..];
                self.offset = 0;
            }
        }
    }
}

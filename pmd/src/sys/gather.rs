//! Writing a frame that lies in pieces.
#![expect(unsafe_code, reason = "writev from memory that may not be named by reference")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::packet::Frame;

/// Pieces one call can write. More are an error, [`io::ErrorKind::InvalidInput`]; no guest sends a frame in so many.
const PIECES: usize = 128;

/// Writes `prefix` and then the frame in one call.
pub fn write_frame(fd: BorrowedFd<'_>, prefix: &[u8], frame: &Frame<'_>) -> io::Result<usize> {
    let piece = |start: *const u8, len| libc::iovec { iov_base: start.cast_mut().cast(), iov_len: len };
    let mut pieces = [piece(core::ptr::null(), 0); PIECES];
    pieces[0] = piece(prefix.as_ptr(), prefix.len());
    pieces[1] = piece(frame.head.as_ptr(), frame.head.len());
    let mut count = 2;
    frame.for_each_payload(|span| {
        if let Some(place) = pieces.get_mut(count) {
            *place = piece(span.as_ptr(), span.len());
        }
        count += 1;
    });
    if count > PIECES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the pieces name `prefix`, the frame's head and its spans, all readable for the lifetimes borrowed here; the
    // kernel only reads them, and fails with EFAULT rather than fault where a guest's memory has gone.
    let written = unsafe { libc::writev(fd.as_raw_fd(), pieces.as_ptr(), count as libc::c_int) };
    if written < 0 { Err(io::Error::last_os_error()) } else { Ok(written as usize) }
}

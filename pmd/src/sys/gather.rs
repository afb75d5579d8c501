//! Writing a frame that lies in pieces.
#![expect(unsafe_code, reason = "writev from memory that may not be named by reference")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::packet::Frame;

/// Pieces most frames have at most: a TCP frame of 64 KiB from a Linux guest has 17 runs of payload, or fewer.
const FEW: usize = 24;

/// Pieces of a frame that was merged of a burst: a head, and of each packet the rest of its head and its payload.
const MERGED: usize = 2 + 2 * crate::packet::BURST;

/// Pieces one call can write (`UIO_MAXIOV`). More are an error, [`io::ErrorKind::InvalidInput`].
const MANY: usize = 1024;

/// Writes `prefix` and then the frame in one call.
pub fn write_frame(fd: BorrowedFd<'_>, prefix: &[u8], frame: &Frame<'_>) -> io::Result<usize> {
    let mut runs = 0;
    frame.for_each_payload(|_| runs += 1);
    if runs + 2 <= FEW {
        write_pieces::<FEW>(fd, prefix, frame)
    } else if runs + 2 <= MERGED {
        write_pieces::<MERGED>(fd, prefix, frame)
    } else {
        write_scattered(fd, prefix, frame)
    }
}

/// Apart, so that a common frame does not pay for a list this long.
#[cold]
#[inline(never)]
fn write_scattered(fd: BorrowedFd<'_>, prefix: &[u8], frame: &Frame<'_>) -> io::Result<usize> {
    write_pieces::<MANY>(fd, prefix, frame)
}

fn write_pieces<const N: usize>(fd: BorrowedFd<'_>, prefix: &[u8], frame: &Frame<'_>) -> io::Result<usize> {
    let piece = |start: *const u8, len| libc::iovec { iov_base: start.cast_mut().cast(), iov_len: len };
    let mut pieces = [piece(core::ptr::null(), 0); N];
    pieces[0] = piece(prefix.as_ptr(), prefix.len());
    pieces[1] = piece(frame.head.as_ptr(), frame.head.len());
    let mut count = 2;
    frame.for_each_payload(|span| {
        if let Some(place) = pieces.get_mut(count) {
            *place = piece(span.as_ptr(), span.len());
        }
        count += 1;
    });
    if count > N {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the pieces name `prefix`, the frame's head and its spans, all readable for the lifetimes borrowed here; the
    // kernel only reads them, and fails with EFAULT rather than fault where a guest's memory has gone.
    let written = unsafe { libc::writev(fd.as_raw_fd(), pieces.as_ptr(), count as libc::c_int) };
    if written < 0 { Err(io::Error::last_os_error()) } else { Ok(written as usize) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::packet::{Offload, Span};

    #[test]
    fn frames_of_any_number_of_runs() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let bytes: Vec<u8> = (0..MANY as u32).map(|i| (i * 7) as u8).collect();
        for runs in [0, 1, FEW - 2, FEW - 1, MERGED - 2, MERGED - 1, MANY - 2, MANY - 1] {
            let spans: Vec<_> = bytes[..runs].chunks(1).map(Span::from_slice).collect();
            let frame = Frame::new(&[1, 2], Offload::default(), &spans, runs);
            let written = write_frame(writer.as_fd(), &[9; 12], &frame);
            if runs + 2 > MANY {
                assert_eq!(written.unwrap_err().kind(), io::ErrorKind::InvalidInput);
                continue;
            }
            assert_eq!(written.unwrap(), 14 + runs);
            let mut out = vec![0; 14 + runs];
            rustix::io::read(&reader, &mut out[..]).unwrap();
            assert_eq!((&out[..12], &out[12..14], &out[14..]), (&[9; 12][..], &[1, 2][..], &bytes[..runs]));
        }
    }
}

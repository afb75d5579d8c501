//! Sending many frames in one call.
#![expect(unsafe_code, reason = "sendmmsg from memory that may not be named by reference")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::packet::{BURST, CLONES, Frame, HEAD_CAPACITY, HEADROOM};

/// Pieces a frame may have for [`SendMany`]: its head, behind the prefix, and runs of payload.
pub const PIECES: usize = 24;

/// Most frames of one call.
const FRAMES: usize = BURST + CLONES;

/// Room for the pieces of a burst of ordinary frames, or some of large ones.
const ROOM: usize = FRAMES * 4 + PIECES;

/// Longest head: with all of its headroom in use.
const HEAD: usize = HEADROOM + HEAD_CAPACITY;

/// Room for a prefix and a head.
const START: usize = 64 + HEAD;

/// Lists for the kernel, made once and filled for each call; between calls they are empty.
///
/// Prefix and head are put together by a copy of our own, because the kernel takes a message of one piece by a shorter way than one of two.
#[derive(Debug)]
pub struct SendMany<const PREFIX: usize> {
    starts: Vec<[u8; START]>,
    pieces: Vec<libc::iovec>,
    /// Where each frame's pieces end.
    ends: Vec<usize>,
    messages: Vec<libc::mmsghdr>,
}

// SAFETY: the lists hold addresses only while `send` runs.
unsafe impl<const PREFIX: usize> Send for SendMany<PREFIX> {}

impl<const PREFIX: usize> Default for SendMany<PREFIX> {
    fn default() -> Self {
        SendMany {
            starts: vec![[0; START]; FRAMES],
            pieces: Vec::with_capacity(ROOM),
            ends: Vec::with_capacity(FRAMES),
            messages: Vec::with_capacity(FRAMES),
        }
    }
}

impl<const PREFIX: usize> SendMany<PREFIX> {
    const FITS: () = assert!(PREFIX + HEAD <= START);

    /// Whether a frame has few enough pieces, and an ordinary head.
    pub fn takes(frame: &Frame<'_>) -> bool {
        runs(frame) < PIECES && frame.head.len() <= HEAD
    }

    /// Sends frames from the first on, each behind the prefix that `prefix` makes, and returns how many the kernel has taken: at
    /// least one, not always all. Frames that [`SendMany::takes`] does not take end the list.
    ///
    /// # Errors
    /// The kernel refused the first frame.
    pub fn send<'a>(
        &mut self,
        socket: BorrowedFd<'_>,
        frames: impl Iterator<Item = Frame<'a>>,
        prefix: impl Fn(&Frame<'a>) -> [u8; PREFIX],
    ) -> io::Result<usize> {
        const { Self::FITS };
        for (frame, start) in frames.zip(&mut self.starts) {
            // No list may grow: that would cost an allocation.
            if !Self::takes(&frame) || self.pieces.len() + PIECES > ROOM {
                break;
            }
            let len = PREFIX + frame.head.len();
            match start.get_mut(..len).and_then(|start| start.split_first_chunk_mut()) {
                Some((to, head)) => {
                    *to = prefix(&frame);
                    head.copy_from_slice(frame.head);
                    self.pieces.push(piece(start.as_ptr(), len));
                }
                None => break,
            }
            frame.for_each_payload(|span| self.pieces.push(piece(span.as_ptr(), span.len())));
            self.ends.push(self.pieces.len());
        }
        let mut start = 0;
        for &end in &self.ends {
            // SAFETY: mmsghdr is plain data; all zero is a value of it.
            let mut message: libc::mmsghdr = unsafe { core::mem::zeroed() };
            if let Some(pieces) = self.pieces.get_mut(start..end) {
                message.msg_hdr.msg_iov = pieces.as_mut_ptr();
                message.msg_hdr.msg_iovlen = pieces.len() as _;
            }
            self.messages.push(message);
            start = end;
        }
        let count = self.messages.len() as libc::c_uint;
        // SAFETY: the messages name starts of ours and spans of frames, readable for 'a; the kernel only reads them, and
        // fails with EFAULT rather than fault where a guest's memory has gone.
        let sent = unsafe {
            libc::sendmmsg(socket.as_raw_fd(), self.messages.as_mut_ptr(), count, libc::MSG_DONTWAIT)
        };
        let result = if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) };
        self.pieces.clear();
        self.ends.clear();
        self.messages.clear();
        result
    }
}

fn runs(frame: &Frame<'_>) -> usize {
    let mut runs = 0;
    frame.for_each_payload(|_| runs += 1);
    runs
}

fn piece(start: *const u8, len: usize) -> libc::iovec {
    libc::iovec { iov_base: start.cast_mut().cast(), iov_len: len }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::packet::{Offload, Span};

    #[test]
    fn frames_arrive_in_order_and_whole() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut sender: SendMany<2> = SendMany::default();
        let bytes: Vec<u8> = (0..=255).collect();
        let mut received = Vec::new();
        let mut expected = Vec::new();
        let runs_of = [0, 1, 5, PIECES - 1, 3, PIECES, 0];
        let spans: Vec<Vec<Span<'_>>> =
            runs_of.iter().map(|&runs| bytes[..runs].chunks(1).map(Span::from_slice).collect()).collect();
        let frames: Vec<Frame<'_>> = (0u8..)
            .zip(&spans)
            .map(|(i, spans)| {
                Frame::new(&bytes[usize::from(i)..][..4], Offload::default(), spans, spans.len())
            })
            .collect();
        let mut at = 0;
        while at < frames.len() {
            if !SendMany::<2>::takes(&frames[at]) {
                at += 1;
                continue;
            }
            let sent =
                sender.send(ours.as_fd(), frames[at..].iter().copied(), |f| [7, f.len() as u8]).unwrap();
            assert!(sent > 0);
            for frame in &frames[at..at + sent] {
                let mut whole = vec![7, frame.len() as u8];
                whole.resize(2 + frame.len(), 0);
                frame.copy_to(&mut whole[2..]);
                expected.push(whole);
            }
            at += sent;
            let mut buffer = [0; 100];
            while let Ok(n) = theirs.recv(&mut buffer) {
                received.push(buffer[..n].to_vec());
            }
        }
        assert_eq!(received.len(), runs_of.len() - 1);
        assert_eq!(received, expected);
    }

    #[test]
    fn heads_of_any_length_go_behind_their_prefix() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let bytes: Vec<u8> = (0..=HEAD).map(|i| i as u8).collect();
        let frame = |len| Frame::new(&bytes[..len], Offload::default(), &[], 0);
        let mut sender: SendMany<10> = SendMany::default();
        for len in [0, 1, 60, HEAD_CAPACITY, HEAD] {
            assert!(SendMany::<10>::takes(&frame(len)));
            assert_eq!(sender.send(ours.as_fd(), [frame(len)].into_iter(), |_| [7; 10]).unwrap(), 1);
            let mut buffer = [0; 1000];
            let got = theirs.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..got], [&[7; 10][..], &bytes[..len]].concat());
        }
        assert!(!SendMany::<10>::takes(&frame(HEAD + 1)));
    }

    #[test]
    fn a_refusal_of_the_first_frame_is_an_error() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        drop(theirs);
        let frame = Frame::new(&[1, 2, 3], Offload::default(), &[], 0);
        let mut sender: SendMany<1> = SendMany::default();
        assert!(sender.send(ours.as_fd(), [frame].into_iter(), |_| [0]).is_err());
    }
}

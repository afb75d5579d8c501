//! A front-end that says exactly what a test tells it to, byte by byte, and reads exactly what comes back.

use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const GET_FEATURES: u32 = 1;
pub(crate) const GET_PROTOCOL_FEATURES: u32 = 15;
/// Version 1, and the bit that asks for an answer.
pub(crate) const PLAIN: u32 = 1;
pub(crate) const NEED_REPLY: u32 = 9;

/// A connection to a port.
pub(crate) struct Raw(pub(crate) UnixStream);

/// An answer: its request code and its body.
pub(crate) type Answer = (u32, Vec<u8>);

impl Raw {
    pub(crate) fn connect(path: &Path) -> Raw {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Raw(stream)
    }

    /// Sends a message with descriptors. False when the port has hung up.
    pub(crate) fn send(&self, code: u32, flags: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        self.send_bytes(&message(code, flags, body), fds)
    }

    pub(crate) fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(fds)));
        sendmsg(&self.0, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).is_ok()
    }

    /// The next answer, or none when the port has hung up.
    pub(crate) fn answer(&mut self) -> Option<Answer> {
        let mut header = [0; 12];
        if let Err(e) = self.0.read_exact(&mut header) {
            assert_ne!(e.kind(), std::io::ErrorKind::WouldBlock, "the port neither answers nor hangs up");
            return None;
        }
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        assert_eq!(word(4), 5, "an answer has version 1 and the reply flag");
        let mut body = vec![0; word(8) as usize];
        self.0.read_exact(&mut body).ok()?;
        Some((word(0), body))
    }

    /// Sends a message, and a harmless question behind it: what comes before the answer to that is the answer to the message.
    pub(crate) fn answers(
        &mut self,
        code: u32,
        flags: u32,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Vec<Answer> {
        let question = if code == GET_FEATURES { GET_PROTOCOL_FEATURES } else { GET_FEATURES };
        self.send(code, flags, body, fds);
        self.send(question, PLAIN, &[], &[]);
        std::iter::from_fn(|| self.answer().filter(|answer| answer.0 != question)).collect()
    }
}

pub(crate) fn message(code: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let words = [code, flags, body.len() as u32];
    words.into_iter().flat_map(u32::to_le_bytes).chain(body.iter().copied()).collect()
}

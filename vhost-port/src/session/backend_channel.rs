//! The back-end's own channel: messages from us to the front-end, on the socket of SET_BACKEND_REQ_FD.
//!
//! The `vhost` crate's `Backend` knows only some of them and does not show its socket, so that message is taken before the
//! crate sees it ([`super::divert`]) and the socket is ours.
//!
//! Nothing here waits: a front-end that does not read its end would hold up the control thread, and so its own next message. What
//! does not fit now is refused with [`SendError::Full`], and the sender tries again later or lets it be. No reply is ever asked
//! for: a front-end that is busy with us (QEMU waits for acknowledgements with its lock held) would answer too late to be of use.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::sockopt::{socket_domain, socket_type};
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketType, sendmsg};

/// Header of a message from us: request, flags, bytes that follow.
const HEADER: usize = 12;
/// Longest body of a message from us.
const MAX_BODY: usize = 64;
const VERSION: u32 = 1;

/// Requests of a back-end, with their numbers in the specification ("Back-end message types").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum BackendRequest {
    /// A translation is missing.
    Iotlb = 1,
    /// The configuration space has changed.
    ConfigChange = 2,
    /// A ring can be kicked by writing to a page, or no more.
    HostNotifier = 3,
}

/// Why a message was not sent.
#[derive(thiserror::Error, Debug)]
pub(super) enum SendError {
    /// The front-end has not read enough of what was sent before.
    #[error("the front-end does not read the back-end channel")]
    Full,
    /// The channel is of no use any more.
    #[error("the back-end channel broke: {0}")]
    Broken(io::Error),
}

/// The channel of one connection.
#[derive(Debug)]
pub(super) struct BackendChannel {
    socket: OwnedFd,
}

impl BackendChannel {
    /// Takes the descriptor a front-end sent, if it is a unix stream socket.
    pub(super) fn new(socket: OwnedFd) -> Result<BackendChannel, String> {
        let kind = socket_domain(&socket).and_then(|domain| Ok((domain, socket_type(&socket)?)));
        match kind {
            Ok((AddressFamily::UNIX, SocketType::STREAM)) => Ok(BackendChannel { socket }),
            Ok(_) | Err(Errno::NOTSOCK) => {
                Err("SET_BACKEND_REQ_FD with a descriptor that is no unix stream socket".to_owned())
            }
            Err(e) => Err(format!("SET_BACKEND_REQ_FD: cannot look at the descriptor: {e}")),
        }
    }

    /// Sends a message of at most 64 bytes, at once or not at all.
    pub(super) fn send(&self, request: BackendRequest, body: &[u8]) -> Result<(), SendError> {
        self.send_with(request, body, None)
    }

    /// The same with a descriptor, which the front-end must have agreed to (SEND_FD).
    pub(super) fn send_with(
        &self,
        request: BackendRequest,
        body: &[u8],
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<(), SendError> {
        let mut bytes = [0; HEADER + MAX_BODY];
        let message = bytes.get_mut(..HEADER + body.len());
        let message = message.ok_or_else(|| SendError::Broken(io::Error::other("message too long")))?;
        for (at, word) in [request as u32, VERSION, body.len() as u32].into_iter().enumerate() {
            message[at * 4..at * 4 + 4].copy_from_slice(&word.to_le_bytes());
        }
        message[HEADER..].copy_from_slice(body);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptor = descriptor.as_slice();
        if !descriptor.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptor)) {
            return Err(SendError::Broken(io::Error::other("no room for a descriptor")));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match sendmsg(&self.socket, &[IoSlice::new(message)], &mut ancillary, flags) {
            Ok(sent) if sent == message.len() => Ok(()),
            // The rest would have to come before anything else. The kernel does not cut messages this short.
            Ok(_) => Err(SendError::Broken(io::Error::other("a message was cut"))),
            Err(Errno::AGAIN) => Err(SendError::Full),
            Err(e) => Err(SendError::Broken(e.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    #[test]
    fn messages_arrive_whole_until_nobody_reads() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let channel = BackendChannel::new(ours.into()).unwrap();
        let mut sent = 0u32;
        let full = loop {
            match channel.send(BackendRequest::Iotlb, &sent.to_le_bytes()) {
                Ok(()) => sent += 1,
                Err(e) => break e,
            }
        };
        assert!(matches!(full, SendError::Full), "{full}");
        for number in 0..sent {
            let mut message = [0; HEADER + 4];
            theirs.read_exact(&mut message).unwrap();
            assert_eq!(message[..HEADER], [1, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0]);
            assert_eq!(message[HEADER..], number.to_le_bytes());
        }
        channel.send(BackendRequest::Iotlb, &[]).unwrap();
        drop(theirs);
        let broken = channel.send(BackendRequest::Iotlb, &[]).unwrap_err();
        assert!(matches!(broken, SendError::Broken(_)), "{broken}");
    }

    #[test]
    fn only_a_unix_stream_socket_will_do() {
        let refused = |fd: OwnedFd| BackendChannel::new(fd).unwrap_err();
        assert!(refused(std::fs::File::open("/dev/null").unwrap().into()).contains("no unix stream"));
        assert!(refused(UnixDatagram::unbound().unwrap().into()).contains("no unix stream"));
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(refused(udp.into()).contains("no unix stream"));
    }
}

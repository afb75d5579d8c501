//! A vhost-user front-end that says whatever it is told to: raw messages with file descriptors over the socket.
//!
//! Written against the specification (<https://qemu-project.gitlab.io/qemu/interop/vhost-user.html>), not with the
//! `vhost` crate: the crate's front-end refuses to send what must be tried here.

use std::io::{ErrorKind, IoSlice, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pmd::port::Port;
use rustix::io::retry_on_intr;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tempfile::TempDir;
use vhost_port::{Mode, VhostConfig, VhostPort};

/// A listening port in a folder of its own.
pub(super) struct Listening {
    pub(super) port: Arc<dyn Port>,
    path: PathBuf,
    _folder: TempDir,
}

impl Listening {
    pub(super) fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("port");
        let config =
            VhostConfig { max_queue_pairs: 2, ..VhostConfig::new("fuzzed", Mode::Listen(path.clone())) };
        let port = VhostPort::open(config).unwrap();
        Self { port, path, _folder: folder }
    }

    pub(super) fn connect(&self) -> FrontEnd {
        FrontEnd::connect(&self.path)
    }
}

/// One connection to the port.
pub(super) struct FrontEnd {
    stream: UnixStream,
}

impl FrontEnd {
    fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        // Far longer than any answer takes: a back-end that is silent for so long hangs.
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { stream }
    }

    /// Sends a message; false when the port has hung up.
    pub(super) fn send(&self, request: u32, flags: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        let mut message = Vec::with_capacity(12 + payload.len());
        for field in [request, flags, u32::try_from(payload.len()).unwrap()] {
            message.extend_from_slice(&field.to_le_bytes());
        }
        message.extend_from_slice(payload);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let data = [IoSlice::new(&message)];
        retry_on_intr(|| sendmsg(self.stream.as_fd(), &data, &mut control, SendFlags::NOSIGNAL)).is_ok()
    }

    /// Sends GET_FEATURES and waits for the answer: everything sent before has then been handled.
    pub(super) fn settle(&mut self) -> bool {
        const GET_FEATURES: u32 = 1;
        let mut answer = [0; 20];
        self.send(GET_FEATURES, 1, &[], &[]) && self.stream.read_exact(&mut answer).is_ok()
    }

    /// Says that nothing more comes and waits until the port has hung up too.
    pub(super) fn finish(mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
        let mut sink = [0; 4096];
        loop {
            match self.stream.read(&mut sink) {
                Ok(0) => break,
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => panic!("the session hangs"),
                // libFuzzer's timer.
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    }
}

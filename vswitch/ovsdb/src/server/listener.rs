//! The listening socket and its thread.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;

use super::mailbox::Mailbox;
use super::session::Session;
use super::shared::{Limits, Methods, Shared};
use crate::jsonrpc::error_reply;
use crate::{Db, ErrorKind, OvsdbError};

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another process answers there.
    #[error("{0} is in use: another process listens there; stop it or choose another --rundir")]
    InUse(String),
    /// Something that is not a socket has the name.
    #[error("{0} exists and is not a socket; move it away or choose another --rundir")]
    NotASocket(String),
    /// The kernel refused.
    #[error("{path}: {what}: {source}; check that the directory exists and this user may write to it")]
    System {
        /// The socket.
        path: String,
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The database about databases could not be built.
    #[error(transparent)]
    Database(#[from] OvsdbError),
}

/// Starts serving.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Serves `db` (and `_Server`) on a unix stream socket at `path`, with `methods` beside RFC 7047's.
    /// A stale socket file is replaced; a live one is an error. Stops when the handle is dropped.
    pub fn start(db: &Db, path: &Path, methods: Arc<dyn Methods>) -> Result<ServerHandle, ServerError> {
        Self::start_with(db, path, methods, Limits::default())
    }

    /// [`Server::start`] under other limits.
    pub fn start_with(
        db: &Db,
        path: &Path,
        methods: Arc<dyn Methods>,
        limits: Limits,
    ) -> Result<ServerHandle, ServerError> {
        let shared = Arc::new(Shared::new(db, methods, limits)?);
        let system =
            |what| move |source| ServerError::System { path: path.display().to_string(), what, source };
        clear_stale(path)?;
        let listener = UnixListener::bind(path).map_err(system("cannot listen"))?;
        listener.set_nonblocking(true).map_err(system("cannot set up"))?;
        let inode = std::fs::metadata(path).map(|data| data.ino()).map_err(system("cannot stat"))?;
        let mailbox = Arc::new(Mailbox::new().map_err(system("cannot make an eventfd"))?);
        let accept = Acceptor {
            shared: Arc::clone(&shared),
            listener,
            mailbox: Arc::clone(&mailbox),
            sessions: vec![],
        };
        let thread = std::thread::Builder::new()
            .name("ovsdb".to_owned())
            .spawn(move || accept.run())
            .map_err(system("cannot start a thread"))?;
        Ok(ServerHandle { shared, mailbox, thread: Some(thread), path: path.to_owned(), inode })
    }
}

fn clear_stale(path: &Path) -> Result<(), ServerError> {
    let name = || path.display().to_string();
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(ServerError::NotASocket(name()));
    }
    match UnixStream::connect(path) {
        Err(fault) if fault.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            return Err(ServerError::System { path: name(), what: "belongs to another user", source });
        }
        _ => return Err(ServerError::InUse(name())),
    }
    std::fs::remove_file(path).map_err(|source| ServerError::System {
        path: name(),
        what: "cannot remove the stale socket",
        source,
    })
}

/// A running server. Dropping it closes every connection, waits for the threads and removes the socket.
pub struct ServerHandle {
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
    thread: Option<JoinHandle<()>>,
    path: PathBuf,
    inode: u64,
}

impl ServerHandle {
    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Stops serving, as dropping does.
    pub fn stop(self) {}
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.mailbox.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("{}: the listening thread panicked", self.path.display());
        }
        // Only our own: a successor may have put its socket there.
        if std::fs::metadata(&self.path).is_ok_and(|data| data.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

struct Acceptor {
    shared: Arc<Shared>,
    listener: UnixListener,
    mailbox: Arc<Mailbox>,
    sessions: Vec<(Arc<Mailbox>, JoinHandle<()>)>,
}

impl Acceptor {
    fn run(mut self) {
        while !self.shared.stop.load(Ordering::Acquire) {
            let mut fds = [
                PollFd::new(&self.listener, PollFlags::IN),
                PollFd::from_borrowed_fd(self.mailbox.fd(), PollFlags::IN),
            ];
            if let Err(fault) = poll(&mut fds, None)
                && fault != rustix::io::Errno::INTR
            {
                log::error!("management socket: poll: {fault}");
                break;
            }
            self.mailbox.take();
            self.reap();
            match self.listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {}
                Err(fault) => {
                    // Out of descriptors, most likely: wait for some to come back instead of spinning.
                    log::warn!("management socket: accept: {fault}");
                    let pause = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
                    let _ =
                        poll(&mut [PollFd::from_borrowed_fd(self.mailbox.fd(), PollFlags::IN)], Some(&pause));
                }
            }
        }
        for (mailbox, _) in &self.sessions {
            mailbox.wake();
        }
        for (_, thread) in self.sessions.drain(..) {
            report(&thread.join());
        }
    }

    fn reap(&mut self) {
        let (done, alive) =
            std::mem::take(&mut self.sessions).into_iter().partition(|(_, t)| t.is_finished());
        self.sessions = alive;
        for (_, thread) in done {
            report(&thread.join());
        }
    }

    fn admit(&mut self, stream: UnixStream) {
        let limit = self.shared.limits.clients;
        if self.sessions.len() >= limit {
            let details = format!("{limit} clients are connected, the most this server takes; close some");
            let fault = OvsdbError::new(ErrorKind::ResourcesExhausted, details);
            turn_away(&stream, &fault);
            return;
        }
        let started = Mailbox::new().map(Arc::new).and_then(|mailbox| {
            let session = Session::new(Arc::clone(&self.shared), stream, Arc::clone(&mailbox))?;
            let wake = Arc::clone(&self.mailbox);
            let thread = std::thread::Builder::new().name("ovsdb-client".to_owned()).spawn(move || {
                session.run();
                wake.wake();
            })?;
            Ok((mailbox, thread))
        });
        match started {
            Ok(session) => self.sessions.push(session),
            Err(fault) => log::warn!("management socket: cannot serve a client: {fault}"),
        }
    }
}

fn report(ended: &std::thread::Result<()>) {
    if ended.is_err() {
        log::error!("management socket: a client's thread panicked; that client was closed");
    }
}

fn turn_away(stream: &UnixStream, fault: &OvsdbError) {
    log::warn!("management socket: {fault}");
    let message = error_reply(&Value::Null, &fault.to_json()).to_string();
    let _ = stream.set_write_timeout(Some(Duration::from_millis(1)));
    let _ = rustix::io::write(stream.as_fd(), message.as_bytes());
}

//! Getting a connection: listening, or connecting again and again.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pmd::port::PmdError;
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::config::VhostConfig;

/// First and longest pause between attempts to connect.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// A listening socket of ours; its path goes with it.
pub(crate) struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Listens on the configured path. A socket file that no process listens on is replaced.
    pub(crate) fn bind(config: &VhostConfig, path: &Path) -> Result<Listener, PmdError> {
        let socket = bind_over_stale(config, path)?;
        let fail = |what: &str, e: io::Error| {
            let what = format!("{}: cannot {what} socket {}", config.name, path.display());
            PmdError::system(what, "run as root or as its owner", e)
        };
        let listener = Listener { socket, path: path.to_owned() };
        if let Some(mode) = config.socket_mode {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode & 0o777))
                .map_err(|e| fail("set the mode of", e))?;
        }
        if let Some((owner, group)) = config.socket_owner {
            rustix::fs::chown(path, owner.map(Uid::from_raw), group.map(Gid::from_raw))
                .map_err(|e| fail("set the owner of", e.into()))?;
        }
        listener.socket.set_nonblocking(true).map_err(|e| fail("set up", e))?;
        Ok(listener)
    }

    /// Descriptor that becomes readable when somebody connects.
    pub(crate) fn socket(&self) -> &UnixListener {
        &self.socket
    }

    /// The next client, if one waits.
    pub(crate) fn accept(&self) -> io::Result<Option<UnixStream>> {
        match self.socket.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                Ok(Some(stream))
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Somebody may have removed it already; nothing to do about it either way.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn bind_over_stale(config: &VhostConfig, path: &Path) -> Result<UnixListener, PmdError> {
    let name = &config.name;
    let at = path.display();
    let fail = |e: io::Error| {
        let remedy = match e.kind() {
            io::ErrorKind::NotFound => "create the directory first",
            io::ErrorKind::PermissionDenied => "the directory must be writable for this user",
            io::ErrorKind::InvalidInput => "a socket path can have at most 107 bytes",
            _ => "",
        };
        PmdError::system(format!("{name}: cannot listen on {at}"), remedy, e)
    };
    match UnixListener::bind(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
        other => return other.map_err(fail),
    }
    let kind = std::fs::symlink_metadata(path).map_err(fail)?.file_type();
    if !kind.is_socket() {
        return Err(PmdError::Config(format!(
            "{name}: {at} exists and is no socket; remove it or choose another path"
        )));
    }
    match try_connect(path) {
        // Nobody listens: left behind by a process that died.
        Err(Errno::CONNREFUSED) => {}
        Err(Errno::NOENT) => return UnixListener::bind(path).map_err(fail),
        _ => {
            return Err(PmdError::Config(format!(
                "{name}: socket path in use: a running process listens on {at}; stop it or choose another path"
            )));
        }
    }
    log::info!("{name}: replacing the stale socket {at}");
    std::fs::remove_file(path).map_err(fail)?;
    UnixListener::bind(path).map_err(fail)
}

/// One attempt, without waiting: a listener whose backlog is full would block a plain connect.
fn try_connect(path: &Path) -> Result<UnixStream, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}

/// An attempt that failed.
pub(crate) struct Failed {
    pub(crate) error: Errno,
    /// How long to wait before the next.
    pub(crate) pause: Duration,
}

/// Attempts to connect, with pauses that grow.
pub(crate) struct Connector {
    pause: Duration,
    /// The error logged last, so that only changes are logged.
    logged: Option<Errno>,
}

impl Connector {
    pub(crate) fn new() -> Connector {
        Connector { pause: RETRY.0, logged: None }
    }

    /// Tries once.
    pub(crate) fn attempt(&mut self, name: &str, path: &Path) -> Result<UnixStream, Failed> {
        let error = match try_connect(path) {
            Ok(stream) => match stream.set_nonblocking(false) {
                Ok(()) => {
                    *self = Connector::new();
                    return Ok(stream);
                }
                Err(_) => Errno::IO,
            },
            Err(e) => e,
        };
        if self.logged != Some(error) {
            log::info!("{name}: waiting for a listener on {}: {error}", path.display());
            self.logged = Some(error);
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(RETRY.1);
        Err(Failed { error, pause })
    }
}

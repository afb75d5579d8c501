//! The control thread: one connection after the other, until the port is dropped.

use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use pmd::port::PmdError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vhost::vhost_user::{BackendReqHandler, Error as VhostError};

use super::divert::{Event, next_event};
use super::endpoint::{Connector, Listener};
use super::machine::Session;
use crate::config::Mode;
use crate::net::Shared;
use crate::vdpa::Offload;

/// Starts a port's control thread. In listening mode the socket exists on return.
pub(crate) fn start(shared: &Arc<Shared>) -> Result<JoinHandle<()>, PmdError> {
    let listener = match &shared.config.mode {
        Mode::Listen(path) => Some(Listener::bind(&shared.config, path)?),
        Mode::Connect(_) => None,
    };
    let name = &shared.config.name;
    let thread = std::thread::Builder::new().name(format!("vhost:{name}"));
    let theirs = Arc::clone(shared);
    thread
        .spawn(move || {
            match listener {
                Some(listener) => listen(&theirs, &listener),
                None => connect(&theirs),
            }
            // Queues may keep the rest of the port for a while.
            theirs.vdpa.parked().clear();
        })
        .map_err(|e| PmdError::system(format!("{name}: control thread"), "raise the limit of threads", e))
}

/// Frees a control thread that is blocked sending to a front-end that does not read.
pub(crate) fn interrupt(shared: &Shared) {
    if let Some(connection) = shared.connection().as_ref() {
        // An error says that it is closed already.
        let _ = connection.shutdown(Shutdown::Both);
    }
}

fn stopping(shared: &Shared) -> bool {
    shared.stop.load(Ordering::Acquire)
}

fn listen(shared: &Arc<Shared>, listener: &Listener) {
    let mut failed = false;
    while !stopping(shared) {
        open_devices(shared);
        match listener.accept() {
            Ok(Some(stream)) => serve(shared, stream),
            Ok(None) => idle(shared, Some(listener), None),
            Err(e) => {
                if !failed {
                    log::error!("{}: accept on {}: {e}", shared.config.name, shared.path().display());
                }
                failed = true;
                idle(shared, None, Some(Duration::from_secs(1)));
                continue;
            }
        }
        failed = false;
    }
}

fn connect(shared: &Arc<Shared>) {
    let mut connector = Connector::new();
    while !stopping(shared) {
        open_devices(shared);
        match connector.attempt(&shared.config.name, shared.path()) {
            Ok(stream) => {
                serve(shared, stream);
                // A front-end that accepts and hangs up at once must not make us spin.
                idle(shared, None, Some(Duration::from_millis(100)));
            }
            Err(attempt) => {
                // The operator cannot see a log line of an hour ago; the status stays.
                let reason = Some(attempt.error.to_string());
                let before = std::mem::replace(&mut shared.peer().waiting, reason.clone());
                if before != reason {
                    shared.changed();
                }
                idle(shared, None, Some(attempt.pause));
            }
        }
    }
}

/// Opens what devices the operator wants by now, while there is no front-end.
fn open_devices(shared: &Shared) {
    let mut devices = Offload::resume(&shared.vdpa);
    if devices.follow(&shared.vdpa) {
        shared.vdpa.status().error = devices.trouble();
        shared.changed();
    }
    devices.park(&shared.vdpa);
}

/// Waits for a client, the alarm, or the pause, whichever comes first.
fn idle(shared: &Shared, listener: Option<&Listener>, pause: Option<Duration>) {
    let alarm = PollFd::from_borrowed_fd(shared.alarm.as_fd(), PollFlags::IN);
    let timeout =
        pause.map(|p| Timespec { tv_sec: p.as_secs() as i64, tv_nsec: i64::from(p.subsec_nanos()) });
    // An interrupted wait is a short one: the caller looks again.
    let _ = match listener {
        Some(l) => {
            poll(&mut [alarm, PollFd::from_borrowed_fd(l.socket().as_fd(), PollFlags::IN)], timeout.as_ref())
        }
        None => poll(&mut [alarm], timeout.as_ref()),
    };
    if !stopping(shared) {
        shared.alarm.clear();
    }
}

/// Serves one front-end until it goes, errs, or the port is dropped.
pub(crate) fn serve(shared: &Arc<Shared>, stream: UnixStream) {
    let name = &shared.config.name;
    let clones = stream.try_clone().and_then(|peeking| Ok((peeking, stream.try_clone()?)));
    let (mut socket, for_interrupt) = match clones {
        Ok(clones) => clones,
        Err(e) => {
            log::error!("{name}: cannot duplicate the connection: {e}; raise the limit of open files");
            return;
        }
    };
    *shared.connection() = Some(for_interrupt);
    log::info!("{name}: front-end connected on {}", shared.path().display());
    let session = Arc::new(Mutex::new(Session::open(Arc::clone(shared))));
    let mut handler = BackendReqHandler::from_stream(stream, Arc::clone(&session));
    let locked = || session.lock().unwrap_or_else(PoisonError::into_inner);
    let outcome = loop {
        if stopping(shared) {
            break Ok(());
        }
        let (kicks, patience, arriving) = {
            let session = locked();
            let patience = session.patience().into_iter().chain(session.offload_patience()).min();
            (session.awaited(), patience, session.arriving())
        };
        let result = match next_event(&mut socket, &shared.alarm, &kicks, patience, arriving) {
            Event::Attention => {
                shared.alarm.clear();
                let mut session = locked();
                session.attend();
                session.take_pages()
            }
            Event::ForCrate => match handler.handle_request() {
                Err(VhostError::Disconnected) => break Ok(()),
                other => other.map_err(|e| locked().explain(&e)),
            },
            Event::Ours { code, request, need_reply } => {
                locked().divert(&mut socket, code, request, need_reply)
            }
            Event::Closed => break Ok(()),
            Event::Bad(what) => Err(what),
        };
        locked().settle_engine();
        locked().complete_log();
        locked().tell();
        match result {
            Ok(()) => locked().answered(),
            Err(what) => break Err(what),
        }
    };
    *shared.connection() = None;
    let error = match outcome {
        Ok(()) => {
            log::info!("{name}: front-end disconnected");
            None
        }
        Err(what) => {
            log::error!("{name}: connection closed: {what}");
            Some(format!("vhost-user connection closed: {what}"))
        }
    };
    locked().close(error);
}

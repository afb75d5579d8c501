//! The control thread: one conversation after the other, until the port is dropped.
//!
//! Rings are made anew for each. They reach their owners as values: the receive ring through a place that its queue looks at when a number has
//! changed, the transmit ring behind the lock that its users share. So a worker never waits for this thread.

use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use pmd::port::PmdError;
use pmd::virtio::features::{VIRTIO_F_RING_PACKED, VIRTIO_NET_F_MRG_RXBUF};
use pmd::virtio::net_driver::{NetRxRing, NetTxRing, device_offloads};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::memory::Memory;
use super::port::{LiveRx, LiveTx, Shared};
use super::session::{Session, kick};
use crate::config::Mode;
use crate::session::{Connector, Listener};

/// How long a back-end may take for one answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Pause after a conversation, so that a back-end that accepts and hangs up does not make us spin.
const PAUSE: Duration = Duration::from_millis(100);

/// Starts the thread. In listening mode the socket exists on return.
pub(super) fn start(shared: &Arc<Shared>) -> Result<JoinHandle<()>, PmdError> {
    let listener = match &shared.socket.mode {
        Mode::Listen(path) => Some(Listener::bind(&shared.socket, path)?),
        Mode::Connect(_) => None,
    };
    let theirs = shared.clone();
    let thread = std::thread::Builder::new().name("virtio-user".into());
    thread.spawn(move || run(&theirs, listener.as_ref())).map_err(|e| {
        PmdError::system(format!("{}: control thread", shared.socket.name), "raise the limit of threads", e)
    })
}

fn run(shared: &Shared, listener: Option<&Listener>) {
    let mut connector = Connector::new();
    while !shared.stopping() {
        let stream = match listener {
            Some(listener) => match listener.accept() {
                Ok(Some(stream)) => stream,
                Ok(None) => {
                    wait(shared, Some(listener), None);
                    continue;
                }
                Err(error) => {
                    shared.say(Some(format!("accepting on {}: {error}", shared.path().display())));
                    wait(shared, None, Some(Duration::from_secs(1)));
                    continue;
                }
            },
            None => match connector.attempt(&shared.socket.name, shared.path()) {
                Ok(stream) => stream,
                Err(attempt) => {
                    wait(shared, None, Some(attempt.pause));
                    continue;
                }
            },
        };
        let outcome = serve(shared, stream);
        shared.disconnect();
        if !shared.stopping() {
            shared.say(outcome.err());
            wait(shared, None, Some(PAUSE));
        }
    }
}

/// One conversation, until the back-end goes, errs, or the port is dropped.
fn serve(shared: &Shared, stream: UnixStream) -> Result<(), String> {
    let text = |e: std::io::Error| format!("setting up the connection: {e}");
    stream.set_read_timeout(Some(ANSWER)).map_err(text)?;
    stream.set_write_timeout(Some(ANSWER)).map_err(text)?;
    let copy = stream.try_clone().map_err(text)?;
    *shared.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(copy);
    let mut session = Session::negotiate(stream, &shared.wanted).map_err(|e| e.to_string())?;
    let (features, pairs) = (session.features(), session.pairs());
    let memory = Memory::create(&shared.socket.name, pairs, features).map_err(|e| e.to_string())?;
    let rings = make_rings(&memory, pairs, features)?;
    session.start(&memory.region(), |index| memory.place(index)).map_err(|e| e.to_string())?;
    for (pair, (rx, tx)) in rings.into_iter().enumerate() {
        let events = |ring| Some((session.kick_fd(ring)?.clone(), session.call_fd(ring)?.clone()));
        let Some(((rx_kick, call), (tx_kick, _))) = events(2 * pair).zip(events(2 * pair + 1)) else {
            continue;
        };
        kick(&rx_kick);
        let arena = memory.arena().clone();
        shared.give_rx(pair, Some(LiveRx { ring: rx, kick: rx_kick, call, arena: arena.clone() }));
        shared.give_tx(pair, Some(LiveTx { ring: tx, kick: tx_kick, arena }));
    }
    let packed = features & VIRTIO_F_RING_PACKED != 0;
    log::info!(
        "{}: back-end connected on {}, {pairs} queue pairs, {} rings",
        shared.socket.name,
        shared.path().display(),
        if packed { "packed" } else { "split" }
    );
    shared.connect(pairs, features);
    watch(shared, &session)
}

pub(super) type Rings = Vec<(NetRxRing, NetTxRing)>;

/// The driver's side of all rings, before the back-end hears of them: what it must find zero is zero now.
pub(super) fn make_rings(memory: &Memory, pairs: u16, features: u64) -> Result<Rings, String> {
    let caps = device_offloads(features);
    let ring = |index| memory.ring(index).ok_or_else(|| format!("ring {index} cannot be made"));
    (0..usize::from(pairs))
        .map(|pair| {
            // It is told by a kick once it knows the ring.
            let rx = NetRxRing::new(ring(2 * pair)?, features & VIRTIO_NET_F_MRG_RXBUF != 0);
            Ok((rx, NetTxRing::new(ring(2 * pair + 1)?, caps)))
        })
        .collect()
}

/// Waits for the end of the conversation.
fn watch(shared: &Shared, session: &Session) -> Result<(), String> {
    loop {
        let socket = session.socket();
        let mut fds = [
            PollFd::new(&socket, PollFlags::IN),
            PollFd::from_borrowed_fd(shared.alarm.as_fd(), PollFlags::IN),
        ];
        // An interrupted wait is a short one.
        let _ = poll(&mut fds, None);
        let said = fds[0].revents();
        shared.alarm.clear();
        if shared.stopping() || said.intersects(PollFlags::HUP | PollFlags::ERR) {
            log::info!("{}: back-end disconnected", shared.socket.name);
            return Ok(());
        }
        if let Some(fault) = shared.fault() {
            return Err(fault);
        }
        if said.contains(PollFlags::IN) {
            return Err("the back-end sent a message that nobody asked for".into());
        }
    }
}

/// Waits for a client, the alarm, or the pause, whichever comes first.
fn wait(shared: &Shared, listener: Option<&Listener>, pause: Option<Duration>) {
    let alarm = PollFd::from_borrowed_fd(shared.alarm.as_fd(), PollFlags::IN);
    let pause =
        pause.map(|p| Timespec { tv_sec: p.as_secs().cast_signed(), tv_nsec: p.subsec_nanos().into() });
    // As above.
    let _ = match listener {
        Some(l) => {
            poll(&mut [alarm, PollFd::from_borrowed_fd(l.socket().as_fd(), PollFlags::IN)], pause.as_ref())
        }
        None => poll(&mut [alarm], pause.as_ref()),
    };
    if !shared.stopping() {
        shared.alarm.clear();
    }
}

/// Has the thread end soon, also when it waits for an answer.
pub(super) fn interrupt(shared: &Shared) {
    shared.stop.store(true, Ordering::Release);
    shared.alarm.wake();
    if let Some(connection) = &*shared.connection.lock().unwrap_or_else(PoisonError::into_inner) {
        // An error says that it is closed already.
        let _ = connection.shutdown(Shutdown::Both);
    }
}

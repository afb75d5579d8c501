//! Kicks of a guest, passed on to a device that cannot hear them itself.
//!
//! A guest's kick is a write to an eventfd. Some devices have the kernel watch it; others have a register that must be written. For those a
//! thread of its own waits for the eventfds and writes the registers. It is what stands between guest and device until the
//! guest has been given the registers ([`DoorbellPage`](super::DoorbellPage)), and where it cannot be. Costs the CPU time of one
//! wake-up per kick, and nothing while the guest is quiet.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::{Errno, read, write};

use super::device::Doorbell;

/// A ring's eventfd and what it is to ring.
pub(crate) type Line = (Arc<OwnedFd>, Arc<dyn Doorbell>);

/// The thread. It ends when this is dropped; no doorbell is rung after that.
pub(crate) struct KickRelay {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl KickRelay {
    /// Passes kicks on from now on. One that came before, and nobody took, is passed on as well. None where there is nothing to pass on.
    pub(crate) fn start(port: &str, lines: Vec<Line>) -> io::Result<Option<KickRelay>> {
        if lines.is_empty() {
            return Ok(None);
        }
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name(format!("kicks:{port}"));
        let thread = thread.spawn(move || relay(&stopped, &lines))?;
        Ok(Some(KickRelay { stop, thread: Some(thread) }))
    }
}

impl Drop for KickRelay {
    fn drop(&mut self) {
        // A fresh eventfd takes it.
        let _ = write(&self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // A doorbell that panics has ended the thread already.
            let _ = thread.join();
        }
    }
}

fn relay(stop: &OwnedFd, lines: &[Line]) {
    let mut fds: Vec<_> = std::iter::once(PollFd::new(stop, PollFlags::IN))
        .chain(lines.iter().map(|(kick, _)| PollFd::new(kick, PollFlags::IN)))
        .collect();
    loop {
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return log::error!("cannot wait for kicks any more: {e}"),
        }
        let ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        if ready(0) {
            return;
        }
        for (at, (kick, doorbell)) in lines.iter().enumerate() {
            if ready(at + 1) {
                // Before the bell, so that a kick which comes meanwhile is seen. It does not block.
                let _ = read(kick, &mut [0; 8]);
                doorbell.ring();
            }
        }
    }
}

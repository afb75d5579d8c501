//! How other threads reach a session asleep in `poll`: a list of messages and an eventfd.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use serde_json::Value;

/// Wakes one thread.
#[derive(Debug)]
pub(super) struct Mailbox {
    event: OwnedFd,
    notices: Mutex<Vec<Value>>,
}

impl Mailbox {
    pub(super) fn new() -> std::io::Result<Mailbox> {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Mailbox { event, notices: Mutex::default() })
    }

    /// Wakes the owner.
    pub(super) fn wake(&self) {
        // Fails only when the counter is full, and then the owner is awake already.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Leaves a message for the session's client and wakes the owner.
    pub(super) fn post(&self, notice: Value) {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).push(notice);
        self.wake();
    }

    /// Takes what was posted and re-arms the event: in this order nothing is missed.
    pub(super) fn take(&self) -> Vec<Value> {
        let _ = rustix::io::read(&self.event, &mut [0u8; 8]);
        std::mem::take(&mut *self.notices.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

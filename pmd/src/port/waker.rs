//! Waking a sleeping worker.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

/// A handle that wakes one worker out of its wait. Cheap to clone; works from any thread.
#[derive(Clone, Debug)]
pub struct Waker {
    event: Arc<OwnedFd>,
}

impl Waker {
    /// Makes a waker; its descriptor goes into the worker's epoll set.
    pub fn new() -> io::Result<Waker> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Waker { event: Arc::new(event) })
    }

    /// Wakes the worker. A worker already awake looks once more.
    pub fn wake(&self) {
        // A full counter means that a wake-up is already pending, so the error says nothing new.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Takes pending wake-ups back, before looking for work.
    pub fn clear(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.event, &mut count);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

//! What a function tells by itself: that its configuration has changed, and that the kernel wants it back.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use pmd::pci::PciFn;
use rustix::event::{EventfdFlags, epoll, eventfd};

use super::super::error::{VdpaError, VdpaProblem};

/// Two events, and one descriptor that is readable when either is.
pub(super) struct Events {
    config: Option<OwnedFd>,
    removal: OwnedFd,
    /// An epoll of both.
    both: Arc<OwnedFd>,
}

impl Events {
    /// Watches for removal, and with `config` has an event for a vector to signal.
    pub(super) fn new(function: &dyn PciFn, config: bool) -> Result<Events, VdpaError> {
        let system = |error: rustix::io::Errno| {
            VdpaError::system(
                VdpaProblem::Refused,
                format!("{}: making an eventfd", function.address()),
                "raise the limit of open files",
                error,
            )
        };
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(system);
        let events = Events {
            config: config.then(event).transpose()?,
            removal: event()?,
            both: Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system)?),
        };
        for one in events.config.iter().chain([&events.removal]) {
            epoll::add(&events.both, one, epoll::EventData::new_u64(0), epoll::EventFlags::IN)
                .map_err(system)?;
        }
        if let Err(error) = function.on_removal(events.removal.as_fd()) {
            log::warn!("{error}: that it is unplugged is noticed only when it is gone");
        }
        Ok(events)
    }

    /// For the vector of changes of the configuration.
    pub(super) fn config_event(&self) -> Option<BorrowedFd<'_>> {
        self.config.as_ref().map(|event| event.as_fd())
    }

    /// Readable when something has happened. `None` when changes of the configuration cannot be waited for.
    pub(super) fn fd(&self) -> Option<Arc<OwnedFd>> {
        self.config.as_ref().map(|_| Arc::clone(&self.both))
    }

    /// Whether the configuration has changed, and whether the kernel has asked for the function, since this was asked last.
    pub(super) fn take(&self) -> (bool, bool) {
        let fired = |event: &OwnedFd| rustix::io::read(event, &mut [0; 8]).is_ok();
        (self.config.as_ref().is_some_and(fired), fired(&self.removal))
    }
}

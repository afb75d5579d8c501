//! Which receive queues of a port are in use, and who hears of the port's changes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::port::{PmdError, PortEvents};

/// One flag for each receive queue.
#[derive(Clone)]
pub(crate) struct QueueSlots {
    taken: Arc<[AtomicBool]>,
}

/// A queue in use; free again when dropped.
pub(crate) struct Taken {
    taken: Arc<[AtomicBool]>,
    index: u16,
}

impl QueueSlots {
    pub(crate) fn new(queues: u16) -> QueueSlots {
        QueueSlots { taken: (0..queues).map(|_| AtomicBool::new(false)).collect() }
    }

    /// Takes queue `index` of the port named.
    pub(crate) fn take(&self, port: &str, index: u16) -> Result<Taken, PmdError> {
        let error = |problem| PmdError::Queue { port: port.to_owned(), index, problem };
        let flag = self.taken.get(usize::from(index)).ok_or_else(|| error("does not exist"))?;
        if flag.swap(true, Ordering::AcqRel) {
            return Err(error("is in use"));
        }
        Ok(Taken { taken: self.taken.clone(), index })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(flag) = self.taken.get(usize::from(self.index)) {
            flag.store(false, Ordering::Release);
        }
    }
}

/// The one subscriber of a port.
#[derive(Default)]
pub(crate) struct Subscriber(Mutex<Option<Arc<dyn PortEvents>>>);

impl Subscriber {
    pub(crate) fn set(&self, events: Arc<dyn PortEvents>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(events);
    }

    pub(crate) fn notify(&self) {
        let events = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(events) = events {
            events.port_changed();
        }
    }
}

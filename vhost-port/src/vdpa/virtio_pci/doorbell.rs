//! Kicking a ring of a function, for as long as it runs.

use std::sync::{PoisonError, RwLock};

use pmd::virtio::pci::Window;

use super::super::device::Doorbell;

/// The doorbell of a ring, until the device is stopped.
pub(super) struct FunctionDoorbell {
    queue: u16,
    register: RwLock<Option<Window>>,
}

impl Doorbell for FunctionDoorbell {
    fn ring(&self) {
        // Written only to be closed; who meets that comes too late.
        if let Ok(register) = self.register.try_read()
            && let Some(register) = &*register
        {
            register.write16(0, self.queue);
        }
    }
}

impl FunctionDoorbell {
    /// The doorbell of a queue.
    pub(super) fn new(queue: u16, register: Window) -> FunctionDoorbell {
        FunctionDoorbell { queue, register: RwLock::new(Some(register)) }
    }

    /// The queue.
    pub(super) fn queue(&self) -> u16 {
        self.queue
    }

    /// Makes it silent, and lets go of the function.
    pub(super) fn close(&self) {
        *self.register.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
